"""Accuracy of the classes of individual objects in generated scenes.

Each requested box is cropped, resized to one size, converted to grey and normalised to unit length, then classified by
its nearest neighbour among the crops of the training scenes, without training. The floor, on real test scenes, is the
accuracy of this classifier itself.
"""

from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional as nnf

from denoiselab.conditioning import Judges
from denoiselab.data.scenes import NOWHERE, brightness
from denoiselab.data.source import Batch, Source

SIDE = 12  # pixels of a crop
_CHUNK = 1024


class ObjectAccuracy(Judges):
    """object_accuracy of each requested box: 1 if its crop is of that class, 0 if it is of another class or black."""

    def __init__(self, source: Source) -> None:
        self.source = source

    @cached_property
    def _known(self) -> tuple[Tensor, Tensor]:
        """Crops of the training scenes, (N, SIDE^2), and their classes, (N,)."""
        scenes = self.source.train
        parts = [
            crops(batch["image"], batch["boxes"])
            for indices in torch.arange(len(scenes)).split(_CHUNK)
            for batch in [scenes.__getitems__(indices.tolist())]
        ]
        made, classes = zip(*parts, strict=True)
        return torch.cat(made), torch.cat(classes)

    def judge(self, images: Tensor, batch: Batch) -> dict[str, Tensor]:
        if "boxes" not in batch:
            return {}
        known, named = self._known
        made, asked = crops(images, batch["boxes"])
        found = torch.cat([named[(part @ known.T).argmax(1)] for part in made.split(_CHUNK)])
        return {"object_accuracy": ((found == asked) & made.any(1)).float()}


def crops(images: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Crop boxes (B, L, 5) from uint8 images: float32 (N, SIDE^2) of length 1, or 0 if black, and classes (N,).

    Each crop is the square around the box's centre with its longer side, not stretched; outside the box it is black.
    """
    place, number = (boxes[..., 0] != NOWHERE).nonzero(as_tuple=True)
    classes, corners = boxes[place, number].split([1, 4], 1)
    low, high = corners[:, :2, None].float(), corners[:, 2:, None].float()  # (N, 2, 1): x and y
    longer = (high - low).amax(1, keepdim=True)
    points = (low + high) / 2 + longer * ((torch.arange(SIDE) + 0.5) / SIDE - 0.5)  # (N, 2, SIDE)
    height, width = images.shape[2:]
    inside = (points >= low) & (points <= high)
    shares = 2 * points / torch.tensor([width, height])[:, None] - 1
    x, y = (line.expand(-1, SIDE, SIDE) for line in (shares[:, 0, None, :], shares[:, 1, :, None]))
    grey = brightness(images)[place, None].float()
    seen = nnf.grid_sample(grey, torch.stack([x, y], -1), mode="bilinear", align_corners=False)[:, 0]
    seen = seen * (inside[:, 1, :, None] & inside[:, 0, None, :])
    return nnf.normalize(seen.flatten(1)), classes[:, 0]
