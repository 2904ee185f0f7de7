"""A folder of images, whose first-level sub-folders are the classes; images directly in it are unlabelled."""

import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Literal, final

import torch
from torch import Tensor

from denoiselab.data.decode import SUFFIXES, common_channels, decode_all
from denoiselab.data.source import Batch, ImageSet, InMemory, Source
from denoiselab.errors import DataError
from denoiselab.limits import Count, InnerShare, Natural, checked


@final
class OnDisk(ImageSet):
    """Image files decoded at each access, for sets that do not fit into memory."""

    def __init__(self, paths: Sequence[Path], labels: Tensor, size: int, channels: int) -> None:
        self.labels = labels
        self._paths = paths
        self._size = size
        self._channels = channels

    def __len__(self) -> int:
        return len(self._paths)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        images = decode_all([self._paths[i] for i in indices], self._size, self._channels)
        return {"image": images, "label": self.labels[torch.tensor(indices, dtype=torch.int64)]}


@final
class ImageFolder(Source):
    """PNG, JPEG and WebP files found recursively below `root`, as size x size squares.

    channels: 1 (grey), 3 (RGB) or None for that of the files, which must all be the same. memory_mb: the largest
    decoded set kept in memory, in MiB; larger ones are decoded per batch.

    An image is a test image if the hash of its path below `root`, as a number in [0, 1), is less than `test_fraction`.
    So adding or removing images moves no others, and the test fraction is approximate. If a split would be empty, it
    gets the image nearest to the boundary.
    """

    @checked
    def __init__(
        self,
        root: str | PathLike[str] | None,
        size: Count,
        channels: Literal[1, 3] | None = None,
        test_fraction: InnerShare = 0.1,
        flip: bool = True,
        memory_mb: Natural = 1024,
    ) -> None:
        if root is None:
            raise DataError("data.root is not set, a folder of images is needed; give data.root=<folder>")
        folder = Path(root).expanduser()
        if not folder.is_dir():
            found = "is a file" if folder.exists() else "does not exist"
            raise DataError(f"data.root={str(folder)!r} {found}, a folder of images is needed; give data.root=<folder>")
        names = _image_names(folder)
        classes = [name.partition("/")[0] for name in names] if "/" in names[0] else []
        self.name = folder.resolve().name
        self.class_names = tuple(sorted(set(classes)))
        self.flip = flip
        self._size = size
        self._channels = channels
        self._memory_mb = memory_mb
        self._paths = [folder / name for name in names]
        label_of = {name: label for label, name in enumerate(self.class_names)}
        self._labels = torch.tensor([label_of[name] for name in classes] or [0] * len(names))
        self._is_test = _is_test(names, test_fraction)

    @cached_property
    def shape(self) -> tuple[int, int, int]:
        return self._channels or common_channels(self._paths), self._size, self._size

    @cached_property
    def train(self) -> ImageSet:
        return self._split(is_test=False)

    @cached_property
    def test(self) -> ImageSet:
        return self._split(is_test=True)

    def _split(self, is_test: bool) -> ImageSet:
        chosen = [i for i, value in enumerate(self._is_test) if value == is_test]
        paths, labels = [self._paths[i] for i in chosen], self._labels[chosen]
        channels, size, _ = self.shape
        if len(self._paths) * math.prod(self.shape) > self._memory_mb * 2**20:
            return OnDisk(paths, labels, size, channels)
        return InMemory(decode_all(paths, size, channels, f"Decoding {self.name}"), labels)


def _image_names(root: Path) -> list[str]:
    """Sorted image paths below `root`; either all or none are in class folders."""
    try:
        files = list(_walk(str(root)))
    except OSError as error:
        raise DataError(f"{error.filename!r} cannot be listed ({error.strerror}); check its permissions") from error
    names = sorted(name for name in files if _is_image(name))
    if not names:
        raise DataError(
            f"{str(root)!r} holds no images and {len(files)} other files; the suffixes that are read are "
            f"{' '.join(SUFFIXES)}"
        )
    if len(names) == 1:
        raise DataError(f"{str(root / names[0])!r} is the only image, one to train and one to test are needed; add one")
    bare = [name for name in names if "/" not in name]
    if bare and len(bare) < len(names):
        nested = next(name for name in names if "/" in name)
        raise DataError(
            f"{str(root / bare[0])!r} is in no class folder but {str(root / nested)!r} is; move it into a class "
            "folder, or all images into data.root itself, which is then an unlabelled set"
        )
    return names


def _walk(folder: str, prefix: str = "", above: tuple[str, ...] = ()) -> Iterator[str]:
    """Relative paths of all files below `folder`, joined by "/". Skips hidden folders and links to enclosing ones."""
    above = (*above, os.path.realpath(folder))
    with os.scandir(folder) as entries:
        for entry in entries:
            if not entry.is_dir():
                yield prefix + entry.name
            elif not entry.name.startswith(".") and os.path.realpath(entry.path) not in above:
                yield from _walk(entry.path, f"{prefix}{entry.name}/", above)


def _is_image(name: str) -> bool:
    return name.lower().endswith(SUFFIXES) and not name.rpartition("/")[2].startswith(".")


def _is_test(names: Sequence[str], fraction: float) -> list[bool]:
    hashes = [hashlib.sha256(os.fsencode(name)).digest() for name in names]
    places = [int.from_bytes(digest[:8], "big") / 2**64 for digest in hashes]
    chosen = [place < fraction for place in places]
    if not any(chosen):
        chosen[places.index(min(places))] = True
    elif all(chosen):
        chosen[places.index(max(places))] = False
    return chosen
