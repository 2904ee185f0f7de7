"""Annealed Langevin dynamics (NCSN, Song & Ermon 2019, algorithm 1).

In y = x/alpha and n = sigma/alpha every schedule is NCSN's: y = x_0 + n eps, with the score -eps_hat/n. At each level
of the grid, `inner` Langevin steps of size a = epsilon n^2,

    y <- y - (a/2) eps_hat/n + sqrt(a) z,  that is  x <- x + sigma (sqrt(epsilon) z - (epsilon/2) eps_hat),

and y is carried to the next level. For data N(m, s^2) they rest at the variance V/(1 - a/(4 V)), V = s^2 + n^2.
"""

from typing import Annotated, Any

import torch
from torch import Tensor

from denoiselab.denoiser import DenoiseFn
from denoiselab.errors import IncompatibleError
from denoiselab.limits import Count, Limit, checked
from denoiselab.samplers.sampler import NoiseFn, Sampler, batched
from denoiselab.schedules import Schedule, like
from denoiselab.spacings import Spacing


def langevin_step(x: Tensor, eps: Tensor, sigma: Tensor, epsilon: Tensor, z: Tensor) -> Tensor:
    """x: (B, ...) after one step of size epsilon n^2; epsilon is a scalar or (B,), in float64."""
    return x + sigma * (like(torch.sqrt(epsilon), x) * z - like(epsilon / 2, x) * eps)


class Langevin(Sampler):
    """`epsilon` is relative to n^2, to mean the same on every schedule; the paper's 2e-5 at its last sigma 0.01 is 0.2.
    After the last level's steps x_0 is x0_hat; steps * inner + 1 evaluations.

    Raises ConfigError for no inner step, or an epsilon outside (0, 4), where the dynamics diverge at high noise; and
    IncompatibleError, when sampling, where x/alpha is not defined.
    """

    @checked
    def __init__(
        self,
        steps: Count,
        spacing: Spacing,
        inner: Count = 5,
        epsilon: Annotated[float, Limit(0, 4, above=True, below=True)] = 0.2,
    ) -> None:
        super().__init__(steps, spacing)
        self.inner, self.epsilon = inner, epsilon

    def step(
        self, denoise: DenoiseFn, schedule: Schedule, x: Tensor, t: Tensor, s: Tensor, state: Any, noise: NoiseFn
    ) -> tuple[Tensor, Any]:
        (alpha_t, sigma_t), alpha_s = schedule(t), schedule(s).alpha
        if alpha_t == 0:
            raise IncompatibleError(
                "sampler=langevin works in x/alpha, and this schedule ends at alpha = 0; take another sampler, "
                "or end the schedule before that with schedule.log_snr_min=-15"
            )
        epsilon = torch.tensor(self.epsilon, dtype=torch.float64)
        for _ in range(self.inner):
            x = langevin_step(x, denoise(x, batched(t, x)).eps, sigma_t, epsilon, noise(x))
        if s == 0:
            return denoise(x, batched(t, x)).x0, None
        return alpha_s / alpha_t * x, None
