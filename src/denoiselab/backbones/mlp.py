"""Multilayer perceptrons on flattened data of any shape, suited to points in the plane."""

import math

import torch
from torch import Tensor, nn

from denoiselab.backbones.layers import TimeEmbedding, zeroed
from denoiselab.conditioning.cond import Cond
from denoiselab.limits import Count, checked


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.modulation = nn.LayerNorm(width, elementwise_affine=False), nn.Linear(width, 2 * width)
        self.layers = nn.Sequential(nn.Linear(width, width), nn.SiLU(), zeroed(nn.Linear(width, width)))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(embedding).chunk(2, dim=-1)
        return x + self.layers(self.norm(x) * (1 + scale) + shift)


class MLP(nn.Module):
    """Residual MLP: x_t (B, ...), t (B,) -> `outputs` tensors like x_t, concatenated along dimension 1."""

    @checked
    def __init__(
        self, shape: tuple[int, ...], cond_dim: int, width: Count = 256, depth: Count = 4, outputs: int = 1
    ) -> None:
        super().__init__()
        self.embed = TimeEmbedding(width, cond_dim)
        self.stem = nn.Linear(math.prod(shape), width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.shape = (outputs * shape[0], *shape[1:])
        self.head = zeroed(nn.Linear(width, math.prod(self.shape)))

    def forward(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        embedding, h = self.embed(t, cond), self.stem(x.flatten(1))
        for block in self.blocks:
            h = block(h, embedding)
        return self.head(h).unflatten(1, self.shape)


class ReLUMLP(nn.Module):
    """Plain ReLU network of `depth` linear layers, without norms or residuals (Li & He 2025, toy experiment).

    The first layer takes x_t, 6 t - 3 (scaled like x_t) and the condition. Hidden layers have `width` units, a
    bottleneck for data of more dimensions. x_t (B, ...), t (B,) -> `outputs` tensors like x_t, concatenated along
    dimension 1.
    """

    @checked
    def __init__(
        self, shape: tuple[int, ...], cond_dim: int, width: Count = 256, depth: Count = 5, outputs: int = 1
    ) -> None:
        super().__init__()
        self.stem = nn.Linear(math.prod(shape) + 1, width)
        self.cond = nn.Linear(cond_dim, width, bias=False) if cond_dim else None
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(depth - 2))
        self.shape = (outputs * shape[0], *shape[1:])
        self.head = zeroed(nn.Linear(width, math.prod(self.shape)))

    def forward(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        h = self.stem(torch.cat([x.flatten(1), 6 * t.to(x)[:, None] - 3], 1))
        if self.cond is not None and cond.vector is not None:
            h = h + self.cond(cond.vector)
        for layer in self.layers:
            h = layer(h.relu())
        return self.head(h.relu()).unflatten(1, self.shape)
