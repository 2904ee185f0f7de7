"""Heun's second-order method on the probability-flow ODE (EDM, Karras 2022, algorithm 2 without churn).

In y = x/alpha and n = sigma/alpha every schedule has the same ODE, dy/dn = eps_hat; 2 steps - 1 network evaluations.
"""

from typing import Any

from torch import Tensor

from denoiselab.denoiser import DenoiseFn
from denoiselab.samplers.sampler import NoiseFn, Sampler, batched
from denoiselab.schedules import Schedule


class Heun(Sampler):
    def step(
        self, denoise: DenoiseFn, schedule: Schedule, x: Tensor, t: Tensor, s: Tensor, state: Any, noise: NoiseFn
    ) -> tuple[Tensor, Any]:
        (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
        x0, eps = denoise(x, batched(t, x))
        euler = alpha_s * x0 + sigma_s * eps
        if s == 0 or alpha_t == 0:  # n is 0, where eps is not defined, or infinite: the Euler step alone
            return euler, None
        _, eps_s = denoise(euler, batched(s, x))
        dn = sigma_s / alpha_s - sigma_t / alpha_t
        return alpha_s / alpha_t * x + alpha_s * dn * (eps + eps_s) / 2, None
