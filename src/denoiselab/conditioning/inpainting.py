"""Inpainting: conditioning on the known pixels of an image."""

from collections.abc import Sequence

import torch
from torch import Tensor

from denoiselab.conditioning.concat import Concat
from denoiselab.conditioning.conditioner import Judges, Keeps, NullCondition, Shows
from denoiselab.conditioning.known import Known
from denoiselab.conditioning.masks import Masks, masks
from denoiselab.data.source import Batch, to_float
from denoiselab.limits import Share, checked


class Inpainting(Concat, Judges, Keeps, Shows):
    """batch["image"] where known, 0 elsewhere, and the mask, 1 where known and -1 elsewhere.

    The known pixels also replace the network's predictions there, so they never change. `mask` is the name of a kind or
    a file, see `masks.masks`; masks are drawn anew for each sample and step. Metrics: see `Known.judge`. Raises the
    errors of `masks`.
    """

    sees = ("image",)
    asks_class = True

    @checked
    def __init__(
        self,
        mask: str | Masks,
        image_shape: Sequence[int],
        latent_shape: Sequence[int],
        drop: Share = 0.1,
        null: NullCondition = "learned",
    ) -> None:
        super().__init__(image_shape[0] + 1, image_shape, latent_shape, drop, null)
        self.mask = masks(mask, *image_shape[1:])
        self.draws = self.mask.draws

    def known(self, batch: Batch) -> Known:
        image = batch["image"]
        u = batch["u"] if self.draws else torch.zeros(len(image), 0, device=image.device)
        return Known(image, self.mask(u, *image.shape[2:]))

    def channels(self, batch: Batch) -> Tensor:
        image, mask = self.known(batch)
        return torch.cat([to_float(image) * mask, 2.0 * mask - 1], 1)

    def kept(self, batch: Batch) -> Tensor:
        return self.known(batch).mask

    def shown(self, batch: Batch) -> Tensor:
        return self.known(batch).shown()

    def judge(self, images: Tensor, batch: Batch) -> dict[str, Tensor]:
        return self.known(batch).judge(images)
