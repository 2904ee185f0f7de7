"""Samplers, one family a file."""

from denoiselab.samplers.ddim import DDIM
from denoiselab.samplers.ddpm import DDPM
from denoiselab.samplers.heun import Heun
from denoiselab.samplers.sampler import NoiseFn, Sampler, Step

__all__ = ["DDIM", "DDPM", "Heun", "NoiseFn", "Sampler", "Step"]
