"""Exact pixel distances of images to their nearest and second nearest in a set of images.

|a - b|^2 = |a|^2 + |b|^2 - 2 <a, b>, with a and b the grey levels minus 128. Products are integers of at most 2^14, so
sums over 1,024 pixels are at most 2^24, which float32 represents exactly in any order: the matrix product is exact, and
an image has distance 0 to its copy. Sides above 32 pixels are first reduced to 32 by area averaging, which bounds the
storage per image.
"""

import torch
from torch import Tensor
from torch.nn import functional as nnf

from denoiselab.data.source import ImageSet

SIDE = 32
EXACT = 1024  # pixels in a float32 sum
BATCH = 1000  # images of the set per block


def in_pixels(images: Tensor) -> Tensor:
    """Map uint8 (B, C, H, W) to (B, P), at most 32 x 32 pixels per channel."""
    height, width = images.shape[-2:]
    if max(height, width) > SIDE:
        small = nnf.interpolate(images.float(), (min(height, SIDE), min(width, SIDE)), mode="area")
        images = small.round().to(torch.uint8)
    return images.flatten(1)


def nearest_two(rows: Tensor, images: ImageSet) -> Tensor:
    """Distances in grey levels, float64 (n, 2), of rows: uint8 (n, P) to the two nearest of `images`.

    Infinite if there is no second.
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
    """Map integer-valued (n, P) and (m, P) to int32 (n, m)."""
    total = torch.zeros(len(a), len(b), dtype=torch.int32)
    for x, y in zip(a.split(EXACT, 1), b.split(EXACT, 1), strict=True):
        products = (x @ y.T).int()
        total += x.square().sum(1).int()[:, None] + y.square().sum(1).int() - 2 * products
    return total
