"""DDIM (Song 2020, eq. 12): x_s = alpha_s x0_hat + sqrt(sigma_s^2 - v) eps_hat + sqrt(v) z, v = eta^2 beta-tilde.

eta = 0 is the probability-flow ODE's Euler step in sigma/alpha; eta = 1 is DDPM with the small variance.
"""

from typing import Any

import torch
from torch import Tensor

from denoiselab.denoiser import DenoiseFn
from denoiselab.limits import Count, Share, checked
from denoiselab.samplers.sampler import NoiseFn, Sampler, batched, posterior_variance
from denoiselab.schedules import Schedule
from denoiselab.spacings import Spacing


class DDIM(Sampler):
    """eta: from 0 to 1; beyond, sigma_s^2 - v need not be positive."""

    @checked
    def __init__(self, steps: Count, spacing: Spacing, eta: Share = 0.0) -> None:
        super().__init__(steps, spacing)
        self.eta = eta

    def step(
        self, denoise: DenoiseFn, schedule: Schedule, x: Tensor, t: Tensor, s: Tensor, state: Any, noise: NoiseFn
    ) -> tuple[Tensor, Any]:
        prediction = denoise(x, batched(t, x))
        alpha_s, sigma_s = at_s = schedule(s)
        if self.eta == 0:
            return alpha_s * prediction.x0 + sigma_s * prediction.eps, None
        variance = self.eta**2 * posterior_variance(schedule(t), at_s)[1]
        x = alpha_s * prediction.x0 + torch.sqrt(sigma_s**2 - variance) * prediction.eps
        return (x + torch.sqrt(variance) * noise(x) if variance > 0 else x), None
