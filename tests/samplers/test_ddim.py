import math

import numpy as np
import pytest
import torch

from cases import SCHEDULES, SPACINGS, EvenInLogSNR, moments, over, starting
from denoiselab.analytic import Gaussian
from denoiselab.randomness import SampleNoise
from denoiselab.samplers import DDIM, DDPM
from denoiselab.schedules import Flow, linear
from denoiselab.spacings import Trailing


@over("schedule", SCHEDULES)
@over("spacing", SPACINGS)
def test_ddim_with_eta_one_is_ddpm_with_small_variance(schedule, spacing):
    schedule, spacing = SCHEDULES[schedule], SPACINGS[spacing]
    denoise, x_T = Gaussian(schedule, 0.3, 0.5), torch.randn(8, 2, dtype=torch.float64)
    ddim = DDIM(20, spacing, eta=1.0)(denoise, schedule, x_T, SampleNoise(0, range(8)))
    ddpm = DDPM(20, spacing)(denoise, schedule, x_T, SampleNoise(0, range(8)))
    # sqrt(sigma_s^2 - variance) cancels where alpha_t is far below alpha_s.
    torch.testing.assert_close(ddim, ddpm, rtol=0, atol=1e-12)


@over("schedule", SCHEDULES)
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_every_eta_has_the_right_law_at_every_time_for_data_of_one_point(schedule, eta):
    # What DDIM's family was made for (Song 2020, lemma 1): q(x_s|x_0) does not depend on eta.
    schedule, point = SCHEDULES[schedule], 0.3
    alpha, sigma = map(float, schedule(1.0))
    denoise = Gaussian(schedule, point, std=0.0)
    for s, mean, std in moments(DDIM(10, Trailing(), eta), denoise, schedule, alpha * point, sigma):
        alpha, sigma = map(float, schedule(s))
        assert mean == pytest.approx(alpha * point, abs=1e-14)
        assert std == pytest.approx(sigma, rel=1e-11, abs=1e-15)


@pytest.mark.parametrize("eta", [0.2, 0.5, 1.0])
def test_the_noise_added_is_eta_times_that_of_ddpm(eta):
    schedule, x = SCHEDULES["linear"], torch.zeros(1, dtype=torch.float64)
    t, s = torch.tensor([0.5, 0.4], dtype=torch.float64)

    def noise_of(sampler):
        denoise = Gaussian(schedule)
        with_noise, without = (
            sampler.step(denoise, schedule, x, t, s, None, lambda x, z=z: torch.full_like(x, z))[0] for z in (1.0, 0.0)
        )
        return float(with_noise - without)

    assert noise_of(DDIM(1, Trailing(), eta)) == pytest.approx(eta * noise_of(DDPM(1, Trailing())), rel=1e-14)


def test_a_step_is_that_of_the_paper():
    # Song 2020, eq. 12 and 16, in its own symbols: alpha there is abar here.
    T, eta, schedule = 50, 0.5, linear(50)
    alpha = (1 - torch.linspace(0.1 / T, 20 / T, T, dtype=torch.float64)).cumprod(0)
    x, z = torch.randn(2, 7, dtype=torch.float64)
    denoise = Gaussian(schedule, 0.3, 0.5)
    for i, j in ((50, 40), (30, 29), (20, 1)):
        t, s = torch.tensor([i / T, j / T], dtype=torch.float64)
        a, b = alpha[i - 1], alpha[j - 1]
        eps = denoise(x, t.expand(7)).eps
        noise = eta * torch.sqrt((1 - b) / (1 - a)) * torch.sqrt(1 - a / b)
        expected = torch.sqrt(b) * (x - torch.sqrt(1 - a) * eps) / torch.sqrt(a) + torch.sqrt(1 - b - noise**2) * eps
        found, _ = DDIM(T, Trailing(), eta).step(denoise, schedule, x, t, s, None, lambda x: z)
        torch.testing.assert_close(found, expected + noise * z, rtol=0, atol=1e-12)  # 1/sqrt(a) amplifies by 150


def test_on_flow_it_is_euler_s_method_with_the_velocity():
    flow, x = Flow(), torch.randn(7, dtype=torch.float64)
    denoise = Gaussian(flow, 0.3, 0.5)
    for t, s in torch.tensor([[1.0, 0.9], [0.5, 0.25], [0.25, 0.0]], dtype=torch.float64):
        x0, eps, _ = denoise(x, t.expand(7))
        found, _ = DDIM(1, Trailing()).step(denoise, flow, x, t, s, None, torch.randn_like)
        torch.testing.assert_close(found, x + (s - t) * (eps - x0), rtol=0, atol=1e-15)


@over("schedule", SCHEDULES)
def test_with_eta_zero_it_converges_to_the_flow_with_order_one(schedule):
    schedule, x = SCHEDULES[schedule], torch.linspace(-2, 2, 5, dtype=torch.float64)
    gaussian, counts = Gaussian(schedule, 0.3, 0.5), [32, 64, 128, 256]
    exact = gaussian.flow(x, 0.98, 0.02)
    x_T = starting(DDIM(1, EvenInLogSNR()), schedule, x)
    errors = [float((DDIM(n, EvenInLogSNR())(gaussian, schedule, x_T) - exact).abs().max()) for n in counts]
    slope = np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert slope == pytest.approx(-1, abs=0.05)
    assert errors[-1] < 0.05


@pytest.mark.slow
@over("schedule", ["linear_continuous", "cosine", "flow"])
def test_its_samples_have_the_data_s_mean_and_spread_in_the_limit(schedule):
    schedule = SCHEDULES[schedule]
    (alpha, sigma), gaussian = schedule(1.0), Gaussian(schedule, 0.3, 0.5)
    start = float(alpha) * 0.3, math.hypot(float(alpha) * 0.5, float(sigma))
    *_, (_, mean, std) = moments(DDIM(2000, Trailing()), gaussian, schedule, *start)
    assert mean == pytest.approx(0.3, abs=2e-3)  # order one, with 2000 steps
    assert std == pytest.approx(0.5, abs=2e-3)
