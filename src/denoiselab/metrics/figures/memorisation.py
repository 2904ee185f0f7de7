"""Are the images copies of training images? By distances in pixels to the nearest two of these (nearest.py)."""

from typing import final

import torch
from torch import Tensor

from denoiselab.limits import PositiveShare, checked
from denoiselab.metrics.figures.figure import Figure, Reference
from denoiselab.metrics.statistics import Needs, Statistics


@final
class Memorisation(Figure):
    """memorised: the share of images that are less than a third as far from their nearest training image as from the
    second nearest (Yoon 2023; Gu 2023), or equal to one, of which the training set may hold copies.

    nearest_train: the probability that an image is nearer to the training set than a real test image is, an equal
    distance being half nearer: the Mann-Whitney statistic of Meehan 2020 as an area. .5 is as it should be, 1 is
    copies; less than .5 is images that are further off than real ones are.
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
