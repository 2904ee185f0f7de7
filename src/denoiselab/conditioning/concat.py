"""Image conditions, concatenated to x_t along the channels (SR3, Saharia 2021, "Image super-resolution via iterative
refinement"; latent diffusion, Rombach 2021, §3.3).

In latent diffusion x_t is smaller than the conditioning image, whose pixels are then moved into channels
(space-to-depth), so that none is lost:

    y[c f_h f_w + i f_w + j, h, w] = x[c, f_h h + i, f_w w + j],   f_h = H/h, f_w = W/w
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from denoiselab.conditioning.cond import Cond, Routes
from denoiselab.conditioning.conditioner import NullCondition, Plain, unlabelled
from denoiselab.data.source import Batch
from denoiselab.errors import IncompatibleError
from denoiselab.limits import Share, checked


def factors(image_shape: Sequence[int], latent_shape: Sequence[int]) -> tuple[int, int]:
    """(f_h, f_w) for images (C, H, W) and x_t (c, h, w). Raises IncompatibleError if h, w do not divide H, W."""
    if len(image_shape) != 3 or len(latent_shape) != 3:
        raise IncompatibleError("this conditioning tells images, and these data are points; take conditioning=none")
    (height, width), (h, w) = image_shape[1:], latent_shape[1:]
    if height % h or width % w:
        raise IncompatibleError(
            f"conditions of {height} x {width} pixels cannot be folded to {h} x {w}, which the codec makes of images: "
            "their sides are no multiples of that; take a codec whose factor divides them, or codec=identity"
        )
    return height // h, width // w


def folded(x: Tensor, latent_shape: Sequence[int]) -> Tensor:
    """Fold x: (B, C, H, W) to the resolution of x_t (c, h, w): (B, C f_h f_w, h, w). Raises IncompatibleError."""
    f_h, f_w = factors(x.shape[1:], latent_shape)
    return x.unflatten(3, (-1, f_w)).unflatten(2, (-1, f_h)).permute(0, 1, 3, 5, 2, 4).flatten(1, 3)


class Concat(Plain, ABC):
    """Base of conditions that are `channels` channels at the image's size, folded to the size of x_t.

    null: "learned" is one learned value per channel, the same at all positions; "zero", or drop=0, is 0.
    Raises IncompatibleError if the sides cannot be folded.
    """

    @checked
    def __init__(
        self,
        channels: int,
        image_shape: Sequence[int],
        latent_shape: Sequence[int],
        drop: Share = 0.1,
        null: NullCondition = "learned",
    ) -> None:
        super().__init__()
        f_h, f_w = factors(image_shape, latent_shape)
        self.latent_shape, self.drop = tuple(latent_shape), drop
        self.routes = Routes(concat=channels * f_h * f_w)
        self.nothing: Tensor
        if null == "learned" and drop > 0:
            self.nothing = nn.Parameter(torch.randn(self.routes.concat))
        else:
            self.register_buffer("nothing", torch.zeros(self.routes.concat), persistent=False)

    @abstractmethod
    def channels(self, batch: Batch) -> Tensor:
        """The condition of each image, scaled to about 1: (B, channels, H, W)."""

    def forward(self, batch: Batch) -> Cond:
        return Cond(concat=folded(self.channels(batch), self.latent_shape).to(self.nothing.dtype), label=batch["label"])

    def null(self, cond: Cond) -> Cond:
        assert cond.concat is not None
        return Cond(concat=self.nothing[:, None, None].expand_as(cond.concat), label=unlabelled(cond.label))
