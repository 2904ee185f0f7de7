"""Rendering of scenes: images of single objects, scaled, coloured and placed on a dark canvas without touching.

All arithmetic is in integers, so a scene is the same on every machine. An object's pixels have brightness, the maximum
over channels, of at least STROKE; colours have one channel of 255, so they preserve brightness.
"""

from typing import NamedTuple

import torch
from torch import Tensor

STROKE = 64  # of 255
COLOURS = {
    "red": (255, 70, 60),
    "green": (80, 255, 90),
    "blue": (90, 130, 255),
    "yellow": (255, 225, 60),
    "magenta": (255, 90, 235),
    "cyan": (60, 235, 255),
}
NOWHERE = -1  # the class of a missing box
TRIES = 48  # placements tried before a scene gets one object fewer

_CHUNK = 2048  # scenes rendered at once


class Drawn(NamedTuple):
    """Random choices of M scenes of up to K objects."""

    wanted: Tensor  # int64 (M,), number of objects, 1 ... K
    image: Tensor  # int64 (M, K), index of the object's image
    side: Tensor  # int64 (M, K), its side in pixels
    colour: Tensor  # int64 (M, K), index into COLOURS
    place: Tensor  # float64 (M, TRIES, K, 2), x and y of its box, as fractions of the possible range


def brightness(images: Tensor) -> Tensor:
    """Maximum over channels: uint8 (B, C, H, W) -> uint8 (B, H, W)."""
    return images.amax(1)


def strokes(images: Tensor) -> Tensor:
    """Mask of the objects' bright pixels: uint8 (B, C, H, W) -> bool (B, H, W)."""
    return brightness(images) >= STROKE


def tight(mask: Tensor) -> Tensor:
    """Bounding boxes of masks, bool (..., H, W): int64 (..., 4), x0, y0, x1, y1, ends exclusive; zeros if empty."""
    ends = []
    for dim in (-2, -1):
        line = mask.any(dim)
        n = line.shape[-1]
        places = torch.arange(n, device=mask.device)
        ends.append((torch.where(line, places, n).amin(-1), torch.where(line, places + 1, 0).amax(-1)))
    (x0, x1), (y0, y1) = ends
    there = x1 > 0
    return torch.stack([torch.where(there, end, 0) for end in (x0, y0, x1, y1)], -1)


def in_colours(named: Tensor, num_classes: int, channels: int) -> Tensor:
    """Colour class maps (B, H, W), uint8 (B, C, H, W): 0 is black, 1 + class its own colour, or grey level."""
    hue = torch.arange(num_classes) / num_classes
    if channels == 1:
        colours = (255 - 192 * hue)[:, None]
    else:
        wheel = (hue[:, None] + torch.tensor([0, 1 / 3, 2 / 3])) % 1 * 6
        colours = 40 + 215 * ((wheel - 3).abs() - 1).clamp(0, 1)
    table = torch.cat([torch.zeros(1, channels), colours.expand(-1, channels)]).round().to(torch.uint8)
    return table.to(named.device)[named.long()].permute(0, 3, 1, 2)


def render(objects: Tensor, classes: Tensor, drawn: Drawn, size: int, channels: int) -> dict[str, Tensor]:
    """Render scenes of size x size pixels from objects: uint8 (N, C, h, h), with classes: int64 (N,).

    Returns "image", "label", "segmentation" and "boxes", as in `composition.Scenes`.
    """
    parts = [_render(objects, classes, Drawn(*part), size, channels) for part in _chunks(drawn)]
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


def _chunks(drawn: Drawn) -> list[tuple[Tensor, ...]]:
    return list(zip(*(value.split(_CHUNK) for value in drawn), strict=True))


def _render(objects: Tensor, classes: Tensor, drawn: Drawn, size: int, channels: int) -> dict[str, Tensor]:
    scenes, most = drawn.image.shape
    frames = scaled(brightness(objects[drawn.image.flatten()]), drawn.side.flatten())
    inner = tight(frames >= STROKE).reshape(scenes, most, 4)
    corner, count = placed(inner[..., 2:] - inner[..., :2], drawn, size)
    there = torch.arange(most) < count[:, None]
    boxes = torch.cat([corner, corner + inner[..., 2:] - inner[..., :2]], -1)
    order = torch.where(there, boxes[..., 0] * size + boxes[..., 1], size * size).argsort(1)
    boxes, inner, there = (value.gather(1, _like(order, value)) for value in (boxes, inner, there))
    which, colour = drawn.image.gather(1, order), drawn.colour.gather(1, order)
    frames = frames.reshape(scenes, most, *frames.shape[1:])[torch.arange(scenes)[:, None], order]

    grey = _put(frames, inner, boxes, size) * there[..., None, None]
    palette = torch.tensor([(255,)] * len(COLOURS) if channels == 1 else list(COLOURS.values()))
    coloured = (grey[:, :, None] * palette[colour][..., None, None] + 127) // 255
    named = torch.where(grey >= STROKE, 1 + classes[which][..., None, None], 0)
    told = torch.cat([torch.where(there, classes[which], NOWHERE)[..., None], boxes * there[..., None]], -1)
    return {
        "image": coloured.sum(1).to(torch.uint8),  # no two objects touch
        "label": told[:, 0, 0].clone(),
        "segmentation": named.sum(1, keepdim=True).to(torch.uint8),
        "boxes": told,
    }


def _like(order: Tensor, value: Tensor) -> Tensor:
    return order if value.ndim == 2 else order[..., None].expand(value.shape)


def _put(frames: Tensor, inner: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Copy the boxes `inner`: (M, K, 4) of frames: (M, K, s, s) to `boxes`: int64 (M, K, size, size)."""
    line = torch.arange(size)
    inside, source = [], []
    for axis in (0, 1):
        low, high = boxes[..., axis, None], boxes[..., axis + 2, None]
        inside.append((line >= low) & (line < high))
        source.append((line - low + inner[..., axis, None]).clamp(0, frames.shape[-1] - 1))
    (in_x, in_y), (x, y) = inside, source
    rows = frames.gather(2, y[..., None].expand(*y.shape, frames.shape[-1]))
    found = rows.gather(3, x[..., None, :].expand(*y.shape, size))
    return torch.where(in_y[..., None] & in_x[..., None, :], found, 0)


def placed(extent: Tensor, drawn: Drawn, size: int) -> tuple[Tensor, Tensor]:
    """Place boxes of widths and heights `extent`: (M, K, 2). Returns corners, int64 (M, K, 2), and their number (M,).

    Takes the first placement with at least a pixel between any two boxes; if there is none, one object fewer.
    """
    room = size - extent  # (M, K, 2)
    corner = (drawn.place * (room[:, None] + 1)).long()
    low, high = corner, corner + extent[:, None] + 1
    apart = (low[:, :, :, None] >= high[:, :, None]) | (low[:, :, None] >= high[:, :, :, None])
    touch = ~apart.any(-1)  # (M, TRIES, K, K)
    most = extent.shape[1]
    found, left = torch.zeros(len(extent), dtype=torch.int64), drawn.wanted.clone()
    open_ = torch.ones(len(extent), dtype=torch.bool)
    for count in range(most, 0, -1):
        pairs = touch[:, :, :count, :count].tril(-1).any(-1).any(-1)  # (M, TRIES)
        first = (~pairs).long().argmax(1)
        now = open_ & (left == count) & (~pairs).any(1)
        found = torch.where(now, first, found)
        open_ &= ~now
        left = torch.where(open_ & (left == count), count - 1, left)
    return corner[torch.arange(len(extent)), found], left


def scaled(images: Tensor, sides: Tensor) -> Tensor:
    """Resize uint8 (M, h, h) to int64 (M, S, S), S the largest of sides: (M,); image m fills sides[m] x sides[m].

    Bilinear, antialiased when shrinking; each image is scaled to a maximum of 255.
    """
    largest = int(sides.max())
    frames = torch.zeros(len(images), largest, largest, dtype=torch.int64)
    for side in sides.unique().tolist():
        chosen = sides == side
        weights = _weights(images.shape[-1], side)
        # Integers far below 2^53: exact, whatever the order of summation.
        sums = weights @ images[chosen].double() @ weights.T
        values = _rounded(sums.long(), (weights.sum(1)[:, None] * weights.sum(1)).long())
        peak = values.amax((1, 2), keepdim=True).clamp(min=1)
        frames[chosen, :side, :side] = _rounded(values * 255, peak)
    return frames


def _weights(n: int, side: int) -> Tensor:
    """Interpolation weights from n to `side` pixels: a triangle of integers, float64 (side, n)."""
    there, here = 2 * torch.arange(side)[:, None] + 1, 2 * torch.arange(n) + 1
    return (2 * max(side, n) - (there * n - here * side).abs()).clamp(min=0).double()


def _rounded(value: Tensor, by: Tensor) -> Tensor:
    """value / by, rounded to the nearest integer, halves up."""
    return (2 * value + by) // (2 * by)
