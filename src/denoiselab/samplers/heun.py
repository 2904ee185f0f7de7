"""Heun's second-order method on the probability-flow ODE, with churn (EDM, Karras 2022, algorithm 2).

In y = x/alpha and n = sigma/alpha every schedule has the same ODE, dy/dn = eps_hat; 2 steps - 1 network evaluations.
"""

from typing import Any

from torch import Tensor

from denoiselab.denoiser import DenoiseFn
from denoiselab.samplers.edm import Churned
from denoiselab.samplers.sampler import NoiseFn, batched
from denoiselab.schedules import Schedule


class Heun(Churned):
    """Of order 2; the steps to sigma = 0 and from alpha = 0 are Euler's."""

    def step(
        self, denoise: DenoiseFn, schedule: Schedule, x: Tensor, t: Tensor, s: Tensor, state: Any, noise: NoiseFn
    ) -> tuple[Tensor, Any]:
        x, t = self.churn(schedule, x, t, noise)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
        now = denoise(x, batched(t, x))
        euler = alpha_s * now.x0 + sigma_s * now.eps
        if s == 0 or alpha_t == 0:  # n is 0, where eps is not defined, or infinite: the Euler step alone
            return euler, None
        then = denoise(euler, batched(s, x))
        dn = sigma_s / alpha_s - sigma_t / alpha_t
        return alpha_s / alpha_t * x + alpha_s * dn * (now.eps + then.eps) / 2, None
