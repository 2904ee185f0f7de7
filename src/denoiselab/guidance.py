"""Guidance: from a conditional denoiser to the function a sampler is handed.

One convention: prediction = uncond + scale (cond - uncond); scale 1 is off. (The papers' w is scale - 1.)
"""

from abc import ABC, abstractmethod

from torch import Tensor

from denoiselab.conditioning.cond import Cond
from denoiselab.denoiser import DenoiseFn, Denoiser, Prediction


class Guidance(ABC):
    @abstractmethod
    def __call__(self, denoiser: Denoiser, cond: Cond, null: Cond) -> DenoiseFn:
        """The guided denoiser of a batch whose condition is `cond`; `null` is no condition, of the same batch."""


class Unguided(Guidance):
    """The conditional prediction as it is."""

    def __call__(self, denoiser: Denoiser, cond: Cond, null: Cond) -> DenoiseFn:
        return lambda x_t, t: denoiser(x_t, t, cond)


class ClassifierFree(Guidance):
    """uncond + scale (cond - uncond) (Ho & Salimans 2022, eq. 6), both from one pass over a batch of 2B.

    Linear in x0 and in eps alike, since both come from the same x_t. Scales 0 and 1 need one pass over B.
    """

    def __init__(self, scale: float = 1.2) -> None:
        self.scale = scale

    def __call__(self, denoiser: Denoiser, cond: Cond, null: Cond) -> DenoiseFn:
        if self.scale in (0, 1):
            return lambda x_t, t: denoiser(x_t, t, cond if self.scale == 1 else null)
        both = null.cat(cond)

        def denoise(x_t: Tensor, t: Tensor) -> Prediction:
            prediction = denoiser(x_t.repeat(2, *[1] * (x_t.ndim - 1)), t.repeat(2), both)
            halves = (part.chunk(2) for part in (prediction.x0, prediction.eps))
            return Prediction(*(uncond + self.scale * (cond - uncond) for uncond, cond in halves))

        return denoise
