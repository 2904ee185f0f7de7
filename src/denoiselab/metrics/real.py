"""Cached statistics of a data set's real images."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from denoiselab import distributed
from denoiselab.cache import cached
from denoiselab.data.source import ImageSet, Source, spread
from denoiselab.metrics.extractor import Extractor, Looked
from denoiselab.metrics.statistics import Needs, Statistics
from denoiselab.progress import track

BATCH = 500
# Part of the cache key: another version of the code computes its own statistics.
CODE = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.rglob("*.py")))).hexdigest()


class Real:
    """Statistics of real images; all ranks must call every method. keep: number of images whose features are kept."""

    def __init__(self, source: Source, extractor: Extractor, cache: Path, keep: int) -> None:
        self.source, self.extractor, self.cache, self.keep = source, extractor, cache, keep

    def train(self, needs: Needs) -> Statistics:
        """Statistics of all training images, without distances to themselves."""
        return self._of("train", self.source.train, len(self.source.train), needs._replace(distances=False))

    def test(self, n: int, needs: Needs) -> Statistics:
        """Statistics of n test images, spread evenly over the test set."""
        return self._of("test", self.source.test, n, needs)

    def cached(self, kind: str, what: object, make: Callable[[], Any]) -> Any:
        """Cache the result of `make` by all it depends on: data, extractor, `keep` and `what`."""
        seen = (self.extractor.name, self.extractor.digest, self.extractor.resize)
        key = hashlib.sha256(repr((CODE, self.source.fingerprint, seen, self.keep, kind, what)).encode())
        return cached(self.cache / f"{self.source.name}-{kind}-{key.hexdigest()[:16]}.pt", make, together=True)

    @torch.inference_mode()
    def look(self, images: Tensor) -> Looked:
        """Extract features from images: uint8 (B, C, H, W)."""
        return self.extractor.look(images.to(next(self.extractor.parameters(), images).device))

    def _of(self, kind: str, images: ImageSet, n: int, needs: Needs) -> Statistics:
        state = self.cached(kind, (n, needs), lambda: self._made(kind, images, n, needs).state_dict())
        return Statistics(n, self.keep, needs).load_state_dict(state)

    def _made(self, kind: str, images: ImageSet, n: int, needs: Needs) -> Statistics:
        made, order, mine = Statistics(n, self.keep, needs), spread(images.labels, n), distributed.share(n, BATCH)
        with track(f"looking at {n} {kind} images", len(mine), quiet=distributed.rank() > 0) as advance:
            for start in range(0, len(mine), BATCH):
                places = mine[start : start + BATCH]
                batch = images.__getitems__([order[i] for i in places])
                looked = self.look(batch["image"])
                made.update(places, looked, batch["image"], batch["label"], self.extractor.knows_classes)
                advance(len(places))
        return made.reduced(self.source.train)
