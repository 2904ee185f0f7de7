import pytest
import torch

from cases import PARAMETERIZATIONS, SCHEDULES, VP, grid, over, over_pairs
from denoiselab.parameterizations import X0, Eps, V

# The table of §2 of the design's science: (c_skip, c_out) by alpha and sigma.
TABLE = {
    "eps": lambda alpha, sigma: (1 / alpha, -sigma / alpha),
    "x0": lambda alpha, sigma: (0 * alpha, 1 + 0 * alpha),
    "v": lambda alpha, sigma: (alpha / (alpha**2 + sigma**2), -sigma / (alpha**2 + sigma**2)),
}
TARGETS = {
    "eps": lambda alpha, sigma, x0, eps: eps,
    "x0": lambda alpha, sigma, x0, eps: x0,
    "v": lambda alpha, sigma, x0, eps: alpha * eps - sigma * x0,
}


@over_pairs()
def test_the_coefficients_are_those_of_the_literature(schedule, parameterization):
    schedule, t = SCHEDULES[schedule], grid(200)
    found = torch.stack(PARAMETERIZATIONS[parameterization].coefficients(schedule, t))
    # The same arithmetic in another order: a rounding or two.
    torch.testing.assert_close(found, torch.stack(TABLE[parameterization](*schedule(t))), rtol=1e-15, atol=0)


@over_pairs()
def test_the_targets_are_those_of_the_literature(schedule, parameterization):
    schedule, t = SCHEDULES[schedule], grid(8)
    x0, eps = torch.randn(2, 8, 3, dtype=torch.float64)
    alpha, sigma = (part[:, None] for part in schedule(t))
    found = PARAMETERIZATIONS[parameterization].target(x0, eps, schedule, t)
    torch.testing.assert_close(found, TARGETS[parameterization](alpha, sigma, x0, eps), rtol=1e-15, atol=1e-15)


@over_pairs()
def test_coefficients_undo_the_target(schedule, parameterization):
    # c_skip (alpha x0 + sigma eps) + c_out (a x0 + b eps) = x0 for all x0 and eps; likewise for eps.
    schedule, parameterization, t = SCHEDULES[schedule], PARAMETERIZATIONS[parameterization], grid(1000)
    alpha, sigma = schedule(t)
    a, b = parameterization.target_coefficients(schedule, t)
    one, zero = torch.ones_like(t), torch.zeros_like(t)
    for (skip, out), (of_x0, of_eps) in (
        (parameterization.coefficients(schedule, t), (one, zero)),
        (parameterization.eps_coefficients(schedule, t), (zero, one)),
    ):
        # The terms that cancel are as large as 1/sigma_min = 1000 or 1/alpha_min = 20,000.
        torch.testing.assert_close(skip * alpha + out * a, of_x0, rtol=0, atol=1e-11)
        torch.testing.assert_close(skip * sigma + out * b, of_eps, rtol=0, atol=1e-11)


@over("schedule", VP)
def test_v_is_the_rotation_of_x_t_on_a_vp_schedule(schedule):
    # Salimans & Ho: x0 = alpha x_t - sigma v and eps = sigma x_t + alpha v.
    schedule, t = SCHEDULES[schedule], grid(300)
    alpha, sigma = schedule(t)
    torch.testing.assert_close(
        torch.stack(V().coefficients(schedule, t)), torch.stack([alpha, -sigma]), rtol=2e-15, atol=0
    )
    # (1 - alpha^2)/sigma loses alpha^2's rounding over sigma, 1e-16/0.01.
    torch.testing.assert_close(
        torch.stack(V().eps_coefficients(schedule, t)), torch.stack([sigma, alpha]), rtol=0, atol=1e-13
    )


def test_x0_follows_from_v_and_from_x0_but_not_from_eps_where_alpha_is_zero():
    flow, end = SCHEDULES["flow"], torch.ones(1, dtype=torch.float64)
    assert [float(c) for c in V().coefficients(flow, end)] == [0.0, -1.0]
    assert [float(c) for c in X0().coefficients(flow, end)] == [0.0, 1.0]
    assert not torch.stack(Eps().coefficients(flow, end)).isfinite().any()


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
def test_the_target_is_of_the_dtype_and_shape_of_x0(parameterization):
    x0 = torch.randn(4, 3, 2, 2)
    target = PARAMETERIZATIONS[parameterization].target(x0, torch.randn_like(x0), SCHEDULES["cosine"], grid(4))
    assert (target.dtype, target.shape) == (x0.dtype, x0.shape)
