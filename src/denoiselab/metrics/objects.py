"""Whether the objects of a scene are of the classes that were asked for, each by itself.

The pixels of an asked box are brought to one size and to unit length, without colour, and take the class of the nearest
of the same crops of the training scenes: 1-nearest-neighbour, which needs no training. The floor, what it says of real
test scenes, tells how often it is right itself.
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
    """object_accuracy of each asked box: 1 where its crop is of that class, 0 where it is of another or black."""

    def __init__(self, source: Source) -> None:
        self.source = source

    @cached_property
    def _known(self) -> tuple[Tensor, Tensor]:
        """Crops of the training scenes, (N, SIDE^2), and their classes (N,)."""
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
    """What is in the boxes (B, L, 5) of uint8 images: float32 (N, SIDE^2) of length 1, or 0 of black, and classes (N,).

    A box is seen in a square around its middle, of its longer side, and is not stretched; beside it all is black.
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
