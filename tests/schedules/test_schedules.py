import math

import mpmath
import pytest
import torch

from cases import SCHEDULES, VP, grid, over
from denoiselab import schedules
from denoiselab.errors import ConfigError
from denoiselab.parameterizations import Mean
from denoiselab.samplers.sampler import posterior_variance
from denoiselab.schedules import Flow, Level, Linear, Schedule, Table, cosine, like, linear
from denoiselab.schedules.schedule import noise_label


def alpha_bar(schedule: Schedule, t: float) -> float:
    return float(schedule(t).alpha) ** 2


def betas(table: Table) -> torch.Tensor:
    return -torch.expm1(table.log_alpha_bar(table.nodes).diff())


def used(schedule: Schedule) -> float:
    """The t at which the schedule ends early, 1 where it does not."""
    return schedule.t_end


# Published numbers; each tolerance is half a unit of the last published digit.


@pytest.mark.parametrize(
    ("i", "published", "half_unit"),
    [(1, 0.9999, 5e-16), (250, 0.524085, 5e-7), (500, 0.0785872, 5e-8), (1000, 4.035830e-5, 5e-12)],
)
def test_linear_has_the_alpha_bars_of_ddpm(i, published, half_unit):
    assert alpha_bar(linear(), i / 1000) == pytest.approx(published, rel=0, abs=half_unit)


def test_linear_has_the_betas_of_ddpm():
    # Differences of a cumulative sum near 10, in float64: 1e-15 of 1e-4 at the least.
    expected = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    torch.testing.assert_close(betas(linear()), expected, rtol=2e-11, atol=0)


def test_continuous_linear_ends_at_exp_of_minus_10_05():
    assert alpha_bar(linear(T=None), 1.0) == pytest.approx(math.exp(-10.05), rel=1e-14)
    assert alpha_bar(linear(T=None), 1.0) == pytest.approx(4.32e-5, rel=0, abs=5e-8)


def test_the_linear_table_tends_to_the_continuous_form_as_half_the_integral_of_beta_squared_over_t():
    # log(1 - b) = -b - b^2/2 - ..., so T (continuous - table) -> 1/2 int beta^2 = (0.01 + 1.99 + 19.9^2/3)/2.
    T = 100_000
    gap = linear(T=None).log_alpha_bar(torch.ones(1).double()) - linear(T).log_alpha_bar(torch.ones(1).double())
    assert T * float(gap) == pytest.approx((0.01 + 1.99 + 19.9**2 / 3) / 2, rel=2e-4)  # the next order is 1/T


@pytest.mark.parametrize(("u", "published"), [(0.25, 0.8470122), (0.5, 0.4938436), (0.75, 0.1442721), (0.9, 0.0240917)])
@over("T", [None, 1000])
def test_cosine_has_the_alpha_bars_of_iddpm(u, published, T):
    assert alpha_bar(cosine(T), u) == pytest.approx(published, rel=0, abs=5e-8)


def test_exactly_one_beta_of_the_cosine_table_is_clipped():
    found = betas(cosine(1000))
    assert found[-1] == pytest.approx(0.999, rel=1e-13)
    assert (found[:-1] < 0.9).all()
    torch.testing.assert_close(
        cosine(1000).log_alpha_bar(grid(999, high=0.999)),
        cosine().log_alpha_bar(grid(999, high=0.999)),
        rtol=1e-12,
        atol=0,
    )


def test_alpha_bar_of_a_table_is_the_product_of_one_minus_beta():
    beta = torch.rand(50, dtype=torch.float64) * 0.2 + 1e-3
    alphas, _ = Table(beta)(grid(50, low=1 / 50))
    torch.testing.assert_close(alphas**2, (1 - beta).cumprod(0), rtol=1e-13, atol=0)


def test_beta_is_constant_between_the_nodes_of_a_table():
    beta = torch.tensor([0.1, 0.3, 0.2])
    inside = torch.linspace(1 / 3, 2 / 3, 11, dtype=torch.float64)
    steps = Table(beta).log_alpha_bar(inside).diff()
    torch.testing.assert_close(steps, steps.mean().expand(10), rtol=1e-13, atol=0)
    assert float(steps.sum()) == pytest.approx(math.log1p(-float(beta[1])), rel=1e-14)


# What every schedule is.


@over("schedule", SCHEDULES)
def test_a_schedule_starts_at_exactly_one_and_zero(schedule):
    schedule = SCHEDULES[schedule]
    assert schedule(0.0) == (1.0, 0.0)
    assert schedule.log_snr(0.0) == math.inf
    assert schedule.time(math.inf) == 0.0


def test_a_formula_that_stops_above_zero_noise_jumps_to_the_data():
    class Stops(Flow):
        """As ve does, with sigma(0+) = 0.1."""

        def level(self, t):
            return Level(0.9 - 0.5 * t, 0.1 + t)

    assert Stops()(0.0) == (1.0, 0.0)
    assert Stops()(1e-12) == (pytest.approx(0.9), pytest.approx(0.1))


@over("schedule", SCHEDULES)
def test_arithmetic_is_float64_whatever_the_dtype_of_t(schedule):
    schedule = SCHEDULES[schedule]
    for t in (0.5, torch.tensor([0.5]), torch.tensor([0.5], dtype=torch.float16)):
        # 0.5 is exact in each dtype, so that equality is bit for bit.
        assert schedule(t).alpha.dtype == schedule.log_snr(t).dtype == torch.float64
        assert torch.equal(schedule(t).sigma.reshape(()), schedule(0.5).sigma)


@over("schedule", VP)
def test_alpha_squared_plus_sigma_squared_is_one(schedule):
    alpha, sigma = SCHEDULES[schedule](grid(4001, low=0.0))
    assert (alpha**2 + sigma**2 - 1).abs().max() < 5e-16  # two roundings of numbers below 1


def test_flow_is_the_straight_line_from_data_to_noise():
    t = grid(101, low=0.0)
    alpha, sigma = Flow()(t)
    assert torch.equal(alpha, 1 - t)
    assert torch.equal(sigma, t)
    assert Flow()(1.0) == (0.0, 1.0)
    assert Flow().log_snr(0.25) == pytest.approx(2 * math.log(3), rel=1e-15)


@over("schedule", SCHEDULES)
def test_log_snr_is_two_log_alpha_over_sigma(schedule):
    t = torch.cat([torch.logspace(-9, -3, 50, dtype=torch.float64), grid(500, high=0.9999)])
    alpha, sigma = SCHEDULES[schedule](t)
    torch.testing.assert_close(SCHEDULES[schedule].log_snr(t), 2 * torch.log(alpha / sigma), rtol=1e-14, atol=1e-12)


@over("schedule", SCHEDULES)
def test_log_snr_strictly_decreases(schedule):
    schedule = SCHEDULES[schedule]
    t = torch.cat([torch.logspace(-9, -3, 500, dtype=torch.float64), grid(9999, low=0.0011, high=used(schedule))])
    assert (schedule.log_snr(t).diff() < 0).all()


@over("schedule", SCHEDULES)
def test_time_inverts_log_snr(schedule):
    schedule = SCHEDULES[schedule]
    t = torch.cat(
        [torch.logspace(-9, -3, 50, dtype=torch.float64), grid(2000, high=used(schedule) - 1e-9), grid(2, low=0)]
    )
    assert (schedule.time(schedule.log_snr(t)) - t).abs().max() < 1e-14  # some roundings of numbers below 1


@over("schedule", SCHEDULES)
def test_log_snr_inverts_time(schedule):
    # Within what the schedule has: ve, ve_sqrt and learned begin or end inside of -7.5 ... 7.5.
    log_snr = torch.linspace(-7.5, 7.5, 301, dtype=torch.float64)
    log_snr = log_snr[(log_snr > SCHEDULES[schedule].log_snr(1.0)) & (log_snr < SCHEDULES[schedule].log_snr(1e-12))]
    found = SCHEDULES[schedule].log_snr(SCHEDULES[schedule].time(log_snr))
    torch.testing.assert_close(found, log_snr, rtol=0, atol=1e-11)  # a rounding of t times d lambda/dt, below 40,000


@over("schedule", SCHEDULES)
def test_the_slope_of_log_snr_is_its_finite_difference(schedule):
    schedule = SCHEDULES[schedule]
    t = (torch.arange(999, dtype=torch.float64) + 0.5) / 1000  # inside the pieces of every table
    h = 1e-4 * torch.minimum(t, used(schedule) - t)
    t, h = t[h > 0], h[h > 0]
    differences = (schedule.log_snr(t + h) - schedule.log_snr(t - h)) / (2 * h)
    # Central differences: (h/t)^2/3 = 3e-9 of truncation, and 1e-15 lambda/(h lambda') of rounding.
    torch.testing.assert_close(schedule.log_snr_slope(t), differences, rtol=1e-7, atol=0)


@over("schedule", SCHEDULES)
def test_the_slope_needs_no_gradient_mode(schedule):
    t = grid(10, high=0.5)
    expected = SCHEDULES[schedule].log_snr_slope(t)
    with torch.inference_mode():
        assert torch.equal(SCHEDULES[schedule].log_snr_slope(t), expected)
    assert not expected.requires_grad


# The float32 trap: 1 - abar_1 of DDPM is off by 1.7e-4 relative there.


def test_sigma_squared_of_the_first_step_of_ddpm_is_beta_1():
    assert float(linear()(1 / 1000).sigma) ** 2 == pytest.approx(1e-4, rel=1e-12)


@pytest.mark.parametrize("t", [1e-9, 1e-6, 1e-3, 0.5])
def test_sigma_squared_is_exact_near_the_data(t):
    with mpmath.workdps(50):
        u, half_pi = mpmath.mpf(t), mpmath.pi / 2
        s = mpmath.mpf(0.008)
        exact = {
            "linear_continuous": -mpmath.expm1(-(mpmath.mpf(20.0 - 0.1) * u**2 / 2 + mpmath.mpf(0.1) * u)),
            "cosine": 1 - (mpmath.cos((u + s) / (1 + s) * half_pi) / mpmath.cos(s / (1 + s) * half_pi)) ** 2,
        }
        exact = {name: float(value) for name, value in exact.items()}
    # cosine takes the difference of two angles near 0.0125, which costs t its rounding at 0.008: 1e-18/t.
    assert float(SCHEDULES["linear_continuous"](t).sigma) ** 2 == pytest.approx(exact["linear_continuous"], rel=1e-12)
    assert float(SCHEDULES["cosine"](t).sigma) ** 2 == pytest.approx(exact["cosine"], rel=1e-12 + 2e-18 / t)


def test_the_noise_label_is_a_quarter_of_log_sigma_over_alpha_and_bounded():
    ratio = torch.tensor([0.01, 0.5, 1.0, 80.0], dtype=torch.float64)
    torch.testing.assert_close(noise_label(-2 * torch.log(ratio)), torch.log(ratio) / 4, rtol=1e-15, atol=0)
    ends = torch.tensor([math.inf, 100.0, -100.0, -math.inf])
    assert noise_label(ends).tolist() == [-8, -8, 8, 8]


# The end of the process.


@pytest.mark.parametrize("make", [cosine, Flow, linear, Linear, schedules.VESqrt, schedules.EDM, schedules.VE])
def test_log_snr_min_ends_the_process_at_that_log_snr_and_changes_nothing_before(make):
    ended, whole = make(log_snr_min=-5.0), make()
    end = float(whole.time(-5.0))
    assert 0.1 < end < 1
    assert float(ended.log_snr(1.0)) == pytest.approx(-5.0, abs=1e-12)
    assert torch.equal(ended.log_snr(torch.tensor([end + 1e-6, 1.0])), ended.log_snr(1.0).expand(2))
    assert ended.time(-5.1) == ended.time(-1000.0) == 1.0
    t = grid(50, high=end - 1e-6)
    assert torch.equal(ended(t).alpha, whole(t).alpha)
    assert torch.equal(ended.log_snr(t), whole.log_snr(t))


@pytest.mark.parametrize("make", [linear, Linear])
def test_a_log_snr_min_below_the_end_changes_nothing(make):
    ended, whole = make(log_snr_min=-15.0), make()
    assert torch.equal(ended.log_snr(grid(50)), whole.log_snr(grid(50)))
    log_snr = torch.tensor([-20.0, -15.0, -12.0, -9.0, 0.0])
    assert torch.equal(ended.time(log_snr), whole.time(log_snr))
    assert (ended.time(log_snr)[:3] == 1).all()


def test_continuous_cosine_ends_at_log_snr_minus_15_unless_told_otherwise():
    assert float(cosine().log_snr(1.0)) == pytest.approx(-15, abs=1e-11)
    assert float(cosine(log_snr_min=-9.0).log_snr(1.0)) == pytest.approx(-9, abs=1e-11)


@over("schedule", SCHEDULES)
def test_the_prior_has_the_spread_of_the_noise_at_the_end(schedule):
    # Where alpha is 0.02 there or less, sigma is within 1e-3 of it; learned begins with an end at log-SNR -5.
    schedule = SCHEDULES[schedule]
    assert float(schedule(1.0).sigma) == pytest.approx(schedule.prior_std, rel=4e-3)


# The constants of each paper.


@pytest.mark.parametrize(
    ("schedule", "t", "alpha", "sigma"),
    [
        (schedules.VE(), 1.0, 1.0, 50.0),
        (schedules.VE(), 1e-300, 1.0, 0.01),
        (schedules.VE(0.01, 1.0), 4 / 9, 1.0, 0.01 ** (5 / 9)),  # the fifth of NCSN's ten levels from below
        (schedules.VESqrt(1000), 0.25, 1.0, 250**0.5),
        (schedules.EDM(), 0.5, 1.0, 40.0),
        (schedules.EDM(), 1.0, 1.0, 80.0),
        (schedules.SubVP(), 1.0, math.exp(-5.025), 1 - math.exp(-10.05)),
        (schedules.SubVP(), 0.5, math.exp(-19.9 / 16 - 0.025), 1 - math.exp(-19.9 / 8 - 0.05)),
        (schedules.Flow(shift=3.0), 0.5, 0.25, 0.75),  # t' = 3 t/(1 + 2 t)
        (schedules.VE(shift=2.0), 1.0, 1.0, 100.0),
    ],
)
def test_a_schedule_has_the_levels_of_its_paper(schedule, t, alpha, sigma):
    found = schedule(t)
    assert float(found.alpha) == pytest.approx(alpha, rel=1e-14)
    assert float(found.sigma) == pytest.approx(sigma, rel=1e-14)


@pytest.mark.parametrize(("T", "end"), [(1000, 0.00466010), (100, None)])
def test_scaled_linear_is_that_of_latent_diffusion(T, end):
    table = schedules.scaled_linear(T)
    root = torch.linspace(0.00085**0.5, 0.012**0.5, T, dtype=torch.float64)
    torch.testing.assert_close(betas(table), 1000 / T * root**2, rtol=2e-11, atol=0)
    if end is not None:
        assert alpha_bar(table, 1.0) == pytest.approx(end, rel=0, abs=5e-9)


def test_the_other_tables_have_the_betas_of_their_code():
    T = 1000
    same = torch.full((T,), 0.02, dtype=torch.float64)
    torch.testing.assert_close(betas(schedules.constant()), same, rtol=1e-9, atol=0)
    root = torch.linspace(1e-4, 0.02, T, dtype=torch.float64).sqrt()
    torch.testing.assert_close(betas(schedules.sqrt_linear()), root, rtol=1e-9, atol=0)
    # jsd: beta_i = 1/(T - i + 1), so abar_i = 1 - i/T.
    i = torch.arange(1, T, dtype=torch.float64)
    torch.testing.assert_close(schedules.jsd()(i / T).alpha ** 2, 1 - i / T, rtol=1e-12, atol=0)
    assert schedules.jsd()(1.0) == (0.0, 1.0)


@pytest.mark.parametrize("tau", [0.4, 1.0, 1.1])
@pytest.mark.parametrize(("start", "end"), [(-3.0, 3.0), (0.0, 3.0)])
def test_sigmoid_is_that_of_chen(tau, start, end):
    def logistic(u):
        return 1 / (1 + mpmath.exp(-mpmath.mpf(u) / mpmath.mpf(tau)))

    schedule = schedules.Sigmoid(start, end, tau, zero_terminal_snr=True)
    with mpmath.workdps(40):
        for t in (1e-6, 0.1, 0.5, 0.9, 0.999):
            u = start + mpmath.mpf(t) * (end - start)
            expected = (logistic(end) - logistic(u)) / (logistic(end) - logistic(start))
            # 1 - t is known to 1e-16 only, a thousandth of which is left at t = 0.999.
            assert float(schedule(t).alpha ** 2) == pytest.approx(float(expected), rel=1e-12)
            assert float(schedule(t).sigma ** 2) == pytest.approx(float(1 - expected), rel=1e-12)


def test_zero_terminal_snr_is_algorithm_1_of_lin():
    for T in (100, 1000):
        plain, moved = linear(T), linear(T, zero_terminal_snr=True)
        root = plain(plain.nodes[1:]).alpha
        expected = (root - root[-1]) * root[0] / (root[0] - root[-1])
        torch.testing.assert_close(moved(plain.nodes[1:]).alpha, expected, rtol=1e-12, atol=1e-16)
        assert moved(1.0) == (0.0, 1.0)
        assert float(moved(1 / T).alpha) == pytest.approx(float(plain(1 / T).alpha), rel=1e-15)  # the first is kept


def test_zero_terminal_snr_in_continuous_time_is_the_limit_of_the_table():
    continuous, t = linear(T=None, zero_terminal_snr=True), torch.linspace(0.05, 0.95, 19).double()
    gaps = [(linear(T, zero_terminal_snr=True)(t).alpha - continuous(t).alpha).abs().max() for T in (1000, 10_000)]
    assert gaps[1] < 0.11 * gaps[0]  # first order in 1/T
    assert continuous(1.0) == (0.0, 1.0)


@over("schedule", [name for name in SCHEDULES if name not in ("learned",)])
def test_a_schedule_at_one_level_is_what_the_formula_gives_there(schedule):
    # level_of, which a shift goes by, against the formula at the time of the same log-SNR.
    schedule, t = SCHEDULES[schedule], grid(50, low=0.01, high=0.9)
    t = t[t < used(schedule)]
    found, expected = schedule.level_of(schedule.log_snr_of(t)), schedule.level(t)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-13, atol=0)


@pytest.mark.parametrize(
    "make", [schedules.Linear, schedules.Flow, schedules.VE, schedules.VESqrt, schedules.EDM, schedules.SubVP]
)
def test_a_shift_moves_log_snr_and_keeps_the_family(make):
    plain, shifted, t = make(), make(shift=4.0), grid(50)
    t = t[:-1]  # flow is at -infinity at the end
    torch.testing.assert_close(shifted.log_snr(t), plain.log_snr(t) - 2 * math.log(4), rtol=1e-14, atol=1e-14)
    alpha, sigma = shifted(t)
    torch.testing.assert_close(2 * torch.log(alpha / sigma), shifted.log_snr(t), rtol=1e-11, atol=1e-11)
    # Still of the family: alpha^2 + sigma^2 = 1, alpha + sigma = 1, alpha = 1, alpha^2 + sigma = 1.
    of_family = {
        schedules.Linear: alpha**2 + sigma**2,
        schedules.Flow: alpha + sigma,
        **dict.fromkeys([schedules.VE, schedules.VESqrt, schedules.EDM], alpha),
        schedules.SubVP: alpha**2 + sigma,
    }
    torch.testing.assert_close(of_family[make], torch.ones_like(t), rtol=1e-14, atol=0)


def test_the_posterior_of_the_unit_random_walk_is_that_of_its_derivation():
    # x_i = x_{i-1} + z: q(x_{i-1}|x_i, x_0) = N((1 - 1/i) x_i + x_0/i, 1 - 1/i).
    schedule, T = schedules.VESqrt(50), 50
    for i in range(2, T + 1):
        t, s = torch.tensor([i / T, (i - 1) / T], dtype=torch.float64)
        large, small = posterior_variance(schedule(t), schedule(s))
        assert float(large) == pytest.approx(1, rel=1e-12)
        assert float(small) == pytest.approx(1 - 1 / i, rel=1e-12)
        a, b = Mean(T).target_coefficients(schedule, t)  # of x0 and eps; x_i = x_0 + sqrt(i) eps
        assert float(a) == 1
        assert float(b) == pytest.approx((1 - 1 / i) * i**0.5, rel=1e-12)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: schedules.Table([0.1, 1.2]), "each item above 0 and at most 1"),
        (lambda: schedules.Table([1.0, 0.5]), "between 0 and 1"),
        (lambda: schedules.Table([0.5]), "at least two"),
        (lambda: schedules.VE(2.0, 1.0), r"sigma_min must be below sigma_max=1\.0 \(got 2\.0\)"),
        (lambda: schedules.Sigmoid(3.0, -3.0), r"start must be below end=-3\.0"),
        (lambda: schedules.Flow(shift=0.0), "shift must be above 0"),
        (lambda: schedules.VE(log_snr_min=30.0), "log_snr_min must be below"),
    ],
)
def test_an_invalid_schedule_is_refused(make, told):
    with pytest.raises(ConfigError, match=told):
        make()


def test_a_coefficient_multiplies_sample_by_sample_in_the_dtype_of_x():
    x = torch.randn(3, 2, 4)
    coefficient = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    assert torch.equal(like(coefficient, x) * x, torch.stack([x[0], 2 * x[1], 3 * x[2]]))
    assert (like(coefficient[1], x) * x).dtype == torch.float32
    assert torch.equal(like(coefficient[1], x) * x, 2 * x)
