"""Samplers, one family to a file."""

from denoiselab.samplers.ddim import DDIM
from denoiselab.samplers.ddpm import DDPM
from denoiselab.samplers.dpmpp import DPMpp2M, DPMpp2MSDE, DPMpp2S
from denoiselab.samplers.euler import Euler, EulerAncestral
from denoiselab.samplers.heun import Heun
from denoiselab.samplers.inversion import invert
from denoiselab.samplers.langevin import Langevin
from denoiselab.samplers.ode import ODE
from denoiselab.samplers.pc import PredictorCorrector
from denoiselab.samplers.plms import PLMS
from denoiselab.samplers.prior import Prior
from denoiselab.samplers.sampler import NoiseFn, Sampler, Step
from denoiselab.samplers.unipc import UniPC

__all__ = [
    "DDIM",
    "DDPM",
    "ODE",
    "PLMS",
    "DPMpp2M",
    "DPMpp2MSDE",
    "DPMpp2S",
    "Euler",
    "EulerAncestral",
    "Heun",
    "Langevin",
    "NoiseFn",
    "PredictorCorrector",
    "Prior",
    "Sampler",
    "Step",
    "UniPC",
    "invert",
]
