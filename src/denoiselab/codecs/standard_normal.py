"""The network of an autoencoder that is sampled from its prior: it has no weights, as there is nothing to denoise.

For x_0 ~ N(0, I) and a schedule that keeps the variance, E[alpha eps - sigma x_0|x_t] = 0: with v-prediction the
network that says 0 is the exact denoiser of the prior.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn


class StandardNormal(nn.Module):
    """0 for any x_t: (B, ...) and t."""

    def __init__(self, shape: Sequence[int], cond_dim: int, **routes: Any) -> None:
        super().__init__()

    def forward(self, x: Tensor, t: Tensor, cond: Any) -> Tensor:
        return torch.zeros_like(x)
