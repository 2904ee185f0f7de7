"""Mean and covariance of features in float64, one pass, exact under any batch size and number of processes."""

from typing import Any

import torch
from torch import Tensor

from denoiselab import distributed


class Moments:
    """Sums of x and x x^T over rows x: (D,)."""

    def __init__(self, dim: int) -> None:
        self.count = 0
        self.sum = torch.zeros(dim, dtype=torch.float64)
        self.outer = torch.zeros(dim, dim, dtype=torch.float64)

    def update(self, features: Tensor) -> None:
        """features: (B, D)."""
        features = features.detach().to("cpu", torch.float64)
        self.count += len(features)
        self.sum += features.sum(0)
        self.outer += features.T @ features

    def reduced(self) -> "Moments":
        """The moments of all ranks together."""
        total = Moments(len(self.sum))
        total.count = int(distributed.all_sum(torch.tensor(self.count)))
        total.sum, total.outer = distributed.all_sum(self.sum), distributed.all_sum(self.outer)
        return total

    @property
    def mean(self) -> Tensor:
        return self.sum / self.count

    @property
    def covariance(self) -> Tensor:
        """Unbiased, (D, D)."""
        return (self.outer - torch.outer(self.sum, self.sum) / self.count) / (self.count - 1)

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.count, "sum": self.sum, "outer": self.outer}

    @classmethod
    def from_state_dict(cls, state: dict[str, Any]) -> "Moments":
        moments = cls(len(state["sum"]))
        moments.count, moments.sum, moments.outer = state["count"], state["sum"], state["outer"]
        return moments


def frechet_distance(a: Moments, b: Moments) -> float:
    """|m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^{1/2}) (FID, Heusel 2017, eq. 6).

    With S_a = L L^T the trace of the root is the sum of the square roots of the eigenvalues of L^T S_b L, which is
    symmetric.
    """
    values, vectors = torch.linalg.eigh(a.covariance)
    root = vectors * values.clamp(min=0).sqrt()
    cross = torch.linalg.eigvalsh(root.T @ b.covariance @ root).clamp(min=0).sqrt().sum()
    return float((a.mean - b.mean).square().sum() + a.covariance.trace() + b.covariance.trace() - 2 * cross)
