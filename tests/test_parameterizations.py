import pytest
import torch

from cases import PARAMETERIZATIONS, SCHEDULES, VP, grid, over, over_pairs
from denoiselab.parameterizations import EDM, X0, Eps, Flow, Score, V
from denoiselab.schedules import VarianceExploding

SIGMA_DATA = 0.5


def mean_parts(schedule, t):
    """(c_x, c_0) of the mean of q(x_s|x_t, x_0) = c_x x_t + c_0 x_0, s = t - 1/100, by DESIGN's one form."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule((t - 0.01).clamp(min=0.0))
    alpha_ts = alpha_t / alpha_s
    var_ts = sigma_t**2 - (alpha_ts * sigma_s) ** 2
    return alpha_ts * sigma_s**2 / sigma_t**2, alpha_s * var_ts / sigma_t**2


# The table of §2 of the design's science: (c_skip, c_out) and the target.
def table(name, schedule, t):
    alpha, sigma = schedule(t)
    one, zero, variance = torch.ones_like(alpha), torch.zeros_like(alpha), alpha**2 + sigma**2
    edm = alpha**2 * SIGMA_DATA**2 + sigma**2
    c_x, c_0 = mean_parts(schedule, t)
    return {
        "eps": (1 / alpha, -sigma / alpha),
        "x0": (zero, one),
        "v": (alpha / variance, -sigma / variance),
        "flow": (1 / (alpha + sigma), -sigma / (alpha + sigma)),
        "score": (1 / alpha, sigma**2 / alpha),
        "mean": (-c_x / c_0, 1 / c_0),
        "edm": (alpha * SIGMA_DATA**2 / edm, sigma * SIGMA_DATA / edm.sqrt()),
    }[name]


def target(name, schedule, t, x0, eps):
    alpha, sigma = (part[:, None] for part in schedule(t))
    x_t = alpha * x0 + sigma * eps
    c_x, c_0 = (part[:, None] for part in mean_parts(schedule, t))
    c_skip, c_out = (part[:, None] for part in table("edm", schedule, t))
    return {
        "eps": eps,
        "x0": x0,
        "v": alpha * eps - sigma * x0,
        "flow": eps - x0,
        "score": -(x_t - alpha * x0) / sigma**2,  # the gradient of log N(x_t; alpha x0, sigma^2)
        "mean": c_x * x_t + c_0 * x0,
        "edm": (x0 - c_skip * x_t) / c_out,
    }[name]


@over_pairs()
def test_the_coefficients_are_those_of_the_literature(schedule, parameterization):
    schedule, t = SCHEDULES[schedule], grid(200)
    found = torch.stack(PARAMETERIZATIONS[parameterization].coefficients(schedule, t))
    # The same arithmetic in another order: a rounding or two; var_ts, a difference, is known to 1e-12 of itself.
    rtol = 1e-10 if parameterization == "mean" else 2e-15
    torch.testing.assert_close(found, torch.stack(table(parameterization, schedule, t)), rtol=rtol, atol=0)


@over_pairs()
def test_the_targets_are_those_of_the_literature(schedule, parameterization):
    schedule, t = SCHEDULES[schedule], grid(8)
    x0, eps = torch.randn(2, 8, 3, dtype=torch.float64)
    found = PARAMETERIZATIONS[parameterization].target(x0, eps, schedule, t)
    # The score and EDM's F by their definitions cancel at small sigma, 0.03 here: 1e-15/sigma^2.
    torch.testing.assert_close(found, target(parameterization, schedule, t, x0, eps), rtol=1e-11, atol=1e-11)


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
        # To a few roundings of the terms that cancel, which are as large as 1/sigma_min or 1/alpha_min.
        for of, x, y in ((of_x0, skip * alpha, out * a), (of_eps, skip * sigma, out * b)):
            assert ((x + y - of).abs() <= 1e-15 * (1 + x.abs() + y.abs())).all()


@over("schedule", VP)
def test_v_is_the_rotation_of_x_t_on_a_vp_schedule(schedule):
    # Salimans & Ho: x0 = alpha x_t - sigma v and eps = sigma x_t + alpha v.
    schedule, t = SCHEDULES[schedule], grid(300)
    alpha, sigma = schedule(t)
    torch.testing.assert_close(
        torch.stack(V().coefficients(schedule, t)), torch.stack([alpha, -sigma]), rtol=2e-15, atol=0
    )
    torch.testing.assert_close(
        torch.stack(V().eps_coefficients(schedule, t)), torch.stack([sigma, alpha]), rtol=2e-15, atol=0
    )


def test_x0_follows_from_v_and_from_x0_but_not_from_eps_where_alpha_is_zero():
    flow, end = SCHEDULES["flow"], torch.ones(1, dtype=torch.float64)
    assert [float(c) for c in V().coefficients(flow, end)] == [0.0, -1.0]
    assert [float(c) for c in X0().coefficients(flow, end)] == [0.0, 1.0]
    assert not torch.stack(Eps().coefficients(flow, end)).isfinite().any()


@over("schedule", VP)
def test_an_error_of_f_grows_near_noise_in_x0_from_eps_and_near_data_in_eps_from_x0_but_nowhere_from_v(schedule):
    schedule, t = SCHEDULES[schedule], torch.tensor([0.001, 0.999], dtype=torch.float64)
    (alpha, sigma), (x0, eps), delta = schedule(t), torch.randn(2, 2, dtype=torch.float64), 0.5

    def errors(parameterization):
        """Of x0_hat and eps_hat, where F is wrong by delta."""
        F = parameterization.target(x0, eps, schedule, t) + delta
        c_skip, c_out, e_skip, e_out = parameterization.inverse(schedule, t)
        x_t = alpha * x0 + sigma * eps
        return (c_skip * x_t + c_out * F - x0).abs(), (e_skip * x_t + e_out * F - eps).abs()

    one = torch.full_like(t, delta)
    from_eps, from_x0, from_v = errors(Eps()), errors(X0()), errors(V())
    # The rounding of x0 and eps, and of terms as large as the error.
    for found, expected in (
        (from_eps, (delta * sigma / alpha, one)),
        (from_x0, (one, delta * alpha / sigma)),
        (from_v, (delta * sigma, delta * alpha)),
    ):
        torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-14)
    assert from_eps[0][1] > 10 * delta
    assert from_x0[1][0] > 10 * delta
    assert torch.stack(from_v).max() <= delta + 1e-14


@over("schedule", VP)
def test_edm_s_f_with_data_of_unit_variance_is_minus_v(schedule):
    schedule, t = SCHEDULES[schedule], grid(300)
    for found, v in zip(EDM(1.0).target_coefficients(schedule, t), V().target_coefficients(schedule, t), strict=True):
        torch.testing.assert_close(found, -v, rtol=2e-15, atol=0)


@over("schedule", SCHEDULES)
@pytest.mark.parametrize("std", [0.5, 1.0])
def test_edm_s_scalings_give_its_network_inputs_and_targets_of_unit_variance(schedule, std):
    # Data of variance std^2: var(c_in x_t) = 1 and var(F*) = a^2 std^2 + b^2 = 1 at every level (EDM, appendix B.6).
    schedule, t, edm = SCHEDULES[schedule], grid(300), EDM(std)
    (alpha, sigma), (a, b) = schedule(t), edm.target_coefficients(schedule, t)
    c_in, label = edm.network_input(schedule, t)
    one = torch.ones_like(t)
    torch.testing.assert_close(c_in**2 * (alpha**2 * std**2 + sigma**2), one, rtol=2e-15, atol=0)
    torch.testing.assert_close(a**2 * std**2 + b**2, one, rtol=2e-15, atol=0)
    inside = schedule.log_snr(t).abs() < 60
    torch.testing.assert_close(label[inside], (torch.log(sigma / alpha) / 4)[inside], rtol=1e-10, atol=1e-12)
    assert label.isfinite().all()


def test_the_velocity_of_the_flow_schedule_is_the_derivative_of_x_t():
    x0, eps = torch.randn(2, 5, dtype=torch.float64)
    (alpha, sigma), (alpha_h, sigma_h) = SCHEDULES["flow"](0.5), SCHEDULES["flow"](0.75)
    slope = ((alpha_h - alpha) * x0 + (sigma_h - sigma) * eps) / 0.25  # x_t is linear in t
    assert torch.equal(Flow().target(x0, eps, SCHEDULES["flow"], torch.full((5,), 0.5)), slope)  # all powers of two


@over("schedule", SCHEDULES)
def test_tweedie_s_formula_gives_x0_from_the_score(schedule):
    schedule, t = SCHEDULES[schedule], grid(100, high=0.98)
    alpha, sigma = schedule(t)
    expected = torch.stack([1 / alpha, sigma**2 / alpha])  # x0 = (x_t + sigma^2 score)/alpha
    torch.testing.assert_close(torch.stack(Score().coefficients(schedule, t)), expected, rtol=1e-15, atol=0)


def test_a_network_is_given_x_t_and_t_as_they_are_but_on_schedules_that_explode():
    t = grid(50)
    for name, schedule in SCHEDULES.items():
        c_in, label = Eps().network_input(schedule, t)
        _, sigma = schedule(t)
        if isinstance(schedule, VarianceExploding):
            torch.testing.assert_close(c_in**2 * (1 + sigma**2), torch.ones_like(t), rtol=2e-15, atol=0)
        else:
            assert torch.equal(c_in, torch.ones_like(t))
        assert (label.diff() > 0).all(), name


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
def test_the_target_is_of_the_dtype_and_shape_of_x0(parameterization):
    x0 = torch.randn(4, 3, 2, 2)
    target = PARAMETERIZATIONS[parameterization].target(x0, torch.randn_like(x0), SCHEDULES["cosine"], grid(4))
    assert (target.dtype, target.shape) == (x0.dtype, x0.shape)
