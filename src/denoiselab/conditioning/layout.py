"""Layout conditioning: boxes with classes, as tokens (GLIGEN, Li 2023, eq. 5) or as channels.

A token is an MLP of the class embedding and of sin and cos of 2^k pi p, k = 0 ... 5, for the box's corners p = x0, y0,
x1, y1 as fractions of the image's sides. The tokens are an unordered set.

Samples are compared with the boxes by their bright pixels (`scenes.strokes`). A pixel belongs to the nearest given box,
if that is within a quarter of the image's longer side in both x and y; the tight box around a given box's pixels is
compared with it.
"""

import math
from abc import ABC
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from denoiselab.conditioning.concat import Concat
from denoiselab.conditioning.cond import Cond, Routes
from denoiselab.conditioning.conditioner import Judges, NullCondition, Plain, Shows, unlabelled
from denoiselab.data.scenes import NOWHERE, in_colours, strokes, tight
from denoiselab.data.source import Batch
from denoiselab.errors import ConfigError
from denoiselab.limits import Count, Share, checked

_FREQUENCIES = 6


class Boxes(Judges, Shows, ABC):
    """Base of conditions made of batch["boxes"]: int64 (B, L, 5), class, x0, y0, x1, y1 in pixels; class -1: no box.

    Metrics: layout_iou of each given box and the box found for it, 0 if none is found, 1 for a test image; stray, the
    fraction of a sample's bright pixels outside all given boxes, 0 for a test image.
    """

    num_classes: int
    image_shape: tuple[int, ...]

    def told(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Classes (B, L), 0 for none, corners (B, L, 4), and valid (B, L). Raises ConfigError for unknown classes."""
        classes, corners = batch["boxes"][..., 0], batch["boxes"][..., 1:]
        if classes.max() >= self.num_classes or classes.min() < NOWHERE:
            wrong = int(classes.max() if classes.max() >= self.num_classes else classes.min())
            raise ConfigError(
                f"the layout has class {wrong}; conditioning.num_classes={self.num_classes} allows 0 to "
                f"{self.num_classes - 1}, and {NOWHERE} for no box, take as many as the data have"
            )
        return classes.clamp(min=0), corners, classes != NOWHERE

    def shown(self, batch: Batch) -> Tensor:
        """Outlines of the boxes, coloured by class."""
        classes, corners, there = self.told(batch)
        channels, height, width = self.image_shape
        edge = inside(corners, height, width) & ~inside(corners + _inward(corners), height, width)
        named = torch.where(edge & there[..., None, None], 1 + classes[..., None, None], 0)
        return in_colours(named.amax(1), self.num_classes, channels)

    def judge(self, images: Tensor, batch: Batch) -> dict[str, Tensor]:
        _, corners, there = self.told(batch)
        bright = strokes(images)
        found = found_boxes(bright, corners, there)
        within = (inside(corners, *bright.shape[1:]) & there[..., None, None]).any(1)
        outside = (bright & ~within).flatten(1).sum(1)
        return {
            "layout_iou": iou(corners, found)[there],
            "stray": outside / bright.flatten(1).sum(1).clamp(min=1),
        }


class Layout(Plain, Boxes):
    """A null token, for pixels in no box to attend to, then one token per box, each of size `dim`.

    Missing boxes are masked. The null condition is the null token alone, which is learned with null="learned" and 0
    with null="zero" or drop=0.
    """

    sees = ("boxes",)
    asks_class = True

    @checked
    def __init__(
        self,
        num_classes: Count,
        image_shape: Sequence[int],
        dim: Count = 128,
        drop: Share = 0.1,
        null: NullCondition = "learned",
    ) -> None:
        super().__init__()
        self.num_classes, self.drop, self.routes = num_classes, drop, Routes(tokens=dim)
        self.image_shape = tuple(image_shape)
        self.embedding = nn.Embedding(num_classes, dim)
        inner = nn.Linear(dim + 8 * _FREQUENCIES, 2 * dim)
        # Without the norm tokens start small, and the network learns to ignore them.
        self.mlp = nn.Sequential(inner, nn.SiLU(), nn.Linear(2 * dim, dim), nn.LayerNorm(dim))
        self.nothing: Tensor
        if null == "learned" and drop > 0:
            self.nothing = nn.Parameter(torch.randn(dim))
        else:
            self.register_buffer("nothing", torch.zeros(dim), persistent=False)

    def forward(self, batch: Batch) -> Cond:
        classes, corners, there = self.told(batch)
        _, height, width = self.image_shape
        # float32 whatever the weights' precision: 32 pi p must distinguish pixels.
        places = corners.float() / torch.tensor([width, height, width, height], device=corners.device).float()
        named = self.embedding(classes)
        told = self.mlp(torch.cat([named, fourier(places).to(named.dtype)], -1))
        tokens = torch.cat([self.nothing.expand(len(told), 1, -1), told], 1)
        return Cond(tokens=tokens, mask=nnf.pad(there, (1, 0), value=True), label=batch["label"])

    def null(self, cond: Cond) -> Cond:
        assert cond.tokens is not None
        mask = torch.arange(cond.tokens.shape[1], device=cond.tokens.device) == 0
        return Cond(
            tokens=self.nothing.expand_as(cond.tokens),
            mask=mask.expand(cond.tokens.shape[:2]),
            label=unlabelled(cond.label),
        )


class LayoutChannels(Concat, Boxes):
    """One channel per class, 1 in its boxes and 0 elsewhere, and one that is 1 outside all boxes."""

    sees = ("boxes",)
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
        classes, corners, there = self.told(batch)
        filled = inside(corners, *self.image_shape[1:]) & there[..., None, None]
        each = [(filled & (classes == c)[..., None, None]).any(1) for c in range(self.num_classes)]
        return torch.stack([~filled.any(1), *each], 1).float()


def _inward(corners: Tensor) -> Tensor:
    return corners.new_tensor([1, 1, -1, -1])


def fourier(places: Tensor) -> Tensor:
    """Fourier features of numbers in [0, 1]: (..., n) -> (..., n 2 frequencies)."""
    powers = 2.0 ** torch.arange(_FREQUENCIES, device=places.device, dtype=places.dtype)
    angles = places[..., None] * math.pi * powers
    return torch.cat([angles.sin(), angles.cos()], -1).flatten(-2)


def inside(corners: Tensor, height: int, width: int) -> Tensor:
    """Masks of boxes (B, L, 4): bool (B, L, H, W)."""
    return _apart(corners, height, width) == 0


def _apart(corners: Tensor, height: int, width: int) -> Tensor:
    """Chebyshev distance in pixels of each pixel to each box (B, L, 4): int64 (B, L, H, W)."""
    away = []
    for axis, n in ((1, height), (0, width)):
        line = torch.arange(n, device=corners.device)
        low, high = corners[..., axis, None], corners[..., axis + 2, None] - 1
        away.append(torch.maximum(low - line, line - high).clamp(min=0))
    return torch.maximum(away[0][..., :, None], away[1][..., None, :])


def found_boxes(bright: Tensor, corners: Tensor, there: Tensor) -> Tensor:
    """The box found for each given box among bright pixels, bool (B, H, W): int64 (B, L, 4), zeros if none."""
    height, width = bright.shape[1:]
    reach = max(height, width) // 4
    apart = _apart(corners, height, width).masked_fill(~there[..., None, None], height + width)
    nearest = apart.argmin(1, keepdim=True) == torch.arange(corners.shape[1], device=corners.device)[:, None, None]
    return tight(bright[:, None] & nearest & (apart <= reach))


def iou(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of boxes (..., 4): (...), 0 for empty ones."""
    low, high = torch.maximum(a[..., :2], b[..., :2]), torch.minimum(a[..., 2:], b[..., 2:])
    both = (high - low).clamp(min=0).prod(-1)
    area = [(box[..., 2:] - box[..., :2]).clamp(min=0).prod(-1) for box in (a, b)]
    return both / (area[0] + area[1] - both).clamp(min=1)
