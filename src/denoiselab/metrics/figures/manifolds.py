"""Fidelity and diversity by nearest neighbours: balls about each image, as large as to reach its k-th nearest other.

As many generated images are taken as real ones, the first of both, since balls among more images are smaller.
"""

from typing import final

from torch import Tensor

from denoiselab.limits import Count, checked
from denoiselab.metrics.figures.figure import Figure, Reference
from denoiselab.metrics.pairs import blocks, radii, squared_distances
from denoiselab.metrics.statistics import Statistics


def _equal(generated: Statistics, reference: Reference) -> tuple[Tensor, Tensor]:
    n = min(len(generated.kept), len(reference.train.kept))
    return generated.kept[:n], reference.train.kept[:n]


@final
class PrecisionRecall(Figure):
    """precision: the share of generated images within a ball of a real one; recall: of real ones within a ball of a
    generated one (Kynkäänniemi 2019, eq. 1-2; k = 3)."""

    @checked
    def __init__(self, k: Count = 3) -> None:
        self.k = k

    def __call__(self, generated: Statistics, reference: Reference) -> dict[str, float]:
        x, y = _equal(generated, reference)
        if len(x) <= self.k:
            return {}
        return {"precision": self._covered(x, y), "recall": self._covered(y, x)}

    def _covered(self, x: Tensor, y: Tensor) -> float:
        """The share of x within a ball of y."""
        reach = radii(y, self.k)
        inside = sum(int((squared <= reach).any(1).sum()) for _, squared in blocks(x, y, squared_distances))
        return inside / len(x)


@final
class DensityCoverage(Figure):
    """density: in how many balls of real images a generated one lies, over k; coverage: the share of real images in
    whose ball one lies (Naeem 2020, eq. 4-5; k = 5, and the balls are open, as in their program).

    A real image far from all others makes precision large, but not density. Density has no upper limit; generated
    images that are the real ones have 1.
    """

    @checked
    def __init__(self, k: Count = 5) -> None:
        self.k = k

    def __call__(self, generated: Statistics, reference: Reference) -> dict[str, float]:
        x, y = _equal(generated, reference)
        if len(x) <= self.k:
            return {}
        reach, inside, covered = radii(y, self.k), 0, 0
        for start, squared in blocks(y, x, squared_distances):
            within = squared < reach[start : start + len(squared), None]
            inside += int(within.sum())
            covered += int(within.any(1).sum())
        return {"density": inside / (self.k * len(x)), "coverage": covered / len(y)}
