r"""Annealed Langevin dynamics (NCSN, Song & Ermon 2019, arXiv:1907.05600, algorithm 1).

In $y = x/\alpha$ and $n = \sigma/\alpha$ every schedule is that of NCSN: $y = x_0 + n \epsilon$ has the score
$-\hat\epsilon/n$. At each level of the grid the sampler takes `inner` Langevin steps of size $a = \varepsilon n^2$,

$$y \leftarrow y - \tfrac{a}{2}\,\hat\epsilon/n + \sqrt a\,z, \qquad\text{that is}\qquad
x \leftarrow x + \sigma\,(\sqrt\varepsilon\,z - \tfrac{\varepsilon}{2}\,\hat\epsilon),$$

and takes $y$ to the next level as it is. For data $N(m, \varsigma^2)$ the stationary variance of $y$ is
$V/(1 - a/(4V))$, $V = \varsigma^2 + n^2$.
"""

from typing import Annotated

import torch
from torch import Tensor

from denoiselab.denoiser import DenoiseFn
from denoiselab.errors import IncompatibleError
from denoiselab.limits import Count, Limit, checked
from denoiselab.samplers.sampler import NoiseFn, Sampler, batched
from denoiselab.schedules import Schedule, like
from denoiselab.spacings import Spacing


def langevin_step(x: Tensor, eps: Tensor, sigma: Tensor, epsilon: Tensor, z: Tensor) -> Tensor:
    r"""Takes x: (B, ...) by one Langevin step of size $\varepsilon n^2$; epsilon is a float64 scalar or (B,)."""
    return x + sigma * (like(torch.sqrt(epsilon), x) * z - like(epsilon / 2, x) * eps)


class Langevin(Sampler[None]):
    """Annealed Langevin dynamics with steps of `epsilon` n^2; returns x0_hat after the last level.

    `epsilon` is relative to n^2 so that it means the same on every schedule; the paper's 2e-5 at its last sigma of 0.01
    is 0.2. Takes steps * inner + 1 evaluations.

    Raises ConfigError for fewer than one inner step and for an epsilon outside (0, 4), where the dynamics diverge at
    high noise; IncompatibleError while sampling from alpha = 0, where x/alpha is undefined.
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
        self, denoise: DenoiseFn, schedule: Schedule, x: Tensor, t: Tensor, s: Tensor, state: None, noise: NoiseFn
    ) -> tuple[Tensor, None]:
        (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
        if alpha_t == 0:
            raise IncompatibleError(
                "sampler=langevin works in x/alpha, and this schedule ends at alpha = 0; use another sampler, "
                "or end the schedule earlier with schedule.log_snr_min=-15"
            )
        epsilon = torch.tensor(self.epsilon, dtype=torch.float64)
        for _ in range(self.inner):
            x = langevin_step(x, denoise(x, batched(t, x)).eps, sigma_t, epsilon, noise(x))
        if sigma_s == 0:
            return denoise(x, batched(t, x)).x0, None
        return alpha_s / alpha_t * x, None
