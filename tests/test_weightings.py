import math

import numpy as np
import pytest
import torch

from cases import SCHEDULES, VP, WEIGHTINGS, grid, over
from denoiselab.schedules import VESqrt
from denoiselab.weightings import SNR, VLB, VMSE, FlowMSE, MinSNR, RandomWalk, Simple


def snr(schedule, t):
    alpha, sigma = schedule(t)
    return alpha**2 / sigma**2


# The table of §3 of the design's science: the weight on the x0-MSE, by SNR, alpha and sigma.
ON_X0 = {
    "simple": lambda snr, alpha, sigma: snr,
    "snr": lambda snr, alpha, sigma: snr + 1,
    "truncated_snr": lambda snr, alpha, sigma: snr.clamp(min=1),
    "min_snr": lambda snr, alpha, sigma: snr.clamp(max=5),
    "p2": lambda snr, alpha, sigma: snr / (1 + snr),
    "x0_mse": lambda snr, alpha, sigma: torch.ones_like(snr),
    "edm": lambda snr, alpha, sigma: snr + 1 / 0.5**2,
    "sigmoid": lambda snr, alpha, sigma: math.exp(2) * snr / (math.exp(2) + snr),
    # |v - v_hat| = |x0 - x0_hat| (alpha^2 + sigma^2)/sigma and |u - u_hat| = |x0 - x0_hat| (alpha + sigma)/sigma.
    "v_mse": lambda snr, alpha, sigma: ((alpha**2 + sigma**2) / sigma) ** 2,
    "flow_mse": lambda snr, alpha, sigma: ((alpha + sigma) / sigma) ** 2,
}


@over("schedule", SCHEDULES)
@over("weighting", ON_X0)
def test_a_weighting_is_that_of_its_paper(schedule, weighting):
    schedule, t = SCHEDULES[schedule], grid(300, high=0.99)
    ratio = snr(schedule, t)
    found = WEIGHTINGS[weighting](schedule, t) * ratio
    torch.testing.assert_close(found, ON_X0[weighting](ratio, *schedule(t)), rtol=1e-11, atol=0)


@over("schedule", VP)
def test_snr_plus_one_is_the_v_mse_of_a_vp_schedule_and_snr_plus_zero_the_simple_loss(schedule):
    schedule, t = SCHEDULES[schedule], grid(100, high=0.99)
    torch.testing.assert_close(SNR(1.0)(schedule, t), VMSE()(schedule, t), rtol=1e-11, atol=0)
    assert torch.equal(SNR(0.0)(schedule, t), Simple()(schedule, t))


def test_flow_mse_on_the_flow_schedule_is_one_over_t_squared_on_x0():
    t = grid(99, high=0.99)
    on_x0 = FlowMSE()(SCHEDULES["flow"], t) * snr(SCHEDULES["flow"], t)
    torch.testing.assert_close(on_x0, 1 / t**2, rtol=1e-12, atol=0)


def test_the_unit_random_walk_weighs_step_i_by_one_over_two_i_squared():
    T = 50
    i = torch.arange(1, T + 1, dtype=torch.float64)
    schedule = VESqrt(T)
    on_x0 = RandomWalk(T)(schedule, i / T) * snr(schedule, i / T)
    torch.testing.assert_close(on_x0, 1 / (2 * i**2), rtol=1e-11, atol=0)
    # With the exact reverse variance 1 - 1/i it is 1/(2 i (i - 1)), half the fall of the SNR.
    exact = (snr(schedule, (i[1:] - 1) / T) - snr(schedule, i[1:] / T)) / 2
    torch.testing.assert_close(exact, 1 / (2 * i[1:] * (i[1:] - 1)), rtol=1e-11, atol=0)


@over("schedule", SCHEDULES)
def test_simple_weights_every_eps_alike(schedule):
    assert torch.equal(Simple()(SCHEDULES[schedule], grid(100)), torch.ones(100, dtype=torch.float64))


@over("schedule", SCHEDULES)
@pytest.mark.parametrize("gamma", [1.0, 5.0])
def test_min_snr_weights_x0_by_the_smaller_of_snr_and_gamma(schedule, gamma):
    schedule, t = SCHEDULES[schedule], grid(500, high=0.999)
    weight_on_x0 = MinSNR(gamma)(schedule, t) * snr(schedule, t)
    torch.testing.assert_close(weight_on_x0, snr(schedule, t).clamp(max=gamma), rtol=1e-12, atol=0)


def test_min_snr_is_one_at_snr_zero():
    assert MinSNR(5.0)(SCHEDULES["flow"], torch.ones(1)) == 1.0


@over("t", [0.1, 0.5, 0.9])
def test_vlb_has_its_closed_forms(t):
    # lambda = log abar - log(1 - abar), so -lambda'/2 = beta/(2 (1 - abar)); for flow, lambda'/2 = -1/(t (1 - t)).
    linear = SCHEDULES["linear_continuous"]
    beta, sigma = 0.1 + 19.9 * t, float(linear(t).sigma)
    time = torch.tensor([t], dtype=torch.float64)
    assert float(VLB()(linear, time)) == pytest.approx(beta / (2 * sigma**2), rel=1e-13)
    assert float(VLB()(SCHEDULES["flow"], time)) == pytest.approx(1 / (t * (1 - t)), rel=1e-13)


@over("schedule", SCHEDULES)
def test_the_integral_of_vlb_is_half_the_fall_of_log_snr(schedule):
    # Gauss-Legendre on pieces that end at the nodes of the tables: exact to rounding.
    schedule = SCHEDULES[schedule]
    points, weights = (torch.from_numpy(part) for part in np.polynomial.legendre.leggauss(8))
    edges = torch.arange(20, 881, dtype=torch.float64) / 1000
    t = edges[:-1, None] + (points + 1) / 2000
    integral = (VLB()(schedule, t.flatten()).reshape(t.shape) * weights).sum() / 2000
    expected = (schedule.log_snr(0.02) - schedule.log_snr(0.88)) / 2
    torch.testing.assert_close(integral, expected, rtol=1e-11, atol=0)


@over("schedule", SCHEDULES)
def test_vlb_is_the_limit_of_the_discrete_bound(schedule):
    # DDPM's L_{t-1} weighs x0 by (SNR_s - SNR_t)/2, eps by that over SNR_t; per unit of time, first order in t - s.
    schedule, t, h = SCHEDULES[schedule], (torch.arange(20, 880, 10).double() + 0.5) / 1000, 1e-7
    discrete = (snr(schedule, t - h) - snr(schedule, t)) / (2 * snr(schedule, t) * h)
    torch.testing.assert_close(discrete, VLB()(schedule, t), rtol=2e-5, atol=0)


@over("schedule", SCHEDULES)
@over("weighting", WEIGHTINGS)
def test_weights_are_positive_one_for_each_sample(schedule, weighting):
    # Up to where a schedule ended early becomes constant; from there on nothing is left to learn by the bound.
    weight = WEIGHTINGS[weighting](SCHEDULES[schedule], grid(50, high=0.88))
    assert weight.shape == (50,)
    assert ((weight > 0) & weight.isfinite()).all()
