import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from cases import SCHEDULES, SPACINGS, VP, moments, over
from denoiselab.analytic import Gaussian
from denoiselab.errors import ConfigError, IncompatibleError
from denoiselab.samplers import DDPM
from denoiselab.samplers.sampler import posterior_variance
from denoiselab.schedules import Schedule, linear
from denoiselab.spacings import LogSNR, Spacing, Trailing


@over("schedule", SCHEDULES)
@over("spacing", SPACINGS)
def test_with_small_variance_the_chain_is_exact_for_data_of_one_point(schedule, spacing):
    # From q(x_t|x_0) at the grid's first time, every state has the law q(x_s|x_0).
    schedule, spacing, point = SCHEDULES[schedule], SPACINGS[spacing], 0.3
    alpha, sigma = schedule(spacing(10, schedule)[0])
    denoise = Gaussian(schedule, point, std=0.0)
    for s, mean, std in moments(DDPM(10, spacing), denoise, schedule, float(alpha) * point, float(sigma)):
        alpha, sigma = map(float, schedule(s))
        # The mean is a difference of two affine values of size 1; the variance loses what sigma_s/sigma_t amplifies.
        assert mean == pytest.approx(alpha * point, abs=1e-14)
        assert std == pytest.approx(sigma, rel=1e-11, abs=1e-15)


@over("schedule", VP)
@over("spacing", SPACINGS)
def test_with_large_variance_the_chain_is_exact_for_standard_normal_data(schedule, spacing):
    # On a VP schedule every x_t is then N(0, I); the last step adds no noise, and leaves E[x0|x_t] = alpha_t x_t.
    schedule, spacing = SCHEDULES[schedule], SPACINGS[spacing]
    *states, last = moments(DDPM(10, spacing, variance="large"), Gaussian(schedule), schedule, 0.0, 1.0)
    for _, mean, std in states:
        assert mean == 0
        assert std == pytest.approx(1, rel=1e-14)
    assert last[2] == pytest.approx(float(schedule(spacing(10, schedule)[-2]).alpha), rel=1e-14)


@pytest.mark.parametrize("variance", ["small", "large"])
def test_both_variances_tend_to_the_data_s_own_with_more_steps(variance):
    # First order in the step: four times the steps leave a quarter of the error.
    schedule, errors = SCHEDULES["linear_continuous"], []
    for steps in (400, 1600):
        sampler = DDPM(steps, Trailing(), variance)
        *_, (_, _, std) = moments(sampler, Gaussian(schedule, std=0.5), schedule, 0.0, 1.0)
        errors.append(abs(std - 0.5))
    assert errors[1] < 0.01
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)


def test_a_step_of_the_whole_chain_is_ddpm_s_algorithm_2():
    # x_{t-1} = (x_t - beta_t/sqrt(1 - abar_t) eps_hat)/sqrt(1 - beta_t) + sigma_t z.
    T, schedule = 50, linear(50)
    beta = torch.linspace(0.1 / T, 20 / T, T, dtype=torch.float64)
    alpha_bar = (1 - beta).cumprod(0)
    denoise, x, z = Gaussian(schedule, 0.3, 0.5), *torch.randn(2, 7, dtype=torch.float64)
    for i in range(2, T + 1):
        t, s = torch.tensor([i / T, (i - 1) / T], dtype=torch.float64)
        b, eps = beta[i - 1], denoise(x, t.expand(7)).eps
        mean = (x - b / torch.sqrt(1 - alpha_bar[i - 1]) * eps) / torch.sqrt(1 - b)
        for variance, expected in (
            ("large", b),
            ("small", (1 - alpha_bar[i - 2]) / (1 - alpha_bar[i - 1]) * b),
        ):
            found, _ = DDPM(T, Trailing(), variance).step(denoise, schedule, x, t, s, None, lambda x: z)
            # 1/alpha_t amplifies the rounding of x by 50 at most.
            torch.testing.assert_close(found, mean + torch.sqrt(expected) * z, rtol=0, atol=1e-13)


def exact_fraction(schedule: Schedule, t: Tensor, s: Tensor, std: float) -> float:
    """f of the variance that x_s has given x_t, for data N(m, std^2).

    That is beta-tilde, given x_0 too, and what x_0 = E[x_0|x_t] +- sqrt(std^2 sigma_t^2/V_t) adds through the mean.
    """
    (alpha_t, sigma_t), alpha_s = schedule(t), schedule(s).alpha
    beta, beta_tilde = posterior_variance(schedule(t), schedule(s))
    of_x0 = alpha_s * beta / sigma_t**2
    unknown = std**2 * sigma_t**2 / (alpha_t**2 * std**2 + sigma_t**2)
    return float(torch.log1p(of_x0**2 * unknown / beta_tilde) / torch.log(beta / beta_tilde))


@over("schedule", SCHEDULES)
@pytest.mark.parametrize("steps", [2, 3, 10, 50])
def test_with_the_exact_fraction_learned_at_each_level_every_state_has_the_exact_law(schedule, steps):
    schedule, mean, std = SCHEDULES[schedule], 0.3, 0.5
    times = LogSNR()(steps, schedule)
    below = {float(t): s for t, s in pairwise(times)}
    exact = Gaussian(schedule, mean, std)

    def denoise(x, t):
        s = below[float(t[0])]
        f = exact_fraction(schedule, t[0], s, std) if s > 0 else 0.0
        return exact(x, t)._replace(variance=torch.full_like(x, f))

    (alpha, sigma), sampler = schedule(1.0), DDPM(steps, LogSNR(), variance="learned")
    start = float(alpha) * mean, math.hypot(float(alpha) * std, float(sigma))
    *states, _ = moments(sampler, denoise, schedule, *start)
    for s, found_mean, found_std in states:
        alpha, sigma = map(float, schedule(s))
        # Sums of numbers of the size of x at the noisier end, prior_std; a few roundings a step.
        assert found_mean == pytest.approx(alpha * mean, abs=1e-13 * schedule.prior_std)
        assert found_std == pytest.approx(math.hypot(alpha * std, sigma), rel=1e-9)


@over("schedule", VP)
def test_for_narrower_data_than_the_unit_normal_the_exact_fraction_lies_between_the_two_variances(schedule):
    schedule = SCHEDULES[schedule]
    for t, s in pairwise(LogSNR()(10, schedule)[:-1]):
        fractions = [exact_fraction(schedule, t, s, std) for std in (0.0, 0.1, 0.5, 0.9, 1.0)]
        assert fractions == sorted(fractions)
        assert fractions[0] == 0  # "small" is right for one point
        # And "large" for N(0, I); f is over the log of a ratio that comes to within 1e-7 of 1.
        assert fractions[-1] == pytest.approx(1, abs=1e-7)


@over("schedule", SCHEDULES)
def test_an_interpolated_step_with_the_exact_fraction_has_the_exact_law(schedule):
    schedule = SCHEDULES[schedule]
    t, s = torch.tensor([0.7, 0.4], dtype=torch.float64)
    sampler = DDPM(1, Between(t, s), "interpolated", exact_fraction(schedule, t, s, std=0.5))
    (alpha, sigma), (alpha_s, sigma_s) = schedule(t), schedule(s)
    start = float(alpha) * 0.3, math.hypot(float(alpha) * 0.5, float(sigma))
    ((_, mean, std),) = moments(sampler, Gaussian(schedule, 0.3, 0.5), schedule, *start)
    assert mean == pytest.approx(float(alpha_s) * 0.3, abs=1e-13 * schedule.prior_std)
    assert std == pytest.approx(math.hypot(float(alpha_s) * 0.5, float(sigma_s)), rel=1e-12)


class Between(Spacing):
    def __init__(self, *times: Tensor) -> None:
        self.times = torch.stack(times)

    def __call__(self, steps: int, schedule: Schedule) -> Tensor:
        return self.times


def added(variance: str, fraction: float = 0.5, f: Tensor | None = None) -> Tensor:
    """The noise that a step adds, (2, 3) for z = 1."""
    schedule, x = SCHEDULES["cosine"], torch.zeros(2, 3, dtype=torch.float64)
    t, s = torch.tensor([0.7, 0.4], dtype=torch.float64)
    denoise = lambda x, t: Gaussian(schedule)(x, t)._replace(variance=f)  # noqa: E731
    return DDPM(1, Trailing(), variance, fraction).step(denoise, schedule, x, t, s, None, torch.ones_like)[0]


def test_half_of_each_is_the_geometric_mean_and_the_ends_are_small_and_large():
    small, large = added("small"), added("large")
    # A power and a root: a rounding or two.
    torch.testing.assert_close(added("interpolated", 0.5) ** 2, small * large, rtol=1e-15, atol=0)
    assert torch.equal(added("interpolated", 0.0), small)
    assert torch.equal(added("interpolated", 1.0), large)


def test_a_learned_variance_is_each_number_s_own_and_may_leave_the_two_bounds():
    f = torch.tensor([[0.0, 1.0, 0.5], [-0.3, 0.25, 1.2]], dtype=torch.float64)
    expected = added("small") ** (1 - f) * added("large") ** f
    torch.testing.assert_close(added("learned", f=f), expected, rtol=1e-15, atol=0)


def test_a_learned_variance_in_float32_leaves_the_state_s_precision():
    f = torch.full((2, 3), 0.5)
    assert added("learned", f=f).dtype == torch.float64
    assert added("learned", f=f).allclose(added("interpolated", 0.5))


def test_a_variance_that_was_not_learned_is_refused_in_one_line():
    with pytest.raises(IncompatibleError, match=r"sampler\.variance=learned needs a model trained with loss=hybrid"):
        added("learned")


def test_a_step_computes_each_level_once():
    class Counting:
        def __getattr__(self, name):
            return getattr(linear(), name)

        def __call__(self, t):
            times.append(float(t))
            return SCHEDULES["linear"](t)

    times: list[float] = []
    denoise = Gaussian(SCHEDULES["linear"])
    DDPM(3, Trailing())(denoise, Counting(), torch.randn(2))
    assert len(times) == 2 * 3


def test_another_variance_is_refused_with_what_is_allowed():
    told = r"variance must be small, large, interpolated or learned \(got medium\)"
    with pytest.raises(ConfigError, match=told):
        DDPM(10, Trailing(), variance="medium")
    with pytest.raises(ConfigError, match=r"fraction must be from 0 to 1"):
        DDPM(10, Trailing(), variance="interpolated", fraction=1.5)
