import math
from itertools import pairwise

import pytest
import torch

from cases import SCHEDULES, moments, over
from denoiselab.analytic import Gaussian
from denoiselab.samplers import Euler, Heun
from denoiselab.samplers.edm import Churn
from denoiselab.schedules import linear
from denoiselab.spacings import Karras, LogSNR


@over("name", SCHEDULES)
def test_churn_moves_a_gaussian_along_its_own_marginals(name):
    """x_t of variance alpha^2 s^2 + sigma^2 becomes one of that variance later: read off exactly."""
    schedule, std, churn = SCHEDULES[name], 0.5, Churn(steps=10, s_churn=2.0)
    for t in torch.tensor([0.1, 0.5, 0.6], dtype=torch.float64):
        one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
        scale, later, at_later = churn(schedule, one, t, torch.zeros_like)
        added, _, _ = churn(schedule, zero, t, torch.ones_like)
        assert later > t
        assert at_later == schedule(later)
        (alpha_t, sigma_t), (alpha, sigma) = schedule(t), at_later
        # gamma = 2/10; a few roundings, those of time(log_snr) among them.
        torch.testing.assert_close(sigma / alpha, 1.2 * sigma_t / alpha_t, rtol=5e-14, atol=0)
        before, after = alpha_t**2 * std**2 + sigma_t**2, alpha**2 * std**2 + sigma**2
        torch.testing.assert_close(scale**2 * before + added**2, after[None], rtol=5e-14, atol=0)


@over("schedule", SCHEDULES)
@over("sampler", [Euler, Heun])
def test_with_churn_the_chain_is_exact_for_data_of_one_point(schedule, sampler):
    # eps_hat does not change along the way, and churn keeps the law q(x_s|x_0).
    schedule, point = SCHEDULES[schedule], 0.3
    alpha, sigma = map(float, schedule(1.0))
    denoise = Gaussian(schedule, point, std=0.0)
    for s, mean, std in moments(sampler(8, LogSNR(), s_churn=2.0), denoise, schedule, alpha * point, sigma):
        alpha, sigma = map(float, schedule(s))
        # Read off states as large as the point: a few roundings of these, and of themselves.
        assert mean == pytest.approx(alpha * point, abs=1e-14)
        assert std == pytest.approx(sigma, rel=1e-13, abs=1e-15)


@over("schedule", SCHEDULES)
@over("sampler", [Euler, Heun])
def test_with_churn_a_gaussian_s_moments_are_those_of_algorithm_2(schedule, sampler):
    # In its own symbols: on y - m the slope is d = k(n) y with k = n/(std^2 + n^2), so that a step is a factor.
    schedule, (m, std) = SCHEDULES[schedule], (0.3, 0.5)
    steps, s_churn, s_min, s_max, s_noise = 8, 2.0, 0.05, 20.0, 1.1
    times = Karras()(steps, schedule)
    end, *n = (float(sigma / alpha) for alpha, sigma in map(schedule, [1.0, *times]))
    k = lambda n: n / (std**2 + n**2)  # noqa: E731
    made, start = sampler(steps, Karras(), s_churn, s_min, s_max, s_noise), float(torch.hypot(*schedule(times[0])))
    found = moments(made, Gaussian(schedule, m, std), schedule, 0.0, start)
    mean, variance = -m, 1 + n[0] ** 2
    for (now, then), (s, found_mean, found_std) in zip(pairwise(n), found, strict=True):
        hat = min(now * (1 + s_churn / steps), end) if s_min <= now <= s_max else now
        variance += s_noise**2 * (hat**2 - now**2)
        factor = 1 + (then - hat) * k(hat)
        if sampler is Heun and then > 0:
            factor = 1 + (then - hat) * (k(hat) + k(then) * factor) / 2
        mean, variance, alpha = factor * mean, factor**2 * variance, float(schedule(s).alpha)
        # 8 steps of roundings.
        assert found_mean == pytest.approx(alpha * (m + mean), abs=1e-14)
        assert found_std == pytest.approx(alpha * math.sqrt(variance), rel=1e-13)


@over("sampler", [Euler, Heun])
def test_churn_draws_once_a_step_inside_its_range_and_never_at_the_schedule_s_end(sampler):
    schedule, drawn = SCHEDULES["cosine"], []

    def noise(x):
        drawn.append(x)
        return torch.randn_like(x)

    x = torch.randn(2, 3, dtype=torch.float64)
    sampler(8, LogSNR(), s_churn=1.0)(Gaussian(schedule), schedule, x, noise)
    assert len(drawn) == 7  # all steps but the first, which is at t = 1
    for outside in {"s_min": 1e9}, {"s_max": 0.0}, {"s_churn": 0.0}:
        sampler(8, LogSNR(), **{"s_churn": 1.0} | outside)(Gaussian(schedule), schedule, x, noise)
        assert len(drawn) == 7


@over("name", ["cosine", "flow", "ve"])
def test_churn_is_within_a_range_of_sigma_over_alpha(name):
    """Of either end: s_min and s_max are levels of EDM's own process, where alpha is 1."""
    schedule, churn = SCHEDULES[name], Churn(10, 1.0, s_min=0.5, s_max=2.0)
    for ratio, inside in ((0.45, False), (0.55, True), (1.9, True), (2.1, False)):
        t = schedule.time(-2 * math.log(ratio))
        _, later, _ = churn(schedule, torch.zeros(1, dtype=torch.float64), t, torch.ones_like)
        assert bool(later > t) == inside


def test_gamma_is_at_most_the_square_root_of_2_less_1():
    schedule, t = linear(T=None), torch.tensor(0.3, dtype=torch.float64)
    _, later, _ = Churn(steps=1, s_churn=1e6)(schedule, torch.zeros(1), t, torch.randn_like)
    assert float(schedule.log_snr(t) - schedule.log_snr(later)) == pytest.approx(2 * torch.log(torch.tensor(2.0)) / 2)


def test_s_noise_scales_what_is_added():
    schedule, t, x = linear(T=None), torch.tensor(0.3, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    once, thrice = (Churn(10, 1.0, s_noise=factor)(schedule, x, t, torch.ones_like)[0] for factor in (1.0, 3.0))
    torch.testing.assert_close(thrice, 3 * once, rtol=1e-15, atol=0)
