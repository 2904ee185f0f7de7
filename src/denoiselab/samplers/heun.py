"""Heun's second-order method on the probability-flow ODE, with churn (EDM, Karras 2022, algorithm 2).

In y = x/alpha and n = sigma/alpha every schedule has the same ODE, dy/dn = eps_hat; 2 steps - 1 network evaluations.
"""

import math
from typing import Any

import torch
from torch import Tensor

from denoiselab.denoiser import DenoiseFn
from denoiselab.samplers.sampler import NoiseFn, Sampler, batched
from denoiselab.schedules import Schedule
from denoiselab.spacings import Spacing


class Heun(Sampler):
    """s_churn: how much noise is added anew, over all steps, where n is in [s_min, s_max]; s_noise scales it.

    s_churn 0 is deterministic. No noise is added beyond that of the schedule's end.
    """

    def __init__(
        self,
        steps: int,
        spacing: Spacing,
        s_churn: float = 0.0,
        s_min: float = 0.0,
        s_max: float = math.inf,
        s_noise: float = 1.0,
    ) -> None:
        super().__init__(steps, spacing)
        self.s_churn, self.s_min, self.s_max, self.s_noise = s_churn, s_min, s_max, s_noise

    def step(
        self, denoise: DenoiseFn, schedule: Schedule, x: Tensor, t: Tensor, s: Tensor, state: Any, noise: NoiseFn
    ) -> tuple[Tensor, Any]:
        if self.s_churn > 0:
            x, t = self.churn(schedule, x, t, noise)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
        now = denoise(x, batched(t, x))
        euler = alpha_s * now.x0 + sigma_s * now.eps
        if s == 0 or alpha_t == 0:  # n is 0, where eps is not defined, or infinite: the Euler step alone
            return euler, None
        then = denoise(euler, batched(s, x))
        dn = sigma_s / alpha_s - sigma_t / alpha_t
        return alpha_s / alpha_t * x + alpha_s * dn * (now.eps + then.eps) / 2, None

    def churn(self, schedule: Schedule, x: Tensor, t: Tensor, noise: NoiseFn) -> tuple[Tensor, Tensor]:
        """(x, t) -> the same sample with more noise, at the time where n has grown by the factor 1 + gamma."""
        alpha_t, sigma_t = schedule(t)
        gamma = min(self.s_churn / self.steps, math.sqrt(2) - 1)
        later = schedule.time(schedule.log_snr(t) - 2 * math.log1p(gamma))
        if alpha_t == 0 or later <= t or not self.s_min <= sigma_t / alpha_t <= self.s_max:
            return x, t
        alpha, sigma = schedule(later)
        added = torch.sqrt((sigma / alpha) ** 2 - (sigma_t / alpha_t) ** 2) if alpha > 0 else torch.zeros(())
        return (alpha / alpha_t * x + alpha * added * self.s_noise * noise(x), later) if added > 0 else (x, t)
