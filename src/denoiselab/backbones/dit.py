"""Diffusion transformer (DiT, Peebles & Xie 2022): patches as tokens, modulated by the embedding (adaLN-zero)."""

import torch
from torch import Tensor, nn

from denoiselab.backbones.layers import CrossAttention, TimeEmbedding, attention, with_concat, zeroed
from denoiselab.backbones.patches import check_patches, joined
from denoiselab.conditioning.cond import Cond
from denoiselab.limits import Count, Natural, checked


class Block(nn.Module):
    """Self-attention and MLP, each with scale, shift and gate from the embedding; the gates start at 0.

    With token_dim, cross-attention between the two (PixArt-alpha, Chen 2023, §2.3), whose output also starts at 0.
    """

    def __init__(self, width: int, heads: int, embedding: int, mlp_ratio: int, token_dim: int = 0) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = nn.LayerNorm(width, elementwise_affine=False)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=False)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(
            nn.Linear(width, mlp_ratio * width), nn.GELU("tanh"), nn.Linear(mlp_ratio * width, width)
        )
        self.modulation = zeroed(nn.Linear(embedding, 6 * width))
        self.cross_norm = nn.LayerNorm(width) if token_dim else None
        self.cross = CrossAttention(width, token_dim, heads) if token_dim else None

    def forward(self, x: Tensor, embedding: Tensor, tokens: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        scale1, shift1, gate1, scale2, shift2, gate2 = self.modulation(embedding)[:, None].chunk(6, dim=-1)
        x = x + gate1 * self.out(attention(self.qkv(self.norm1(x) * (1 + scale1) + shift1), self.heads))
        if self.cross is not None and self.cross_norm is not None and tokens is not None:
            x = x + self.cross(self.cross_norm(x), tokens, mask)
        return x + gate2 * self.mlp(self.norm2(x) * (1 + scale2) + shift2)


class DiT(nn.Module):
    """Diffusion transformer with tokens of patch x patch pixels: x_t (B, C, H, W), t (B,) -> (B, outputs C, H, W).

    concat_dim: channels of Cond.concat: (B, concat_dim, H, W), appended to those of x_t. token_dim: width of
    Cond.tokens: (B, L, token_dim), which each block attends to.
    Raises ConfigError if patch does not divide the image's sides, or heads the width.
    """

    @checked
    def __init__(
        self,
        shape: tuple[int, int, int],
        cond_dim: int,
        patch: Count = 2,
        width: Count = 128,
        depth: Natural = 4,
        heads: Count = 4,
        mlp_ratio: Count = 4,
        outputs: int = 1,
        concat_dim: int = 0,
        token_dim: int = 0,
    ) -> None:
        super().__init__()
        channels, height, side = shape
        check_patches(shape, patch, width, heads)
        self.patch, self.rows, self.concat_dim = patch, height // patch, concat_dim
        self.embed = TimeEmbedding(width, cond_dim)
        self.stem = nn.Conv2d(channels + concat_dim, width, patch, stride=patch)
        self.position = nn.Parameter(0.02 * torch.randn(self.rows * (side // patch), width))
        self.blocks = nn.ModuleList(Block(width, heads, width, mlp_ratio, token_dim) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.modulation = zeroed(nn.Linear(width, 2 * width))
        self.head = zeroed(nn.Linear(width, outputs * channels * patch**2))

    def forward(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        embedding = self.embed(t, cond)
        told = embedding, None if cond.tokens is None else cond.tokens.to(x.dtype), cond.mask
        h = self.stem(with_concat(x, cond, self.concat_dim)).flatten(2).transpose(1, 2) + self.position
        for block in self.blocks:
            h = block(h, *told)
        scale, shift = self.modulation(embedding)[:, None].chunk(2, dim=-1)
        return joined(self.head(self.norm(h) * (1 + scale) + shift), self.rows, self.patch)
