"""Single objects of scenes are named by the nearest of those that are known."""

import pytest
import torch

from denoiselab.data import Composition, Digits
from denoiselab.metrics.objects import SIDE, ObjectAccuracy, crops

SOURCE = Composition(test=256)


@pytest.fixture(scope="module")
def judge() -> ObjectAccuracy:
    return ObjectAccuracy(SOURCE)


def scenes() -> dict[str, torch.Tensor]:
    return SOURCE.test.__getitems__(range(256))


def test_real_objects_are_named_rightly_but_for_a_few(judge):
    batch = scenes()
    right = judge.judge(batch["image"], batch)["object_accuracy"]
    assert len(right) == int((batch["boxes"][..., 0] >= 0).sum())
    assert float(right.mean()) > 0.95


def test_known_objects_are_named_rightly_always(judge):
    batch = SOURCE.train.__getitems__(range(200))
    assert float(judge.judge(batch["image"], batch)["object_accuracy"].mean()) == 1


def test_objects_of_another_class_than_asked_are_wrong_and_so_is_black(judge):
    batch = scenes()
    boxes = batch["boxes"].clone()
    boxes[..., 0] = torch.where(boxes[..., 0] >= 0, (boxes[..., 0] + 1) % 10, -1)
    assert float(judge.judge(batch["image"], batch | {"boxes": boxes})["object_accuracy"].mean()) < 0.05
    assert float(judge.judge(torch.zeros_like(batch["image"]), batch)["object_accuracy"].sum()) == 0


def test_what_has_no_boxes_is_not_judged():
    digits = Digits()
    batch = digits.test.__getitems__(range(4))
    assert ObjectAccuracy(digits).judge(batch["image"], batch) == {}


def test_a_crop_depends_neither_on_the_place_nor_on_the_colour_nor_on_what_is_beside_the_box():
    image = torch.zeros(2, 3, 24, 24, dtype=torch.uint8)
    digit = Digits().test.images[0]
    image[0, :, 3:11, 4:12] = digit
    image[1, :1, 9:17, 10:18] = digit
    image[1, :, 10:14, 19:22] = 255
    boxes = torch.tensor([[[5, 4, 3, 12, 11]], [[5, 10, 9, 18, 17]]])
    made, classes = crops(image, boxes)
    assert made.shape == (2, SIDE**2)
    assert classes.tolist() == [5, 5]
    assert torch.allclose(made[0], made[1], rtol=0, atol=1e-5)  # places are computed in float32
    assert torch.allclose(made.norm(dim=1), torch.ones(2), rtol=0, atol=1e-6)
