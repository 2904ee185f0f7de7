"""Images of which some pixels are known."""

from typing import NamedTuple

import torch
from torch import Tensor

GREY = 128


class Known(NamedTuple):
    """Images, uint8 (B, C, H, W), and which of their pixels are known, bool (B, 1, H, W)."""

    image: Tensor
    mask: Tensor

    def pasted(self, images: Tensor) -> Tensor:
        """uint8 images with the known pixels as they are."""
        return torch.where(self.mask, self.image, images)

    def shown(self) -> Tensor:
        """The known pixels, the others grey: uint8 (B, C, H, W)."""
        return self.pasted(torch.full_like(self.image, GREY))

    def judge(self, images: Tensor) -> dict[str, Tensor]:
        """Of uint8 images, in grey levels, (B,): known_error, the largest difference where they are known, and
        unknown_error, the mean one elsewhere, which other good answers than the true image have too."""
        apart = (images.int() - self.image.int()).abs()
        unknown = (~self.mask).expand_as(apart)
        rest = (apart * unknown).flatten(1).sum(1) / unknown.flatten(1).sum(1)
        return {"known_error": (apart * self.mask).flatten(1).amax(1).double(), "unknown_error": rest.double()}
