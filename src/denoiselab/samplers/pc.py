"""Predictor-corrector (Score-SDE, Song 2021, algorithms 1, 4 and 5): Langevin steps at a level, then DDPM's down.

The corrector's step x <- x - eps' eps_hat/sigma + sqrt(2 eps') z has the size eps' = 2 (r |z|/|score|)^2, with
|score| = |eps_hat|/sigma. So it is a `langevin_step` with epsilon = 4 r^2 |z|^2/|eps_hat|^2, which knows nothing of the
schedule. (Algorithm 5 has a factor 1 - beta_i besides, which is near 1.)
"""

from typing import Any

import torch
from torch import Tensor

from denoiselab.denoiser import DenoiseFn
from denoiselab.limits import Count, Natural, Positive, checked
from denoiselab.samplers.ddpm import DDPM
from denoiselab.samplers.langevin import langevin_step
from denoiselab.samplers.sampler import NoiseFn, Sampler, batched
from denoiselab.schedules import Schedule
from denoiselab.spacings import Spacing


class PredictorCorrector(Sampler):
    """`snr` is r. The norms are each sample's own, not the batch's mean as in its code; steps (M + 1) evaluations.

    In many dimensions the corrector rests at 1 + r^2 times the variance of a Gaussian x_t, where epsilon stays below
    its limit of 1: near the data |eps_hat| is often small enough to reach it. Raises ConfigError for an snr that is not
    above 0 or a negative number M of corrector steps.
    """

    @checked
    def __init__(self, steps: Count, spacing: Spacing, snr: Positive = 0.16, corrector_steps: Natural = 1) -> None:
        super().__init__(steps, spacing)
        self.snr, self.corrector_steps = snr, corrector_steps
        self.predictor = DDPM(steps, spacing)

    def step(
        self, denoise: DenoiseFn, schedule: Schedule, x: Tensor, t: Tensor, s: Tensor, state: Any, noise: NoiseFn
    ) -> tuple[Tensor, Any]:
        sigma_t = schedule(t).sigma
        for _ in range(self.corrector_steps):
            eps, z = denoise(x, batched(t, x)).eps, noise(x)
            x = langevin_step(x, eps, sigma_t, self.epsilon(eps, z), z)
        return self.predictor.step(denoise, schedule, x, t, s, state, noise)

    def epsilon(self, eps: Tensor, z: Tensor) -> Tensor:
        """(B,), at most 1, so that no sample whose |eps_hat| is next to 0 takes a wild step."""
        score, wanted = (part.reshape(len(part), -1).square().sum(1).double() for part in (eps, 2 * self.snr * z))
        return torch.minimum(wanted, score) / score.clamp(min=torch.finfo(torch.float64).tiny)
