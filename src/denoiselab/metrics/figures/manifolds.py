"""Fidelity and diversity by nearest neighbours: each image has a ball that reaches its k-th nearest neighbour.

Uses equally many generated and real images, the first of each, since balls shrink as images are added.
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
    """precision and recall: fractions of images within the other set's balls (Kynkäänniemi 2019, eq. 1-2; k = 3).

    precision: of generated images within a real image's ball; recall: of real images within a generated image's ball.
    """

    @checked
    def __init__(self, k: Count = 3) -> None:
        self.k = k

    def __call__(self, generated: Statistics, reference: Reference) -> dict[str, float]:
        x, y = _equal(generated, reference)
        if len(x) <= self.k:
            return {}
        return {"precision": self._covered(x, y), "recall": self._covered(y, x)}

    def _covered(self, x: Tensor, y: Tensor) -> float:
        """Fraction of x within a ball of y."""
        reach = radii(y, self.k)
        inside = sum(int((squared <= reach).any(1).sum()) for _, squared in blocks(x, y, squared_distances))
        return inside / len(x)


@final
class DensityCoverage(Figure):
    """density and coverage by real images' balls (Naeem 2020, eq. 4-5; k = 5, with open balls as in their code).

    density: mean number of balls that contain a generated image, divided by k; coverage: fraction of balls that contain
    a generated image. Unlike precision, density is not inflated by real outliers. It has no upper limit, and is 1 if
    the generated images are the real ones.
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
