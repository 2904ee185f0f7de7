"""How near images are to a set of images, in pixels: the exact distances to the nearest and the second nearest.

|a - b|^2 = |a|^2 + |b|^2 - 2 <a, b>, a and b the grey levels less 128. Their products are whole numbers of at most
2^14, so sums over 1,024 pixels are of at most 2^24 and float32 holds them exactly, in any order: a matrix product costs
no digit here, and an image is at distance 0 of its copy. Sides of more than 32 pixels are brought to 32 first, by means
over areas, so that what is kept of an image is bounded.
"""

import torch
from torch import Tensor
from torch.nn import functional as nnf

from denoiselab.data.source import ImageSet

SIDE = 32
EXACT = 1024  # pixels in a float32 sum
BATCH = 1000  # images of the set at once


def in_pixels(images: Tensor) -> Tensor:
    """uint8 (B, C, H, W) -> (B, P), at most 32 x 32 pixels of each channel."""
    height, width = images.shape[-2:]
    if max(height, width) > SIDE:
        small = nnf.interpolate(images.float(), (min(height, SIDE), min(width, SIDE)), mode="area")
        images = small.round().to(torch.uint8)
    return images.flatten(1)


def nearest_two(rows: Tensor, images: ImageSet) -> Tensor:
    """uint8 (n, P) -> the distances of each to the nearest two of `images`, in grey levels, float64 (n, 2).

    Infinite where there is no second.
    """
    far = torch.iinfo(torch.int32).max
    nearest = torch.full((len(rows), 2), far, dtype=torch.int32)
    if len(rows) == 0:
        return nearest.double()
    a = _centred(rows)
    for start in range(0, len(images), BATCH):
        indices = range(start, min(len(images), start + BATCH))
        b = _centred(in_pixels(images.__getitems__(indices)["image"]))
        nearest = torch.cat([nearest, _squared_distances(a, b)], 1).topk(2, largest=False).values
    return nearest.double().where(nearest < far, torch.inf).sqrt()


def _centred(rows: Tensor) -> Tensor:
    return rows.float() - 128


def _squared_distances(a: Tensor, b: Tensor) -> Tensor:
    """(n, P) and (m, P) of whole numbers -> int32 (n, m)."""
    total = torch.zeros(len(a), len(b), dtype=torch.int32)
    for x, y in zip(a.split(EXACT, 1), b.split(EXACT, 1), strict=True):
        products = (x @ y.T).int()
        total += x.square().sum(1).int()[:, None] + y.square().sum(1).int() - 2 * products
    return total
