"""Convolutional encoder and decoder of an autoencoder: residual blocks at decreasing, then increasing resolutions."""

from itertools import pairwise

from torch import Tensor, nn

from denoiselab.backbones.layers import zeroed
from denoiselab.backbones.unet import group_norm


class ResBlock(nn.Module):
    """Residual block of (norm, SiLU, conv) twice: (B, inputs, H, W) -> (B, outputs, H, W)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(group_norm(inputs), nn.SiLU(), nn.Conv2d(inputs, outputs, 3, padding=1)),
            *(group_norm(outputs), nn.SiLU(), zeroed(nn.Conv2d(outputs, outputs, 3, padding=1))),
        )
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.skip(x) + self.body(x)


def widths(channels: int, halvings: int) -> list[int]:
    """Channels at each resolution, finest first: doubled at each halving of the side, up to four times."""
    return [channels * min(2**i, 4) for i in range(halvings + 1)]


def encoder(inputs: int, outputs: int, channels: int, halvings: int, blocks: int) -> nn.Sequential:
    """Build the encoder: (B, inputs, H, W) -> (B, outputs, H/2^halvings, W/2^halvings)."""
    wide = widths(channels, halvings)
    layers: list[nn.Module] = [nn.Conv2d(inputs, wide[0], 3, padding=1)]
    for now, after in pairwise(wide):
        layers += [*(ResBlock(now, now) for _ in range(blocks)), nn.Conv2d(now, after, 3, stride=2, padding=1)]
    layers += [ResBlock(wide[-1], wide[-1]) for _ in range(blocks)]
    return nn.Sequential(*layers, group_norm(wide[-1]), nn.SiLU(), nn.Conv2d(wide[-1], outputs, 3, padding=1))


def decoder(inputs: int, outputs: int, channels: int, halvings: int, blocks: int) -> nn.Sequential:
    """Build the decoder: (B, inputs, h, w) -> (B, outputs, h 2^halvings, w 2^halvings); ends in a convolution."""
    wide = widths(channels, halvings)[::-1]
    layers: list[nn.Module] = [nn.Conv2d(inputs, wide[0], 3, padding=1)]
    layers += [ResBlock(wide[0], wide[0]) for _ in range(blocks)]
    for now, after in pairwise(wide):
        layers += [nn.Upsample(scale_factor=2), nn.Conv2d(now, after, 3, padding=1)]
        layers += [ResBlock(after, after) for _ in range(blocks)]
    return nn.Sequential(*layers, group_norm(wide[-1]), nn.SiLU(), nn.Conv2d(wide[-1], outputs, 3, padding=1))
