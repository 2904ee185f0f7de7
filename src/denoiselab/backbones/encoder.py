"""Classifier of noisy images for classifier guidance: the encoder half of a U-Net, with class logits as output."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as nnf

from denoiselab.backbones.layers import TimeEmbedding
from denoiselab.backbones.unet import Block, group_norm
from denoiselab.conditioning.cond import Cond
from denoiselab.errors import ConfigError
from denoiselab.limits import Count, ShareBelowOne, checked


class Encoder(nn.Module):
    """Noisy classifier: x_t (B, C, H, W), t (B,) -> logits (B, num_classes) (Dhariwal & Nichol 2021, §4).

    channels, multipliers, blocks, attention, heads, dropout: as in UNet. Raises ConfigError for fewer than two classes
    and for sides that cannot be halved that often.
    """

    @checked
    def __init__(
        self,
        shape: tuple[int, int, int],
        cond_dim: int,
        num_classes: Count,
        channels: Count = 32,
        multipliers: Sequence[Count] = (1, 2),
        blocks: Count = 2,
        attention: Sequence[Count] = (4,),
        heads: Count = 4,
        dropout: ShareBelowOne = 0.1,
        outputs: int = 1,
    ) -> None:
        super().__init__()
        image_channels, height, width = shape
        factor = 2 ** (len(multipliers) - 1)
        if num_classes < 2:
            raise ConfigError(f"backbone=encoder tells classes apart, and the data have {num_classes}")
        if height % factor or width % factor:
            raise ConfigError(
                f"backbone=encoder with {len(multipliers)} resolutions halves images {factor.bit_length() - 1} times, "
                f"but these have sides of {height} and {width}; give backbone.multipliers fewer numbers"
            )
        embedding = 4 * channels
        self.embed = TimeEmbedding(embedding, cond_dim)
        self.stem = nn.Conv2d(image_channels, channels, 3, padding=1)
        self.layers, current = nn.ModuleList(), channels
        for i, multiplier in enumerate(multipliers):
            for _ in range(blocks):
                wide = channels * multiplier
                self.layers.append(Block(current, wide, embedding, dropout, heads if height >> i in attention else 0))
                current = wide
            if i < len(multipliers) - 1:
                self.layers.append(nn.Conv2d(current, current, 3, stride=2, padding=1))
        self.norm, self.head = group_norm(current), nn.Linear(current, num_classes)

    def forward(self, x: Tensor, t: Tensor, cond: Cond) -> Tensor:
        embedding, h = self.embed(t, cond), self.stem(x)
        for layer in self.layers:
            h = layer(h, embedding) if isinstance(layer, Block) else layer(h)
        return self.head(nnf.silu(self.norm(h)).mean((2, 3)))
