"""Layers shared by the backbones: time embedding, attention and conditioning inputs.

Attention (Vaswani 2017, eq. 1) is softmax(q k^T / sqrt(d)) v in each head. Masked keys have weight exactly 0.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from denoiselab.conditioning.cond import Cond


class TimeEmbedding(nn.Module):
    """MLP embedding of t: (B,) in [0, 1] and Cond.vector: (B, cond_dim) -> (B, dim).

    The sinusoids take 1000 t: with the usual periods up to 10,000, t itself would not separate 0.25 from 0.75. Their
    arguments are always float32, as half precision would be off by radians.
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
        """Move the periods with the module, but keep them float32."""
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
    """Self-attention: concatenated queries, keys and values (B, L, 3 D) -> (B, L, D)."""
    return attended(*by_heads(qkv, 3, heads))


def by_heads(x: Tensor, parts: int, heads: int) -> Tensor:
    """Split into parts and heads: (B, L, parts D) -> (parts, B, heads, L, D / heads)."""
    return x.unflatten(-1, (parts, heads, -1)).permute(2, 0, 3, 1, 4)


def attended(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention of q (B, heads, L, d) to k, v (B, heads, M, d) where mask: bool (B, M) is True -> (B, L, D)."""
    kept = None if mask is None else mask[:, None, None]
    return nnf.scaled_dot_product_attention(q, k, v, kept).transpose(1, 2).flatten(2)


class CrossAttention(nn.Module):
    """Attention of x (B, L, width) to Cond.tokens (B, M, token_dim) -> (B, L, width); initially 0."""

    def __init__(self, width: int, token_dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.kv = nn.Linear(width, width), nn.Linear(token_dim, 2 * width)
        self.out = zeroed(nn.Linear(width, width))

    def forward(self, x: Tensor, tokens: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = *by_heads(self.q(x), 1, self.heads), *by_heads(self.kv(tokens), 2, self.heads)
        return self.out(attended(q, k, v, mask))


def with_concat(x: Tensor, cond: Cond, channels: int) -> Tensor:
    """Append Cond.concat, of `channels` channels, to x_t: (B, C, H, W); zeros if it is None."""
    if not channels:
        return x
    told = x.new_zeros(len(x), channels, *x.shape[2:]) if cond.concat is None else cond.concat
    return torch.cat([x, told.to(x.dtype)], 1)


def blocks(backbone: nn.Module) -> list[nn.Module]:
    """All layers in the network's ModuleLists."""
    return [block for layers in backbone.children() if isinstance(layers, nn.ModuleList) for block in layers]


def zeroed(layer: nn.Module) -> nn.Module:
    """Zero a layer's parameters, so that the residual block it ends starts as the identity."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer
