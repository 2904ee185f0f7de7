import numpy as np
import pytest
import torch

from cases import SCHEDULES, EvenInLogSNR, over, starting
from denoiselab.analytic import Gaussian
from denoiselab.errors import IncompatibleError
from denoiselab.samplers import (
    DDIM,
    DDPM,
    ODE,
    PLMS,
    DPMpp2M,
    DPMpp2MSDE,
    DPMpp2S,
    Euler,
    EulerAncestral,
    Heun,
    Langevin,
    PredictorCorrector,
    UniPC,
    invert,
)
from denoiselab.schedules import EDM, Flow
from denoiselab.spacings import LogSNR, Trailing

# Name -> (sampler, order of the way up, order of the way up and down). One step up and down leaves the error of order
# p + 1 twice where p is odd, but the two cancel where it is even.
ORDERS = {"ddim": (DDIM, 1, 1), "euler": (Euler, 1, 1), "heun": (Heun, 2, 3)}
COUNTS = [40, 80, 160]
# Those on which data of width 0.5 are seen well, sigma/alpha below 0.1, and a few hundred steps are fine in log-SNR.
USUAL = [name for name, s in SCHEDULES.items() if s.log_snr(1e-3) > -2 * np.log(0.1) and s.log_snr(0.98) > -40]


def slope(errors: list[float]) -> float:
    return float(np.polyfit(np.log(COUNTS), np.log(errors), 1)[0])


@over("schedule", ["linear", "cosine_table", "flow", "sub_vp", "edm"])
@over("sampler", ORDERS)
def test_the_way_up_and_the_round_trip_converge_with_their_orders(schedule, sampler):
    schedule, (make, up, both) = SCHEDULES[schedule], ORDERS[sampler]
    x, gaussian = torch.linspace(-2, 2, 5, dtype=torch.float64), Gaussian(schedule, 0.3, 0.5)
    exact, errors = starting(make(1, EvenInLogSNR()), schedule, gaussian.flow(x, 0.02, 0.98)), []
    for steps in COUNTS:
        found = invert(make(steps, EvenInLogSNR()), gaussian, schedule, x)
        again = make(steps, EvenInLogSNR())(gaussian, schedule, found)
        errors.append((float((found - exact).abs().max()), float((again - x).abs().max())))
    assert slope([e for e, _ in errors]) == pytest.approx(-up, abs=0.15)
    assert slope([e for _, e in errors]) == pytest.approx(-both, abs=0.15)


@over("schedule", USUAL)
def test_the_round_trip_over_the_whole_schedule_converges_too(schedule):
    schedule = SCHEDULES[schedule]
    x, gaussian, errors = torch.linspace(-2, 2, 5, dtype=torch.float64), Gaussian(schedule, 0.3, 0.5), []
    for steps in (50, 200):
        x_T = invert(DDIM(steps, LogSNR()), gaussian, schedule, x)
        errors.append(float((DDIM(steps, LogSNR())(gaussian, schedule, x_T) - x).abs().max()))
    assert errors[1] < 0.15
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.3)


@over("schedule", USUAL)
def test_the_ode_s_round_trip_is_exact_to_its_tolerance(schedule):
    schedule, x = SCHEDULES[schedule], torch.linspace(-2, 2, 5, dtype=torch.float64)
    gaussian, sampler = Gaussian(schedule, 0.3, 0.5), ODE(2, Trailing(), 1e-6, 1e-6)
    x_T = invert(sampler, gaussian, schedule, x)
    torch.testing.assert_close(sampler(gaussian, schedule, x_T), x, rtol=0, atol=1e-4)


@pytest.mark.parametrize("schedule", [SCHEDULES["linear"], SCHEDULES["cosine"], Flow(), EDM()])
def test_the_ode_finds_the_noise_of_the_exact_flow(schedule):
    # The first step, from t = 0 to t_min, is off by n^2 there, 1e-6 at the most, and so is u.
    x, gaussian = torch.linspace(-2, 2, 5, dtype=torch.float64), Gaussian(schedule, 0.3, 0.5)
    x_T = invert(ODE(3, Trailing(), 1e-8, 1e-8), gaussian, schedule, x)
    exact = gaussian.flow(x, 0.0, 1.0)
    torch.testing.assert_close(x_T / schedule.prior_std, exact / schedule.prior_std, rtol=0, atol=1e-5)


@over("schedule", USUAL)
def test_the_noise_of_data_is_as_the_prior_s(schedule):
    # Of N(0.3, 0.5^2), which the exact flow takes to x_T of variance alpha^2/4 + sigma^2.
    schedule, data = SCHEDULES[schedule], 0.3 + 0.5 * torch.tensor([-1.0, 1.0], dtype=torch.float64)
    x_T = invert(Heun(40, LogSNR()), Gaussian(schedule, 0.3, 0.5), schedule, data)
    alpha, sigma = map(float, schedule(1.0))
    # 40 steps leave a few percent.
    assert float(x_T.diff()) / 2 == pytest.approx(np.hypot(alpha / 2, sigma), rel=0.1)
    assert float(x_T.mean()) == pytest.approx(0.3 * alpha, abs=0.1 * schedule.prior_std)


@over("sampler", [*ORDERS, "ode"])
def test_it_keeps_shape_dtype_and_each_sample_s_independence(sampler):
    schedule, x = SCHEDULES["cosine"], torch.randn(3, 2, 4)
    made = ODE(3, Trailing()) if sampler == "ode" else ORDERS[sampler][0](5, LogSNR())
    whole = invert(made, Gaussian(schedule, 0.3, 0.5), schedule, x)
    assert (whole.shape, whole.dtype) == (x.shape, x.dtype)
    for i in range(3):
        assert torch.equal(invert(made, Gaussian(schedule, 0.3, 0.5), schedule, x[i : i + 1]), whole[i : i + 1])


@pytest.mark.parametrize(
    "sampler",
    [
        DDPM(4, LogSNR()),
        DDIM(4, LogSNR(), eta=0.5),
        Heun(4, LogSNR(), s_churn=1.0),
        EulerAncestral(4, LogSNR()),
        DPMpp2MSDE(4, LogSNR()),
        Langevin(4, LogSNR()),
        PredictorCorrector(4, LogSNR()),
        DPMpp2M(4, LogSNR()),
        UniPC(4, LogSNR()),
        PLMS(4, LogSNR()),
        DPMpp2S(4, LogSNR()),
    ],
    ids=lambda sampler: type(sampler).__name__,
)
def test_a_sampler_that_adds_noise_or_keeps_a_state_or_only_steps_down_is_refused_before_any_evaluation(sampler):
    def denoise(x, t):
        raise AssertionError("the denoiser was evaluated")

    with pytest.raises(IncompatibleError, match=r"take sampler=ddim sampler\.eta=0") as caught:
        invert(sampler, denoise, SCHEDULES["cosine"], torch.randn(2))
    assert "\n" not in str(caught.value)
