"""Conditioning on a segmentation mask (Rombach 2021, §4.3.2, semantic synthesis)."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as nnf

from denoiselab.conditioning.concat import Concat
from denoiselab.conditioning.conditioner import Judges, NullCondition, Shows
from denoiselab.data.scenes import in_colours, strokes
from denoiselab.data.source import Batch
from denoiselab.errors import ConfigError
from denoiselab.limits import Count, Share, checked


class Segmentation(Concat, Judges, Shows):
    """One-hot batch["segmentation"]: uint8 (B, 1, H, W), 0 for background or 1 + class, as 1 + num_classes channels.

    Metric: segmentation_iou of the sample's bright pixels (`scenes.strokes`) and the mask's objects, 1 for a test
    image. Raises ConfigError for a class beyond num_classes.
    """

    sees = ("segmentation",)
    asks_class = True

    @checked
    def __init__(
        self,
        num_classes: Count,
        image_shape: Sequence[int],
        latent_shape: Sequence[int],
        drop: Share = 0.1,
        null: NullCondition = "learned",
    ) -> None:
        super().__init__(1 + num_classes, image_shape, latent_shape, drop, null)
        self.num_classes, self.image_shape = num_classes, tuple(image_shape)

    def channels(self, batch: Batch) -> Tensor:
        there = batch["segmentation"][:, 0].long()
        if there.max() > self.num_classes:
            raise ConfigError(
                f"the segmentation has class {int(there.max()) - 1}; conditioning.num_classes={self.num_classes} "
                f"allows 0 to {self.num_classes - 1}, take as many as the data have"
            )
        return nnf.one_hot(there, 1 + self.num_classes).permute(0, 3, 1, 2).float()

    def shown(self, batch: Batch) -> Tensor:
        return in_colours(batch["segmentation"][:, 0], self.num_classes, self.image_shape[0])

    def judge(self, images: Tensor, batch: Batch) -> dict[str, Tensor]:
        found, asked = strokes(images).flatten(1), batch["segmentation"].flatten(1) > 0
        both, either = (found & asked).sum(1), (found | asked).sum(1)
        return {"segmentation_iou": (both + (either == 0)) / either.clamp(min=1)}
