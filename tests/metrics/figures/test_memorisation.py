"""Copies are found, and real images are as near as real images."""

import math

import pytest
import torch
from torch import Tensor

from denoiselab.data.source import InMemory
from denoiselab.metrics import ClassAccuracy, Looked, Memorisation, Needs, Reference, Statistics
from denoiselab.metrics.figures.memorisation import area
from gathered import normal, statistics

RNG = torch.Generator().manual_seed(0)
DRAWN = torch.randint(256, (700, 1, 8, 8), generator=RNG, dtype=torch.uint8)
TRAIN, TEST = InMemory(DRAWN[:500], torch.zeros(500, dtype=torch.int64)), DRAWN[500:600]


def compared(images: Tensor) -> Statistics:
    made = Statistics(len(images), needs=Needs(distances=True))
    made.update(range(len(images)), Looked(torch.zeros(len(images), 1)), images, torch.zeros(len(images)).long())
    return made.reduced(TRAIN)


def figures(images: Tensor) -> dict[str, float]:
    return Memorisation()(compared(images), Reference(statistics(normal(5, 1)), compared(TEST)))


def test_copies_of_training_images_are_memorised_and_nearer_than_any_real_one():
    assert figures(TRAIN.images[::3]) == {"memorised": 1.0, "nearest_train": 1.0}


def test_so_are_copies_with_a_little_noise():
    noise = torch.randint(-4, 5, TRAIN.images[:200].shape, generator=RNG)
    assert figures((TRAIN.images[:200] + noise).clamp(0, 255).to(torch.uint8)) == {"memorised": 1, "nearest_train": 1}


def test_test_images_are_as_near_as_test_images():
    assert figures(TEST) == {"memorised": 0.0, "nearest_train": 0.5}


def test_other_images_of_the_distribution_are_about_as_near():
    """Of n and m images the area's standard error is sqrt((n + m + 1)/(12 n m))."""
    others = torch.randint(256, (1000, 1, 8, 8), generator=RNG, dtype=torch.uint8)
    one, other = compared(others[:500]), compared(others[500:])
    found = Memorisation()(one, Reference(one, other))
    assert found["memorised"] == 0
    assert abs(found["nearest_train"] - 0.5) < 3 * math.sqrt(1001 / 12) / 500


def test_images_further_off_than_real_ones_are_below_a_half():
    extreme = torch.where(DRAWN[600:] > 127, 255, 0).to(torch.uint8)
    assert figures(extreme)["nearest_train"] < 0.05


def test_the_share_is_of_all_images():
    assert figures(torch.cat([TRAIN.images[:30], TEST[:70]]))["memorised"] == 0.3


def test_a_copy_of_an_image_that_the_training_set_holds_twice_is_one():
    twice = InMemory(torch.cat([TRAIN.images, TRAIN.images[:1]]), torch.zeros(501, dtype=torch.int64))
    made = Statistics(1, needs=Needs(distances=True))
    made.update([0], Looked(torch.zeros(1, 1)), TRAIN.images[:1], torch.zeros(1).long())
    copy = made.reduced(twice)
    assert copy.distances is not None
    assert copy.distances.tolist() == [[0, 0]]
    assert Memorisation()(copy, Reference(copy, compared(TEST)))["memorised"] == 1


def test_the_area_is_the_mean_over_pairs_with_ties_half():
    a, b = (torch.randint(6, (n,), generator=RNG).double() for n in (37, 23))
    known = ((a[:, None] < b).double() + (a[:, None] == b).double() / 2).mean()
    assert area(a, b) == pytest.approx(float(known), rel=1e-12)


def test_infinity_is_a_distance():
    assert area(torch.tensor([0.0, math.inf]), torch.tensor([1.0, math.inf])) == 0.5 * (1 + 0.25)


def test_class_accuracy_is_the_share_of_right_classes():
    logits, labels = 5 * torch.eye(4), torch.tensor([0, 1, 2, 0])
    made = statistics(normal(4, 2), logits=logits, labels=labels)
    assert ClassAccuracy()(made, Reference(made, made)) == {"class_accuracy": 0.75}
