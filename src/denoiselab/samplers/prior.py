"""No sampling at all: for latents whose prior is the noise itself, as a variational autoencoder's are."""

from typing import Any

from torch import Tensor

from denoiselab.denoiser import DenoiseFn
from denoiselab.samplers.sampler import NoiseFn, Sampler
from denoiselab.schedules import Schedule


class Prior(Sampler):
    """x_0 is x_T: the denoiser is never asked."""

    def step(
        self, denoise: DenoiseFn, schedule: Schedule, x: Tensor, t: Tensor, s: Tensor, state: Any, noise: NoiseFn
    ) -> tuple[Tensor, Any]:
        return x, state
