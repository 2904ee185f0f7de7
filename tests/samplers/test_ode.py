import math

import numpy as np
import pytest
import torch
from scipy.integrate import RK45

from cases import SCHEDULES, EvenInLogSNR, over, starting, two_gaussians
from denoiselab.analytic import Gaussian
from denoiselab.errors import ConfigError
from denoiselab.samplers import ODE
from denoiselab.samplers.ode import ERROR, STAGES
from denoiselab.schedules import EDM, Flow, linear
from denoiselab.spacings import LogSNR, Trailing
from denoiselab.thresholding import Clip


class Counting:
    """An exact denoiser, by default that of N(0.3, std^2), and its calls."""

    def __init__(self, schedule, std=0.5, exact=None):
        self.exact, self.calls = exact or Gaussian(schedule, 0.3, std), 0

    def __call__(self, x, t):
        self.calls += 1
        assert (t.shape, t.dtype, t.device.type) == ((len(x),), torch.float64, "cpu")
        return self.exact(x, t)

    def answer(self, x_T, t_min):
        """x0_hat at t_min, after the exact flow."""
        x = self.exact.flow(x_T, 1.0, t_min)
        return self.exact(x, torch.full((len(x),), t_min, dtype=torch.float64)).x0


def test_the_tableau_is_scipy_s_of_dormand_and_prince():
    # The same fractions: to their own rounding. SciPy's E is the step of order 4 less that of order 5.
    *stages, (last, b) = STAGES
    assert [0.0, *(place for place, _ in stages)] == pytest.approx(RK45.C, rel=1e-15)
    for i, (_, weights) in enumerate(stages, 1):
        assert [*weights, *[0.0] * (5 - i)] == pytest.approx(RK45.A[i], rel=1e-15)
    assert last == 1.0
    assert list(b) == pytest.approx(RK45.B, rel=1e-15)
    assert list(ERROR) == pytest.approx(-RK45.E, rel=1e-15)


def test_the_tableau_has_order_five_with_an_error_of_order_four():
    # Each stage is at the sum of its weights; b integrates c^k exactly for k < 5, and the weights of order 4 for k < 4.
    c = [0.0] + [place for place, _ in STAGES]
    for place, weights in STAGES:
        assert sum(weights) == pytest.approx(place, rel=1e-14)
    b = [*STAGES[-1][1], 0.0]
    for k in range(5):
        assert sum(w * p**k for w, p in zip(b, c, strict=True)) == pytest.approx(1 / (k + 1), rel=1e-14)
        fault = sum(w * p**k for w, p in zip(ERROR, c, strict=True))
        assert fault == pytest.approx(0, abs=1e-15) if k < 4 else abs(fault) > 1e-4


@over("schedule", SCHEDULES)
def test_it_is_the_exact_flow_to_its_tolerance(schedule):
    schedule = SCHEDULES[schedule]
    x_T, errors = schedule.prior_std * torch.linspace(-2, 2, 6, dtype=torch.float64), []
    for tolerance in (1e-4, 1e-7):
        denoise = Counting(schedule)
        found = ODE(1, Trailing(), tolerance, tolerance)(denoise, schedule, x_T)
        errors.append(float((found - denoise.answer(x_T, 1e-5)).abs().max()))
        # Errors of u are those of x_0, but for what is made before sigma/alpha has come down to the data's own scale:
        # the flow there narrows x/alpha by at most std n, and u = x/sqrt(alpha^2 + sigma^2) by less than 100 std.
        assert errors[-1] < 100 * tolerance
    assert errors[1] < errors[0] / 50


@pytest.mark.parametrize("schedule", [linear(), Flow(), EDM()])
def test_the_error_falls_with_the_fifth_power_of_the_evaluations_on_a_gaussian(schedule):
    x_T = schedule.prior_std * torch.tensor([1.5], dtype=torch.float64)
    counts, errors = [], []
    for tolerance in (1e-7, 1e-8, 1e-9, 1e-10):
        denoise = Counting(schedule)
        found = ODE(1, Trailing(), tolerance, tolerance)(denoise, schedule, x_T)
        counts.append(denoise.calls)
        errors.append(float((found - denoise.answer(x_T, 1e-5)).abs()))
    # The steps are the controller's, whole in number and few: the slope is known to a fifth.
    assert np.polyfit(np.log(counts), np.log(errors), 1)[0] == pytest.approx(-5, abs=1)


@pytest.mark.parametrize("schedule", [linear(), Flow(), EDM()])
def test_the_error_is_in_proportion_to_the_tolerance_on_two_gaussians(schedule):
    # Between the same ratios sigma/alpha on every schedule, where the two come apart.
    first, last = (float(schedule.time(-2 * torch.tensor(n, dtype=torch.float64).log())) for n in (7 / 3, 1 / 9))
    (denoise, x_t, x_s), tolerances, errors = two_gaussians(schedule, first, last), [1e-7, 1e-8, 1e-9, 1e-10], []
    for tolerance in tolerances:
        sampler = ODE(1, EvenInLogSNR(first, last), tolerance, tolerance)
        found = sampler(denoise, schedule, starting(sampler, schedule, x_t))
        errors.append(float((found - x_s).abs().max()))
    # The steps are whole in number and few here too.
    assert np.polyfit(np.log(tolerances), np.log(errors), 1)[0] == pytest.approx(1, abs=0.15)
    assert errors[-1] < 10 * tolerances[-1]


@over("data", ["gaussian", "mixture"])
def test_steps_of_a_given_size_converge_with_order_five(data):
    # With a tolerance that allows any error, each piece of the way is one step.
    schedule, counts, errors = Flow(), [40, 80, 160], []
    ends = (0.98, 0.02) if data == "gaussian" else (0.7, 0.1)
    gaussian, x_t = Gaussian(schedule, 0.3, 0.3), torch.linspace(-2, 2, 5, dtype=torch.float64)
    case = (gaussian, x_t, gaussian.flow(x_t, *ends)) if data == "gaussian" else two_gaussians(schedule, *ends)
    for n in counts:
        sampler, denoise = ODE(n, EvenInLogSNR(*ends), 1e9, 1e9), Counting(schedule, exact=case[0])
        found = sampler(denoise, schedule, starting(sampler, schedule, case[1]))
        assert denoise.calls == 7 * n
        errors.append(float((found - case[2]).abs().max()))
    # 1e-14 of rounding are a third of the mixture's last error at the most.
    assert np.polyfit(np.log(counts), np.log(errors), 1)[0] == pytest.approx(-5, abs=0.2)
    assert errors[-1] < 1e-11


def test_a_sample_alone_is_the_same_as_in_a_batch_though_others_need_smaller_steps():
    schedule = SCHEDULES["cosine"]
    sharp = torch.tensor([0.5, 0.01, 2.0, 0.1, 0.5], dtype=torch.float64)

    def denoise(std):
        """Data of another width for each sample."""

        def exact(x, t):
            parts = [Gaussian(schedule, 0.3, float(s))(x[i : i + 1], t[i : i + 1]) for i, s in enumerate(std)]
            return parts[0]._replace(x0=torch.cat([p.x0 for p in parts]), eps=torch.cat([p.eps for p in parts]))

        return exact

    x_T = torch.randn(5, 3, 7, dtype=torch.float64)
    whole = ODE(2, Trailing())(denoise(sharp), schedule, x_T)
    for i in range(5):
        assert torch.equal(ODE(2, Trailing())(denoise(sharp[i : i + 1]), schedule, x_T[i : i + 1]), whole[i : i + 1])


@over("schedule", SCHEDULES)
def test_the_pieces_are_for_watching_alone(schedule):
    schedule = SCHEDULES[schedule]
    x_T, seen = schedule.prior_std * torch.randn(4, 2, dtype=torch.float64), []
    whole = ODE(1, Trailing(), 1e-7, 1e-7)(Counting(schedule), schedule, x_T)
    above_t_min = LogSNR(sigma_min=10)
    pieces = ODE(4, above_t_min, 1e-7, 1e-7)(Counting(schedule), schedule, x_T, on_step=seen.append)
    torch.testing.assert_close(pieces, whole, rtol=0, atol=1e-5)
    assert [step.index for step in seen] == [0, 1, 2, 3]
    for step in seen[:-1]:
        exact = Gaussian(schedule, 0.3, 0.5).flow(x_T, 1.0, step.s)
        size = math.hypot(*map(float, schedule(step.s)))
        torch.testing.assert_close(step.x / size, exact / size, rtol=0, atol=1e-5)


def test_on_the_circle_every_schedule_has_the_same_solution():
    # Between the same two ratios sigma/alpha, from the same u.
    def u_after(schedule):
        t, s = (schedule.time(-2 * torch.tensor(n, dtype=torch.float64).log()) for n in (0.9, 0.2))
        radius = [torch.hypot(*schedule(time)) for time in (t, s)]
        x = radius[0] * torch.linspace(-2, 2, 5, dtype=torch.float64)
        arguments = Gaussian(schedule, 0.3, 0.5), schedule, x, t, s, None, torch.randn_like
        return ODE(1, Trailing()).step(*arguments)[0] / radius[1]

    for schedule in SCHEDULES.values():
        # The same steps are taken, and time(log_snr) and back costs a few roundings.
        torch.testing.assert_close(u_after(schedule), u_after(Flow()), rtol=0, atol=1e-14)


def test_float32_is_float64_to_its_tolerance():
    schedule, x_T = SCHEDULES["cosine"], torch.randn(4, 3)
    single = ODE(3, Trailing())(Counting(schedule), schedule, x_T)
    assert single.dtype == torch.float32
    torch.testing.assert_close(single, ODE(3, Trailing())(Counting(schedule), schedule, x_T.double()).float())


@over("schedule", SCHEDULES)
def test_it_draws_no_noise_and_keeps_nothing(schedule):
    schedule, sampler = SCHEDULES[schedule], ODE(3, Trailing())
    x_T, before = torch.randn(4), dict(vars(sampler))
    kept = x_T.clone()

    def none(x):
        raise AssertionError("noise was drawn")

    first, second = (sampler(Counting(schedule), schedule, x_T, none) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(x_T, kept)
    assert vars(sampler) == before


def test_where_the_schedule_has_ended_nothing_moves():
    schedule, x = linear(log_snr_min=-8.0), torch.randn(5, dtype=torch.float64)
    t, s = torch.tensor([1.0, 0.95], dtype=torch.float64)
    denoise = Counting(schedule)
    assert ODE(1, Trailing()).step(denoise, schedule, x, t, s, None, torch.randn_like)[0] is x
    assert denoise.calls == 0


def test_a_clipped_denoiser_whose_slope_jumps_is_followed_too():
    schedule = SCHEDULES["cosine"]
    denoise = Counting(schedule, std=3.0)
    x_0 = ODE(1, Trailing())(Clip()(denoise, schedule), schedule, torch.randn(50, 4, dtype=torch.float64))
    assert x_0.abs().max() <= 1
    assert denoise.calls < 1000


def test_a_denoiser_that_gives_nan_ends_with_nan():
    schedule = SCHEDULES["cosine"]

    def broken(x, t):
        prediction = Gaussian(schedule)(x, t)
        return prediction._replace(x0=torch.where(x > 1, torch.nan, prediction.x0))

    x_T = torch.tensor([[0.1], [5.0]], dtype=torch.float64)
    x_0 = ODE(3, Trailing())(broken, schedule, x_T)
    assert x_0.isnan().tolist() == [[False], [True]]


@pytest.mark.parametrize("words", [{"rtol": 0.0}, {"atol": -1.0}, {"t_min": 0.0}, {"t_min": 1.0}])
def test_invalid_values_are_refused(words):
    with pytest.raises(ConfigError, match=f"^{next(iter(words))} must be "):
        ODE(3, Trailing(), **words)
