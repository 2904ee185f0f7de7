"""Distances and kernels between all pairs of features, block by block in float64."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

ROWS = 1000  # rows per block

PairFn = Callable[[Tensor, Tensor], Tensor]
"""(n, D) and (m, D), float64 -> (n, m): a number for each pair."""


def blocks(a: Tensor, b: Tensor, pair: PairFn) -> Iterator[tuple[int, Tensor]]:
    """Yield (start, pair(a[start : start + 1000], b)) over the rows of a: (n, D)."""
    b = b.double()
    for start in range(0, len(a), ROWS):
        yield start, pair(a[start : start + ROWS].double(), b)


def squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """|a_i - b_j|^2, (n, m), centred on the mean of b to reduce cancellation; rounding errors of copies become 0."""
    centre = b.mean(0)
    a, b = a - centre, b - centre
    lengths = a.square().sum(1)[:, None] + b.square().sum(1)
    squared = lengths - 2 * a @ b.T
    return squared.where(squared > 1e-13 * lengths, 0)


def radii(x: Tensor, k: int) -> Tensor:
    """Squared distance of each row of x: (n, D) to its k-th nearest other row, k < n: (n,)."""
    found = []
    for start, squared in blocks(x, x, squared_distances):
        squared[torch.arange(len(squared)), start + torch.arange(len(squared))] = torch.inf  # not itself
        found.append(squared.kthvalue(k).values)
    return torch.cat(found)
