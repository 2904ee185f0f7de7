"""The latents of a frozen codec have mean 0 and variance 1 a channel, and nothing trains them."""

import pytest
import torch

from denoiselab.codecs import KL, VQ, Latents
from denoiselab.data import Digits
from denoiselab.data.source import to_float
from denoiselab.norms import L2
from denoiselab.objectives import Autoencoding


@pytest.fixture(scope="module")
def digits() -> torch.Tensor:
    return to_float(Digits().train.images)


def trained(kind: type[KL] | type[VQ], images: torch.Tensor, steps: int = 60) -> KL | VQ:
    """By hand, in one thread: a few steps."""
    torch.manual_seed(0)
    codec, objective = kind((1, 8, 8), channels=16), Autoencoding(L2(), kl=1e-4)
    optimizer = torch.optim.Adam(codec.parameters(), lr=3e-3)
    for i in range(steps):
        batch = images[i * 64 % 1400 :][:64]
        loss = objective(codec, batch, torch.randn(len(batch), 4, 4, 4), i).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return codec


@pytest.mark.slow
@pytest.mark.parametrize("kind", [KL, VQ])
def test_a_few_steps_make_a_codec_that_knows_more_of_an_image_than_the_mean_image(kind, digits):
    codec = trained(kind, digits)
    with torch.no_grad():
        error = (codec.decode(codec.encode(digits)) - digits).square().mean()
    assert error < 0.5 * (digits - digits.mean(0)).square().mean()


def test_measured_latents_have_mean_0_and_variance_1_a_channel_whatever_the_batches(digits):
    codec = Latents(KL((1, 8, 8), channels=8))
    codec.measure(codec.unscaled(part) for part in digits.split(500))
    z = codec.encode(digits).double()
    # Sums are in float64, shift and scale are rounded to float32.
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-5)
    torch.testing.assert_close(z.std((0, 2, 3), correction=0), torch.ones(4, dtype=torch.float64), rtol=1e-5, atol=0)


def test_decode_takes_the_scale_back(digits):
    codec = Latents(KL((1, 8, 8), channels=8))
    before = codec.decode(codec.encode(digits[:4]))
    codec.measure([codec.unscaled(digits)])
    torch.testing.assert_close(codec.decode(codec.encode(digits[:4])), before, rtol=1e-4, atol=1e-5)


def test_a_channel_that_says_nothing_is_left_finite():
    codec = Latents(KL((1, 8, 8), channels=8))
    codec.measure([torch.zeros(3, 4, 4, 4)])
    assert codec.scaled(torch.zeros(3, 4, 4, 4)).isfinite().all()


def test_nothing_of_a_frozen_codec_is_trained_but_images_get_their_gradient_through_decode(digits):
    codec = Latents(KL((1, 8, 8), channels=8))
    assert not any(p.requires_grad for p in codec.parameters())
    assert not codec.encode(digits[:2].requires_grad_()).requires_grad
    latents = torch.randn(2, 4, 4, 4, requires_grad=True)
    codec.decode(latents).sum().backward()
    assert latents.grad.any()


def test_its_weights_and_its_scale_are_in_its_state():
    names = set(Latents(KL((1, 8, 8), channels=8)).state_dict())
    assert {"shift", "scale"} < names
    assert all(name.startswith("model.") for name in names - {"shift", "scale"})
