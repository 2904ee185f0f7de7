"""Scenes: the same everywhere, in which no objects touch, and of which all that is told is so."""

import hashlib
from functools import cached_property
from pathlib import Path

import pytest
import torch

from denoiselab.data import Composition, InMemory, Source
from denoiselab.data.scenes import STROKE, brightness, scaled, strokes, tight
from denoiselab.errors import ConfigError, DataError

FASHION = Path("/usr/share/datasets/fashion-mnist")  # where Debian's package dataset-fashion-mnist puts the files


class Squares(Source):
    """White squares: of class 0 in training images, of class 1 in test images."""

    name = "squares"
    class_names = ("seen", "unseen")
    flip = False
    shape = (1, 8, 8)

    def _split(self, label: int) -> InMemory:
        images = torch.zeros(3, 1, 8, 8, dtype=torch.uint8)
        images[:, :, 2:6, 1:7] = 200
        return InMemory(images, torch.full((3,), label))

    @cached_property
    def train(self) -> InMemory:
        return self._split(0)

    @cached_property
    def test(self) -> InMemory:
        return self._split(1)


def scenes(split: str = "train", **options) -> dict[str, torch.Tensor]:
    images = getattr(Composition(**{"train": 400, "test": 200} | options), split)
    return images.__getitems__(range(len(images)))


VARIANTS = [{}, {"size": 32, "most": 3}, {"size": 24, "most": 4, "channels": 1, "seed": 1}]


@pytest.mark.parametrize("options", VARIANTS)
def test_a_scene_depends_neither_on_how_many_there_are_nor_on_the_order_in_which_they_are_read(options):
    some, all_ = Composition(train=30, **options).train, Composition(train=300, **options).train
    order = [7, 29, 0, 7]
    for key, value in some.__getitems__(order).items():
        assert torch.equal(value, all_.__getitems__(range(300))[key][order])


def test_scenes_are_the_same_on_every_machine():
    digest = hashlib.sha256()
    for options in VARIANTS:
        for value in scenes(train=50, **options).values():
            digest.update(value.numpy().astype("<i8").tobytes())
    assert digest.hexdigest()[:16] == "c0d06b9299e92bd6"


def test_the_fingerprint_tells_scenes_apart():
    made = [{}, {"seed": 1}, {"size": 24}, {"channels": 1}, {"most": 1}, {"train": 21}, {"objects": Squares()}]
    prints = {Composition(**{"train": 20, "test": 10} | options).fingerprint for options in made}
    assert len(prints) == len(made)
    assert Composition(train=20, test=10).fingerprint in prints


@pytest.mark.parametrize("options", VARIANTS)
def test_a_pixel_at_least_is_between_any_two_objects(options):
    for boxes in scenes(**options)["boxes"]:
        there = boxes[boxes[:, 0] >= 0].tolist()
        for i, (_, x0, y0, x1, y1) in enumerate(there):
            for _, a0, b0, a1, b1 in there[:i]:
                assert x0 > a1 or a0 > x1 or y0 > b1 or b0 > y1


@pytest.mark.parametrize("options", VARIANTS)
def test_boxes_are_tight_around_the_segmentation_which_is_where_the_image_is_bright(options):
    batch = scenes(**options)
    assert torch.equal(batch["segmentation"][:, 0] > 0, batch["image"].amax(1) >= STROKE)
    for named, boxes in zip(batch["segmentation"][:, 0], batch["boxes"], strict=True):
        seen = torch.zeros_like(named)
        for label, x0, y0, x1, y1 in boxes[boxes[:, 0] >= 0].tolist():
            y, x = (named[y0:y1, x0:x1] > 0).nonzero(as_tuple=True)
            assert (y.min(), x.min(), y.max(), x.max()) == (0, 0, y1 - y0 - 1, x1 - x0 - 1)
            assert set(named[y0:y1, x0:x1].unique().tolist()) <= {0, 1 + label}
            seen[y0:y1, x0:x1] = named[y0:y1, x0:x1]
        assert torch.equal(seen, named)  # nothing outside the boxes


def test_objects_are_told_from_left_to_right_and_the_first_names_the_scene():
    batch = scenes(size=32, most=3)
    there = batch["boxes"][..., 0] >= 0
    assert there[:, 0].all()
    assert (there[:, 1:] <= there[:, :-1]).all()
    left = torch.where(there, batch["boxes"][..., 1], 99)
    assert (left[:, 1:] >= left[:, :-1]).all()
    assert torch.equal(batch["label"], batch["boxes"][:, 0, 0])
    assert (batch["boxes"][~there] == torch.tensor([-1, 0, 0, 0, 0])).all()
    assert (there.sum(1).bincount()[1:] > 50).all()  # of 400: one, two and three


def test_where_there_is_no_room_a_scene_has_fewer_objects_but_one():
    count = (scenes(most=9)["boxes"][..., 0] >= 0).sum(1)
    assert count.min() == 1
    assert count.max() < 6  # squares of 16 pixels a side hold no more digits


def test_training_scenes_are_of_training_images_alone_and_test_scenes_of_test_images():
    for split, label in (("train", 0), ("test", 1)):
        batch = scenes(split, objects=Squares())
        assert set(batch["boxes"][..., 0].unique().tolist()) <= {-1, label}
        assert (batch["label"] == label).all()


def test_an_object_keeps_its_shape_wherever_it_stands_and_its_brightest_pixel_is_255():
    batch = scenes(objects=Squares())
    there = batch["boxes"][batch["boxes"][..., 0] >= 0]
    assert torch.equal(there[:, 3:] - there[:, 1:3], torch.tensor([6, 4]).expand(len(there), 2))
    bright = brightness(batch["image"])
    assert set(bright.unique().tolist()) == {0, 255}
    assert torch.equal(bright.flatten(1).sum(1) // 255, 24 * (batch["boxes"][..., 0] >= 0).sum(1))


def test_a_colour_says_nothing_of_the_class():
    batch = scenes(most=1, train=4000)
    bright = (
        batch["image"]
        .flatten(2)
        .gather(2, brightness(batch["image"]).flatten(1).argmax(1)[:, None, None].expand(-1, 3, 1))
    )
    colour = torch.unique(bright[..., 0], dim=0, return_inverse=True)[1]
    counts = torch.zeros(10, 6).index_put((batch["label"], colour), torch.ones(4000), accumulate=True)
    expected = counts.sum(1, keepdim=True) * counts.sum(0) / 4000
    chi2 = ((counts - expected) ** 2 / expected).sum()
    assert chi2 < 84  # 45 degrees of freedom: above that with a chance of 0.0004


def test_scaling_to_the_own_size_changes_nothing_and_a_flat_image_stays_flat():
    image = torch.randint(0, 255, (5, 8, 8), dtype=torch.uint8)
    image[:, 0, 0] = 255
    assert torch.equal(scaled(image, torch.full((5,), 8)), image.long())
    flat = scaled(torch.full((3, 28, 28), 90, dtype=torch.uint8), torch.tensor([8, 13, 16]))
    for made, side in zip(flat, (8, 13, 16), strict=True):
        assert (made[:side, :side] == 255).all()
        assert made[side:].sum() == made[:, side:].sum() == 0


def test_scaling_to_half_the_size_weighs_four_pixels_by_a_triangle():
    line = torch.zeros(1, 8, 8, dtype=torch.uint8)
    line[:, :, 3] = 240
    # The second of four pixels has its middle at 2.5: weights 1, 3, 3, 1 of 8 for pixels 1 to 4; the third at 4.5.
    assert scaled(line, torch.tensor([4]))[0, 0].tolist() == [0, 255, 85, 0]


def test_tight_boxes_of_nothing_and_of_a_pixel():
    mask = torch.zeros(2, 5, 7, dtype=torch.bool)
    mask[1, 2, 6] = True
    assert tight(mask).tolist() == [[0, 0, 0, 0], [6, 2, 7, 3]]


@pytest.mark.skipif(not FASHION.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")
def test_clothes_are_objects_too():
    batch = scenes(objects="fashion_mnist", root=FASHION, size=32, most=3)
    assert torch.equal(batch["segmentation"][:, 0] > 0, strokes(batch["image"]))
    assert len(batch["label"].unique()) == 10


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"size": 15}, "size must be at least 16 \\(got 15\\)"),
        ({"most": 0}, "most must be at least 1"),
        ({"train": 1}, "train must be at least 2"),
        ({"channels": 2}, "channels must be 1 or 3"),
        ({"objects": "faces"}, "objects must be digits or fashion_mnist"),
        ({"root": "/somewhere"}, "data.root='/somewhere' .* leave it out"),
    ],
)
def test_what_makes_no_scene_is_refused_in_one_line(options, said):
    with pytest.raises(ConfigError, match=said) as error:
        Composition(**options)
    assert "\n" not in str(error.value)


def test_clothes_without_a_folder_are_refused():
    with pytest.raises(DataError, match=r"data\.root is not set"):
        Composition(objects="fashion_mnist")
