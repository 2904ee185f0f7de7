"""Distances in pixels are exact, so that a copy is at no distance."""

import pytest
import torch
from torch import Tensor

from denoiselab.data.source import InMemory
from denoiselab.metrics.nearest import in_pixels, nearest_two


def images(n: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randint(256, (n, *shape), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def labelled(pixels: Tensor) -> InMemory:
    return InMemory(pixels, torch.zeros(len(pixels), dtype=torch.int64))


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (1, 32, 32), (3, 32, 32), (2, 5, 7)])
def test_they_are_those_of_whole_numbers(shape):
    """Also of extreme images, whose sums are the largest."""
    train, own = images(2300, *shape), images(7, *shape, seed=1)
    own[0], own[1], train[5] = 0, 255, 0
    rows = own.flatten(1).long()
    squared = (rows[:, None] - train.flatten(1).long()).square().sum(2)
    assert torch.equal(nearest_two(in_pixels(own), labelled(train)), squared.double().sort(1).values[:, :2].sqrt())


def test_a_copy_is_at_no_distance_and_its_second_nearest_is_another():
    train = images(1500, 1, 28, 28)
    found = nearest_two(in_pixels(train[[3, 1400]]), labelled(train))
    assert found[:, 0].tolist() == [0, 0]
    assert (found[:, 1] > 1000).all()


def test_large_images_are_compared_at_32_pixels_by_means_over_areas():
    small = images(4, 3, 32, 32)
    large = small.repeat_interleave(3, 2).repeat_interleave(3, 3)
    assert torch.equal(in_pixels(large), small.flatten(1))
    assert in_pixels(images(2, 1, 50, 20)).shape == (2, 32 * 20)


def test_of_a_single_image_there_is_no_second():
    train = images(1, 1, 4, 4)
    assert nearest_two(in_pixels(train), labelled(train)).tolist() == [[0, torch.inf]]
