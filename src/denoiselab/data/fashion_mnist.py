"""Fashion-MNIST: 60,000 training and 10,000 test images of clothes, 28x28 grey, ten classes (Xiao et al. 2017).

Debian's package `dataset-fashion-mnist` installs the four IDX files in /usr/share/datasets/fashion-mnist.
"""

import gzip
import math
import zlib
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import final

import numpy as np
import torch

from denoiselab.data.source import InMemory, Source
from denoiselab.errors import DataError

_STEMS = {"train": "train", "test": "t10k"}
_IMAGES, _LABELS = 0x0803, 0x0801
"""IDX magic numbers: the third byte says uint8, the fourth how many dimensions follow, each a big-endian uint32."""

_HINT = (
    "Debian's package dataset-fashion-mnist installs the files in /usr/share/datasets/fashion-mnist, "
    "or give data.root=<folder with the four IDX files>"
)


@final
class FashionMNIST(Source):
    """Fashion-MNIST from four IDX files in the folder `root`, each gzipped (`train-images-idx3-ubyte.gz`) or not."""

    name = "fashion_mnist"
    class_names = (
        "T-shirt/top",
        "Trouser",
        "Pullover",
        "Dress",
        "Coat",
        "Sandal",
        "Shirt",
        "Sneaker",
        "Bag",
        "Ankle boot",
    )
    shape = (1, 28, 28)

    def __init__(self, root: str | PathLike[str] | None, flip: bool = False) -> None:
        if root is None:
            raise DataError(f"data.root is not set, Fashion-MNIST needs a folder; {_HINT}")
        folder = Path(root).expanduser()
        if not folder.is_dir():
            found = "is not a folder" if folder.exists() else "does not exist"
            raise DataError(f"data.root={str(folder)!r} {found}; {_HINT}")
        self.flip = flip
        self._files = {
            split: (_find(folder, f"{stem}-images-idx3-ubyte"), _find(folder, f"{stem}-labels-idx1-ubyte"))
            for split, stem in _STEMS.items()
        }

    @cached_property
    def train(self) -> InMemory:
        return self._read("train")

    @cached_property
    def test(self) -> InMemory:
        return self._read("test")

    def _read(self, split: str) -> InMemory:
        image_file, label_file = self._files[split]
        images, labels = read_idx(image_file, _IMAGES), read_idx(label_file, _LABELS)
        _, height, width = self.shape
        if images.shape[1:] != (height, width) or len(images) == 0:
            found = " x ".join(map(str, images.shape))
            raise DataError(f"{str(image_file)!r} holds {found} values, expected N x {height} x {width}; {_HINT}")
        if len(labels) != len(images):
            raise DataError(
                f"{str(label_file)!r} holds {len(labels)} labels, expected {len(images)}, one for each image of "
                f"{image_file.name}; {_HINT}"
            )
        if labels.max() >= self.num_classes:
            raise DataError(f"{str(label_file)!r} holds the label {labels.max()}, expected 0 to 9; {_HINT}")
        return InMemory(torch.from_numpy(images)[:, None], torch.from_numpy(labels.astype(np.int64)))


def _find(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise DataError(f"{str(folder / name)!r} does not exist, nor does {name}.gz beside it; {_HINT}")


def read_idx(path: Path, magic: int) -> np.ndarray:
    """Read the uint8 array of an IDX file, gzipped or not. Raises DataError for a wrong magic number or length."""
    try:
        data = path.read_bytes()
        if data[:2] == b"\x1f\x8b":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{str(path)!r} cannot be read ({error}), expected a whole IDX file; {_HINT}") from error
    header = 4 + 4 * (magic & 0xFF)
    if len(data) < header:
        raise DataError(f"{str(path)!r} is {len(data)} bytes long, expected at least {header}; {_HINT}")
    found, *shape = (int(value) for value in np.frombuffer(data[:header], dtype=">u4"))
    if found != magic:
        raise DataError(f"{str(path)!r} starts with the magic number {found:#06x}, expected {magic:#06x}; {_HINT}")
    expected = header + math.prod(shape)
    if len(data) != expected:
        raise DataError(
            f"{str(path)!r} is {len(data)} bytes long (decompressed), expected {expected} for "
            f"{' x '.join(map(str, shape))} values; {_HINT}"
        )
    return np.frombuffer(data, dtype=np.uint8, offset=header).reshape(shape).copy()
