"""What the backbones share: time embedding, attention, adaptive scale and shift."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from denoiselab.conditioning.cond import Cond


class TimeEmbedding(nn.Module):
    """t: (B,) in [0, 1] and Cond.vector: (B, cond_dim) -> (B, dim), through an MLP.

    The sines see 1000 t: of t itself, with the usual periods up to 10,000, they cannot tell 0.25 from 0.75.
    """

    def __init__(self, dim: int, cond_dim: int, frequencies: int = 64) -> None:
        super().__init__()
        periods = torch.exp(-math.log(10_000) * torch.arange(frequencies) / frequencies)
        self.periods: Tensor
        self.register_buffer("periods", periods, persistent=False)
        self.mlp = nn.Sequential(nn.Linear(2 * frequencies, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.cond = nn.Linear(cond_dim, dim) if cond_dim else None

    def forward(self, t: Tensor, cond: Cond) -> Tensor:
        angles = (1000 * t.to(self.periods.device, torch.float32))[:, None] * self.periods.float()
        waves = torch.cat([angles.sin(), angles.cos()], dim=1)
        embedding = self.mlp(waves.to(self.periods.dtype))
        if self.cond is not None and cond.vector is not None:
            embedding = embedding + self.cond(cond.vector)
        return nnf.silu(embedding)


def attention(qkv: Tensor, heads: int) -> Tensor:
    """Self-attention of (B, L, 3 D), the queries, keys and values side by side -> (B, L, D)."""
    q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    return nnf.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def blocks(backbone: nn.Module) -> list[nn.Module]:
    """The members of the network's lists of layers."""
    return [block for layers in backbone.children() if isinstance(layers, nn.ModuleList) for block in layers]


def zeroed(layer: nn.Module) -> nn.Module:
    """The layer with zero weights, so that the block it ends starts as the identity."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
