r"""Churn (EDM, Karras 2022, arXiv:2206.00364, algorithm 2, lines 4-6): fresh noise before a deterministic step."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from denoiselab.limits import Count, NonNegative, Positive, checked
from denoiselab.samplers.sampler import NoiseFn, Sampler, half_log_snr
from denoiselab.schedules import Level, Schedule
from denoiselab.spacings import Spacing


@dataclass(frozen=True)
class Churn:
    r"""Adds noise where $n = \sigma/\alpha$ is in [s_min, s_max], so that $n$ grows to $(1 + \gamma)\,n$.

    $\gamma = \min(\mathrm{s\_churn}/\mathrm{steps}, \sqrt 2 - 1)$. s_churn is the amount of noise over all steps, and 0
    adds none; s_noise scales its standard deviation. Noise never grows beyond the end of the schedule.
    """

    steps: int
    s_churn: float = 0.0
    s_min: float = 0.0
    s_max: float = math.inf
    s_noise: float = 1.0

    def __call__(self, schedule: Schedule, x: Tensor, t: Tensor, noise: NoiseFn) -> tuple[Tensor, Tensor, Level]:
        """Returns the noisier sample, the time at which n has grown so far, and the level there.

        Where churn adds nothing these are x: (B, ...), t and the level at t.
        """
        alpha_t, sigma_t = at_t = schedule(t)
        gamma = min(self.s_churn / self.steps, math.sqrt(2) - 1)
        if gamma == 0 or alpha_t == 0 or not self.s_min <= sigma_t / alpha_t <= self.s_max:
            return x, t, at_t
        later = schedule.time(2 * half_log_snr(at_t) - 2 * math.log1p(gamma))
        if later <= t:
            return x, t, at_t
        alpha, sigma = at_later = schedule(later)
        if alpha == 0:
            return x, t, at_t
        added = torch.sqrt((sigma / alpha) ** 2 - (sigma_t / alpha_t) ** 2)
        if not added > 0:
            return x, t, at_t
        return alpha / alpha_t * x + alpha * added * self.s_noise * noise(x), later, at_later


class Churned(Sampler[None]):
    """A one-step sampler with `Churn`, whose options s_churn, s_min, s_max and s_noise it takes."""

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
