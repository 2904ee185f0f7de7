"""The diffusion transformer (DiT, Peebles & Xie 2022): patches as tokens, modulated by the embedding (adaLN-zero)."""

import torch
from torch import Tensor, nn

from denoiselab.backbones.layers import TimeEmbedding, attention, zeroed
from denoiselab.conditioning.cond import Cond
from denoiselab.errors import ConfigError


class Block(nn.Module):
    """Attention and MLP, each with its own scale, shift and gate from the embedding; the gates start at 0."""

    def __init__(self, width: int, heads: int, embedding: int, mlp_ratio: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, mlp_ratio * width), nn.GELU("tanh"), nn.Linear(mlp_ratio * width, width)
        )
        self.modulation = zeroed(nn.Linear(embedding, 6 * width))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        scale1, shift1, gate1, scale2, shift2, gate2 = self.modulation(embedding)[:, None].chunk(6, dim=-1)
        x = x + gate1 * self.out(attention(self.qkv(self.norm1(x) * (1 + scale1) + shift1), self.heads))
        return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)


class DiT(nn.Module):
    """x_t: (B, C, H, W), t: (B,) -> `outputs` images like x_t in the channels; patch x patch pixels are a token.

    Raises ConfigError where the patch does not divide the image's sides, or the heads the width.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        cond_dim: int,
        patch: int = 2,
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        mlp_ratio: int = 4,
        outputs: int = 1,
    ) -> None:
        super().__init__()
        channels, height, side = shape
        if height % patch or side % patch:
            raise ConfigError(
                f"backbone.patch={patch} does not divide the image's sides {height} and {side}; take a divisor of both"
            )
        if width % heads:
            raise ConfigError(f"backbone.heads={heads} does not divide backbone.width={width}; take a divisor of it")
        self.patch, self.rows = patch, height // patch
        self.embed = TimeEmbedding(width, cond_dim)
        self.stem = nn.Conv2d(channels, width, patch, stride=patch)
        self.position = nn.Parameter(0.02 * torch.randn(self.rows * (side // patch), width))
        self.blocks = nn.ModuleList(Block(width, heads, width, mlp_ratio) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = zeroed(nn.Linear(width, 2 * width))
        self.head = zeroed(nn.Linear(width, outputs * channels * patch**2))

    def forward(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        embedding = self.embed(t, cond)
        tokens = self.stem(x).flatten(2).transpose(1, 2) + self.position
        for block in self.blocks:
            tokens = block(tokens, embedding)
        scale, shift = self.modulation(embedding)[:, None].chunk(2, dim=-1)
        patches = self.head(self.norm(tokens) * (1 + scale) + shift)
        p = self.patch
        grid = patches.unflatten(1, (self.rows, -1)).unflatten(-1, (-1, p, p))  # (B, rows, columns, C, p, p)
        return grid.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
