r"""Heun's second-order method on the probability-flow ODE, with churn (EDM, arXiv:2206.00364, algorithm 2).

In $y = x/\alpha$ and $n = \sigma/\alpha$ every schedule has the same ODE, $dy/dn = \hat\epsilon$, and a step averages
$\hat\epsilon$ over its two ends, $x'_s$ being where Euler's step leads:

$$y_s = y_t + (n_s - n_t)\,\tfrac12\,[\hat\epsilon(x_t, t) + \hat\epsilon(x'_s, s)]$$
"""

from torch import Tensor

from denoiselab.denoiser import DenoiseFn
from denoiselab.samplers.edm import Churned
from denoiselab.samplers.sampler import NoiseFn, batched
from denoiselab.schedules import Schedule


class Heun(Churned):
    """Of order 2, with 2 steps - 1 evaluations; the steps to sigma = 0 and from alpha = 0 are Euler's."""

    def step(
        self, denoise: DenoiseFn, schedule: Schedule, x: Tensor, t: Tensor, s: Tensor, state: None, noise: NoiseFn
    ) -> tuple[Tensor, None]:
        x, t, (alpha_t, sigma_t) = self.churn(schedule, x, t, noise)
        alpha_s, sigma_s = schedule(s)
        now = denoise(x, batched(t, x))
        euler = alpha_s * now.x0 + sigma_s * now.eps
        if sigma_s == 0 or alpha_t == 0:  # n is 0, where eps is undefined, or infinite: Euler's step alone
            return euler, None
        then = denoise(euler, batched(s, x))
        dn = sigma_s / alpha_s - sigma_t / alpha_t
        return alpha_s / alpha_t * x + alpha_s * dn * (now.eps + then.eps) / 2, None
