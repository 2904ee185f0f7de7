"""A residual multilayer perceptron on flattened data of any shape: small, and right for points in the plane."""

import math

from torch import Tensor, nn

from denoiselab.backbones.layers import TimeEmbedding, zeroed
from denoiselab.conditioning.cond import Cond


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.modulation = nn.LayerNorm(width, elementwise_affine=False), nn.Linear(width, 2 * width)
        self.layers = nn.Sequential(nn.Linear(width, width), nn.SiLU(), zeroed(nn.Linear(width, width)))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale, shift = self.modulation(embedding).chunk(2, dim=-1)
        return x + self.layers(self.norm(x) * (1 + scale) + shift)


class MLP(nn.Module):
    """x_t: (B, ...), t: (B,) -> F of the shape of x_t."""

    def __init__(self, shape: tuple[int, ...], cond_dim: int, width: int = 256, depth: int = 4) -> None:
        super().__init__()
        self.embed = TimeEmbedding(width, cond_dim)
        self.stem = nn.Linear(math.prod(shape), width)
        self.blocks = nn.ModuleList(Block(width) for _ in range(depth))
        self.head = zeroed(nn.Linear(width, math.prod(shape)))

    def forward(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        embedding, h = self.embed(t, cond), self.stem(x.flatten(1))
        for block in self.blocks:
            h = block(h, embedding)
        return self.head(h).reshape(x.shape)
