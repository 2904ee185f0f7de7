"""The autoencoder's objective: what each term is, and that two networks learn at once without meeting."""

import math

import pytest
import torch
from torch import Tensor

from denoiselab.codecs import KL, VQ
from denoiselab.data.source import psnr
from denoiselab.errors import ConfigError
from denoiselab.norms import L1, L2
from denoiselab.objectives import Adversarial, Autoencoding
from denoiselab.objectives.adversarial import hinge
from denoiselab.objectives.perceptual import Perceptual

SHAPE, EPS = (1, 8, 8), torch.zeros(4, 4, 4, 4)


def voiced(module: torch.nn.Module) -> torch.nn.Module:
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return module


def images() -> Tensor:
    return torch.rand(4, *SHAPE) * 2 - 1


def codec(kind: type[KL] | type[VQ] = KL) -> KL | VQ:
    return voiced(kind(SHAPE, channels=8))


def adversarial(**changes) -> Adversarial:
    return voiced(Adversarial(**{"image_shape": SHAPE, "weight": 0.5, "channels": 8} | changes))


@pytest.mark.parametrize(("norm", "power"), [(L1(), 1), (L2(), 2)])
def test_the_loss_is_the_mean_error_of_a_value_and_the_cost_of_the_latents(norm, power):
    model, x = codec(), images()
    coded = model.coded(x, EPS)
    error = (model.decoder(coded.latents) - x).abs().pow(power).mean((1, 2, 3))
    expected = error + 0.3 * coded.costs["kl"]
    torch.testing.assert_close(Autoencoding(norm, kl=0.3)(model, x, EPS, 0), expected, rtol=1e-6, atol=0)


def test_a_codebooks_loss_counts_its_two_costs():
    model, x = codec(VQ), images()
    costs = model.coded(x, EPS).costs
    plain, full = (Autoencoding(L2(), codebook=a, commitment=b)(model, x, EPS, 0) for a, b in ((0, 0), (1, 0.25)))
    torch.testing.assert_close(full - plain, 1.25 * costs["codebook"], rtol=1e-5, atol=1e-6)


def test_the_hinge_has_known_values():
    real, made = torch.tensor([[2.0, 0.5]]), torch.tensor([[-3.0, 0.25]])
    assert hinge(real, made).tolist() == [(0 + 0.5 + 0 + 1.25) / 2 / 2]


def gradients(loss: Tensor, *modules: torch.nn.Module) -> list[Tensor]:
    parameters = [p for module in modules for p in module.parameters()]
    return list(torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True))


def learns(found: list[Tensor]) -> bool:
    """Whether there is a gradient other than 0; that of the last bias is 0 where no score is beyond the hinge."""
    return any(bool(g.any()) for g in found)


def test_neither_of_the_two_losses_has_a_gradient_for_the_other_network():
    model, game, x = codec(), adversarial(), images()
    made = model.decode(model.encode(x))
    assert all(g is None for g in gradients(game.of_autoencoder(made).sum(), game.discriminator))
    assert all(g is None for g in gradients(game.of_discriminator(x, made).sum(), model))
    assert learns([g for g in gradients(game.of_autoencoder(made).sum(), model) if g is not None])
    assert learns(gradients(game.of_discriminator(x, made).sum(), game.discriminator))


def test_one_backward_gives_each_network_the_gradient_of_its_own_loss_bit_by_bit():
    model, game, x = codec(), adversarial(adaptive=False), images()
    objective = Autoencoding(L2(), adversarial=game)
    made, own, _ = objective.own(model, x, EPS)
    together = gradients(objective(model, x, EPS, 0).mean(), model.decoder, game.discriminator)
    apart = gradients((own + 0.5 * game.of_autoencoder(made)).mean(), model.decoder)
    apart += gradients(game.of_discriminator(x, made).mean(), game.discriminator)
    assert len(together) == len(apart)
    for one, other in zip(together, apart, strict=True):
        assert torch.equal(one, other)


def test_what_the_autoencoder_hears_is_the_discriminators_own_word():
    game, x = adversarial(), images()
    assert torch.equal(game.of_autoencoder(x), -game.discriminator(x).flatten(1).mean(1))


@pytest.mark.parametrize(("step", "begun"), [(0, False), (4, False), (5, True), (6, True)])
def test_the_game_begins_at_its_step_and_before_it_every_gradient_is_0_and_there(step, begun):
    model, game, x = codec(), adversarial(start=5), images()
    plain = Autoencoding(L2())(model, x, EPS, step)
    loss = Autoencoding(L2(), adversarial=game)(model, x, EPS, step)
    assert torch.equal(loss, plain) != begun
    found = gradients(loss.mean(), game.discriminator)
    assert all(g is not None for g in found)
    assert learns(found) == begun


def test_the_adaptive_weight_makes_both_gradients_of_the_last_layer_equally_large():
    model, x = codec(), images()
    game = adversarial(weight=1.0)
    made, own, _ = Autoencoding(L2(), adversarial=game).own(model, x, EPS)
    whole = game(x, made, own, model.last_layer, 0) - game.of_discriminator(x, made)
    (others,) = torch.autograd.grad(own.mean(), model.last_layer, retain_graph=True)
    (heard,) = torch.autograd.grad(whole.mean(), model.last_layer)
    # 1e-4 is added to the denominator of the ratio.
    assert float(heard.norm()) == pytest.approx(float(others.norm()), rel=1e-2)


def test_a_weight_of_0_leaves_no_discriminator():
    assert not list(Autoencoding(L2(), adversarial=adversarial(weight=0.0)).parameters())


def test_a_discriminator_of_too_many_halvings_is_refused():
    with pytest.raises(ConfigError, match=r"loss.adversarial.halvings=4 leave nothing of 8 pixels"):
        Adversarial(SHAPE, 1.0, halvings=4)


def test_the_perceptual_loss_is_0_for_equal_images_and_sees_no_scale_of_the_features():
    x, y = images(), images()
    seen = Perceptual(lambda z: [torch.cat([z, z**2 + 1], 1)])
    louder = Perceptual(lambda z: [7 * torch.cat([z, z**2 + 1], 1)])
    assert seen(x, x).tolist() == [0] * 4
    torch.testing.assert_close(louder(x, y), seen(x, y), rtol=1e-5, atol=0)
    opposite = Perceptual(lambda z: [z.sign()])
    torch.testing.assert_close(opposite(x, -x), torch.full((4,), 4.0))


def test_psnr_of_a_known_error_and_of_values_beyond_the_range():
    x = torch.zeros(2, *SHAPE)
    made = torch.stack([torch.full(SHAPE, 0.02), torch.full(SHAPE, 7.0)])
    assert psnr(made, x).tolist() == pytest.approx([20 * math.log10(2 / 0.02), 20 * math.log10(2)], rel=1e-6)
    assert psnr(x, x).tolist() == [100.0, 100.0]
