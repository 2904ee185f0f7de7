r"""Predictor-corrector (Score-SDE, Song 2021, arXiv:2011.13456, algorithms 1, 4 and 5).

A step takes Langevin steps at the noise level of $t$, then DDPM's step to $s$. The paper's corrector is

$$x \leftarrow x - \epsilon' \hat\epsilon/\sigma + \sqrt{2\epsilon'}\,z, \qquad
\epsilon' = 2 (r \lVert z\rVert/\lVert\hat\epsilon/\sigma\rVert)^2,$$

which is a `langevin_step` with $\varepsilon = 4 r^2 \lVert z\rVert^2/\lVert\hat\epsilon\rVert^2$ on every schedule.
(Algorithm 5 has a further factor $1 - \beta_i$, which is near 1.)
"""

import torch
from torch import Tensor

from denoiselab.denoiser import DenoiseFn
from denoiselab.limits import Count, Natural, Positive, checked
from denoiselab.samplers.ddpm import DDPM
from denoiselab.samplers.langevin import langevin_step
from denoiselab.samplers.sampler import NoiseFn, Sampler, batched
from denoiselab.schedules import Schedule
from denoiselab.spacings import Spacing


class PredictorCorrector(Sampler[None]):
    """M = `corrector_steps` Langevin steps with r = `snr`, then DDPM's step: steps (M + 1) evaluations.

    Norms are those of each sample, where the paper's code averages them over the batch. In many dimensions the
    corrector's stationary variance is 1 + r^2 times that of a Gaussian x_t as long as epsilon stays below its limit of
    1; near the data |eps_hat| is often small enough to reach it. Raises ConfigError for an snr that is not above 0 and
    for a negative number of corrector steps.
    """

    @checked
    def __init__(self, steps: Count, spacing: Spacing, snr: Positive = 0.16, corrector_steps: Natural = 1) -> None:
        super().__init__(steps, spacing)
        self.snr, self.corrector_steps = snr, corrector_steps
        self.predictor = DDPM(steps, spacing)

    def step(
        self, denoise: DenoiseFn, schedule: Schedule, x: Tensor, t: Tensor, s: Tensor, state: None, noise: NoiseFn
    ) -> tuple[Tensor, None]:
        at_t, at_s = schedule(t), schedule(s)
        for _ in range(self.corrector_steps):
            eps, z = denoise(x, batched(t, x)).eps, noise(x)
            x = langevin_step(x, eps, at_t.sigma, self.epsilon(eps, z), z)
        return self.predictor.draw(x, denoise(x, batched(t, x)), at_t, at_s, noise), None

    def epsilon(self, eps: Tensor, z: Tensor) -> Tensor:
        """The relative step size of each sample: (B,), at most 1, so that a tiny |eps_hat| causes no huge step."""
        score, wanted = (part.reshape(len(part), -1).square().sum(1).double() for part in (eps, 2 * self.snr * z))
        return torch.minimum(wanted, score) / score.clamp(min=torch.finfo(torch.float64).tiny)
