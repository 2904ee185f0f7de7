"""The 1,797 handwritten digits of scikit-learn (UCI optical recognition of handwritten digits, test part).

8x8 grey, 17 levels, no download. Enlarging interpolates: images of any dimension D, close to a subspace of dimension
64.
"""

import gzip
import hashlib
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, final

import numpy as np
import torch

from denoiselab.data.source import InMemory, Source
from denoiselab.limits import Limit, checked

_LEVELS = 16
_SIDE = 8  # pixels
_LARGEST = 256


@final
class Digits(Source):
    """1,437 training and 360 test images of digits, each class split 4:1 to within one image. The split is fixed.

    size: pixels per side, a multiple of 8.
    """

    name = "digits"
    class_names = tuple("0123456789")
    flip = False

    @checked
    def __init__(self, size: Annotated[int, Limit(_SIDE, _LARGEST, whole=True, multiple=_SIDE)] = _SIDE) -> None:
        self._shape = (1, size, size)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self._shape

    @cached_property
    def train(self) -> InMemory:
        return self._split[0]

    @cached_property
    def test(self) -> InMemory:
        return self._split[1]

    @cached_property
    def _split(self) -> tuple[InMemory, InMemory]:
        values, labels = _read()
        images = torch.from_numpy(np.round(values * 255 / _LEVELS).astype(np.uint8)).reshape(-1, 1, _SIDE, _SIDE)
        images = _enlarged(images, self.shape[-1])
        classes = torch.from_numpy(labels.astype(np.int64))
        is_test = torch.from_numpy(_is_test(labels))
        return InMemory(images[~is_test], classes[~is_test]), InMemory(images[is_test], classes[is_test])


def _read() -> tuple[np.ndarray, np.ndarray]:
    """Values 0..16 (1797, 64) and labels (1797,), in the file's order."""
    # Importing sklearn.datasets takes longer than the rest of a small run's setup.
    spec = find_spec("sklearn")
    folders = spec.submodule_search_locations if spec else None
    for folder in folders or ():
        path = Path(folder, "datasets", "data", "digits.csv.gz")
        if path.is_file():
            with gzip.open(path, "rt") as file:
                table = np.loadtxt(file, delimiter=",")
            return table[:, :-1], table[:, -1]
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.data, digits.target


def _enlarged(images: torch.Tensor, size: int) -> torch.Tensor:
    """Resize bilinearly, uint8 (N, 1, 8, 8) -> (N, 1, size, size), in integers: the same bits on every machine."""
    unit = 2 * size // _SIDE  # divisions of a pixel's side that put all pixel centres on integers
    weights = torch.zeros(size, _SIDE, dtype=torch.int64)
    for i in range(size):
        low, part = divmod(2 * i + 1 - unit // 2, unit)
        for pixel, weight in ((low, unit - part), (low + 1, part)):
            weights[i, min(max(pixel, 0), _SIDE - 1)] += weight  # edges are repeated
    sums = weights @ images.to(torch.int64) @ weights.T
    return ((sums + unit**2 // 2) // unit**2).to(torch.uint8)


def _is_test(labels: np.ndarray) -> np.ndarray:
    """Every fifth image, sorted by class, then by a hash of its position (random generators may change by release)."""
    order = sorted(range(len(labels)), key=lambda i: (labels[i], hashlib.sha256(b"digits %d" % i).digest()))
    is_test = np.zeros(len(labels), dtype=bool)
    is_test[order[::5]] = True
    return is_test
