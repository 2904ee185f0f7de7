import pytest
import torch
from test_backbones import randomised
from torch import nn

from denoiselab.backbones import UNet
from denoiselab.backbones.unet import SelfAttention
from denoiselab.conditioning import Cond
from denoiselab.errors import ConfigError


def run(network, x, t=0.3):
    return network(x, torch.full((len(x),), t, dtype=torch.float64), Cond())


@pytest.mark.parametrize("image_channels", [1, 3, 5])
@pytest.mark.parametrize("sides", [(8, 8), (8, 12), (4, 20)])
@pytest.mark.parametrize("channels", [6, 7, 9])
def test_it_is_a_function_of_images_with_any_channels_and_sides(image_channels, sides, channels):
    network = randomised(UNet((image_channels, *sides), 0, channels=channels, multipliers=(1, 2, 3), blocks=1, heads=1))
    x = torch.randn(2, image_channels, *sides, dtype=torch.float64)
    output = run(network, x)
    assert output.shape == x.shape
    assert output.isfinite().all()
    assert (output[0] - output[1]).abs().min() > 0


def test_the_only_depth_without_halving_takes_any_sides():
    x = torch.randn(1, 1, 7, 5, dtype=torch.float64)
    assert run(randomised(UNet((1, 7, 5), 0, channels=4, multipliers=(1,), attention=(), heads=1)), x).shape == x.shape


@pytest.mark.parametrize("shape", [(1, 6, 8), (1, 8, 6), (1, 7, 7)])
def test_sides_that_cannot_be_halved_that_often_are_refused(shape):
    with pytest.raises(ConfigError, match=r"halves the image 2 times, but its sides are \d and \d; .*fewer numbers"):
        UNet(shape, 0, multipliers=(1, 2, 2))


def test_attention_is_at_the_sides_asked_for_and_in_the_middle():
    def attentive(sides):
        network = UNet((1, 16, 16), 0, channels=8, multipliers=(1, 2, 2), blocks=2, attention=sides)
        return sum(isinstance(module, SelfAttention) for module in network.modules())

    # Two blocks on the way down and two on the way up for each side; one in the middle.
    assert [attentive(sides) for sides in ((), (4,), (16, 4), (16, 8, 4), (5,))] == [1, 5, 9, 13, 1]


def test_at_first_every_block_is_the_identity_or_a_change_of_width():
    # The last convolution of each block is zero: no condition, time or attention has an effect yet.
    network = UNet((1, 8, 8), 0, channels=8, multipliers=(1, 1), blocks=1).double()
    nn.init.normal_(network.head[-1].weight)
    x = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    assert run(network, x).abs().max() > 0.1
    assert torch.equal(run(network, x, t=0.3), run(network, x, t=0.9))


def test_away_from_the_border_it_moves_with_the_image():
    # Convolutions alone: a shift by a multiple of the coarsest grid shifts the output. GroupNorm's statistics are of
    # the whole image, so the picture is a spot on an empty field, far from the border.
    network = randomised(UNet((1, 96, 96), 0, channels=4, multipliers=(1, 2), blocks=1, attention=(), heads=1))
    network.middle.attention = nn.Identity()
    x = torch.zeros(1, 1, 96, 96, dtype=torch.float64)
    x[..., 46:50, 46:50] = torch.randn(4, 4, dtype=torch.float64)
    output, moved = run(network, x), run(network, x.roll((2, 6), (2, 3)))
    torch.testing.assert_close(moved[..., 42:54, 46:58], output[..., 40:52, 40:52], rtol=1e-11, atol=1e-11)


def test_dropout_is_there_in_training_and_not_in_evaluation():
    network = randomised(UNet((1, 8, 8), 0, channels=8, multipliers=(1,), blocks=1, dropout=0.5))
    x = torch.randn(1, 1, 8, 8, dtype=torch.float64)
    assert not torch.equal(run(network, x), run(network, x))
    network.eval()
    assert torch.equal(run(network, x), run(network, x))
    plain = randomised(UNet((1, 8, 8), 0, channels=8, multipliers=(1,), blocks=1))
    plain.load_state_dict(network.state_dict())
    assert torch.equal(run(plain, x), run(network, x))
