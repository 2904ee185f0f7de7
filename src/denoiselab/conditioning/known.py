"""Images with some known pixels."""

from typing import NamedTuple

import torch
from torch import Tensor

GREY = 128


class Known(NamedTuple):
    """Images, uint8 (B, C, H, W), and the mask of their known pixels, bool (B, 1, H, W)."""

    image: Tensor
    mask: Tensor

    def pasted(self, images: Tensor) -> Tensor:
        """Paste the known pixels into uint8 images."""
        return torch.where(self.mask, self.image, images)

    def shown(self) -> Tensor:
        """The known pixels on grey: uint8 (B, C, H, W)."""
        return self.pasted(torch.full_like(self.image, GREY))

    def judge(self, images: Tensor) -> dict[str, Tensor]:
        """Metrics of uint8 images, in grey levels, each (B,): known_error, the largest |difference| on known pixels;
        unknown_error, the mean elsewhere, above 0 also for plausible images other than the true one."""
        apart = (images.int() - self.image.int()).abs()
        unknown = (~self.mask).expand_as(apart)
        rest = (apart * unknown).flatten(1).sum(1) / unknown.flatten(1).sum(1)
        return {"known_error": (apart * self.mask).flatten(1).amax(1).double(), "unknown_error": rest.double()}
