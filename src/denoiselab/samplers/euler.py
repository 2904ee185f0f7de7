r"""Euler's method on the probability-flow ODE, and its ancestral form.

In $y = x/\alpha$ and $n = \sigma/\alpha$ every schedule has the same ODE, $dy/dn = \hat\epsilon$ (EDM, Karras 2022,
arXiv:2206.00364, §3), and $y_t - n_t \hat\epsilon = \hat x_0$. So Euler's step $y_t + (n_s - n_t)\,\hat\epsilon$ is

$$x_s = \alpha_s \hat x_0 + \sigma_s \hat\epsilon,$$

which does not divide by $\alpha_t$ and so holds at $\alpha_t = 0$ too.
"""

import torch
from torch import Tensor

from denoiselab.denoiser import DenoiseFn
from denoiselab.limits import Count, Share, checked
from denoiselab.samplers.edm import Churned
from denoiselab.samplers.sampler import NoiseFn, Sampler, batched
from denoiselab.schedules import Schedule
from denoiselab.spacings import Spacing


class Euler(Churned):
    """EDM's algorithm 2 without its correction, of order 1: DDIM with eta = 0; on flow, x + (s - t) v."""

    def step(
        self, denoise: DenoiseFn, schedule: Schedule, x: Tensor, t: Tensor, s: Tensor, state: None, noise: NoiseFn
    ) -> tuple[Tensor, None]:
        x, t, _ = self.churn(schedule, x, t, noise)
        alpha_s, sigma_s = schedule(s)
        prediction = denoise(x, batched(t, x))
        return alpha_s * prediction.x0 + sigma_s * prediction.eps, None


class EulerAncestral(Sampler[None]):
    r"""Euler's step down to $n_\mathrm{down}$, then noise up to $n_s$ (k-diffusion's sample_euler_ancestral).

    $n_\mathrm{up}^2 = \eta^2 n_s^2 (n_t^2 - n_s^2)/n_t^2$ and $n_\mathrm{down}^2 = n_s^2 - n_\mathrm{up}^2$. It is DDIM
    with the same eta: eta = 1 is DDPM with the small variance, eta = 0 is Euler; weak order 1. Raises ConfigError for
    an eta outside [0, 1].
    """

    @checked
    def __init__(self, steps: Count, spacing: Spacing, eta: Share = 1.0) -> None:
        super().__init__(steps, spacing)
        self.eta = eta

    def step(
        self, denoise: DenoiseFn, schedule: Schedule, x: Tensor, t: Tensor, s: Tensor, state: None, noise: NoiseFn
    ) -> tuple[Tensor, None]:
        prediction = denoise(x, batched(t, x))
        (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
        n_ratio = (sigma_s * alpha_t / (alpha_s * sigma_t)).clamp(max=1.0)  # n_s/n_t, which is 0 at alpha_t = 0
        up = self.eta * sigma_s * torch.sqrt(1 - n_ratio**2)  # alpha_s n_up
        down = torch.sqrt(sigma_s**2 - up**2)  # alpha_s n_down
        x = alpha_s * prediction.x0 + down * prediction.eps
        return (x + up * noise(x) if up > 0 else x), None
