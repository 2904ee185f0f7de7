r"""DDIM (Song 2020, arXiv:2010.02502, eq. 12).

$$x_s = \alpha_s \hat x_0 + \sqrt{\sigma_s^2 - v}\,\hat\epsilon + \sqrt{v}\,z, \qquad v = \eta^2 \tilde\beta$$

$\eta = 0$ is Euler's step on the probability-flow ODE in $\sigma/\alpha$; $\eta = 1$ is DDPM with the small variance.
"""

import torch
from torch import Tensor

from denoiselab.denoiser import DenoiseFn
from denoiselab.limits import Count, Share, checked
from denoiselab.samplers.sampler import NoiseFn, Sampler, batched, posterior_variance
from denoiselab.schedules import Schedule
from denoiselab.spacings import Spacing


class DDIM(Sampler[None]):
    r"""DDIM with `eta` from 0 to 1; beyond, $\sigma_s^2 - v$ can be negative."""

    @checked
    def __init__(self, steps: Count, spacing: Spacing, eta: Share = 0.0) -> None:
        super().__init__(steps, spacing)
        self.eta = eta

    def step(
        self, denoise: DenoiseFn, schedule: Schedule, x: Tensor, t: Tensor, s: Tensor, state: None, noise: NoiseFn
    ) -> tuple[Tensor, None]:
        prediction = denoise(x, batched(t, x))
        alpha_s, sigma_s = at_s = schedule(s)
        if self.eta == 0:
            return alpha_s * prediction.x0 + sigma_s * prediction.eps, None
        variance = self.eta**2 * posterior_variance(schedule(t), at_s)[1]
        x = alpha_s * prediction.x0 + torch.sqrt(sigma_s**2 - variance) * prediction.eps
        return (x + torch.sqrt(variance) * noise(x) if variance > 0 else x), None
