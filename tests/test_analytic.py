import math

import pytest
import torch

from cases import SCHEDULES, grid, over
from denoiselab.analytic import Gaussian
from denoiselab.schedules import like

TIMES = [0.05, 0.3, 0.6, 0.9]


def normal(x, mean, std):
    return torch.exp(-((x - mean) ** 2) / (2 * std**2)) / (std * math.sqrt(2 * math.pi))


@over("schedule", SCHEDULES)
@pytest.mark.parametrize("t", TIMES)
def test_the_gaussian_denoiser_is_the_posterior_mean_by_quadrature(schedule, t):
    schedule, mean, std = SCHEDULES[schedule], 0.3, 0.5
    alpha, sigma = schedule(t)
    x_t = torch.tensor([-1.0, 0.0, 0.4, 2.0], dtype=torch.float64)
    # The trapezium rule on an analytic integrand that vanishes at the ends converges geometrically.
    x0 = torch.linspace(mean - 10 * std, mean + 10 * std, 8001, dtype=torch.float64)
    joint = normal(x0, mean, std) * normal(x_t[:, None], alpha * x0, sigma)
    expected = (joint * x0).sum(1) / joint.sum(1)
    time = torch.full((4,), t, dtype=torch.float64)
    found = Gaussian(schedule, mean, std)(x_t, time)
    torch.testing.assert_close(found.x0, expected, rtol=1e-11, atol=1e-12)


@over("schedule", SCHEDULES)
@pytest.mark.parametrize("t", TIMES)
def test_eps_is_minus_sigma_times_the_score(schedule, t):
    schedule, mean, std = SCHEDULES[schedule], 0.3, 0.5
    alpha, sigma = schedule(t)
    x_t = torch.randn(7, dtype=torch.float64, requires_grad=True)
    log_density = torch.log(normal(x_t, alpha * mean, torch.sqrt(alpha**2 * std**2 + sigma**2)))
    (score,) = torch.autograd.grad(log_density.sum(), x_t)
    found = Gaussian(schedule, mean, std)(x_t.detach(), torch.full((7,), t, dtype=torch.float64)).eps
    torch.testing.assert_close(found, -sigma * score, rtol=1e-12, atol=1e-14)


@over("schedule", SCHEDULES)
@pytest.mark.parametrize("std", [0.0, 0.5, 2.0])
def test_x0_and_eps_make_up_x_t(schedule, std):
    schedule, t, x_t = SCHEDULES[schedule], grid(100), torch.randn(100, 2, 3, dtype=torch.float64)
    x0, eps = Gaussian(schedule, 0.3, std)(x_t, t)
    alpha, sigma = (like(part, x_t) for part in schedule(t))
    torch.testing.assert_close(alpha * x0 + sigma * eps, x_t, rtol=0, atol=2e-15)  # a few roundings of numbers near 1


@over("schedule", SCHEDULES)
def test_data_of_one_point_are_always_that_point(schedule):
    x0, _ = Gaussian(SCHEDULES[schedule], mean=0.3, std=0.0)(torch.randn(100, dtype=torch.float64), grid(100))
    assert (x0 == 0.3).all()


@over("schedule", SCHEDULES)
@pytest.mark.parametrize("std", [0.0, 0.5, 1.0])
def test_the_flow_carries_the_marginal_at_t_to_the_marginal_at_s(schedule, std):
    schedule, mean = SCHEDULES[schedule], 0.3
    t, s = 0.8, 0.25
    gaussian = Gaussian(schedule, mean, std)
    (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
    quantiles = torch.linspace(-3, 3, 7, dtype=torch.float64)  # a monotone map keeps them
    x_t = alpha_t * mean + torch.sqrt(alpha_t**2 * std**2 + sigma_t**2) * quantiles
    x_s = alpha_s * mean + torch.sqrt(alpha_s**2 * std**2 + sigma_s**2) * quantiles
    torch.testing.assert_close(gaussian.flow(x_t, t, s), x_s, rtol=1e-14, atol=1e-15)


@over("schedule", SCHEDULES)
def test_the_flow_solves_the_probability_flow_ode(schedule):
    # In y = x/alpha and n = sigma/alpha it is dy/dn = eps_hat: central differences along the exact solution.
    schedule, t = SCHEDULES[schedule], torch.tensor(0.5)
    gaussian, x = Gaussian(schedule, 0.3, 0.5), torch.randn(5, dtype=torch.float64)

    def scaled(at):
        alpha, sigma = schedule(at)
        return gaussian.flow(x, t, at) / alpha, sigma / alpha

    (y1, n1), (y2, n2) = scaled(0.5 - 1e-5), scaled(0.5 + 1e-5)
    eps = gaussian(x, torch.full((5,), 0.5, dtype=torch.float64)).eps
    torch.testing.assert_close((y2 - y1) / (n2 - n1), eps, rtol=1e-8, atol=1e-8)


@over("schedule", SCHEDULES)
def test_flows_compose(schedule):
    gaussian, x = Gaussian(SCHEDULES[schedule], 0.3, 0.5), torch.randn(5, dtype=torch.float64)
    torch.testing.assert_close(
        gaussian.flow(gaussian.flow(x, 0.9, 0.4), 0.4, 0.0), gaussian.flow(x, 0.9, 0.0), rtol=1e-14, atol=1e-15
    )
    torch.testing.assert_close(gaussian.flow(x, 0.9, 0.9), x, rtol=1e-15, atol=1e-15)


def test_each_sample_has_its_own_time():
    gaussian, x, t = Gaussian(SCHEDULES["cosine"], 0.3, 0.5), torch.randn(4, 2, 3), grid(4)
    alone = [gaussian(x[i : i + 1], t[i : i + 1]).x0 for i in range(4)]
    assert torch.equal(gaussian(x, t).x0, torch.cat(alone))
    flows = [gaussian.flow(x[i : i + 1], t[i : i + 1], 0.0) for i in range(4)]
    assert torch.equal(gaussian.flow(x, t, torch.zeros(4)), torch.cat(flows))
