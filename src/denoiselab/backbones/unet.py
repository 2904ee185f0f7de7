"""The U-Net of DDPM and its successors: residual blocks at falling resolutions, self-attention, skip connections."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from denoiselab.backbones.layers import TimeEmbedding, attention, zeroed
from denoiselab.conditioning.cond import Cond
from denoiselab.errors import ConfigError


def _norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(next(g for g in (32, 16, 8, 4, 2, 1) if channels % g == 0 and channels // g >= 4 or g == 1), channels)


class ResBlock(nn.Module):
    """norm, SiLU, conv, scale and shift by the embedding (iDDPM §6), norm, SiLU, dropout, conv; plus the input."""

    def __init__(self, inputs: int, outputs: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.conv1 = _norm(inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * outputs)
        self.norm2, self.dropout = _norm(outputs), nn.Dropout(dropout)
        self.conv2 = zeroed(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(nnf.silu(self.norm1(x)))
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        h = nnf.silu(self.norm2(h) * (1 + scale) + shift)
        return self.skip(x) + self.conv2(self.dropout(h))


class SelfAttention(nn.Module):
    """Attention over all positions; plus the input."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.norm, self.heads = _norm(channels), heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = zeroed(nn.Linear(channels, channels))

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.norm(x).flatten(2).transpose(1, 2)
        return x + self.out(attention(self.qkv(h), self.heads)).transpose(1, 2).reshape(x.shape)


class Level(nn.Module):
    """The blocks of one resolution: residual, and attention where wanted."""

    def __init__(self, inputs: Sequence[int], outputs: int, embedding: int, dropout: float, heads: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList()
        for channels in inputs:
            block = [ResBlock(channels, outputs, embedding, dropout)]
            self.blocks.append(nn.ModuleList([*block, SelfAttention(outputs, heads)] if heads else block))


class UNet(nn.Module):
    """x_t: (B, C, H, W), t: (B,) -> F of the shape of x_t.

    channels: the width at full resolution; multipliers: the width of each resolution, each half the one before, as a
    multiple of it; attention: the sides, in pixels, at which there is self-attention.
    Raises ConfigError where the image's sides cannot be halved that often.
    """

    def __init__(
        self,
        shape: tuple[int, int, int],
        cond_dim: int,
        channels: int = 64,
        multipliers: Sequence[int] = (1, 2),
        blocks: int = 2,
        attention: Sequence[int] = (4,),
        heads: int = 4,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        image_channels, height, width = shape
        factor = 2 ** (len(multipliers) - 1)
        if height % factor or width % factor:
            raise ConfigError(
                f"backbone=unet with {len(multipliers)} resolutions halves the image {factor.bit_length() - 1} times, "
                f"but its sides are {height} and {width}; give backbone.multipliers fewer numbers"
            )
        widths = [channels * m for m in multipliers]
        embedding = 4 * channels
        self.embed = TimeEmbedding(embedding, cond_dim)
        self.stem = nn.Conv2d(image_channels, channels, 3, padding=1)
        self.down, self.up, self.shrink, self.grow = (nn.ModuleList() for _ in range(4))
        current, skips = channels, []
        for i, wide in enumerate(widths):
            at = heads if height >> i in attention else 0
            self.down.append(Level([current] + [wide] * (blocks - 1), wide, embedding, dropout, at))
            skips += [wide] * blocks
            current = wide
            if i < len(widths) - 1:
                self.shrink.append(nn.Conv2d(wide, wide, 3, stride=2, padding=1))
        self.middle = Level([current], current, embedding, dropout, heads)
        for i, wide in reversed(list(enumerate(widths))):
            at = heads if height >> i in attention else 0
            inputs = [(current if j == 0 else wide) + skips.pop() for j in range(blocks)]
            self.up.append(Level(inputs, wide, embedding, dropout, at))
            current = wide
            if i > 0:
                self.grow.append(nn.Conv2d(wide, wide, 3, padding=1))
        self.head = nn.Sequential(_norm(current), nn.SiLU(), zeroed(nn.Conv2d(current, image_channels, 3, padding=1)))

    def forward(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        embedding, h, skips = self.embed(t, cond), self.stem(x), []
        for i, level in enumerate(self.down):
            for block in level.blocks:
                h = _run(block, h, embedding)
                skips.append(h)
            if i < len(self.shrink):
                h = self.shrink[i](h)
        for block in self.middle.blocks:
            h = _run(block, h, embedding)
        for i, level in enumerate(self.up):
            for block in level.blocks:
                h = _run(block, torch.cat([h, skips.pop()], dim=1), embedding)
            if i < len(self.grow):
                h = self.grow[i](nnf.interpolate(h, scale_factor=2.0, mode="nearest"))
        return self.head(h)


def _run(block: nn.ModuleList, h: Tensor, embedding: Tensor) -> Tensor:
    for part in block:
        h = part(h, embedding)
    return h
