"""How often a step evaluates the schedule: a level costs many small tensor operations, so once per time is enough."""

from collections import Counter
from itertools import pairwise

import pytest
import torch

from cases import SAMPLERS, SCHEDULES, SPACINGS, over
from denoiselab.analytic import Gaussian
from denoiselab.inpainting import RePaint, Replacement
from denoiselab.randomness import SampleNoise
from denoiselab.samplers import DDPM, ODE, DPMpp2M, Euler, Heun, Langevin, PredictorCorrector, Prior
from denoiselab.samplers.sampler import half_log_snr
from denoiselab.spacings import LogSNR, Trailing

EVERY = {
    **SAMPLERS,
    "euler_churned": lambda steps, spacing: Euler(steps, spacing, s_churn=2.0),
    "heun_churned": lambda steps, spacing: Heun(steps, spacing, s_churn=2.0),
    "langevin": lambda steps, spacing: Langevin(steps, spacing, inner=2),
    "ode": lambda steps, spacing: ODE(steps, spacing, 1e-3, 1e-3),
    "pc": lambda steps, spacing: PredictorCorrector(steps, spacing, corrector_steps=2),
    "prior": Prior,
}
KINDS = ("linear", "linear_ended", "cosine", "flow", "linear_to_zero", "ve")
# Those whose steps evaluate one more time than t and s: the midpoint, or the time that churn goes back to.
BEYOND = ("dpmpp_2s", "euler_churned", "heun_churned")


class Recorded:
    """A schedule that records the times at which it is evaluated, as (shape, values)."""

    def __init__(self, schedule):
        self.schedule, self.prior_std, self.times = schedule, schedule.prior_std, Counter()

    def __call__(self, t):
        return self.schedule(self.noted(t))

    def log_snr(self, t):
        return self.schedule.log_snr(self.noted(t))

    def noted(self, t):
        t = torch.as_tensor(t, dtype=torch.float64)
        self.times[tuple(t.shape), tuple(t.flatten().tolist())] += 1
        return t

    def time(self, log_snr):
        return self.schedule.time(log_snr)


def evaluations(sampler, schedule, steps):
    """Yields (t, s, the evaluations of the step from t to s) for each step; those of the denoiser do not count."""
    recorded, denoise = Recorded(schedule), Gaussian(schedule, 0.3, 0.5)
    x, state, noise = schedule.prior_std * torch.randn(3, 2, dtype=torch.float64), None, SampleNoise(0, range(3))
    for t, s in pairwise(sampler.spacing(steps, schedule).unbind()):
        recorded.times.clear()
        x, state = sampler.step(denoise, recorded, x, t, s, state, noise)
        yield float(t), float(s), recorded.times.copy()


@over("schedule", KINDS)
@over("sampler", EVERY)
@over("spacing", ["trailing", "log_snr"])
def test_a_step_evaluates_the_schedule_once_per_time(schedule, sampler, spacing):
    if sampler == "langevin" and SCHEDULES[schedule](1.0).alpha == 0:
        pytest.skip("langevin needs alpha > 0")
    for t, s, times in evaluations(EVERY[sampler](6, SPACINGS[spacing]), SCHEDULES[schedule], 6):
        assert not {time: count for time, count in times.items() if count > 1}
        if sampler == "ode":  # which evaluates the times of its stages too, in batches, and t_min in place of 0
            expected = {((), (t,)), ((), (s or 1e-5,))}
            assert {time for time in times if time[0] == ()} == expected
        else:
            others = set(times) - {((), (t,)), ((), (s,))}
            assert len(others) <= (sampler in BEYOND)
            assert all(shape == () for shape, _ in times)


@over("schedule", SCHEDULES)
def test_half_log_snr_of_a_level_is_as_exact_as_the_schedule_s_own(schedule):
    schedule, even = SCHEDULES[schedule], torch.logspace(-9, 0, 1000, dtype=torch.float64)
    t = torch.cat([torch.zeros(1).double(), even, 1 - even])
    # Half of log-SNR is at most 32 here, where float64 numbers are 3.6e-15 apart.
    torch.testing.assert_close(half_log_snr(schedule(t)), schedule.log_snr(t) / 2, rtol=0, atol=4e-15)


@over("sampler", EVERY)
def test_a_grid_of_six_steps_costs_two_evaluations_a_step_at_the_most(sampler):
    if sampler == "ode":
        pytest.skip("an adaptive sampler has no fixed cost")
    counts = [times.total() for _, _, times in evaluations(EVERY[sampler](6, Trailing()), SCHEDULES["cosine"], 6)]
    most = {"prior": 0, "ddim": 1}.get(sampler, 2 + (sampler in BEYOND))
    assert max(counts) == most
    # To sigma = 0 there is no midpoint; churn, which stops at the end of the schedule, adds nothing at t = 1.
    assert counts.count(most) >= 5


@over("sampler", ["ddpm", "dpmpp_2m"])
def test_inpainting_evaluates_the_schedule_once_more_a_step_for_the_known_part(sampler):
    inner = {"ddpm": DDPM, "dpmpp_2m": DPMpp2M}[sampler](6, LogSNR())
    x0, known, schedule = torch.zeros(3, 2).double(), torch.tensor([[True, False]]), SCHEDULES["cosine"]
    for t, s, times in evaluations(
        Replacement("half").sampler(inner, x0, known, SampleNoise(1, range(3))), schedule, 6
    ):
        assert times == {((), (t,)): 2, ((), (s,)): 1}


def test_repaint_evaluates_no_more_than_replacement_in_a_step_without_a_jump():
    x0, known, schedule = torch.zeros(3, 2).double(), torch.tensor([[True, False]]), SCHEDULES["cosine"]
    sampler = RePaint("half", jump=5, resamples=2).sampler(DDPM(7, Trailing()), x0, known, SampleNoise(1, range(3)))
    totals = [times.total() for _, _, times in evaluations(sampler, schedule, 7)]
    # The jump back over five steps evaluates both of its ends, and the five steps again three times each.
    assert totals == [3, 3, 3, 3, 3, 3 + 2 + 5 * 3, 3]
