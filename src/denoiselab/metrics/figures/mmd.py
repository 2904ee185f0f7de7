"""The squared maximum mean discrepancy of two sets in a kernel k (Gretton 2012, eq. 3), unbiased, over all pairs:

    MMD^2_u = mean of k(x_i, x_j), i != j  +  mean of k(y_i, y_j), i != j  -  2 mean of k(x_i, y_j)

It is 0 on average where both come from one distribution, at any n and m, and so at times negative. Its error is the
jackknife's: its square is (n - 1)/n sum_i (U_{-i} - mean)^2, U_{-i} being without x_i, and the same for y. On average
it is not too small (Efron & Stein 1981), and up to sqrt 2 too large where the distributions are the same.
"""

from typing import NamedTuple, final

import torch
from torch import Tensor

from denoiselab.metrics.figures.figure import Figure, Reference
from denoiselab.metrics.pairs import PairFn, blocks, squared_distances
from denoiselab.metrics.statistics import Statistics

SHOWN = 1000  # reference images whose distances the bandwidth is the median of


class Discrepancy(NamedTuple):
    value: float  # MMD^2_u
    error: float


def mmd(x: Tensor, y: Tensor, kernel: PairFn) -> Discrepancy:
    """x: (n, D), y: (m, D), of at least 3 rows each."""
    within_x, within_y = _others(x, kernel), _others(y, kernel)
    n, m = len(x), len(y)
    from_x, from_y = torch.empty(n, dtype=torch.float64), torch.zeros(m, dtype=torch.float64)
    for start, block in blocks(x, y, kernel):
        from_x[start : start + len(block)] = block.sum(1)
        from_y += block.sum(0)
    xx, yy, xy = within_x.sum(), within_y.sum(), from_x.sum()
    value = xx / (n * (n - 1)) + yy / (m * (m - 1)) - 2 * xy / (n * m)

    def variance(n: int, m: int, within: Tensor, across: Tensor) -> Tensor:
        total, rest = within.sum(), across.sum()
        without = (total - 2 * within) / ((n - 1) * (n - 2)) - 2 * (rest - across) / ((n - 1) * m)
        return (n - 1) * without.var(correction=0)

    error = (variance(n, m, within_x, from_x) + variance(m, n, within_y, from_y)).sqrt()
    return Discrepancy(float(value), float(error))


def _others(x: Tensor, kernel: PairFn) -> Tensor:
    """sum_{j != i} k(x_i, x_j): (n,)."""
    return torch.cat(
        [block.sum(1) - block[:, start : start + len(block)].diagonal() for start, block in blocks(x, x, kernel)]
    )


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
        x, y = generated.kept, reference.train.kept
        if min(len(x), len(y)) < 3:
            return {}
        sigma = float(torch.pdist(y[:SHOWN].double()).median()) if self.sigma is None else self.sigma
        value, error = mmd(x, y, Gaussian(sigma))
        return {"mmd": value, "mmd_error": error, "mmd_sigma": sigma}
