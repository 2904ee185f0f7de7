"""Conditioning on a degraded image: smaller, or in grey."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as nnf

from denoiselab.conditioning.concat import Concat
from denoiselab.conditioning.conditioner import Judges, NullCondition, Shows
from denoiselab.data.source import Batch, psnr, to_float, to_uint8
from denoiselab.errors import IncompatibleError, InvalidValue
from denoiselab.limits import AtLeastTwo, Share, checked

LUMA = (0.299, 0.587, 0.114)  # of R, G and B: Rec. ITU-R BT.601

ENLARGED = {"nearest": {"mode": "nearest"}, "bilinear": {"mode": "bilinear", "align_corners": False}}
"""How the small image is brought to its old size, for each word."""


class SuperResolution(Concat, Judges, Shows):
    """batch["image"] averaged over squares of factor x factor pixels, enlarged again by `enlarge` (SR3).

    Means are not rounded. Metrics: consistency, mean |difference| of the condition and the downsampled sample in grey
    levels, 0 for a perfect match; psnr of sample and image, in dB. Raises ConfigError for a factor that does not divide
    the sides, or is 1.
    """

    sees = ("image",)
    asks_class = True

    @checked
    def __init__(
        self,
        factor: AtLeastTwo,
        image_shape: Sequence[int],
        latent_shape: Sequence[int],
        enlarge: Literal["nearest", "bilinear"] = "bilinear",
        drop: Share = 0.1,
        null: NullCondition = "learned",
    ) -> None:
        super().__init__(image_shape[0], image_shape, latent_shape, drop, null)
        height, width = image_shape[1:]
        if height % factor or width % factor:
            fits = [n for n in range(2, min(height, width) + 1) if height % n == 0 and width % n == 0]
            sides = f"a divisor of the images' sides, {height} and {width}"
            raise InvalidValue("factor", factor, sides, f"take {' or '.join(map(str, fits))}" if fits else "")
        self.factor, self.enlarge = factor, enlarge

    def channels(self, batch: Batch) -> Tensor:
        small = self.small(batch["image"])
        return nnf.interpolate(small, scale_factor=float(self.factor), **ENLARGED[self.enlarge])  # type: ignore[arg-type]

    def small(self, images: Tensor) -> Tensor:
        """uint8 (B, C, H, W) -> float32 (B, C, H/factor, W/factor) in [-1, 1]."""
        return nnf.avg_pool2d(to_float(images), self.factor)

    def shown(self, batch: Batch) -> Tensor:
        return to_uint8(nnf.interpolate(self.small(batch["image"]), scale_factor=float(self.factor)))

    def judge(self, images: Tensor, batch: Batch) -> dict[str, Tensor]:
        apart = (self.small(images) - self.small(batch["image"])).abs() * 127.5
        return {"consistency": apart.flatten(1).mean(1), "psnr": psnr(images, batch["image"])}


class Colourisation(Concat, Judges, Shows):
    """The luma of batch["image"], a colour image (Saharia 2022, "Palette").

    Metrics, in grey levels: grey_error, mean |difference| of the luma of sample and image, 0 for a perfect match up to
    rounding; colour_error, the same over all three channels, which also counts plausible colours of another hue;
    colourfulness (Hasler & Suesstrunk 2003), 0 for a grey image. Raises IncompatibleError for grey images.
    """

    sees = ("image",)
    asks_class = True

    @checked
    def __init__(
        self,
        image_shape: Sequence[int],
        latent_shape: Sequence[int],
        drop: Share = 0.1,
        null: NullCondition = "learned",
    ) -> None:
        super().__init__(1, image_shape, latent_shape, drop, null)
        if image_shape[0] != 3:
            raise IncompatibleError(
                f"conditioning=colourisation gives images their colours, and these data have {image_shape[0]} channel; "
                "take data=composition, or data=image_folder data.channels=3"
            )

    def channels(self, batch: Batch) -> Tensor:
        return luma(to_float(batch["image"]))

    def shown(self, batch: Batch) -> Tensor:
        return to_uint8(luma(to_float(batch["image"]))).expand_as(batch["image"])

    def judge(self, images: Tensor, batch: Batch) -> dict[str, Tensor]:
        apart = 127.5 * (to_float(images) - to_float(batch["image"]))
        return {
            "grey_error": luma(apart).abs().flatten(1).mean(1),
            "colour_error": apart.abs().flatten(1).mean(1),
            "colourfulness": colourfulness(images),
        }


def luma(images: Tensor) -> Tensor:
    """Luma of RGB images: (B, 3, H, W) -> (B, 1, H, W)."""
    weights = torch.tensor(LUMA, dtype=images.dtype, device=images.device)
    return torch.einsum("bchw,c->bhw", images, weights)[:, None]


def colourfulness(images: Tensor) -> Tensor:
    """sqrt(var a + var b) + 0.3 sqrt((mean a)^2 + (mean b)^2), a = R - G, b = (R + G)/2 - B; uint8 images -> (B,)."""
    red, green, blue = images.double().flatten(2).unbind(1)
    a, b = red - green, (red + green) / 2 - blue
    spread = torch.hypot(a.std(1, correction=0), b.std(1, correction=0))
    return spread + 0.3 * torch.hypot(a.mean(1), b.mean(1))
