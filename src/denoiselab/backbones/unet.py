"""U-Net of DDPM and its successors: residual blocks at several resolutions, self-attention, skip connections."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from denoiselab.backbones.layers import CrossAttention, TimeEmbedding, attention, with_concat, zeroed
from denoiselab.conditioning.cond import Cond
from denoiselab.errors import ConfigError, InvalidValue
from denoiselab.limits import Count, ShareBelowOne, checked


def group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(
        next(g for g in (32, 16, 8, 4, 2, 1) if (channels % g == 0 and channels // g >= 4) or g == 1), channels
    )


class ResBlock(nn.Module):
    """Residual block: norm, SiLU, conv, norm, scale and shift by the embedding (iDDPM §6), SiLU, dropout, conv."""

    def __init__(self, inputs: int, outputs: int, embedding: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.conv1 = group_norm(inputs), nn.Conv2d(inputs, outputs, 3, padding=1)
        self.modulation = nn.Linear(embedding, 2 * outputs)
        self.norm2, self.dropout = group_norm(outputs), nn.Dropout(dropout)
        self.conv2 = zeroed(nn.Conv2d(outputs, outputs, 3, padding=1))
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(nnf.silu(self.norm1(x)))
        scale, shift = self.modulation(embedding)[:, :, None, None].chunk(2, dim=1)
        h = nnf.silu(self.norm2(h) * (1 + scale) + shift)
        return self.skip(x) + self.conv2(self.dropout(h))


class SelfAttention(nn.Module):
    """Residual self-attention over all positions."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.norm, self.heads = group_norm(channels), heads
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = zeroed(nn.Linear(channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x).flatten(2).transpose(1, 2)
        return x + self.out(attention(self.qkv(h), self.heads)).transpose(1, 2).reshape(x.shape)


class TokenAttention(nn.Module):
    """Residual cross-attention of all positions to the condition's tokens."""

    def __init__(self, channels: int, token_dim: int, heads: int) -> None:
        super().__init__()
        self.norm, self.attention = group_norm(channels), CrossAttention(channels, token_dim, heads)

    def forward(self, x: Tensor, tokens: Tensor, mask: Tensor | None) -> Tensor:
        h = self.norm(x).flatten(2).transpose(1, 2)
        return x + self.attention(h, tokens, mask).transpose(1, 2).reshape(x.shape)


class Block(nn.Module):
    """A residual block, followed by self-attention if heads > 0, and by cross-attention if token_dim > 0 too."""

    def __init__(
        self, inputs: int, outputs: int, embedding: int, dropout: float, heads: int, token_dim: int = 0
    ) -> None:
        super().__init__()
        self.residual = ResBlock(inputs, outputs, embedding, dropout)
        self.attention = SelfAttention(outputs, heads) if heads else nn.Identity()
        self.cross = TokenAttention(outputs, token_dim, heads) if heads and token_dim else None

    def forward(self, x: Tensor, embedding: Tensor, tokens: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        h = self.attention(self.residual(x, embedding))
        return h if self.cross is None or tokens is None else self.cross(h, tokens, mask)


class UNet(nn.Module):
    """U-Net: x_t (B, C, H, W), t (B,) -> (B, outputs C, H, W).

    channels: width at full resolution; multipliers: width at each resolution as a multiple of it, with sides halved
    from one to the next; attention: sides, in pixels, with self-attention, which the middle always has. concat_dim:
    channels of Cond.concat: (B, concat_dim, H, W), appended to those of x_t. token_dim: width of Cond.tokens:
    (B, L, token_dim), attended to after each self-attention (Rombach 2022, §3.3).
    Raises ConfigError if the image's sides cannot be halved that often, or heads does not divide a width.
    """

    @checked
    def __init__(
        self,
        shape: tuple[int, int, int],
        cond_dim: int,
        channels: Count = 64,
        multipliers: Sequence[Count] = (1, 2),
        blocks: Count = 2,
        attention: Sequence[Count] = (4,),
        heads: Count = 4,
        dropout: ShareBelowOne = 0.0,
        outputs: int = 1,
        concat_dim: int = 0,
        token_dim: int = 0,
    ) -> None:
        super().__init__()
        image_channels, height, width = shape
        self.concat_dim = concat_dim
        if not multipliers:
            raise InvalidValue("multipliers", multipliers, "a list of at least one, such as [1,2]")
        factor = 2 ** (len(multipliers) - 1)
        if height % factor or width % factor:
            raise ConfigError(
                f"backbone=unet with {len(multipliers)} resolutions halves the image {factor.bit_length() - 1} times, "
                f"but its sides are {height} and {width}; give backbone.multipliers fewer numbers"
            )
        widths = [channels * m for m in multipliers]
        attended = {wide for i, wide in enumerate(widths) if height >> i in attention} | {widths[-1]}
        if any(wide % heads for wide in attended):
            raise InvalidValue("heads", heads, f"a divisor of the widths {sorted(attended)}")
        embedding = 4 * channels
        self.embed = TimeEmbedding(embedding, cond_dim)
        self.stem = nn.Conv2d(image_channels + concat_dim, channels, 3, padding=1)

        def block(inputs: int, outputs: int, side: int | None = None) -> Block:
            attentive = heads if side is None or side in attention else 0
            return Block(inputs, outputs, embedding, dropout, attentive, token_dim)

        self.down, self.up = nn.ModuleList(), nn.ModuleList()  # blocks, with convolutions between resolutions
        current, skips = channels, []
        for i, wide in enumerate(widths):
            for _ in range(blocks):
                self.down.append(block(current, wide, height >> i))
                skips.append(wide)
                current = wide
            if i < len(widths) - 1:
                self.down.append(nn.Conv2d(wide, wide, 3, stride=2, padding=1))
        self.middle = block(current, current)
        for i, wide in reversed(list(enumerate(widths))):
            for _ in range(blocks):
                self.up.append(block(current + skips.pop(), wide, height >> i))
                current = wide
            if i > 0:
                self.up.append(nn.Conv2d(wide, wide, 3, padding=1))
        last = zeroed(nn.Conv2d(current, outputs * image_channels, 3, padding=1))
        self.head = nn.Sequential(group_norm(current), nn.SiLU(), last)

    def forward(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        embedding, h, skips = self.embed(t, cond), self.stem(with_concat(x, cond, self.concat_dim)), []
        told = embedding, None if cond.tokens is None else cond.tokens.to(x.dtype), cond.mask
        for layer in self.down:
            if isinstance(layer, Block):
                h = layer(h, *told)
                skips.append(h)
            else:
                h = layer(h)
        h = self.middle(h, *told)
        for layer in self.up:
            if isinstance(layer, Block):
                h = layer(torch.cat([h, skips.pop()], dim=1), *told)
            else:
                h = layer(nnf.interpolate(h, scale_factor=2.0, mode="nearest"))
        return self.head(h)
