"""The options that tests run over: a new option of an axis is one line here."""

import math
from collections.abc import Callable, Iterable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from denoiselab.denoiser import DenoiseFn
from denoiselab.parameterizations import X0, Eps, V
from denoiselab.samplers import DDIM, DDPM, Heun, Sampler
from denoiselab.schedules import Flow, Schedule, cosine, linear
from denoiselab.spacings import Leading, LogSNR, Spacing, Trailing
from denoiselab.time_sampling import Discrete, Stratified, Uniform
from denoiselab.weightings import VLB, MinSNR, Simple

SCHEDULES = {
    "linear": linear(),
    "linear_continuous": linear(T=None),
    "linear_ended": linear(log_snr_min=-8.0),
    "cosine": cosine(),
    "cosine_table": cosine(T=1000),
    "flow": Flow(),
    "flow_ended": Flow(log_snr_min=-15.0),
}
VP = [name for name in SCHEDULES if not name.startswith("flow")]
PARAMETERIZATIONS = {"eps": Eps(), "x0": X0(), "v": V()}
MEANINGLESS = {("flow", "eps")}  # at alpha = 0, eps says nothing about x0
WEIGHTINGS = {"simple": Simple(), "min_snr": MinSNR(5.0), "vlb": VLB()}
TIME_SAMPLERS = {"uniform": Uniform(), "discrete": Discrete(1000), "stratified": Stratified()}
SPACINGS = {
    "trailing": Trailing(),
    "trailing_1000": Trailing(1000),
    "leading": Leading(1000),
    "log_snr": LogSNR(),
}
SAMPLERS: dict[str, Callable[[int, Spacing], Sampler]] = {
    "ddim": DDIM,
    "ddim_half": lambda steps, spacing: DDIM(steps, spacing, eta=0.5),
    "ddim_ancestral": lambda steps, spacing: DDIM(steps, spacing, eta=1.0),
    "ddpm_small": lambda steps, spacing: DDPM(steps, spacing, variance="small"),
    "ddpm_large": lambda steps, spacing: DDPM(steps, spacing, variance="large"),
    "heun": Heun,
}
DETERMINISTIC = ("ddim", "heun")


def over(axis: str, options: Iterable[str]):
    """The test once for each option, by its name."""
    return pytest.mark.parametrize(axis, list(options))


def over_pairs():
    """The test once for each schedule and parameterization that have a meaning together."""
    pairs = [(s, p) for s in SCHEDULES for p in PARAMETERIZATIONS if (s, p) not in MEANINGLESS]
    return pytest.mark.parametrize(("schedule", "parameterization"), pairs, ids=["-".join(pair) for pair in pairs])


def grid(points: int, low: float = 0.001, high: float = 1.0) -> Tensor:
    return torch.linspace(low, high, points, dtype=torch.float64)


class EvenInLogSNR(Spacing):
    """From t = 0.98 to t = 0.02: between the ends, where a solver's order can be seen alone."""

    def __call__(self, steps: int, schedule: Schedule) -> Tensor:
        first, last = (float(schedule.log_snr(t)) for t in (0.98, 0.02))
        return schedule.time(torch.linspace(first, last, steps + 1, dtype=torch.float64))


def moments(
    sampler: Sampler, denoise: DenoiseFn, schedule: Schedule, mean: float, std: float
) -> list[tuple[Tensor, float, float]]:
    """Exact (s, mean, std) after each step from x_1 ~ N(mean, std^2), where `denoise` is affine in x.

    Then a step is x -> a x + b + c z, and three calls read a, b and c off: nothing is drawn.
    """

    def step(x: float, z: float, t: Tensor, s: Tensor) -> float:
        noise = lambda like: torch.full_like(like, z)  # noqa: E731
        return float(sampler.step(denoise, schedule, torch.full((1,), x, dtype=torch.float64), t, s, None, noise)[0])

    seen = []
    for t, s in pairwise(sampler.spacing(sampler.steps, schedule).unbind()):
        b = step(0.0, 0.0, t, s)
        a, c = step(1.0, 0.0, t, s) - b, step(0.0, 1.0, t, s) - b
        mean, std = a * mean + b, math.hypot(a * std, c)
        seen.append((s, mean, std))
    return seen
