"""Predictions outside the data's range. The order: guide, then clip x0, then eps again from the clipped x0."""

from abc import ABC, abstractmethod

from torch import Tensor

from denoiselab.denoiser import DenoiseFn, Prediction
from denoiselab.schedules import Schedule, like


class Threshold(ABC):
    @abstractmethod
    def limit(self, x0: Tensor) -> Tensor:
        """x0: (B, ...) brought into its range."""

    def __call__(self, denoise: DenoiseFn, schedule: Schedule) -> DenoiseFn:
        def limited(x_t: Tensor, t: Tensor) -> Prediction:
            x0 = self.limit(denoise(x_t, t).x0)
            alpha, sigma = schedule(t)
            return Prediction(x0, (x_t - like(alpha, x_t) * x0) / like(sigma, x_t))

        return limited


class Clip(Threshold):
    """x0 clipped to [low, high], as in DDPM's code."""

    def __init__(self, low: float = -1.0, high: float = 1.0) -> None:
        self.low, self.high = low, high

    def limit(self, x0: Tensor) -> Tensor:
        return x0.clamp(self.low, self.high)
