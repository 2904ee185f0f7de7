"""What is told of a mask, and how well images follow it."""

import pytest
import torch

from denoiselab.conditioning import Segmentation
from denoiselab.data import Composition
from denoiselab.errors import ConfigError

SOURCE = Composition(train=2, test=64)


def scenes() -> dict[str, torch.Tensor]:
    return SOURCE.test.__getitems__(range(64))


def segmentation(**options) -> Segmentation:
    return Segmentation(**{"num_classes": 10, "image_shape": (3, 16, 16), "latent_shape": (3, 16, 16)} | options)


def square(x: int, side: int = 4, value: int = 255) -> dict[str, torch.Tensor]:
    """A grey square of class 2 at (x, 5)."""
    image = torch.zeros(1, 3, 16, 16, dtype=torch.uint8)
    image[:, :, 5 : 5 + side, x : x + side] = value
    return {"image": image, "segmentation": (image[:, :1] > 0) * torch.tensor(3, dtype=torch.uint8)}


def test_each_pixel_is_told_by_the_channel_of_its_class():
    batch = scenes()
    told = segmentation()(batch).concat
    assert told.shape == (64, 11, 16, 16)
    assert torch.equal(told.argmax(1, keepdim=True), batch["segmentation"].long())
    assert torch.equal(told.sum(1), torch.ones(64, 16, 16))


def test_latents_are_told_every_pixel_in_channels_of_their_own():
    conditioner = segmentation(latent_shape=(4, 8, 8))
    told = conditioner(scenes()).concat
    assert conditioner.routes.concat == told.shape[1] == 44
    # Channel c holds the four pixels of each place in 4 c ... 4 c + 3.
    back = torch.nn.functional.pixel_shuffle(told, 2)
    assert torch.equal(back.argmax(1, keepdim=True), scenes()["segmentation"].long())


def test_test_images_follow_their_own_masks_exactly():
    batch = scenes()
    assert (segmentation().judge(batch["image"], batch)["segmentation_iou"] == 1).all()


@pytest.mark.parametrize("shift", [0, 1, 3, 4])
def test_a_square_beside_its_place_shares_what_it_overlaps(shift):
    iou = segmentation().judge(square(4 + shift)["image"], square(4))["segmentation_iou"]
    assert float(iou) == pytest.approx((4 - shift) / (4 + shift))


def test_what_is_too_dark_is_not_there():
    assert float(segmentation().judge(square(4, value=63)["image"], square(4))["segmentation_iou"]) == 0
    assert float(segmentation().judge(square(4, value=64)["image"], square(4))["segmentation_iou"]) == 1


def test_nothing_asked_and_nothing_there_is_as_told():
    assert float(segmentation().judge(square(4, side=0)["image"], square(4, side=0))["segmentation_iou"]) == 1


def test_the_picture_has_a_colour_for_each_class_and_black_elsewhere():
    batch = scenes()
    shown = segmentation().shown(batch)
    assert shown.shape == batch["image"].shape
    named = batch["segmentation"][:, 0]
    pixels = shown.permute(0, 2, 3, 1)
    colours = {c: pixels[named == c].unique(dim=0).tolist() for c in named.unique().tolist()}
    assert colours[0] == [[0, 0, 0]]
    assert all(len(of_class) == 1 for of_class in colours.values())
    assert len({tuple(of_class[0]) for of_class in colours.values()}) == 11


def test_null_is_the_same_at_all_places_and_zero_where_asked():
    conditioner = segmentation()
    null = conditioner.null(conditioner(scenes())).concat
    assert (null == null[:1, :, :1, :1]).all()
    assert null.requires_grad
    zero = segmentation(null="zero")
    assert not zero.null(zero(scenes())).concat.any()
    assert not list(zero.parameters())


def test_each_sample_is_dropped_by_itself():
    conditioner = segmentation(drop=0.5)
    told = conditioner(scenes())
    u = torch.linspace(0, 0.99, 64)
    made = conditioner.dropped(told, u)
    assert torch.equal(made.concat[u >= 0.5], told.concat[u >= 0.5])
    assert torch.equal(made.concat[u < 0.5], conditioner.null(told).concat[u < 0.5])


def test_a_class_that_is_none_is_refused_in_one_line():
    batch = square(4)
    with pytest.raises(ConfigError, match=r"class 2; conditioning.num_classes=2 allows 0 to 1, take") as error:
        segmentation(num_classes=2)(batch)
    assert "\n" not in str(error.value)
