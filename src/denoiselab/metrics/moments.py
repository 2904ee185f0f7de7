"""Mean and covariance of features, and the Fréchet distance of the Gaussians with these moments.

Moments come from float64 sums, exact under any batch size and number of processes. The distance is d^2 = |m_a - m_b|^2
+ tr(S_a + S_b - 2 (S_a S_b)^{1/2}) (FID, Heusel 2017, eq. 6). With S_b = L L^T, the trace of the root is the sum of the
square roots of the eigenvalues of the symmetric L^T S_a L. For S_a of n rows it is the nuclear norm of (x_i - m_a)^T L
/ sqrt(n - 1), so fewer rows than features need only an n x n problem.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """Sums of 1, x and x x^T over rows x: (D,). The moments of two sets together are their sum."""

    count: int
    sum: Tensor  # float64 (D,)
    outer: Tensor  # float64 (D, D)

    @classmethod
    def of(cls, features: Tensor) -> "Moments":
        """Compute the sums for features (n, D)."""
        rows = features.detach().cpu().double()
        return cls(len(rows), rows.sum(0), rows.T @ rows)

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(self.count + other.count, self.sum + other.sum, self.outer + other.outer)

    @property
    def mean(self) -> Tensor:
        return self.sum / self.count

    @property
    def covariance(self) -> Tensor:
        """Unbiased covariance, (D, D)."""
        return (self.outer - torch.outer(self.sum, self.sum) / self.count) / (self.count - 1)


def frechet_distance(a: Moments, b: Moments) -> float:
    """Squared Fréchet distance d^2 of the two Gaussians."""
    return DistanceTo(b).of(a)


class DistanceTo:
    """The Fréchet distance of many sets to one reference, whose covariance is factorised once."""

    def __init__(self, reference: Moments) -> None:
        values, vectors = torch.linalg.eigh(reference.covariance)
        self.root = vectors * values.clamp(min=0).sqrt()  # L
        self.mean, self.trace = reference.mean, reference.covariance.trace()

    def of(self, moments: Moments) -> float:
        cross = torch.linalg.eigvalsh(self.root.T @ moments.covariance @ self.root)
        return self._squared(moments.mean, moments.covariance.trace(), cross)

    def of_rows(self, rows: Tensor, seen: Tensor, times: Tensor) -> float:
        """Distance of rows, float64 (n, D), with multiplicities times: (n,). seen: rows @ root, kept for resampling."""
        taken = times > 0
        rows, seen, times = rows[taken], seen[taken], times[taken].double()
        n = times.sum()
        mean = times @ rows / n
        seen = times.sqrt()[:, None] * (seen - times @ seen / n)
        cross = torch.linalg.eigvalsh((seen.T @ seen if len(seen) > seen.shape[1] else seen @ seen.T) / (n - 1))
        return self._squared(mean, times @ (rows - mean).square().sum(1) / (n - 1), cross)

    def _squared(self, mean: Tensor, trace: Tensor, cross: Tensor) -> float:
        shift = (mean - self.mean).square().sum()
        return float(shift + trace + self.trace - 2 * cross.clamp(min=0).sqrt().sum())
