"""From a pipeline to figures that carry their provenance: FID with its floor, and the share of right classes."""

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from denoiselab import distributed
from denoiselab.data.source import ImageSet, Source
from denoiselab.errors import ConfigError
from denoiselab.metrics.cache import cached
from denoiselab.metrics.classifier import Classifier
from denoiselab.metrics.extractor import Extractor, Looked
from denoiselab.metrics.moments import Moments, frechet_distance
from denoiselab.pipeline import Pipeline, Recipe, balanced_labels
from denoiselab.progress import track


class Evaluation:
    """Figures of generated images against a data set's training images, as one extractor sees them.

    The floor is the FID of the real test images, the first n of them: what a perfect model would be expected to get.
    All ranks take part in every method; each figure is the same on all of them.
    """

    def __init__(self, source: Source, extractor: Extractor, cache: Path | str) -> None:
        self.source, self.extractor, self.cache = source, extractor, Path(cache)
        self._reference: Moments | None = None
        self._floors: dict[int, float] = {}

    @property
    def reference(self) -> Moments:
        """The moments of the training images, from the cache where they are known."""
        if self._reference is None:
            key = hashlib.sha256(f"{self.source.fingerprint} {self.extractor.name} train".encode()).hexdigest()[:16]
            train = self.source.train
            path = self.cache / f"{self.source.name}-moments-{key}.pt"
            state = cached(path, lambda: self._moments(train, range(len(train))).state_dict())
            self._reference = Moments.from_state_dict(state)
        return self._reference

    def floor(self, n: int) -> float:
        """FID of the first n real test images against the training images."""
        if n not in self._floors:
            self._floors[n] = frechet_distance(self._moments(self.source.test, range(n)), self.reference)
        return self._floors[n]

    def size(self, n: int | None) -> int:
        """n; None: as many as there are test images, but no more than 1,000."""
        return min(1000, len(self.source.test)) if n is None else n

    def _moments(self, images: ImageSet, indices: Sequence[int], batch_size: int = 500) -> Moments:
        moments = Moments(self.extractor.dim)
        for start in range(0, len(indices), batch_size):
            moments.update(self.look(images.__getitems__(indices[start : start + batch_size])["image"]).features)
        return moments

    @torch.inference_mode()
    def look(self, images: torch.Tensor) -> Looked:
        """images: uint8 (B, C, H, W)."""
        return self.extractor.look(images.to(next(self.extractor.parameters(), images).device))

    def __call__(
        self, pipeline: Pipeline, recipe: Recipe, n: int | None = None, seed: int = 0, batch_size: int = 100
    ) -> dict[str, Any]:
        """Figures of samples 0 ... n - 1 of a seed, in plain values; "headline" names the one that judges the model.

        n None: as many as there are test images, but no more than 1,000.
        """
        n = self.size(n)
        if n < 2:
            raise ConfigError(f"metrics.n={n}: FID needs at least 2 images, and some thousands to say much")
        started = time.monotonic()
        self.extractor.to(pipeline.device)
        generated, right, evaluations = Moments(self.extractor.dim), 0, 0
        mine = distributed.share(n, batch_size)
        labels = balanced_labels(mine, self.source.num_classes)
        judge = self.extractor.knows_classes and bool(pipeline.conditioner.vector_dim)
        with track(f"generating {n} images for FID", n, quiet=distributed.rank() > 0) as advance:
            for batch in pipeline.generate(recipe, mine, labels, seed, batch_size):
                looked = self.look(batch.images)
                generated.update(looked.features)
                if judge and looked.logits is not None:
                    right += int((looked.logits.argmax(1).cpu() == batch.labels).sum())
                evaluations = max(evaluations, batch.evaluations)
                advance(len(batch.images) * n // len(mine))
        floor_n = min(n, len(self.source.test))
        figures: dict[str, Any] = {
            "headline": "fid",
            "fid": frechet_distance(generated.reduced(), self.reference),
            "floor": self.floor(floor_n),
            "n": n,
            "floor_n": floor_n,
            "extractor": self.extractor.name,
        }
        if isinstance(self.extractor, Classifier):
            figures["classifier_test_accuracy"] = self.extractor.test_accuracy
        if judge:
            figures["class_accuracy"] = int(distributed.all_sum(torch.tensor(right))) / n
        figures |= {
            "data": self.source.name,
            "split": f"train {len(self.source.train)}, test {len(self.source.test)}",
            "data_fingerprint": self.source.fingerprint[:16],
            "sample_seed": seed,
            "nfe": distributed.all_max(evaluations),  # adaptive samplers take as many as their slowest image
            **recipe.words,
            "seconds": round(time.monotonic() - started, 2),
        }
        return figures
