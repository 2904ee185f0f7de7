import math

import pytest
import torch

from cases import SCHEDULES, over
from denoiselab.analytic import Gaussian
from denoiselab.denoiser import Prediction
from denoiselab.errors import ConfigError
from denoiselab.randomness import SampleNoise
from denoiselab.samplers import DDPM, PredictorCorrector
from denoiselab.schedules import VE, Flow, cosine
from denoiselab.spacings import LogSNR, Trailing


def typical(x):
    """What noise z is in many dimensions, exactly: |z|^2 = D, at right angles to x and of mean 0."""
    z, x = (part - part.mean(1, keepdim=True) for part in (torch.randn_like(x), x))
    z = z - (z * x).sum(1, keepdim=True) / x.square().sum(1, keepdim=True) * x
    return z / z.square().mean(1, keepdim=True).sqrt()


def test_on_ve_a_step_is_the_paper_s_corrector_and_then_its_ancestral_predictor():
    # Score-SDE, algorithm 4 and eq. 47, in its own symbols, sample by sample.
    schedule, r = VE(0.01, 50.0), 0.16
    x, z, w = torch.randn(3, 5, 20, dtype=torch.float64)
    t, s = torch.tensor([0.6, 0.5], dtype=torch.float64)
    sigma, sigma_s = schedule(t).sigma, schedule(s).sigma
    score = lambda x: (0.3 - x) / (0.5**2 + sigma**2)  # noqa: E731
    g = score(x)
    eps = 2 * (r * z.norm(dim=1, keepdim=True) / g.norm(dim=1, keepdim=True)) ** 2
    expected = x + eps * g + torch.sqrt(2 * eps) * z
    gap = sigma**2 - sigma_s**2
    expected = expected + gap * score(expected) + torch.sqrt(sigma_s**2 * gap / sigma**2) * w
    draws = iter([z, w])
    sampler = PredictorCorrector(1, Trailing(), snr=r)
    found, _ = sampler.step(Gaussian(schedule, 0.3, 0.5), schedule, x, t, s, None, lambda x: next(draws))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@over("schedule", SCHEDULES)
@pytest.mark.parametrize("snr", [0.16, 0.4])
def test_the_corrector_rests_at_1_plus_r_squared_times_the_variance(schedule, snr):
    # In many dimensions |z|^2 = D and z is orthogonal to x. For x_t ~ N(0, V) the size a = 4 r^2 V^2/v depends on the
    # variance v itself, and V/(1 - a/(4V)) = v is v = (1 + r^2) V. Here |z| and the angle are made exact.
    schedule, D, std = SCHEDULES[schedule], 64, 0.05
    sampler, t = PredictorCorrector(1, Trailing(), snr, corrector_steps=400), torch.tensor(0.6, dtype=torch.float64)
    alpha, sigma = schedule(t)
    V = float(alpha**2 * std**2 + sigma**2)
    seen = []

    def orthogonal(x):
        seen.append(x.square().mean(1))
        return typical(x)

    x = math.sqrt(V) * torch.tensor([[0.5], [1.0], [2.0]], dtype=torch.float64) * torch.randn(3, D, dtype=torch.float64)
    sampler.step(Gaussian(schedule, 0.0, std), schedule, x, t, t - 0.1, None, orthogonal)
    at_rest = seen[-2]  # the last draw is the predictor's
    # Near its rest a step leaves 1 - 4 r^2/(1 + r^2) of what is missing, 0.9 at r = 0.16: after 400 steps, nothing.
    torch.testing.assert_close(at_rest, torch.full_like(at_rest, (1 + snr**2) * V), rtol=1e-12, atol=0)


@over("schedule", SCHEDULES)
def test_without_corrector_steps_it_is_ddpm(schedule):
    schedule, x_T = SCHEDULES[schedule], torch.randn(4, 2, dtype=torch.float64)
    arguments = Gaussian(schedule, 0.3, 0.5), schedule, x_T
    found = PredictorCorrector(6, LogSNR(), corrector_steps=0)(*arguments, SampleNoise(0, range(4)))
    assert torch.equal(found, DDPM(6, LogSNR())(*arguments, SampleNoise(0, range(4))))


@over("schedule", SCHEDULES)
@pytest.mark.parametrize("corrector_steps", [1, 3])
def test_it_corrects_at_every_level_and_ends_with_x0_hat(schedule, corrector_steps):
    schedule, calls, drawn = SCHEDULES[schedule], [], []
    exact = Gaussian(schedule, 0.3, 0.5)

    def denoise(x, t):
        calls.append((x, t))
        return exact(x, t)

    def noise(x):
        drawn.append(x)
        return torch.randn_like(x)

    x_T = schedule.prior_std * torch.randn(4, 2, dtype=torch.float64)
    x_0 = PredictorCorrector(6, LogSNR(), corrector_steps=corrector_steps)(denoise, schedule, x_T, noise)
    times = LogSNR()(6, schedule)[:-1].tolist()
    assert [float(t[0]) for _, t in calls] == [t for t in times for _ in range(corrector_steps + 1)]
    assert len(drawn) == 6 * corrector_steps + 5
    torch.testing.assert_close(x_0, exact(*calls[-1]).x0, rtol=1e-15, atol=0)  # a rounding of DDPM's mean


def test_a_sample_does_not_depend_on_its_batch():
    # The paper's code divides by norms averaged over the batch.
    schedule = cosine()
    x_T = torch.randn(4, 3, 5) * torch.tensor([0.5, 1.0, 2.0, 4.0])[:, None, None]
    sampler, denoise = PredictorCorrector(5, LogSNR()), Gaussian(schedule, 0.3, 0.5)
    whole = sampler(denoise, schedule, x_T, SampleNoise(0, range(4)))
    for i in range(4):
        assert torch.equal(sampler(denoise, schedule, x_T[i : i + 1], SampleNoise(0, [i])), whole[i : i + 1])


def test_a_sample_whose_noise_is_predicted_as_nothing_takes_no_wild_step():
    sampler, z = PredictorCorrector(1, Trailing()), torch.ones(3, 2, dtype=torch.float64)
    eps = torch.tensor([[0.0, 0.0], [1e-200, 0.0], [1.0, 1.0]], dtype=torch.float64)
    assert sampler.epsilon(eps, z).tolist() == pytest.approx([0.0, 0.0, 4 * 0.16**2])
    assert sampler.epsilon(0.1 * z, z).tolist() == [1.0] * 3
    still = lambda x, t: Prediction(x0=x, eps=torch.zeros_like(x))  # noqa: E731
    assert sampler(still, cosine(), z).isfinite().all()


@over("schedule", SCHEDULES)
@pytest.mark.parametrize("snr", [0.16, 0.4])
def test_the_whole_chain_has_the_moments_that_its_steps_give_in_turn(schedule, snr):
    # About alpha m, the mean over the dimensions and the mean square v: a step's factor is the same for all numbers
    # of a sample, and the noise is at right angles. The corrector's size depends on the sample's own v.
    schedule, (m, std) = SCHEDULES[schedule], (0.3, 0.5)
    sizes, steps = schedule.prior_std * torch.tensor([[0.5], [1.0], [2.0]], dtype=torch.float64), []
    x_T = sizes * torch.randn(3, 8, dtype=torch.float64)
    sampler = PredictorCorrector(7, LogSNR(), snr, corrector_steps=2)
    sampler(Gaussian(schedule, m, std), schedule, x_T, typical, steps.append)
    offset = x_T - schedule(1.0).alpha * m
    mean, v = offset.mean(1), offset.square().mean(1)
    for step in steps:
        (alpha, sigma), (alpha_s, sigma_s) = schedule(step.t), schedule(step.s)
        V = alpha**2 * std**2 + sigma**2
        for _ in range(2):
            # eps_hat is sigma/V of the offset.
            epsilon = (4 * snr**2 * V**2 / (sigma**2 * v)).clamp(max=1)
            factor = 1 - epsilon / 2 * sigma**2 / V
            mean, v = factor * mean, factor**2 * v + epsilon * sigma**2
        # The mean of q(x_s|x_t, x_0) at x0_hat, which is alpha std^2/V of the offset, and its variance.
        ratio = alpha / alpha_s
        gap = sigma**2 - ratio**2 * sigma_s**2
        factor = (ratio * sigma_s**2 + alpha_s * gap * alpha * std**2 / V) / sigma**2
        mean, v = factor * mean, factor**2 * v + gap * sigma_s**2 / sigma**2
        offset = step.x - alpha_s * m
        # 7 steps of roundings.
        torch.testing.assert_close(offset.mean(1), mean, rtol=0, atol=1e-14 * schedule.prior_std)
        torch.testing.assert_close(offset.square().mean(1), v, rtol=5e-14, atol=0)


def test_from_alpha_0_the_samples_tend_to_the_data_s_mean_and_spread():
    flow, x_T = Flow(), typical(torch.randn(3, 8, dtype=torch.float64))
    for steps, within in (50, 0.05), (800, 0.005):
        x_0 = PredictorCorrector(steps, LogSNR())(Gaussian(flow, 0.3, 0.5), flow, x_T, typical)
        # The mean is exact. Steps of order one leave -0.036 and +0.0016 of the spread.
        assert x_0.mean(1).tolist() == pytest.approx([0.3] * 3, abs=1e-14)
        assert x_0.std(1, correction=0).tolist() == pytest.approx([0.5] * 3, abs=within)


@pytest.mark.parametrize("words", [{"snr": 0.0}, {"corrector_steps": -1}])
def test_invalid_values_are_refused(words):
    with pytest.raises(ConfigError, match=f"^{next(iter(words))} must be "):
        PredictorCorrector(3, LogSNR(), **words)
