"""Sample requests: the condition of each sample, a function of its number, so that all runs use the same ones."""

from collections.abc import Sequence

import torch
from torch import Tensor

from denoiselab.conditioning.conditioner import Conditioner
from denoiselab.data.source import Batch, ImageSet, spread
from denoiselab.errors import ConfigError, RunError
from denoiselab.randomness import uniform


class Wishes:
    """Sample requests by number: class i mod num_classes, or `classes` in turn.

    If the conditioner needs more than the label, or with of_images=True, request i comes from image i of `images` (of
    `classes` only, if given), in the order of `spread`, so that the first few cover all classes, and cyclically.
    Captions use wordings held out of training: batch["unseen"], bool (B,), is True. `given` lists the parts of the
    image that the model sees, which make metrics easier.
    """

    def __init__(
        self,
        conditioner: Conditioner,
        num_classes: int,
        images: ImageSet | None = None,
        classes: Sequence[int] | None = None,
        of_images: bool = False,
    ) -> None:
        self.conditioner, self.images = conditioner, images
        self.of_images = of_images or bool(conditioner.sees)
        self.given = sorted({*conditioner.sees, *(["image"] if of_images else [])})
        order = [] if images is None or not self.of_images else spread(images.labels)
        self.chosen = [i for i in order if images is None or classes is None or int(images.labels[i]) in classes]
        if order and not self.chosen:
            raise ConfigError(f"classes={list(classes or ())} are those of no test image; take others")
        self.num_classes, self.classes = num_classes, classes

    def __call__(self, indices: Sequence[int]) -> Batch:
        """The requests of the given numbers. Raises RunError if images are needed and missing."""
        if not self.of_images:
            place = balanced_labels(indices, self.num_classes if self.classes is None else len(self.classes))
            wish = {"label": place if self.classes is None else torch.tensor(self.classes)[place]}
        elif self.images is None:
            raise RunError("this model is told something of an image, and there are none here; give data.root")
        else:
            wish = dict(self.images.__getitems__([self.chosen[i % len(self.chosen)] for i in indices]))
        wish["unseen"] = torch.ones(len(indices), dtype=torch.bool)
        return numbered(self.conditioner, wish, indices)


def balanced_labels(indices: Sequence[int], num_classes: int) -> Tensor:
    """Class i mod num_classes for sample i: (B,) int64."""
    return torch.as_tensor(list(indices), dtype=torch.int64) % max(1, num_classes)


def numbered(conditioner: Conditioner, batch: Batch, numbers: Sequence[int]) -> Batch:
    """Add the conditioner's uniform numbers, batch["u"], which depend on the images' numbers alone."""
    if not conditioner.draws:
        return batch
    return batch | {"u": uniform(conditioner.draws, "condition", numbers).to(batch["label"].device)}


def moved(batch: Batch, device: torch.device) -> Batch:
    return {key: value.to(device) for key, value in batch.items()}


def labelled(asked: Batch | Tensor) -> Batch:
    """Wrap labels as a batch; batches pass through."""
    return {"label": asked} if isinstance(asked, Tensor) else asked
