"""What the backbones share: time embedding, attention, and what they are told beside x_t and t.

Attention of queries to keys and values (Vaswani 2017, eq. 1): softmax(q k^T / sqrt(d)) v, in each head by itself. The
keys that a mask leaves out have weight exactly 0.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from denoiselab.conditioning.cond import Cond


class TimeEmbedding(nn.Module):
    """t: (B,) in [0, 1] and Cond.vector: (B, cond_dim) -> (B, dim), through an MLP.

    The sines see 1000 t: of t itself, with the usual periods up to 10,000, they cannot tell 0.25 from 0.75. Their
    arguments are float32 whatever precision the weights have: in half precision they would be off by radians.
    """

    def __init__(self, dim: int, cond_dim: int, frequencies: int = 64) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.periods: Tensor
        self.register_buffer("periods", self._periods(), persistent=False)
        self.mlp = nn.Sequential(nn.Linear(2 * frequencies, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.cond = nn.Linear(cond_dim, dim) if cond_dim else None

    def _periods(self) -> Tensor:
        places = torch.arange(self.frequencies, dtype=torch.float32)
        return torch.exp(-math.log(10_000) * places / self.frequencies)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> "TimeEmbedding":
        """Where a module is moved and cast: the periods come along, in float32."""
        super()._apply(fn, recurse)
        self.periods = self._periods().to(self.periods.device)
        return self

    def forward(self, t: Tensor, cond: Cond) -> Tensor:
        angles = (1000 * t.to(self.periods.device, torch.float32))[:, None] * self.periods
        waves = torch.cat([angles.sin(), angles.cos()], dim=1)
        embedding = self.mlp(waves.to(next(self.mlp.parameters()).dtype))
        if self.cond is not None and cond.vector is not None:
            embedding = embedding + self.cond(cond.vector)
        return nnf.silu(embedding)


def attention(qkv: Tensor, heads: int) -> Tensor:
    """Self-attention of (B, L, 3 D), the queries, keys and values side by side -> (B, L, D)."""
    return attended(*by_heads(qkv, 3, heads))


def by_heads(x: Tensor, parts: int, heads: int) -> Tensor:
    """(B, L, parts D), the parts side by side -> (parts, B, heads, L, D / heads)."""
    return x.unflatten(-1, (parts, heads, -1)).permute(2, 0, 3, 1, 4)


def attended(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Queries (B, heads, L, d) to keys and values (B, heads, M, d), those that mask: bool (B, M) keeps -> (B, L, D)."""
    kept = None if mask is None else mask[:, None, None]
    return nnf.scaled_dot_product_attention(q, k, v, kept).transpose(1, 2).flatten(2)


class CrossAttention(nn.Module):
    """From x: (B, L, width) to Cond.tokens: (B, M, token_dim) and Cond.mask -> (B, L, width), which is 0 at first."""

    def __init__(self, width: int, token_dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.kv = nn.Linear(width, width), nn.Linear(token_dim, 2 * width)
        self.out = zeroed(nn.Linear(width, width))

    def forward(self, x: Tensor, tokens: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = *by_heads(self.q(x), 1, self.heads), *by_heads(self.kv(tokens), 2, self.heads)
        return self.out(attended(q, k, v, mask))


def with_concat(x: Tensor, cond: Cond, channels: int) -> Tensor:
    """x_t: (B, C, H, W) with Cond.concat, of so many channels, after its own; zeros where nothing is told."""
    if not channels:
        return x
    told = x.new_zeros(len(x), channels, *x.shape[2:]) if cond.concat is None else cond.concat
    return torch.cat([x, told.to(x.dtype)], 1)


def blocks(backbone: nn.Module) -> list[nn.Module]:
    """The members of the network's lists of layers."""
    return [block for layers in backbone.children() if isinstance(layers, nn.ModuleList) for block in layers]


def zeroed(layer: nn.Module) -> nn.Module:
    """The layer with zero weights, so that the block it ends starts as the identity."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
