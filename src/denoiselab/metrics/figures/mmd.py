"""Unbiased squared maximum mean discrepancy of two sets with a kernel k (Gretton 2012, eq. 3), over all pairs:

    MMD^2_u = mean of k(x_i, x_j), i != j  +  mean of k(y_i, y_j), i != j  -  2 mean of k(x_i, y_j)

With a fixed number n_c of n per class c, two of a class meet less often than in independent draws, and the mean over
pairs i != j would be off by about 1/n; it is then taken over pairs of classes, weighted by their shares:

    1/n^2 (sum over i, j of two classes k(x_i, x_j)  +  sum_c n_c/(n_c - 1) sum over i != j of c k(x_i, x_j))

The expectation is thus 0 if both sets have the same distribution, at any n and m; the estimate can be negative. The
error is the jackknife's: its square is sum_c (n_c - 1)/n_c sum_{i in c} (U_{-i} - mean)^2 over classes c, with U_{-i}
computed without x_i at unchanged shares, plus the same for y. On average it is not too small (Efron & Stein 1981), and
up to sqrt 2 too large if the distributions are equal.
"""

from typing import NamedTuple, final

import torch
from torch import Tensor

from denoiselab.limits import Positive, checked
from denoiselab.metrics.figures.figure import Figure, Reference
from denoiselab.metrics.pairs import ROWS, PairFn, blocks, squared_distances
from denoiselab.metrics.statistics import Statistics

SHOWN = 1000  # reference images for the median bandwidth


class Discrepancy(NamedTuple):
    value: float  # MMD^2_u
    error: float


def mmd(a: Statistics, b: Statistics, kernel: PairFn) -> Discrepancy:
    """MMD of the kept features, at least 3 of each set."""
    x, y = a.kept, b.kept
    from_x, from_y = torch.empty(len(x), dtype=torch.float64), torch.zeros(len(y), dtype=torch.float64)
    for start, block in blocks(x, y, kernel):
        from_x[start : start + len(block)] = block.sum(1)
        from_y += block.sum(0)
    within_x, variance_x = _within(x, a.strata, from_x / len(y), kernel)
    within_y, variance_y = _within(y, b.strata, from_y / len(x), kernel)
    value = within_x + within_y - 2 * from_x.sum() / (len(x) * len(y))
    return Discrepancy(float(value), float((variance_x + variance_y).sqrt()))


def _within(x: Tensor, strata: Tensor, across: Tensor, kernel: PairFn) -> tuple[Tensor, Tensor]:
    """Mean of k over pairs of x (n, D) and the jackknife variance; across: (n,), mean k(x_i, y_j) over j."""
    n = len(x)
    own, other = _others(x, strata, kernel)
    size = strata.bincount()[strata].double()  # n_c of each element's class
    mean = (other + own * size / (size - 1)).sum() / n**2
    # The part of U_{-i} that depends on i within a class.
    without = -2 * (own * size**2 / ((size - 1) * (size - 2)) + other * size / (size - 1)) / n**2
    without += 2 * across * size / (size - 1) / n
    parts = [without[strata == stratum] for stratum in strata.unique()]
    return mean, torch.stack([(len(part) - 1) * part.var(correction=0) for part in parts]).sum()


def _others(x: Tensor, strata: Tensor, kernel: PairFn) -> tuple[Tensor, Tensor]:
    """sum_j k(x_i, x_j) over j != i of the same stratum, and over the other strata: (n,) each.

    Uses half of the pairs, since k is symmetric.
    """
    x, own, other = x.double(), *torch.zeros(2, len(x), dtype=torch.float64)
    for start in range(0, len(x), ROWS):
        end = min(start + ROWS, len(x))
        block, same = kernel(x[start:end], x[start:]), strata[start:end, None] == strata[start:]
        block.diagonal().zero_()
        for total, part in ((own, block.where(same, 0)), (other, block.where(~same, 0))):
            total[start:end] += part.sum(1)
            total[end:] += part[:, end - start :].sum(0)
    return own, other


class Gaussian:
    """Gaussian kernel k(a, b) = exp(-|a - b|^2 / (2 sigma^2))."""

    def __init__(self, sigma: float) -> None:
        self.sigma = sigma

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.exp(squared_distances(a, b) / (-2 * self.sigma**2))


@final
class MMD(Figure):
    """mmd and mmd_error with a Gaussian kernel; mmd_sigma, its bandwidth.

    sigma None: the median distance between two of the first 1,000 reference images (Gretton 2012, section 8).
    """

    headline = "mmd"

    @checked
    def __init__(self, sigma: Positive | None = None) -> None:
        self.sigma = sigma

    def __call__(self, generated: Statistics, reference: Reference) -> dict[str, float]:
        if min(generated.keep, reference.train.keep) < 3:
            return {}
        shown = reference.train.kept[:SHOWN].double()
        sigma = float(torch.pdist(shown).median()) if self.sigma is None else self.sigma
        value, error = mmd(generated, reference.train, Gaussian(sigma))
        return {"mmd": value, "mmd_error": error, "mmd_sigma": sigma}
