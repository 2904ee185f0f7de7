"""The default feature extractor: a small classifier trained on the data set's own training images, without a download.

Its metrics compare generated with real images of the same data set. They are comparable between runs that share data
and extractor, and are not Inception metrics. The extractor's name contains a hash of its weights.
"""

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from denoiselab.cache import cached
from denoiselab.data.source import Source, to_float
from denoiselab.errors import ConfigError
from denoiselab.metrics.extractor import Extractor, Looked
from denoiselab.progress import track
from denoiselab.randomness import generator, seed_for

THREADS = 2
MIDDLE = 6  # layers of the body before the features at quarter resolution
RECIPE = "cnn-3: 64 features, AdamW 2e-3 one-cycle, batch 64, shifts of up to 1/8, label smoothing 0.1"


class Classifier(Extractor):
    """CNN at full, half and quarter resolution with average pooling, 64 features and a linear classification head."""

    knows_classes = True

    def __init__(self, shape: tuple[int, ...], num_classes: int, width: int = 32, dim: int = 64) -> None:
        super().__init__()
        self.dim = dim

        def conv(inputs: int, outputs: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
            )

        self.body = nn.Sequential(
            conv(shape[0], width),
            conv(width, width),
            nn.MaxPool2d(2, ceil_mode=True),
            conv(width, 2 * width),
            conv(2 * width, 2 * width),
            nn.MaxPool2d(2, ceil_mode=True),
            conv(2 * width, 4 * width),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(16 * width, dim),
        )
        self.head = nn.Sequential(nn.ReLU(), nn.Linear(dim, num_classes))
        self.name = self.digest = "untrained"
        self.test_accuracy = math.nan

    def look(self, images: Tensor) -> Looked:
        """Extract features; the spatial ones are the first 8 channels at quarter resolution."""
        middle = self.body[:MIDDLE](to_float(images))
        features = self.body[MIDDLE:](middle)
        return Looked(features, middle[:, :8].flatten(1), self.head(features))


def layers(classifier: Classifier, images: Tensor) -> list[Tensor]:
    """Return the feature maps (B, C, h, w) of the convolutions, two per resolution, for float images in [-1, 1].

    Gradients flow to the images. Moves the classifier to the images' device.
    """
    x, made = images, []
    for part in classifier.to(images.device).body:
        x = part(x)
        if isinstance(part, nn.Sequential):
            made.append(x)
    return made


def _scores(classifier: Classifier, images: Tensor) -> Tensor:
    logits = classifier.look(images).logits
    assert logits is not None
    return logits


@torch.inference_mode()
def accuracy(classifier: Classifier, images: Tensor, labels: Tensor, batch_size: int = 500) -> float:
    right = 0
    for i, truth in zip(images.split(batch_size), labels.split(batch_size), strict=True):
        right += int((_scores(classifier, i).argmax(1) == truth).sum())
    return right / len(images)


def check_labels(source: Source) -> None:
    """Raise ConfigError if the data set has fewer than 2 classes."""
    if source.num_classes < 2:
        raise ConfigError(
            f"extractor=classifier learns its features from labelled images, and data={source.name} has "
            f"{source.num_classes} classes; put the images in a folder for each class, or take extractor=inception or "
            "metrics=none"
        )


def trained_classifier(source: Source, cache: Path | str) -> Classifier:
    """Load the data set's classifier from the cache, or train and cache it. Raises ConfigError without labels."""
    check_labels(source)
    fingerprint = hashlib.sha256(f"{source.fingerprint} {RECIPE}".encode()).hexdigest()[:16]
    state = cached(Path(cache) / f"{source.name}-classifier-{fingerprint}.pt", lambda: _train(source))
    with torch.random.fork_rng(devices=[]):
        classifier = Classifier(source.shape, source.num_classes)
    classifier.load_state_dict(state["weights"])
    digest = hashlib.sha256(b"".join(v.numpy().tobytes() for v in state["weights"].values())).hexdigest()
    classifier.name, classifier.digest = f"{source.name}-classifier-{digest[:8]}", digest[:16]
    classifier.test_accuracy = state["test_accuracy"]
    return classifier.eval().requires_grad_(False)


def _train(source: Source) -> dict[str, Any]:
    """Train on 60,000 images in total, within 3 to 40 epochs.

    Always runs on the CPU with a fixed number of threads, which determines the rounding of sums, so that metrics are
    comparable between machines.
    """
    data, labels = source.train, source.train.labels
    passes = min(40, max(3, round(60_000 / len(data))))
    batch_size = min(64 if len(data) < 10_000 else 256, len(data))
    steps = passes * (len(data) // batch_size)
    with _threads(THREADS), torch.random.fork_rng(devices=[]), torch.inference_mode(False), torch.enable_grad():
        torch.default_generator.manual_seed(seed_for("classifier", RECIPE))  # leaves the GPU's generator alone
        classifier = Classifier(source.shape, source.num_classes).train()
        optimizer = torch.optim.AdamW(classifier.parameters(), lr=2e-3, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps)
        rng = generator("classifier", RECIPE)
        with track(f"training the {source.name} classifier that FID looks through", steps) as advance:
            for _ in range(passes):
                order = torch.randperm(len(data), generator=rng)[: len(data) // batch_size * batch_size]
                for indices in order.split(batch_size):
                    images = _shifted(data.__getitems__(indices.tolist())["image"], rng)
                    loss = nnf.cross_entropy(_scores(classifier, images), labels[indices], label_smoothing=0.1)
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    schedule.step()
                    advance(1)
    classifier.eval()
    test = source.test.__getitems__(range(len(source.test)))
    return {
        "weights": classifier.state_dict(),
        "test_accuracy": accuracy(classifier, test["image"], test["label"]),
        "recipe": RECIPE,
    }


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Set the number of torch threads within the context."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _shifted(images: Tensor, rng: torch.Generator) -> Tensor:
    """Shift the batch by up to 1/8 of the image side, with replicated edges."""
    reach = max(1, images.shape[-1] // 8)
    dx, dy = torch.randint(0, 2 * reach + 1, (2,), generator=rng).tolist()
    padded = nnf.pad(images.float(), [reach] * 4, mode="replicate").to(torch.uint8)
    return padded[..., dy : dy + images.shape[-2], dx : dx + images.shape[-1]]
