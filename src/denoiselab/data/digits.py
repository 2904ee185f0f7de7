"""The 1,797 handwritten digits that scikit-learn ships (UCI optical recognition of handwritten digits, test part).

8x8 grey, 17 levels. Needs no download, so it is what a first run trains on.
"""

import gzip
import hashlib
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import final

import numpy as np
import torch

from denoiselab.data.source import InMemory, Source

_LEVELS = 16


@final
class Digits(Source):
    """1,437 training and 360 test images, each class split 4:1 to within one image. The split never changes."""

    name = "digits"
    class_names = tuple("0123456789")
    flip = False
    shape = (1, 8, 8)

    @cached_property
    def train(self) -> InMemory:
        return self._split[0]

    @cached_property
    def test(self) -> InMemory:
        return self._split[1]

    @cached_property
    def _split(self) -> tuple[InMemory, InMemory]:
        values, labels = _read()
        images = torch.from_numpy(np.round(values * 255 / _LEVELS).astype(np.uint8)).reshape(-1, *self.shape)
        classes = torch.from_numpy(labels.astype(np.int64))
        is_test = torch.from_numpy(_is_test(labels))
        return InMemory(images[~is_test], classes[~is_test]), InMemory(images[is_test], classes[is_test])


def _read() -> tuple[np.ndarray, np.ndarray]:
    """Values 0..16 (1797, 64) and labels (1797,), in the file's order."""
    # Importing sklearn.datasets takes longer than everything else that a small run does before its first step.
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


def _is_test(labels: np.ndarray) -> np.ndarray:
    """Every fifth image, once sorted by class and, within a class, by a hash of its position.

    A hash, as a library's random generator may give other numbers in its next release.
    """
    order = sorted(range(len(labels)), key=lambda i: (labels[i], hashlib.sha256(b"digits %d" % i).digest()))
    is_test = np.zeros(len(labels), dtype=bool)
    is_test[order[::5]] = True
    return is_test
