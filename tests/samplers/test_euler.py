import pytest
import torch

from cases import SCHEDULES, SPACINGS, over
from denoiselab.analytic import Gaussian
from denoiselab.errors import ConfigError
from denoiselab.randomness import SampleNoise
from denoiselab.samplers import DDIM, DDPM, Euler, EulerAncestral
from denoiselab.schedules import Flow
from denoiselab.spacings import Trailing


@over("schedule", SCHEDULES)
def test_it_is_euler_s_method_in_x_over_alpha_and_sigma_over_alpha(schedule):
    schedule, x = SCHEDULES[schedule], torch.randn(7, dtype=torch.float64)
    denoise = Gaussian(schedule, 0.3, 0.5)
    for t, s in torch.tensor([[0.9, 0.7], [0.5, 0.45], [0.1, 0.0]], dtype=torch.float64):
        (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
        eps = denoise(x, t.expand(7)).eps
        expected = alpha_s * (x / alpha_t + (sigma_s / alpha_s - sigma_t / alpha_t) * eps)
        found, _ = Euler(1, Trailing()).step(denoise, schedule, x, t, s, None, torch.randn_like)
        # Rounded where alpha_t divides, by 1/alpha_t = 60 at most, and in sigma_t = 80.
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


@over("schedule", SCHEDULES)
@over("spacing", SPACINGS)
def test_it_is_ddim_with_eta_zero(schedule, spacing):
    torch.manual_seed(1)
    schedule, spacing = SCHEDULES[schedule], SPACINGS[spacing]
    x_T = torch.randn(8, dtype=torch.float64)
    denoise = Gaussian(schedule, 0.3, 0.5)
    assert torch.equal(Euler(10, spacing)(denoise, schedule, x_T), DDIM(10, spacing)(denoise, schedule, x_T))


def test_on_flow_it_adds_the_velocity_from_alpha_zero_on():
    flow, x = Flow(), torch.randn(7, dtype=torch.float64)
    denoise = Gaussian(flow, 0.3, 0.5)
    for t, s in torch.tensor([[1.0, 0.9], [0.5, 0.25], [0.25, 0.0]], dtype=torch.float64):
        at_t = denoise(x, t.expand(7))
        found, _ = Euler(1, Trailing()).step(denoise, flow, x, t, s, None, torch.randn_like)
        torch.testing.assert_close(found, x + (s - t) * (at_t.eps - at_t.x0), rtol=0, atol=1e-15)


@over("schedule", SCHEDULES)
def test_ancestral_with_eta_one_is_ddpm_with_small_variance_and_with_eta_zero_euler(schedule):
    schedule = SCHEDULES[schedule]
    denoise, x_T = Gaussian(schedule, 0.3, 0.5), torch.randn(8, 2, dtype=torch.float64) * schedule.prior_std
    for other, eta in (DDPM(20, Trailing()), 1.0), (Euler(20, Trailing()), 0.0), (DDIM(20, Trailing(), 0.4), 0.4):
        found, expected = (
            sampler(denoise, schedule, x_T, SampleNoise(0, range(8)))
            for sampler in (EulerAncestral(20, Trailing(), eta), other)
        )
        # sqrt(sigma_s^2 - up^2) cancels where alpha_t is far below alpha_s.
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12 * schedule.prior_std)


@over("schedule", ["linear", "cosine", "edm"])
@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_the_ancestral_step_is_k_diffusion_s_in_sigma_over_alpha(schedule, eta):
    # n_up^2 = eta^2 n_s^2 (n_t^2 - n_s^2)/n_t^2, n_down^2 = n_s^2 - n_up^2, y + (n_down - n_t) d + n_up z.
    schedule, (x, z) = SCHEDULES[schedule], torch.randn(2, 7, dtype=torch.float64)
    denoise = Gaussian(schedule, 0.3, 0.5)
    t, s = torch.tensor([0.6, 0.45], dtype=torch.float64)
    (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
    n_t, n_s = sigma_t / alpha_t, sigma_s / alpha_s
    d = (x / alpha_t - denoise(x, t.expand(7)).x0) / n_t
    up = eta * torch.sqrt(n_s**2 * (n_t**2 - n_s**2) / n_t**2)
    down = torch.sqrt(n_s**2 - up**2)
    found, _ = EulerAncestral(1, Trailing(), eta).step(denoise, schedule, x, t, s, None, lambda x: z)
    torch.testing.assert_close(found, alpha_s * (x / alpha_t + (down - n_t) * d + up * z), rtol=1e-12, atol=1e-13)


def test_from_alpha_zero_the_ancestral_step_draws_x_s_anew_about_x0_hat():
    flow, (x, z) = Flow(), torch.randn(2, 7, dtype=torch.float64)
    t, s = torch.tensor([1.0, 0.8], dtype=torch.float64)
    found, _ = EulerAncestral(1, Trailing()).step(Gaussian(flow, 0.3, 0.5), flow, x, t, s, None, lambda x: z)
    torch.testing.assert_close(found, 0.2 * torch.full_like(x, 0.3) + 0.8 * z, rtol=0, atol=1e-15)


def test_an_eta_beyond_one_is_refused():
    with pytest.raises(ConfigError, match=r"eta must be from 0 to 1 \(got 1\.5\)"):
        EulerAncestral(3, Trailing(), eta=1.5)
