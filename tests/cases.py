"""The options that tests run over: a new option of an axis is one line here."""

import math
from collections.abc import Callable, Container, Iterable
from itertools import combinations, groupby, product

import pytest
import torch
from torch import Tensor

from denoiselab import schedules, weightings
from denoiselab.analytic import Mixture
from denoiselab.denoiser import DenoiseFn
from denoiselab.parameterizations import EDM, X0, Eps, Flow, Mean, Parameterization, Score, V
from denoiselab.samplers import (
    DDIM,
    DDPM,
    PLMS,
    DPMpp2M,
    DPMpp2MSDE,
    DPMpp2S,
    Euler,
    EulerAncestral,
    Heun,
    Sampler,
    Step,
    UniPC,
)
from denoiselab.samplers.sampler import start_scale
from denoiselab.schedules import VE, Schedule, Sigmoid, SubVP, VESqrt, cosine, jsd, linear
from denoiselab.schedules.learned import Learned
from denoiselab.spacings import Karras, Leading, Linspace, LogSNR, Quadratic, Sections, Spacing, Trailing
from denoiselab.time_sampling import Discrete, LossSecondMoment, Uniform
from denoiselab.weightings import (
    P2,
    SNR,
    VLB,
    VMSE,
    X0MSE,
    FlowMSE,
    MinSNR,
    RandomWalk,
    Simple,
    TruncatedSNR,
    Weighting,
)

SCHEDULES = {
    "linear": linear(),
    "linear_continuous": linear(T=None),
    "linear_ended": linear(log_snr_min=-8.0),
    "cosine": cosine(),
    "cosine_table": cosine(T=1000),
    "flow": schedules.Flow(),
    "flow_ended": schedules.Flow(log_snr_min=-15.0),
    "sigmoid": Sigmoid(),
    "jsd": jsd(),
    "linear_to_zero": linear(zero_terminal_snr=True),
    "cosine_to_zero": cosine(zero_terminal_snr=True),
    "cosine_shifted": cosine(shift=3.0),
    "ve": VE(),
    "ve_sqrt": VESqrt(),
    "sub_vp": SubVP(),
    "edm": schedules.EDM(),
    "learned": Learned().requires_grad_(False),
}
VP = [name for name, schedule in SCHEDULES.items() if isinstance(schedule, schedules.VariancePreserving)]
TO_ZERO = ("flow", "jsd", "linear_to_zero", "cosine_to_zero")  # alpha = 0 at t = 1
PARAMETERIZATIONS: dict[str, Parameterization] = {
    "eps": Eps(),
    "x0": X0(),
    "v": V(),
    "flow": Flow(),
    "score": Score(),
    "mean": Mean(T=100),
    "edm": EDM(),
}
# At alpha = 0, eps says nothing about x0; nor does the mean where the level stays.
MEANINGLESS = {(name, p) for name in TO_ZERO for p in ("eps", "score")} | {("linear_ended", "mean")}
WEIGHTINGS: dict[str, Weighting] = {
    "simple": Simple(),
    "snr": SNR(1.0),
    "truncated_snr": TruncatedSNR(),
    "min_snr": MinSNR(5.0),
    "p2": P2(),
    "x0_mse": X0MSE(),
    "v_mse": VMSE(),
    "flow_mse": FlowMSE(),
    "edm": weightings.EDM(),
    "sigmoid": weightings.Sigmoid(),
    "random_walk": RandomWalk(100),
    "vlb": VLB(),
}
TIME_SAMPLERS = {
    "uniform": Uniform(),
    "discrete": Discrete(1000),
    "discrete_stratified": Discrete(1000, stratified=True),
    "stratified": Uniform(stratified=True),
    "loss_second_moment": LossSecondMoment(),
}  # uniform all, before losses are known
SPACINGS = {
    "trailing": Trailing(),
    "trailing_1000": Trailing(1000),
    "leading": Leading(1000),
    "log_snr": LogSNR(),
    "karras": Karras(),
    "linspace": Linspace(1000),
    "quadratic": Quadratic(1000),
    "sections": Sections(1000),
}
SAMPLERS: dict[str, Callable[[int, Spacing], Sampler]] = {
    "ddim": DDIM,
    "ddim_half": lambda steps, spacing: DDIM(steps, spacing, eta=0.5),
    "ddim_ancestral": lambda steps, spacing: DDIM(steps, spacing, eta=1.0),
    "ddpm_small": lambda steps, spacing: DDPM(steps, spacing, variance="small"),
    "ddpm_large": lambda steps, spacing: DDPM(steps, spacing, variance="large"),
    "ddpm_interpolated": lambda steps, spacing: DDPM(steps, spacing, variance="interpolated", fraction=0.3),
    "heun": Heun,
    "euler": Euler,
    "euler_ancestral": EulerAncestral,
    "dpmpp_2m": DPMpp2M,
    "dpmpp_2m_sde": DPMpp2MSDE,
    "dpmpp_2m_sde_half": lambda steps, spacing: DPMpp2MSDE(steps, spacing, eta=0.5),
    "dpmpp_2s": DPMpp2S,
    "unipc": UniPC,
    "unipc_3_bh1": lambda steps, spacing: UniPC(steps, spacing, order=3, variant="bh1"),
    "plms": PLMS,
}
DETERMINISTIC = ("ddim", "heun", "euler", "dpmpp_2m", "dpmpp_2s", "unipc", "unipc_3_bh1", "plms")


def over(axis: str, options: Iterable[str]):
    """The test once for each option, by its name."""
    return pytest.mark.parametrize(axis, list(options))


def over_pairs():
    """The test once for each schedule and parameterization that have a meaning together."""
    pairs = [(s, p) for s in SCHEDULES for p in PARAMETERIZATIONS if (s, p) not in MEANINGLESS]
    return pytest.mark.parametrize(("schedule", "parameterization"), pairs, ids=["-".join(pair) for pair in pairs])


def over_each_pair(excluded: Container[tuple[object, object]] = (), **axes: Iterable[object]):
    """The test over part of a product, in which any options of any two axes meet at least once.

    It takes about as many cases as the first two axes have pairs: put the longest first. `excluded` are pairs of an
    option of the first axis and one of another that have no meaning together.
    """
    cases = pairwise([list(options) for options in axes.values()], excluded)
    return pytest.mark.parametrize(tuple(axes), cases, ids=["-".join(map(str, case)) for case in cases])


def pairwise(axes: list[list[object]], excluded: Container[tuple[object, object]] = ()) -> list[tuple[object, ...]]:
    """Cases of a product that hold every pair of options that the whole product holds."""
    whole = [case for case in product(*axes) if not any((case[0], other) in excluded for other in case[1:])]
    missing = {pair for case in whole for pair in _pairs(case)}
    chosen = []
    for _, group in groupby(whole, key=lambda case: case[:2]):
        chosen.append(max(group, key=lambda case: len(_pairs(case) & missing)))
        missing -= _pairs(chosen[-1])
    for case in whole:
        if _pairs(case) & missing:
            chosen.append(case)
            missing -= _pairs(case)
    return chosen


def _pairs(case: tuple[object, ...]) -> set[tuple[object, ...]]:
    return set(combinations(enumerate(case), 2))


def grid(points: int, low: float = 0.001, high: float = 1.0) -> Tensor:
    return torch.linspace(low, high, points, dtype=torch.float64)


class EvenInLogSNR(Spacing):
    """From t = 0.98 to t = 0.02: between the ends, where a solver's order can be seen alone."""

    def __init__(self, first: float = 0.98, last: float = 0.02) -> None:
        self.ends = first, last

    def __call__(self, steps: int, schedule: Schedule) -> Tensor:
        first, last = (float(schedule.log_snr(t)) for t in self.ends)
        return schedule.time(torch.linspace(first, last, steps + 1, dtype=torch.float64))


def starting(sampler: Sampler, schedule: Schedule, x: Tensor) -> Tensor:
    """The x_T with which the sampler begins at x, at the first time of its grid."""
    return x / start_scale(schedule, sampler.spacing(sampler.steps, schedule)[0])


def two_gaussians(schedule: Schedule, first: float, last: float) -> tuple[Mixture, Tensor, Tensor]:
    """(denoiser, x at time first, the exact x at time last): in one dimension, where the flow keeps quantiles."""
    weights, means, stds = torch.tensor([[0.3, 0.7], [-1.0, 1.0], [0.3, 0.3]], dtype=torch.float64)

    def below(x: Tensor, t: float) -> Tensor:
        alpha, sigma = schedule(t)
        spread = torch.sqrt(alpha**2 * stds**2 + sigma**2)
        return (weights * torch.special.ndtr((x[:, None] - alpha * means) / spread)).sum(1)

    x_t = torch.linspace(-1.5, 1.5, 5, dtype=torch.float64)
    low, high = torch.full_like(x_t, -10), torch.full_like(x_t, 10)
    for _ in range(60):  # bisection
        middle = (low + high) / 2
        left = below(middle, last) < below(x_t, first)
        low, high = torch.where(left, middle, low), torch.where(left, high, middle)
    return Mixture(schedule, weights, means[:, None], stds=stds), x_t[:, None], middle[:, None]


def moments(
    sampler: Sampler, denoise: DenoiseFn, schedule: Schedule, mean: float, std: float
) -> list[tuple[Tensor, float, float]]:
    """Exact (s, mean, std) after each step from x ~ N(mean, std^2) at the grid's first time, where `denoise` is affine.

    Then every state is a x + b + sum_j c_j z_j, whatever the sampler keeps between its steps. In one batch, sample 0
    starts at 0, sample 1 at 1, and sample 2 + j at 0 with z_j = 1: they read b, a and c_j off, and nothing is drawn.
    """
    seen: list[tuple[Tensor, float, float]] = []

    def note(step: Step) -> None:
        b, a, *c = (step.x - step.x[0] * (torch.arange(len(step.x)) > 0)).tolist()
        seen.append((step.s, a * mean + b, math.hypot(a * std, *c)))

    def run(draws: int) -> int:
        drawn = 0

        def noise(x: Tensor) -> Tensor:
            nonlocal drawn
            drawn += 1
            return (torch.arange(len(x)) == 1 + drawn).to(x)

        x = (torch.arange(2 + draws) == 1).double()
        seen.clear()
        sampler(denoise, schedule, starting(sampler, schedule, x), noise, note)
        return drawn

    run(draws=run(draws=0))
    return seen
