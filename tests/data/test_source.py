import subprocess
import sys
from functools import cached_property

import pytest
import torch

from denoiselab.data.source import InMemory, Source, to_float, to_uint8

LEVELS = torch.arange(256, dtype=torch.uint8)


class Tiny(Source):
    name = "tiny"
    flip = False

    def __init__(self, train: torch.Tensor, test: torch.Tensor, labels=(0, 1), class_names=("a", "b")) -> None:
        self.class_names = class_names
        self._train, self._test = train, test
        self._labels = torch.tensor(labels)

    @property
    def shape(self):
        return tuple(self._train.shape[1:])

    @cached_property
    def train(self):
        return InMemory(self._train, self._labels)

    @cached_property
    def test(self):
        return InMemory(self._test, torch.zeros(len(self._test), dtype=torch.int64))


def tiny_images(n: int = 2, shape=(1, 2, 3)) -> torch.Tensor:
    return torch.arange(n * shape[0] * shape[1] * shape[2], dtype=torch.uint8).reshape(n, *shape)


def test_every_level_survives_the_round_trip():
    assert torch.equal(to_uint8(to_float(LEVELS)), LEVELS)


def test_every_level_survives_the_round_trip_in_float64():
    assert torch.equal(to_uint8(2 * LEVELS.double() / 255 - 1), LEVELS)


def test_floats_are_2u_over_255_minus_1():
    floats = to_float(LEVELS)
    assert floats.dtype == torch.float32
    assert (floats[0], floats[255]) == (-1, 1)
    # One ulp of float32 at 1: the division and the subtraction round once each.
    torch.testing.assert_close(floats.double(), 2 * LEVELS.double() / 255 - 1, rtol=0, atol=2**-23)


def test_values_out_of_range_are_clamped():
    wild = torch.tensor([-torch.inf, -1.5, 1.5, torch.inf])
    assert to_uint8(wild).tolist() == [0, 0, 255, 255]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_loses_no_more_than_its_own_rounding(dtype):
    halves = to_float(LEVELS).to(dtype)
    assert torch.equal(to_uint8(halves), to_uint8(halves.float()))


def test_nan_is_refused():
    with pytest.raises(ValueError, match="1 of 3 values are NaN"):
        to_uint8(torch.tensor([0.0, torch.nan, 1.0]))


def test_a_batch_has_the_asked_images_in_the_asked_order_with_repeats():
    images = tiny_images(4)
    batch = InMemory(images, torch.tensor([10, 11, 12, 13])).__getitems__([3, 0, 3])
    assert batch["label"].tolist() == [13, 10, 13]
    assert torch.equal(batch["image"], torch.stack([images[3], images[0], images[3]]))


def test_an_empty_batch_keeps_its_shape():
    batch = InMemory(tiny_images(), torch.tensor([0, 1])).__getitems__([])
    assert batch["image"].shape == (0, 1, 2, 3)
    assert batch["label"].dtype == torch.int64


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (torch.zeros(2, 1, 2, 2), torch.tensor([0, 1])),
        (torch.zeros(2, 2, 2, dtype=torch.uint8), torch.tensor([0, 1])),
        (tiny_images(), torch.tensor([0, 1, 0])),
        (tiny_images(), torch.tensor([0.0, 1.0])),
    ],
)
def test_images_or_labels_of_another_type_or_number_are_refused(images, labels):
    with pytest.raises(ValueError, match="got"):
        InMemory(images, labels)


def test_equal_content_has_equal_fingerprints():
    a, b = (Tiny(tiny_images(), tiny_images(3)).fingerprint for _ in range(2))
    assert a == b
    assert len(a) == 64
    assert set(a) <= set("0123456789abcdef")


def test_one_changed_value_anywhere_changes_the_fingerprint():
    images = tiny_images()
    touched = images.clone()
    touched[1, 0, 1, 2] += 1
    sources = [
        Tiny(images, images),
        Tiny(touched, images),
        Tiny(images, touched),
        Tiny(images, images[:1]),
        Tiny(images, images, labels=(1, 0)),
        Tiny(images, images, class_names=("a", "c")),
        Tiny(images, images, class_names=("ab",)),
        Tiny(images.reshape(2, 1, 3, 2), images.reshape(2, 1, 3, 2)),
    ]
    assert len({source.fingerprint for source in sources}) == len(sources)


def test_the_number_of_classes_is_0_without_labels():
    assert Tiny(tiny_images(), tiny_images(), class_names=()).num_classes == 0
    assert Tiny(tiny_images(), tiny_images()).num_classes == 2


@pytest.mark.slow
def test_reading_digits_imports_neither_lightning_nor_sklearn():
    code = (
        "import sys; import denoiselab.data.source; from denoiselab.data import Digits; Digits().train;"
        "print(*{'pytorch_lightning', 'sklearn'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True).stdout == "\n"
