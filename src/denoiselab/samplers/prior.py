"""No sampling at all: for latents whose prior is the noise itself, as a variational autoencoder's are."""

from torch import Tensor

from denoiselab.denoiser import DenoiseFn
from denoiselab.samplers.sampler import NoiseFn, Sampler
from denoiselab.schedules import Schedule


class Prior(Sampler[None]):
    """Returns x_T as x_0 and never calls the denoiser."""

    def step(
        self, denoise: DenoiseFn, schedule: Schedule, x: Tensor, t: Tensor, s: Tensor, state: None, noise: NoiseFn
    ) -> tuple[Tensor, None]:
        return x, None
