"""Churn (EDM, Karras 2022, algorithm 2, lines 4-6): noise added anew before a deterministic step."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from denoiselab.limits import Count, NonNegative, Positive, checked
from denoiselab.samplers.sampler import NoiseFn, Sampler
from denoiselab.schedules import Schedule
from denoiselab.spacings import Spacing


@dataclass(frozen=True)
class Churn:
    """Where n = sigma/alpha is in [s_min, s_max] it grows by 1 + gamma, gamma = min(s_churn/steps, sqrt(2) - 1).

    s_churn is how much noise is added over all steps, and 0 adds none; s_noise scales it. No noise is added beyond that
    of the schedule's end.
    """

    steps: int
    s_churn: float = 0.0
    s_min: float = 0.0
    s_max: float = math.inf
    s_noise: float = 1.0

    def __call__(self, schedule: Schedule, x: Tensor, t: Tensor, noise: NoiseFn) -> tuple[Tensor, Tensor]:
        """(x, t) -> the same sample with more noise, at the time where n has grown so far."""
        alpha_t, sigma_t = schedule(t)
        gamma = min(self.s_churn / self.steps, math.sqrt(2) - 1)
        if gamma == 0 or alpha_t == 0 or not self.s_min <= sigma_t / alpha_t <= self.s_max:
            return x, t
        later = schedule.time(schedule.log_snr(t) - 2 * math.log1p(gamma))
        alpha, sigma = schedule(later)
        if later <= t or alpha == 0:
            return x, t
        added = torch.sqrt((sigma / alpha) ** 2 - (sigma_t / alpha_t) ** 2)
        return (alpha / alpha_t * x + alpha * added * self.s_noise * noise(x), later) if added > 0 else (x, t)


class Churned(Sampler):
    """A sampler with `Churn`, whose s_churn, s_min, s_max and s_noise it is given; s_churn 0 is deterministic."""

    @checked
    def __init__(
        self,
        steps: Count,
        spacing: Spacing,
        s_churn: NonNegative = 0.0,
        s_min: NonNegative = 0.0,
        s_max: NonNegative = math.inf,
        s_noise: Positive = 1.0,
    ) -> None:
        super().__init__(steps, spacing)
        self.churn = Churn(steps, s_churn, s_min, s_max, s_noise)
