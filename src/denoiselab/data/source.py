"""Data sources: a training and a test set of labelled images or points, and the facts a model is built from.

Images stay uint8 (N, C, H, W) until they are on the device, a quarter of the memory and transfer of float32. Networks
take 2u/255 - 1 in [-1, 1]; `to_uint8` inverts this exactly on all 256 values. Points are float32 (N, D), unscaled.
"""

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple, final

import torch
from torch import Tensor
from torch.utils.data import Dataset

Batch = dict[str, Tensor]
"""{"image": uint8 (B, C, H, W), or points, float32 (B, D); "label": int64 (B,)}.

What is batched may add keys whose first dimension is B."""

_FINGERPRINT_CHUNK = 256
_GOLDEN = (math.sqrt(5) - 1) / 2


class ImageSet(Dataset[Batch], ABC):
    """A fixed sequence of images, read batch by batch. `labels` is int64 (N,), all 0 if unlabelled."""

    labels: Tensor

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitems__(self, indices: Sequence[int]) -> Batch:
        """The batch of images at `indices`, in order; repeats are allowed. The DataLoader calls this once per batch."""


@final
class InMemory(ImageSet):
    """Images, uint8 (N, C, H, W), or points, float32 (N, D), in memory, with int64 labels (N,)."""

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        if (images.dtype, images.ndim) not in ((torch.uint8, 4), (torch.float32, 2)):
            raise ValueError(
                f"images are uint8 (N, C, H, W), points float32 (N, D), got {images.dtype} {tuple(images.shape)}"
            )
        if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            raise ValueError(f"labels are int64 ({len(images)},), got {labels.dtype} {tuple(labels.shape)}")
        self.images = images
        self.labels = labels

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        index = torch.tensor(indices, dtype=torch.int64)
        return {"image": self.images[index], "label": self.labels[index]}


def spread(labels: Tensor, n: int | None = None) -> list[int]:
    """The first n indices into labels: (N,) in an order whose every stretch covers the classes evenly.

    The i-th image sorted by class is ordered by i * golden ratio mod 1. A stretch is the i for which this lies in an
    interval, and their gaps have at most three lengths (Steinhaus), so each class has its share.
    """
    order = (torch.arange(len(labels), dtype=torch.float64) * _GOLDEN).frac().argsort(stable=True)
    return labels.argsort(stable=True)[order[:n]].tolist()


class Facts(NamedTuple):
    """Properties of the data that a model is built from."""

    shape: tuple[int, ...]
    class_names: tuple[str, ...]


class Source(ABC):
    """A data set. The constructor checks arguments and paths; pixels are read at the first use of a split.

    flip: whether training uses random horizontal flips, which are drawn later, on the device.
    """

    name: str
    class_names: tuple[str, ...]
    flip: bool

    @property
    @abstractmethod
    def shape(self) -> tuple[int, ...]:
        """(C, H, W) of an image or (D,) of a point."""

    @property
    @abstractmethod
    def train(self) -> ImageSet: ...

    @property
    @abstractmethod
    def test(self) -> ImageSet: ...

    @property
    def num_classes(self) -> int:
        """Number of classes, 0 if unlabelled."""
        return len(self.class_names)

    @property
    def facts(self) -> Facts:
        return Facts(tuple(self.shape), tuple(self.class_names))

    @cached_property
    def fingerprint(self) -> str:
        """sha256 (64 hex digits) of shape, class names, pixels and labels of both splits: a cache key.

        The same on every machine. Reads each image once.
        """
        digest = hashlib.sha256(json.dumps([self.shape, self.class_names]).encode())
        for split in (self.train, self.test):
            digest.update(f"|{len(split)}|".encode())
            for start in range(0, len(split), _FINGERPRINT_CHUNK):
                batch = split.__getitems__(range(start, min(start + _FINGERPRINT_CHUNK, len(split))))
                images = batch["image"].numpy()
                digest.update(images.astype(images.dtype.newbyteorder("<")).tobytes())
                digest.update(batch["label"].numpy().astype("<i8").tobytes())
        return digest.hexdigest()


def to_float(images: Tensor) -> Tensor:
    """Convert uint8 to float32 in [-1, 1]. Floats pass through."""
    if images.is_floating_point():
        return images
    return images.to(torch.float32) * 2 / 255 - 1


def to_uint8(images: Tensor) -> Tensor:
    """Round floats, clamped to [-1, 1], to the nearest of the 256 levels. Raises ValueError for NaN."""
    if images.isnan().any():
        raise ValueError(f"{int(images.isnan().sum())} of {images.numel()} values are NaN and have no uint8")
    # bfloat16 cannot separate neighbouring levels at 0..255.
    wide = images.to(torch.promote_types(images.dtype, torch.float32))
    return ((wide.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def psnr(made: Tensor, images: Tensor) -> Tensor:
    """PSNR, 10 log10(2^2/MSE), of images, uint8 or floats in [-1, 1]; `made` is clipped: float64 (B,), in dB.

    100 for equal images.
    """
    mse = (to_float(made).clamp(-1, 1) - to_float(images)).square().flatten(1).mean(1).cpu().double()
    return 10 * torch.log10(4 / mse.clamp(min=4e-10))
