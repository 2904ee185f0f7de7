"""Detection of copied training images, by pixel distances to the two nearest training images (nearest.py)."""

from typing import final

import torch
from torch import Tensor

from denoiselab.limits import PositiveShare, checked
from denoiselab.metrics.figures.figure import Figure, Reference
from denoiselab.metrics.statistics import Needs, Statistics


@final
class Memorisation(Figure):
    """memorised: fraction of copies; nearest_train: how often an image is nearer to the training set than a test image.

    A copy is less than a third as far from its nearest training image as from the second nearest (Yoon 2023; Gu 2023),
    or identical to one, since the training set may contain duplicates. nearest_train counts ties as half; it is the
    Mann-Whitney statistic of Meehan 2020 as an area. 0.5 is ideal, 1 means copies, and below 0.5 the images are further
    away than real ones.
    """

    needs = Needs(distances=True)

    @checked
    def __init__(self, ratio: PositiveShare = 1 / 3) -> None:
        self.ratio = ratio

    def __call__(self, generated: Statistics, reference: Reference) -> dict[str, float]:
        distances, real = generated.distances, reference.test.distances
        if distances is None or real is None:
            return {}
        nearest, second = distances.T
        memorised = (nearest < self.ratio * second) | (nearest == 0)
        return {"memorised": float(memorised.double().mean()), "nearest_train": area(nearest, real[:, 0])}


def area(a: Tensor, b: Tensor) -> float:
    """P(a < b) + P(a = b)/2 for a drawn from (n,) and b from (m,)."""
    b = b.sort().values
    below, not_above = (torch.searchsorted(b, a.contiguous(), right=right) for right in (False, True))
    return 1 - float((below + not_above).double().mean()) / (2 * len(b))
