"""The squared maximum mean discrepancy of two sets in a kernel k (Gretton 2012, eq. 3), unbiased, over all pairs:

    MMD^2_u = mean of k(x_i, x_j), i != j  +  mean of k(y_i, y_j), i != j  -  2 mean of k(x_i, y_j)

It is 0 on average where both are drawn from one distribution, at any n and m, and so at times negative; and somewhat
less than 0 where as many are drawn of each class, which are then more alike than free draws: the floor says how much.
Its error is the jackknife's: its square is sum_c (n_c - 1)/n_c sum_{i in c} (U_{-i} - mean)^2 over classes c, U_{-i}
being without x_i, and the same for y. On average it is not too small (Efron & Stein 1981), and up to sqrt 2 too large
where the distributions are the same.
"""

from typing import NamedTuple, final

import torch
from torch import Tensor

from denoiselab.metrics.figures.figure import Figure, Reference
from denoiselab.metrics.pairs import ROWS, PairFn, blocks, squared_distances
from denoiselab.metrics.statistics import Statistics

SHOWN = 1000  # reference images whose distances the bandwidth is the median of


class Discrepancy(NamedTuple):
    value: float  # MMD^2_u
    error: float


def mmd(a: Statistics, b: Statistics, kernel: PairFn) -> Discrepancy:
    """Of the features kept, at least 3 of each."""
    x, y = a.kept, b.kept
    within_x, within_y = _others(x, kernel), _others(y, kernel)
    n, m = len(x), len(y)
    from_x, from_y = torch.empty(n, dtype=torch.float64), torch.zeros(m, dtype=torch.float64)
    for start, block in blocks(x, y, kernel):
        from_x[start : start + len(block)] = block.sum(1)
        from_y += block.sum(0)
    xx, yy, xy = within_x.sum(), within_y.sum(), from_x.sum()
    value = xx / (n * (n - 1)) + yy / (m * (m - 1)) - 2 * xy / (n * m)

    error = (_variance(a.strata, m, within_x, from_x) + _variance(b.strata, n, within_y, from_y)).sqrt()
    return Discrepancy(float(value), float(error))


def _variance(strata: Tensor, others: int, within: Tensor, across: Tensor) -> Tensor:
    """The jackknife's, of leaving out one of n; its sums of k over the rest of its set, (n,), and over the others."""
    n = len(strata)
    without = (within.sum() - 2 * within) / ((n - 1) * (n - 2)) - 2 * (across.sum() - across) / ((n - 1) * others)
    parts = [without[strata == stratum] for stratum in strata.unique()]
    return torch.stack([(len(part) - 1) * part.var(correction=0) for part in parts]).sum()


def _others(x: Tensor, kernel: PairFn) -> Tensor:
    """sum_{j != i} k(x_i, x_j): (n,). k is symmetric, so that half of the pairs are enough."""
    x, total = x.double(), torch.zeros(len(x), dtype=torch.float64)
    for start in range(0, len(x), ROWS):
        end = min(start + ROWS, len(x))
        block = kernel(x[start:end], x[start:])
        total[start:end] += block.sum(1) - block.diagonal()
        total[end:] += block[:, end - start :].sum(0)
    return total


class Gaussian:
    """k(a, b) = exp(-|a - b|^2 / (2 sigma^2))."""

    def __init__(self, sigma: float) -> None:
        self.sigma = sigma

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        return torch.exp(squared_distances(a, b) / (-2 * self.sigma**2))


@final
class MMD(Figure):
    """mmd and mmd_error in a Gaussian kernel; mmd_sigma, its bandwidth.

    sigma None: the median distance of two real images, of the first 1,000 of the reference (Gretton 2012, section 8).
    """

    headline = "mmd"

    def __init__(self, sigma: float | None = None) -> None:
        self.sigma = sigma

    def __call__(self, generated: Statistics, reference: Reference) -> dict[str, float]:
        if min(generated.keep, reference.train.keep) < 3:
            return {}
        shown = reference.train.kept[:SHOWN].double()
        sigma = float(torch.pdist(shown).median()) if self.sigma is None else self.sigma
        value, error = mmd(generated, reference.train, Gaussian(sigma))
        return {"mmd": value, "mmd_error": error, "mmd_sigma": sigma}
