"""How fast every solver tends to the exact solution, fitted, and that it does so alike on every schedule."""

import math

import numpy as np
import pytest
import torch

from cases import SAMPLERS, SCHEDULES, EvenInLogSNR, moments, over, starting, two_gaussians
from denoiselab.analytic import Gaussian
from denoiselab.samplers import (
    DDIM,
    PLMS,
    DPMpp2M,
    DPMpp2MSDE,
    DPMpp2S,
    Euler,
    EulerAncestral,
    Heun,
    UniPC,
)
from denoiselab.schedules import EDM, VE, Flow, SubVP, cosine, linear
from denoiselab.spacings import LogSNR, Spacing, Trailing

SCHEDULE = Flow()
BETWEEN = 0.7, 0.1  # between these times the two Gaussians come apart


SOLVERS = ("ddim", "euler", "heun", "dpmpp_2m", "dpmpp_2s", "plms", "unipc", "unipc_3_bh1")  # deterministic ones


def unipc(order, variant):
    # lower_order_final would end with a first-order step: the grid here does not end at sigma = 0.
    return lambda steps, spacing: UniPC(steps, spacing, order, variant, lower_order_final=False)


ORDERS = {
    "ddim": (DDIM, 1),
    "euler": (Euler, 1),
    "heun": (Heun, 2),
    "dpmpp_2m": (DPMpp2M, 2),
    "dpmpp_2s": (DPMpp2S, 2),
    "plms": (PLMS, 2),  # of Adams and Bashforth's fourth order in t, but the transfer weights by dn
    "unipc_1_bh1": (unipc(1, "bh1"), 2),
    "unipc_1_bh2": (unipc(1, "bh2"), 2),
    "unipc_2_bh1": (unipc(2, "bh1"), 3),
    "unipc_2_bh2": (unipc(2, "bh2"), 3),
}


def errors(make, spacing, counts, denoise, x_t, exact):
    samplers = [make(n, spacing) for n in counts]
    found = [sampler(denoise, SCHEDULE, starting(sampler, SCHEDULE, x_t)) for sampler in samplers]
    return [float((x - exact).abs().max()) for x in found]


def slope(counts, errors):
    return -np.polyfit(np.log(counts), np.log(errors), 1)[0]


class ShortFirstStep(Spacing):
    """Even in log-SNR between the times, but for a first step as short as the square of the others."""

    def __call__(self, steps, schedule):
        first, last = (float(schedule.log_snr(t)) for t in BETWEEN)
        even = torch.linspace(first, last, steps, dtype=torch.float64)
        return schedule.time(torch.cat([even[:1], even[:1] + (even[1] - even[0]) ** 2 / 5, even[1:]]))


@over("solver", ORDERS)
def test_a_solver_converges_to_the_flow_of_a_gaussian_with_its_order(solver):
    make, order = ORDERS[solver]
    gaussian, x_t = Gaussian(SCHEDULE, 0.3, 0.5), torch.linspace(-2, 2, 5, dtype=torch.float64)
    counts, exact = [40, 80, 160], gaussian.flow(x_t, 0.98, 0.02)
    found = errors(make, EvenInLogSNR(), counts, gaussian, x_t, exact)
    assert slope(counts, found) == pytest.approx(order, abs=0.1)
    assert found[-1] < 0.02


@over("solver", ORDERS)
def test_a_solver_converges_to_the_flow_of_two_gaussians_with_its_order(solver):
    make, order = ORDERS[solver]
    counts, case = [40, 80, 160], two_gaussians(SCHEDULE, *BETWEEN)
    found = errors(make, EvenInLogSNR(*BETWEEN), counts, *case)
    assert slope(counts, found) == pytest.approx(order, abs=0.1)
    assert found[-1] < 0.02


@over("data", ["gaussian", "mixture"])
@over("variant", ["bh1", "bh2"])
def test_unipc_3_is_of_order_4_where_its_first_step_is_short_and_of_order_3_where_not(variant, data):
    # The first step is of order 1, corrected to 2: a third-order error, once, that nothing takes back.
    counts, case = [60, 120, 240], two_gaussians(SCHEDULE, *BETWEEN)
    if data == "gaussian":  # wide data, on which the first step's error is soon the largest
        gaussian, x_t = Gaussian(SCHEDULE, 0.3, 3.0), torch.linspace(-2, 2, 5, dtype=torch.float64)
        case = gaussian, x_t, gaussian.flow(x_t, *BETWEEN)
    for spacing, order in (ShortFirstStep(), 4), (EvenInLogSNR(*BETWEEN), 3):
        found = errors(unipc(3, variant), spacing, counts, *case)
        assert slope(counts, found) == pytest.approx(order, abs=0.2)


@over("sampler", [*SOLVERS, "ddim_ancestral", "ddpm_small", "euler_ancestral", "dpmpp_2m_sde"])
def test_at_the_same_log_snrs_a_sampler_takes_the_same_steps_in_x_over_alpha_on_every_schedule(sampler):
    # So what is found on one schedule holds on all.
    found, log_snr = [], torch.linspace(-4, 4, 9, dtype=torch.float64)
    y, z = torch.randn(2, 7, dtype=torch.float64)

    class Even(Spacing):
        def __call__(self, steps, schedule):
            return schedule.time(log_snr)

    for schedule in (linear(T=None), cosine(), Flow(), SubVP(), VE(), EDM()):
        alpha, alpha_s = schedule(schedule.time(log_snr[[0, -1]])).alpha
        denoise = Gaussian(schedule, 0.3, 0.5)
        made = SAMPLERS[sampler](8, Even())
        found.append(made(denoise, schedule, starting(made, schedule, alpha * y), lambda x: z) / alpha_s)
    for other in found[1:]:
        # 8 steps of roundings, and those of the times: a relative 1e-16 of t is 1e-13 of log-SNR at the end of cosine.
        torch.testing.assert_close(other, found[0], rtol=0, atol=1e-11)


WEAK_ORDERS = {
    "euler_ancestral": (EulerAncestral, 1),
    "euler_ancestral_half": (lambda n, spacing: EulerAncestral(n, spacing, 0.5), 1),
    "dpmpp_2m_sde": (DPMpp2MSDE, 2),
    "dpmpp_2m_sde_half": (lambda n, spacing: DPMpp2MSDE(n, spacing, 0.5), 2),
    "euler_churn": (lambda n, spacing: Euler(n, spacing, s_churn=4.0), 1),
    "heun_churn": (lambda n, spacing: Heun(n, spacing, s_churn=4.0), 2),
}


@over("solver", WEAK_ORDERS)
def test_the_spread_of_a_gaussian_s_samples_converges_with_the_weak_order(solver):
    make, order = WEAK_ORDERS[solver]
    gaussian, counts, found = Gaussian(SCHEDULE, 0.3, 0.5), [40, 80, 160], []
    (alpha, sigma), (alpha_s, sigma_s) = (map(float, SCHEDULE(t)) for t in (0.98, 0.02))
    for n in counts:
        *_, (_, mean, std) = moments(
            make(n, EvenInLogSNR()), gaussian, SCHEDULE, alpha * 0.3, math.hypot(alpha * 0.5, sigma)
        )
        assert mean == pytest.approx(alpha_s * 0.3, abs=1e-13)  # along the mean x0_hat does not change
        found.append(abs(std - math.hypot(alpha_s * 0.5, sigma_s)))
    assert slope(counts, found) == pytest.approx(order, abs=0.1)
    assert found[-1] < 0.02


@pytest.mark.parametrize(
    ("sampler", "spacing", "steps", "within"),
    [("euler_ancestral", Trailing(), 400, 0.006), ("dpmpp_2m_sde", LogSNR(), 100, 2e-3)],
    ids=["euler_ancestral", "dpmpp_2m_sde"],
)
def test_samples_have_the_data_s_mean_and_spread_in_the_limit(sampler, spacing, steps, within):
    # From t = 1 to 0, so with the first-order steps at both ends.
    schedule = SCHEDULES["cosine"]
    (alpha, sigma), gaussian = map(float, schedule(1.0)), Gaussian(schedule, 0.3, 0.5)
    *_, (_, mean, std) = moments(
        SAMPLERS[sampler](steps, spacing), gaussian, schedule, alpha * 0.3, math.hypot(alpha * 0.5, sigma)
    )
    assert mean == pytest.approx(0.3, abs=1e-12)
    assert std == pytest.approx(0.5, abs=within)
