"""Just image transformers (JiT, Li & He 2025, "Back to Basics"): a plain ViT with large patches that predicts x0.

A token is a patch of p x p pixels, embedded through a linear bottleneck: p^2 C -> bottleneck -> width. Noise fills all
p^2 C dimensions, images far fewer, so a network narrower than its patches can predict x0 but not eps or v. As in the
paper, it uses adaLN-zero, RMSNorm, SwiGLU, and normalised queries and keys with rotary positions.

2-D rotary positions (Su 2021, §3.4, per axis): of the d/2 pairs of values in a head, the first half is rotated by the
angles row f_i, the second by column f_i, with f_i = 10,000^(-4i/d), so that the product of a query and a key depends on
their relative position. Condition tokens are appended to the patch tokens and not rotated.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from denoiselab.backbones.layers import TimeEmbedding, attended, by_heads, with_concat, zeroed
from denoiselab.backbones.patches import check_patches, joined
from denoiselab.conditioning.cond import Cond
from denoiselab.errors import InvalidValue
from denoiselab.limits import Count, Natural, checked


def normalised(x: Tensor) -> Tensor:
    """RMSNorm (Zhang & Sennrich 2019) over the last dimension, without weights."""
    return nnf.rms_norm(x, x.shape[-1:], eps=1e-6)


def turns(rows: int, columns: int, dim: int) -> Tensor:
    """Cosines and sines of the rotary angles on a grid, row by row: float64 (2, rows columns, dim / 2)."""
    f = 10_000.0 ** (-torch.arange(dim // 4, dtype=torch.float64) * 4 / dim)
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    angles = torch.cat([row.reshape(-1, 1) * f, column.reshape(-1, 1) * f], dim=1)
    return torch.stack([angles.cos(), angles.sin()])


def turned(x: Tensor, turns: Tensor) -> Tensor:
    """Rotate the first L positions of x: (B, heads, M, dim) by turns: (2, L, dim / 2)."""
    (cos, sin), length = turns, turns.shape[1]
    a, b = x[..., :length, :].chunk(2, dim=-1)
    patches = torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)
    return torch.cat([patches, x[..., length:, :]], dim=-2)


class SwiGLU(nn.Module):
    """Gated MLP, SiLU(a) b with linear maps a and b (Shazeer 2020); as many weights as an MLP of `ratio`."""

    def __init__(self, width: int, ratio: int) -> None:
        super().__init__()
        hidden = max(1, 2 * ratio * width // 3)
        self.both, self.out = nn.Linear(width, 2 * hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.both(x).chunk(2, dim=-1)
        return self.out(nnf.silu(a) * b)


class Block(nn.Module):
    """Self-attention and SwiGLU, each with scale, shift and gate from the embedding; the gates start at 0."""

    def __init__(self, width: int, heads: int, embedding: int, mlp_ratio: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_scale, self.k_scale = (nn.Parameter(torch.ones(width // heads)) for _ in range(2))
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = SwiGLU(width, mlp_ratio)
        self.modulation = zeroed(nn.Linear(embedding, 6 * width))

    def forward(self, x: Tensor, embedding: Tensor, turns: Tensor, mask: Tensor | None = None) -> Tensor:
        scale1, shift1, gate1, scale2, shift2, gate2 = self.modulation(embedding)[:, None].chunk(6, dim=-1)
        q, k, v = by_heads(self.qkv(normalised(x) * (1 + scale1) + shift1), 3, self.heads)
        q, k = normalised(q) * self.q_scale, normalised(k) * self.k_scale
        h = attended(turned(q, turns), turned(k, turns), v, mask)
        x = x + gate1 * self.out(h)
        return x + gate2 * self.mlp(normalised(x) * (1 + scale2) + shift2)


class JiT(nn.Module):
    """Image transformer with tokens of patch x patch pixels: x_t (B, C, H, W), t (B,) -> (B, outputs C, H, W).

    concat_dim: channels of Cond.concat: (B, concat_dim, H, W), appended to those of x_t. token_dim: width of
    Cond.tokens: (B, L, token_dim), appended to the patches in every block (the paper's in-context tokens).
    Raises ConfigError if patch does not divide the image's sides, or 4 heads the width.
    """

    @checked
    def __init__(
        self,
        shape: tuple[int, int, int],
        cond_dim: int,
        patch: Count = 4,
        bottleneck: Count = 16,
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
        if width // heads % 4:
            raise InvalidValue("width", width, f"a multiple of 4 heads, {4 * heads}", "positions turn pairs of numbers")
        self.patch, self.rows, self.concat_dim = patch, height // patch, concat_dim
        self.embed = TimeEmbedding(width, cond_dim)
        self.stem = nn.Sequential(
            nn.Conv2d(channels + concat_dim, bottleneck, patch, stride=patch, bias=False),
            nn.Conv2d(bottleneck, width, 1),
        )
        self.position = nn.Parameter(0.02 * torch.randn(self.rows * (side // patch), width))
        self.turns: Tensor
        self.register_buffer("turns", turns(self.rows, side // patch, width // heads).float(), persistent=False)
        self.context = nn.Linear(token_dim, width) if token_dim else None
        self.blocks = nn.ModuleList(Block(width, heads, width, mlp_ratio) for _ in range(depth))
        self.modulation = zeroed(nn.Linear(width, 2 * width))
        self.head = zeroed(nn.Linear(width, outputs * channels * patch**2))

    def forward(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        embedding, mask = self.embed(t, cond), None
        h = self.stem(with_concat(x, cond, self.concat_dim)).flatten(2).transpose(1, 2) + self.position
        if self.context is not None and cond.tokens is not None:
            h = torch.cat([h, self.context(cond.tokens.to(x.dtype))], dim=1)
            mask = None if cond.mask is None else nnf.pad(cond.mask, (len(self.position), 0), value=True)
        for block in self.blocks:
            h = block(h, embedding, self.turns, mask)
        scale, shift = self.modulation(embedding)[:, None].chunk(2, dim=-1)
        h = normalised(h[:, : len(self.position)]) * (1 + scale) + shift
        return joined(self.head(h), self.rows, self.patch)
