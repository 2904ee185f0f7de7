"""The exact denoiser of a standard normal prior, for sampling an autoencoder: a network without weights.

For x_0 ~ N(0, I) and a variance-preserving schedule, E[alpha eps - sigma x_0|x_t] = 0: with v-prediction the exact
denoiser predicts 0.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class StandardNormal(nn.Module):
    """Network that returns 0 for any x_t: (B, ...) and t."""

    def __init__(self, shape: Sequence[int], cond_dim: int, **routes: Any) -> None:
        super().__init__()

    def forward(self, x: Tensor, t: Tensor, cond: Any) -> Tensor:
        return torch.zeros_like(x)
