"""Autoencoders: the price of the latents, the gradient through a codebook, and what is told of both."""

import math
import re

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from denoiselab.codecs import KL, VQ, Autoencoder
from denoiselab.codecs.autoencoder import kl
from denoiselab.errors import ConfigError, IncompatibleError

SHAPE = (1, 8, 8)


def small(kind: type[KL] | type[VQ] = KL, **changes) -> Autoencoder:
    """No weight is 0, so that no part of the networks is silent."""
    made = kind(**{"image_shape": SHAPE, "channels": 8, "latent_channels": 3} | changes)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return made


def images(n: int = 5, shape: tuple[int, ...] = SHAPE) -> torch.Tensor:
    return torch.rand(n, *shape) * 2 - 1


def test_the_kl_is_that_of_torch_distributions():
    mean, log_variance = torch.randn(2, 4, 3, 2, 2, dtype=torch.float64).unbind()
    there = kl_divergence(Normal(mean, torch.exp(log_variance / 2)), Normal(0, 1)).sum((1, 2, 3))
    torch.testing.assert_close(kl(mean, log_variance), there, rtol=1e-12, atol=0)


def test_the_cost_is_in_nats_a_pixel_value_and_the_figure_in_nats_an_image():
    codec, x = small(), images()
    cost, told = codec.coded(x, torch.zeros(5, 3, 4, 4)).costs["kl"], codec.told(codec.tally(x))
    assert told["kl"] == pytest.approx(64 * float(cost.detach().mean()), rel=1e-5)


def test_a_latent_is_drawn_from_the_posterior_and_encode_gives_its_mean():
    codec, x = small(), images(1)
    mean, log_variance = codec.posterior(x)
    eps = torch.randn(20_000, 3, 4, 4)
    drawn = codec.coded(x.expand(20_000, *SHAPE), eps).latents
    # The standard errors of a mean and of a standard deviation of 20,000 draws are 0.7% and 0.5% of the deviation.
    deviation = torch.exp(log_variance[0] / 2)
    torch.testing.assert_close((drawn.mean(0) - mean[0]) / deviation, torch.zeros(3, 4, 4), rtol=0, atol=0.035)
    torch.testing.assert_close(drawn.std(0) / deviation, torch.ones(3, 4, 4), rtol=0, atol=0.025)
    assert torch.equal(codec.encode(x), mean)


def test_the_gradient_passes_straight_through_the_codebook():
    """That for the latents before they are replaced is, bit by bit, that for the codes in their place."""
    codec, x = small(VQ, codes=7), images()
    latents = codec.encode(x).detach().requires_grad_()
    codec.encode = lambda _: latents
    replaced = codec.coded(x, torch.zeros(5, 3, 4, 4)).latents
    codes = replaced.detach().requires_grad_()
    weight = torch.randn_like(codes)
    (codec.decoder(replaced).sum() + (weight * replaced).sum()).backward()
    (codec.decoder(codes).sum() + (weight * codes).sum()).backward()
    assert torch.equal(latents.grad, codes.grad)
    assert codec.codebook.grad is None


def test_the_codebook_learns_of_its_own_cost_alone_and_the_encoder_of_the_commitment():
    codec, x = small(VQ, codes=7), images()
    costs = codec.coded(x, torch.zeros(5, 3, 4, 4)).costs
    moved = {
        name: torch.autograd.grad(c.sum(), list(codec.parameters()), retain_graph=True, allow_unused=True)
        for name, c in costs.items()
    }
    names = [name for name, _ in codec.named_parameters()]
    touched = {
        cost: {n.split(".")[0] for n, g in zip(names, grads, strict=True) if g is not None and g.any()}
        for cost, grads in moved.items()
    }
    assert touched == {"codebook": {"codebook"}, "commitment": {"encoder"}}
    assert torch.equal(costs["codebook"], costs["commitment"])


def test_the_nearest_code_is_that_of_the_smallest_distance_and_codes_stay_themselves():
    codec = small(VQ, codes=50)
    latents = torch.randn(4, 3, 5, 5)
    distances = torch.cdist(latents.movedim(1, -1).reshape(-1, 3), codec.codebook)
    assert torch.equal(codec.nearest(latents).flatten(), distances.argmin(1))
    numbers = torch.randint(50, (4, 5, 5))
    assert torch.equal(codec.nearest(codec.looked_up(numbers)), numbers)


def test_the_nearest_code_is_the_same_whatever_the_precision_of_the_networks():
    codec = small(VQ, codes=50)
    codec.codebook.data += 3  # half precision tells codes apart by a hundredth of what they have in common
    latents = 3 + 0.2 * torch.randn(4, 3, 5, 5)
    with torch.autocast("cpu", torch.bfloat16):
        numbers = codec.nearest(latents)
    assert torch.equal(numbers, codec.nearest(latents))


def test_the_kl_of_a_posterior_near_the_prior_is_not_lost_in_half_precision():
    codec, x = small(), images(50)
    torch.nn.init.normal_(codec.encoder[-1].weight, std=3e-3)
    torch.nn.init.zeros_(codec.encoder[-1].bias)
    with torch.autocast("cpu", torch.bfloat16):
        mean, log_variance = codec.posterior(x)
        found = kl(mean, log_variance)
    assert mean.std() < 0.1
    torch.testing.assert_close(found, kl(mean.float(), log_variance.float()), rtol=1e-4, atol=0)


def test_a_codebooks_prior_is_even_over_the_codes():
    codec = small(VQ, codes=10)
    counts = codec.nearest(codec.prior(torch.randn(10, 3, 100, 100))).flatten().bincount(minlength=10)
    assert (counts - 10_000).abs().max() < 4 * (100_000 * 0.1 * 0.9) ** 0.5, "4 standard deviations"


def test_usage_and_perplexity_count_the_codes_that_images_use():
    codec = small(VQ, codes=8)
    used = torch.tensor([4.0, 2.0, 2.0, 0, 0, 0, 0, 0], dtype=torch.float64)
    told = codec.told(codec.tally(images()) | {"used": used})
    assert told["codebook_usage"] == 3 / 8
    assert told["perplexity"] == pytest.approx(math.exp(0.5 * math.log(2) + 0.5 * math.log(4)), rel=1e-12)


@pytest.mark.parametrize("kind", [KL, VQ])
def test_figures_of_the_latents_do_not_depend_on_the_batches(kind):
    codec, x = small(kind), images(7)
    parts = [codec.tally(part) for part in x.split(3)]
    added = {name: sum(part[name] for part in parts) for name in parts[0]}
    whole = codec.told(codec.tally(x))
    assert codec.told(added) == pytest.approx(whole, rel=1e-5)
    latents = codec.encode(x).double()
    assert whole["latent_scale"] == pytest.approx(float(latents.std((0, 2, 3), correction=0).mean()), rel=1e-6)


@pytest.mark.parametrize("downsample", [1, 2, 4])
def test_the_latents_have_the_shape_that_is_told(downsample):
    codec, x = small(image_shape=(3, 8, 12), downsample=downsample), images(2, (3, 8, 12))
    latents = codec.encode(x)
    assert latents.shape[1:] == codec.latent_shape((3, 8, 12)) == (3, 8 // downsample, 12 // downsample)
    assert codec.decode(latents).shape == x.shape


@pytest.mark.parametrize(
    ("make", "error", "told"),
    [
        (lambda: KL(SHAPE, downsample=3), ConfigError, "downsample must be a power of 2 (got 3); take 2"),
        (lambda: KL((1, 28, 28), downsample=8), IncompatibleError, "by 8, and those of these images are 28 and 28"),
        (lambda: KL(SHAPE).latent_shape((3, 8, 8)), IncompatibleError, "of 1 channels, and these have 3"),
    ],
)
def test_images_that_a_codec_cannot_take_are_refused(make, error, told):
    with pytest.raises(error, match=re.escape(told)):
        make()
