"""What is told of boxes, by tokens and by channels, and how well images follow them."""

import pytest
import torch
from torch import nn

from denoiselab.backbones import DiT, UNet
from denoiselab.conditioning import Layout, LayoutChannels
from denoiselab.conditioning.layout import found_boxes, fourier, inside, iou
from denoiselab.data import Composition
from denoiselab.errors import ConfigError

SOURCE = Composition(train=2, test=64, most=3, size=32)
SHAPE = (3, 32, 32)


def scenes() -> dict[str, torch.Tensor]:
    return SOURCE.test.__getitems__(range(64))


def layout(**options) -> Layout:
    torch.manual_seed(0)
    return Layout(**{"num_classes": 10, "image_shape": SHAPE, "dim": 16} | options)


def channels(**options) -> LayoutChannels:
    return LayoutChannels(**{"num_classes": 10, "image_shape": SHAPE, "latent_shape": SHAPE} | options)


def asked(*boxes: tuple[int, int, int, int, int]) -> dict[str, torch.Tensor]:
    return {"boxes": torch.tensor([boxes]), "label": torch.tensor([boxes[0][0]])}


def drawn(*boxes: tuple[int, int, int, int]) -> torch.Tensor:
    """White rectangles x0, y0, x1, y1 on black."""
    image = torch.zeros(1, *SHAPE, dtype=torch.uint8)
    for x0, y0, x1, y1 in boxes:
        image[:, :, y0:y1, x0:x1] = 255
    return image


# How well images follow


@pytest.mark.parametrize("conditioner", [layout(), channels()])
def test_test_images_follow_their_own_boxes_exactly(conditioner):
    batch = scenes()
    figures = conditioner.judge(batch["image"], batch)
    assert len(figures["layout_iou"]) == int((batch["boxes"][..., 0] >= 0).sum())
    assert (figures["layout_iou"] == 1).all()
    assert (figures["stray"] == 0).all()


@pytest.mark.parametrize("shift", [0, 1, 4, 8])
def test_an_object_beside_its_box_shares_what_it_overlaps(shift):
    figures = layout().judge(drawn((4 + shift, 6, 14 + shift, 20)), asked((3, 4, 6, 14, 20)))
    assert float(figures["layout_iou"]) == pytest.approx((10 - shift) / (10 + shift))
    assert float(figures["stray"]) == pytest.approx(shift / 10)


def test_what_is_further_from_a_box_than_a_quarter_of_the_image_is_stray_and_no_more():
    box = asked((3, 4, 4, 10, 10))
    near, far = drawn((4, 4, 10, 10), (17, 4, 18, 5)), drawn((4, 4, 10, 10), (18, 4, 19, 5))
    # The box ends at 9: pixel 17 is 8 away, and stretches what is found to 14 x 6.
    assert float(layout().judge(near, box)["layout_iou"]) == pytest.approx(36 / 84)
    assert float(layout().judge(far, box)["layout_iou"]) == 1
    for image in (near, far):
        assert float(layout().judge(image, box)["stray"]) == pytest.approx(1 / 37)


def test_a_bright_pixel_belongs_to_the_box_that_is_nearest():
    box = asked((1, 2, 2, 8, 8), (2, 12, 2, 18, 8), (-1, 0, 0, 0, 0))
    image = drawn((2, 2, 9, 8), (11, 2, 18, 8))  # each reaches a pixel towards the other
    assert layout().judge(image, box)["layout_iou"].tolist() == pytest.approx([36 / 42, 36 / 42])


def test_an_object_that_is_missing_scores_nothing_and_a_black_image_has_nothing_stray():
    box = asked((1, 2, 2, 8, 8), (2, 20, 2, 26, 8))
    assert layout().judge(drawn((2, 2, 8, 8)), box)["layout_iou"].tolist() == [1, 0]
    black = layout().judge(drawn(), box)
    assert black["layout_iou"].tolist() == [0, 0]
    assert black["stray"].tolist() == [0]


def test_found_boxes_do_not_depend_on_how_many_others_are_not_there():
    bright, box = drawn((3, 3, 9, 7))[:, 0] > 0, torch.tensor([[[2, 2, 8, 8]]])
    alone = found_boxes(bright, box, torch.ones(1, 1, dtype=torch.bool))
    padded = nn.functional.pad(box, (0, 0, 0, 2))
    assert torch.equal(found_boxes(bright, padded, torch.tensor([[True, False, False]]))[:, :1], alone)
    assert alone.tolist() == [[[3, 3, 9, 7]]]


def test_iou_is_symmetric_and_0_of_boxes_that_touch():
    a, b = torch.tensor([0, 0, 4, 4]), torch.tensor([2, 1, 6, 3])
    assert float(iou(a, b)) == float(iou(b, a)) == pytest.approx(4 / 20)
    assert float(iou(a, torch.tensor([4, 0, 8, 4]))) == 0
    assert float(iou(a, torch.zeros(4, dtype=torch.long))) == 0


# What is told


def test_boxes_that_are_not_there_are_masked_and_a_token_that_says_nothing_comes_first():
    batch, conditioner = scenes(), layout()
    told = conditioner(batch)
    assert told.tokens.shape == (64, 4, 16)
    assert torch.equal(told.mask[:, 1:], batch["boxes"][..., 0] >= 0)
    assert told.mask[:, 0].all()
    assert (told.tokens[:, 0] == conditioner.nothing).all()


def test_tokens_are_of_a_size_from_the_start():
    told = layout(dim=128)(scenes())
    # A layer norm leaves each with mean 0 and variance 1, but for its epsilon of 1e-5.
    assert torch.allclose(told.tokens[:, 1:].std(-1, correction=0), torch.ones(64, 3), rtol=0, atol=1e-3)


def test_a_token_tells_the_class_and_each_corner():
    conditioner, box = layout(), (3, 4, 6, 14, 20)
    token = conditioner(asked(box)).tokens
    for i in range(5):
        other = [*box]
        other[i] += 1
        assert (conditioner(asked(tuple(other))).tokens[:, 1] - token[:, 1]).abs().max() > 1e-3


def test_a_box_is_told_the_same_in_an_image_of_twice_the_size():
    one, two = layout(), layout(image_shape=(3, 64, 64))
    a, b = one(asked((3, 4, 6, 14, 20))).tokens, two(asked((3, 8, 12, 28, 40))).tokens
    assert torch.equal(a, b)


def test_places_a_pixel_apart_are_told_apart_at_a_hundred_pixels():
    told = fourier(torch.arange(101)[:, None] / 100)
    apart = (told[:, None] - told[None]).norm(dim=-1) + torch.eye(101)
    assert apart.min() > 0.3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_tokens_are_told_in_every_precision(dtype):
    conditioner, batch = layout(), asked((3, 1, 2, 9, 11), (0, 12, 0, 16, 7))
    full = conditioner(batch).tokens
    torch.testing.assert_close(conditioner.to(dtype)(batch).tokens, full.to(dtype), rtol=0, atol=0.05)


@pytest.mark.parametrize("backbone", [UNet, DiT])
def test_the_order_of_the_boxes_says_nothing_to_a_network(backbone):
    conditioner, batch = layout(), scenes()
    small = {"channels": 8, "blocks": 1, "attention": [16]} if backbone is UNet else {"width": 16, "depth": 1}
    network = backbone(SHAPE, cond_dim=0, token_dim=16, heads=2, **small)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2)
    rng = torch.Generator().manual_seed(1)
    x, t = torch.randn(64, *SHAPE, generator=rng), torch.full((64,), 0.5)
    with torch.inference_mode():
        turned = batch | {"boxes": batch["boxes"][:, [2, 0, 1]]}
        a, b = network(x, t, conditioner(batch)), network(x, t, conditioner(turned))
        other = network(x, t, conditioner(batch | {"boxes": batch["boxes"].roll(1, 0)}))
    scale = a.abs().max()
    # Sums of at most three terms in another order, through a few layers of float32.
    assert (a - b).abs().max() < 2e-5 * scale
    assert (a - other).abs().max() > 1e-3 * scale


def test_boxes_are_drawn_into_the_channels_of_their_classes():
    told = channels()(asked((3, 4, 6, 14, 20), (7, 20, 1, 30, 31), (-1, 0, 0, 0, 0))).concat[0]
    expected = torch.zeros(11, 32, 32)
    expected[4, 6:20, 4:14] = 1
    expected[8, 1:31, 20:30] = 1
    expected[0] = 1 - expected.sum(0)
    assert torch.equal(told, expected)


def test_null_tokens_are_one_that_is_learned_or_zero_and_the_others_are_not_there():
    conditioner = layout()
    null = conditioner.null(conditioner(scenes()))
    assert torch.equal(null.tokens, conditioner.nothing.expand(64, 4, 16))
    assert torch.equal(null.mask, torch.tensor([True, False, False, False]).expand(64, 4))
    assert (null.label == -1).all()
    zero = layout(null="zero")
    assert not zero.null(zero(scenes())).tokens.any()
    assert "nothing" in dict(conditioner.named_parameters())
    assert "nothing" not in zero.state_dict()


def test_each_sample_is_dropped_by_itself():
    conditioner = layout(drop=0.5)
    told, u = conditioner(scenes()), torch.linspace(0, 0.99, 64)
    made, null = conditioner.dropped(told, u), conditioner.null(told)
    for a, b, c in zip(made[2:5], told[2:5], null[2:5], strict=True):  # tokens, label, mask
        assert torch.equal(a[u >= 0.5], b[u >= 0.5])
        assert torch.equal(a[u < 0.5], c[u < 0.5])


@pytest.mark.parametrize("conditioner", [layout(num_classes=3), channels(num_classes=3)])
@pytest.mark.parametrize("label", [3, -2])
def test_a_class_that_is_none_is_refused_in_one_line(conditioner, label):
    with pytest.raises(ConfigError, match=rf"class {label}; conditioning.num_classes=3 allows 0 to 2") as error:
        conditioner(asked((label, 4, 6, 14, 20)))
    assert "\n" not in str(error.value)


def test_the_picture_shows_the_outlines_of_the_boxes():
    shown = layout().shown(asked((3, 4, 6, 14, 20), (7, 20, 1, 30, 31)))
    edge = torch.zeros(32, 32, dtype=torch.bool)
    for x0, y0, x1, y1 in ((4, 6, 14, 20), (20, 1, 30, 31)):
        edge[y0:y1, x0:x1] = True
        edge[y0 + 1 : y1 - 1, x0 + 1 : x1 - 1] = False
    assert torch.equal(shown[0].amax(0) > 0, edge)
    assert not torch.equal(shown[0, :, 6, 4], shown[0, :, 1, 20])


def test_a_box_holds_the_pixels_from_its_first_corner_to_before_its_last():
    assert int(inside(torch.tensor([[[4, 6, 14, 20]]]), 32, 32).sum()) == 10 * 14


@pytest.mark.slow
def test_a_small_network_learns_to_follow_boxes_that_it_attends_to():
    """From noise alone to where objects are, which nothing but the tokens tell: 200 steps, about 20 s on one core."""
    source = Composition(train=1024, test=128)
    torch.manual_seed(0)
    conditioner = Layout(10, source.shape, dim=128)
    network = UNet(source.shape, cond_dim=0, token_dim=128, channels=32, blocks=1, attention=[8])
    optimizer = torch.optim.AdamW([*network.parameters(), *conditioner.parameters()], lr=1e-3)

    def error(batch: dict[str, torch.Tensor], told: dict[str, torch.Tensor], rng: torch.Generator) -> torch.Tensor:
        n = len(batch["label"])
        boxes = batch["boxes"]
        wanted = (inside(boxes[..., 1:], 16, 16) & (boxes[..., 0] >= 0)[..., None, None]).any(1).float()
        noise = torch.randn(n, 3, 16, 16, generator=rng)
        return (network(noise, torch.ones(n), conditioner(told))[:, 0] - wanted).square().mean()

    rng = torch.Generator().manual_seed(0)
    for _ in range(200):
        batch = source.train.__getitems__(torch.randint(1024, (32,), generator=rng).tolist())
        optimizer.zero_grad()
        error(batch, batch, rng).backward()
        optimizer.step()
    test = source.test.__getitems__(range(128))
    others = {key: value.roll(1, 0) for key, value in test.items()}
    with torch.inference_mode():
        right, wrong = error(test, test, rng), error(test, others, rng)
    # A network that is told nothing is left with 0.166, what boxes differ from their mean.
    assert right < 0.07
    assert wrong > 0.2
