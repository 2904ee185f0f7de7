"""Inpainting without training: what is known stays, what is not is near the conditional, and how near."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch.nn import functional as nnf

from conftest import Specks, tiny_pipeline, tiny_recipe
from denoiselab import samplers, schedules
from denoiselab.analytic import Gaussian
from denoiselab.codecs import Codec
from denoiselab.conditioning import Wishes
from denoiselab.conditioning.known import Known
from denoiselab.conditioning.masks import Half, Masks
from denoiselab.data.source import spread, to_float
from denoiselab.denoiser import Prediction
from denoiselab.errors import ConfigError, DataError
from denoiselab.inpainting import RePaint, Replacement, encoded, held, noised
from denoiselab.samplers import DDIM, DDPM, DPMpp2M, Heun, Sampler
from denoiselab.spacings import Karras, LogSNR, Trailing

SCHEDULE = schedules.cosine()
EVERY = {
    "ddpm": DDPM(12, Trailing()),
    "ddim": DDIM(12, Trailing()),
    "euler_ancestral": samplers.EulerAncestral(12, Trailing()),
    "heun": Heun(12, Karras()),
    "dpmpp_2m": DPMpp2M(12, LogSNR()),
    "dpmpp_2m_sde": samplers.DPMpp2MSDE(12, LogSNR()),
    "dpmpp_2s": samplers.DPMpp2S(12, LogSNR()),
    "unipc": samplers.UniPC(12, LogSNR()),
    "plms": samplers.PLMS(12, Karras()),
    "pc": samplers.PredictorCorrector(12, LogSNR()),
    "langevin": samplers.Langevin(12, LogSNR(), inner=2),
    "ode": samplers.ODE(12, Trailing(), 1e-2, 1e-2),
}
WAYS = {"replacement": Replacement("half"), "repaint": RePaint("half", jump=4, resamples=3)}

# Two standard normal numbers of correlation RHO, of which the first is known to be KNOWN.
RHO, KNOWN = 0.9, 1.5
EXACT_MEAN, EXACT_VAR = RHO * KNOWN, 1 - RHO**2
FIRST = torch.tensor([[True, False]])


def pair(rho=RHO):
    return Gaussian(SCHEDULE, covariance=torch.tensor([[1, rho], [rho, 1]], dtype=torch.float64))


def second(way, inner, n=1, noise=torch.randn_like, rho=RHO):
    """What becomes of the unknown number: (n,). The x_0 beside it must not be looked at."""
    x0 = torch.tensor([[KNOWN, math.nan]], dtype=torch.float64).expand(n, 2)
    x_T = noise(torch.empty(n, 2, dtype=torch.float64))
    made = way.sampler(inner, x0, FIRST, noise)(pair(rho), SCHEDULE, x_T, noise)
    assert (made[:, 0] == KNOWN).all()
    return made[:, 1]


def silence(x):
    return torch.zeros_like(x)


def mean_of(way, steps=100):
    """All is linear in the noise, so without noise comes out what noise has in the mean: no sampling error."""
    return float(second(way, DDPM(steps, Trailing()), noise=silence))


# How near to the conditional


def test_the_mean_of_replacement_leans_to_the_unconditional_one_and_repaint_comes_nearer_with_each_resampling():
    """The unconditional mean is 0, and the conditional one 1.35."""
    replaced = mean_of(Replacement("half"))
    assert 0.6 * EXACT_MEAN < replaced < 0.75 * EXACT_MEAN
    errors = [EXACT_MEAN - mean_of(RePaint("half", jump=5, resamples=r)) for r in (1, 2, 5, 10, 40)]
    assert errors[0] == EXACT_MEAN - replaced, "once is replacement"
    assert all(after < 0.8 * before for before, after in pairwise(errors))
    assert 0 < errors[-1] < 0.02 * EXACT_MEAN


def test_more_steps_do_not_bring_replacement_to_the_conditional_mean():
    assert EXACT_MEAN - mean_of(Replacement("half"), 1000) > 0.25 * EXACT_MEAN


def test_the_spread_of_replacement_is_too_wide_and_that_of_repaint_is_near():
    """Of 6,000 samples the variance has a standard error of 1.8%; steps of finite size leave a few percent besides."""
    n = 6000
    found = {}
    for name, way in {"replacement": Replacement("half"), "repaint": RePaint("half", jump=5, resamples=5)}.items():
        x = second(way, DDPM(60, Trailing()), n)
        assert abs(float(x.mean()) - mean_of(way, 60)) < 4 * float(x.std()) / n**0.5
        found[name] = float(x.var())
    assert found["replacement"] > 1.4 * EXACT_VAR
    assert abs(found["repaint"] - EXACT_VAR) < 0.15 * EXACT_VAR


def test_of_independent_numbers_the_unknown_one_is_what_it_is_without_any_known():
    """Bit by bit, as the exact denoiser of independent numbers has nothing to carry over."""

    def draws():
        torch.manual_seed(3)
        return lambda x: torch.randn(x.shape, dtype=x.dtype)

    inner = DDPM(20, Trailing())
    noise = draws()
    alone = inner(pair(0.0), SCHEDULE, noise(torch.empty(50, 2, dtype=torch.float64)), noise)
    noise = draws()
    x_T = noise(torch.empty(50, 2, dtype=torch.float64))
    x0 = torch.full((50, 2), KNOWN, dtype=torch.float64)
    beside = Replacement("half").sampler(inner, x0, FIRST, silence)(pair(0.0), SCHEDULE, x_T, noise)
    torch.testing.assert_close(beside[:, 1], alone[:, 1], rtol=0, atol=1e-12)


# What is done, step by step


class Walk(Sampler):
    """Stand-in for a sampler: writes down from where to where it goes, and with what state."""

    def __init__(self, steps):
        super().__init__(steps, Trailing())
        self.walked = []

    def step(self, denoise, schedule, x, t, s, state, noise):
        self.walked.append((round(float(t) * self.steps), round(float(s) * self.steps), state))
        return x, (state or 0) + 1


def walked(steps, jump, resamples):
    walk, x = Walk(steps), torch.zeros(1, 2)
    way = RePaint("half", jump, resamples)
    way.sampler(walk, x, FIRST, torch.randn_like)(lambda x, t: Prediction(x, x), SCHEDULE, x)
    return way, walk.walked


def published(steps, jump, resamples):
    """The times that RePaint visits (Lugmayr 2022, supplement): of T steps, T - 1 first and -1 at the end."""
    again = dict.fromkeys(range(0, steps - jump, jump), resamples - 1)
    t, times = steps, []
    while t >= 1:
        t -= 1
        times.append(t)
        if again.get(t, 0) > 0:
            again[t] -= 1
            for _ in range(jump):
                t += 1
                times.append(t)
    return [*times, -1]


@pytest.mark.parametrize(("steps", "jump", "resamples"), [(250, 10, 10), (12, 4, 3), (13, 4, 3), (10, 1, 2), (7, 6, 2)])
def test_repaint_goes_the_way_of_the_paper_and_takes_the_steps_of_its_formula(steps, jump, resamples):
    way, walk = walked(steps, jump, resamples)
    times = [t + 1 for t in published(steps, jump, resamples)]  # steps that are left
    assert [(t, s) for t, s, _ in walk] == [(t, s) for t, s in pairwise(times) if s < t]
    assert len(walk) == way.taken(steps)


def test_the_papers_numbers_make_4570_steps_down_and_up():
    assert len(published(250, 10, 10)) - 1 == 4570
    assert RePaint("half", 10, 10).taken(250) == 2410
    assert RePaint("half", 10, 1).taken(250) == 250


def test_what_a_solver_remembers_is_forgotten_at_a_jump_and_at_no_other_time():
    _, walk = walked(13, 4, 3)
    for (_, end, before), (start, _, state) in pairwise(walk):
        assert state == (None if start != end else (before or 0) + 1)
    assert sum(state is None for *_, state in walk) == 1 + 3 * 2


def test_going_back_is_the_forward_process_from_there():
    s, t = torch.tensor(0.3, dtype=torch.float64), torch.tensor(0.7, dtype=torch.float64)
    (alpha_s, sigma_s), (alpha_t, sigma_t) = SCHEDULE(s), SCHEDULE(t)
    x = torch.tensor([[2.0]], dtype=torch.float64)
    mean = noised(SCHEDULE, x, s, t, silence)
    spread = noised(SCHEDULE, x, s, t, torch.ones_like) - mean
    assert float(mean) == pytest.approx(float(alpha_t / alpha_s * 2), rel=1e-12)
    # alpha_s eps sigma_s at s has become what it is at t: the variances add up.
    assert float((alpha_t / alpha_s * sigma_s) ** 2 + spread**2) == pytest.approx(float(sigma_t**2), rel=1e-12)


# In a pipeline


class Nothing(Masks):
    """Knows no pixel, which no mask of the options does."""

    draws = 0

    def __call__(self, u, height, width):
        return torch.zeros(len(u), 1, height, width, dtype=torch.bool)


class Halved(Codec):
    """Stand-in for an autoencoder: means of 2 x 2 pixels."""

    def encode(self, images):
        return nnf.avg_pool2d(images, 2)

    def decode(self, latents):
        return latents.repeat_interleave(2, 2).repeat_interleave(2, 3)

    def latent_shape(self, image_shape):
        return (image_shape[0], image_shape[1] // 2, image_shape[2] // 2)


def painted(sampler, way, codec=None, n=7):
    """Of a Gaussian of independent pixels: its exact denoiser is smooth, and no sampler runs away with it."""
    pipeline = tiny_pipeline(codec=codec)
    pipeline.denoiser = Gaussian(SCHEDULE, 0.0, 0.5)
    requested = Wishes(pipeline.conditioner, 3, Specks().test, of_images=True)(range(n))
    return pipeline, pipeline.sample(replace(tiny_recipe(sampler), inpainting=way), range(n), requested, seed=0)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("sampler", EVERY.values(), ids=EVERY)
def test_known_pixels_are_those_of_the_image_by_any_sampler_and_the_others_are_made(way, sampler):
    pipeline, made = painted(sampler, way)
    test, known = Specks().test, made.known
    image = test.images[spread(test.labels, 7)]
    assert torch.equal(known.image, image)
    assert (known.mask.flatten(1).sum(1) == 8).all()
    assert torch.equal(made.images[known.mask], image[known.mask])
    assert not torch.equal(made.images[~known.mask], image[~known.mask])
    pictures = pipeline.explained(made)
    assert torch.equal(pictures[:, 0], known.shown())
    assert torch.equal(pictures[:, 1:], torch.stack([made.images, image], 1))


@pytest.mark.parametrize("sampler", EVERY.values(), ids=EVERY)
@pytest.mark.parametrize("way", [Replacement, lambda mask: RePaint(mask, 3, 1)], ids=["replacement", "once"])
def test_where_nothing_is_known_the_images_are_those_of_the_sampler_by_itself(way, sampler, monkeypatch):
    monkeypatch.setattr("denoiselab.inpainting.masks", lambda mask, height, width: mask)
    plain, nothing = painted(sampler, None)[1], painted(sampler, way(Nothing()))[1]
    assert torch.equal(plain.images, nothing.images)
    assert plain.evaluations == nothing.evaluations


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_known_pixels_come_through_a_codec_that_loses_some(way):
    _, made = painted(DDIM(12, Trailing()), way, Halved())
    assert torch.equal(made.images[made.known.mask], made.known.image[made.known.mask])


def test_the_network_runs_as_often_as_the_formula_says():
    _, made = painted(DDIM(12, Trailing()), WAYS["repaint"])
    assert made.evaluations == WAYS["repaint"].taken(12) == 12 + 2 * 4 * 2
    _, made = painted(DDIM(12, Trailing()), WAYS["replacement"])
    assert made.evaluations == 12


def test_a_latent_is_known_where_all_of_its_pixels_are_and_nothing_else_comes_into_it():
    image = Specks().test.images[:3]
    mask = torch.ones(3, 1, 4, 4, dtype=torch.bool)
    mask[1, :, 0, 3] = False
    mask[2] = Half("left")(torch.zeros(1, 1), 4, 4)
    x0, known = encoded(Known(image, mask), Halved())
    assert known[:, 0].int().tolist() == [[[1, 1], [1, 1]], [[1, 0], [1, 1]], [[1, 0], [1, 0]]]
    other, _ = encoded(Known(torch.where(mask, image, 255 - image), mask), Halved())
    assert torch.equal(x0, other)


def test_a_mask_depends_on_the_samples_number_alone():
    masks = [painted(sampler, WAYS["replacement"])[1].known.mask for sampler in (EVERY["ddpm"], EVERY["heun"])]
    assert torch.equal(*masks)
    assert len(torch.unique(masks[0].flatten(1), dim=0)) > 1


def test_a_denoiser_that_knows_pixels_predicts_them_and_the_noise_that_goes_with_them():
    """x_t = alpha x_0 + sigma eps holds in every pixel, and the unknown ones are predicted as before."""
    image = torch.randint(256, (3, 1, 4, 4), dtype=torch.uint8)
    mask = torch.rand(3, 1, 4, 4) < 0.5
    x_t, t = torch.randn(3, 1, 4, 4, dtype=torch.float64), torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    plain = Gaussian(SCHEDULE, std=0.5)
    before, after = plain(x_t, t), held(plain, SCHEDULE, Known(image, mask))(x_t, t)
    assert torch.equal(after.x0[~mask], before.x0[~mask])
    assert torch.equal(after.eps[~mask], before.eps[~mask])
    assert torch.equal(after.x0[mask], to_float(image).double()[mask])
    alpha, sigma = (level[:, None, None, None] for level in SCHEDULE(t))
    torch.testing.assert_close(alpha * after.x0 + sigma * after.eps, x_t, rtol=1e-12, atol=1e-12)


def test_senseless_numbers_are_refused_in_one_line():
    with pytest.raises(ConfigError, match=r"jump must be at least 1"):
        RePaint("half", jump=0)
    with pytest.raises(ConfigError, match=r"jump=12 goes back to before the first of sampler.steps=12; take"):
        painted(DDIM(12, Trailing()), RePaint("half", jump=12))
    with pytest.raises(ConfigError, match="these data are points; take inpainting=none"):
        Replacement("half").masks((2,))
    with pytest.raises(DataError, match=r"'none.png' cannot be read as a mask"):
        Replacement("none.png").masks((1, 4, 4))
