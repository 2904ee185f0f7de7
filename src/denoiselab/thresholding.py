"""Predictions outside the data's range. The order: guide, then clip x0, then eps again from the clipped x0."""

from abc import ABC, abstractmethod

from torch import Tensor

from denoiselab.denoiser import DenoiseFn, Prediction
from denoiselab.errors import ConfigError
from denoiselab.schedules import Schedule, like


class Threshold(ABC):
    @abstractmethod
    def limit(self, x0: Tensor) -> Tensor:
        """x0: (B, ...) brought into its range."""

    def __call__(self, denoise: DenoiseFn, schedule: Schedule) -> DenoiseFn:
        def limited(x_t: Tensor, t: Tensor) -> Prediction:
            prediction = denoise(x_t, t)
            x0, (alpha, sigma) = self.limit(prediction.x0), schedule(t)
            # (x_t - alpha x0)/sigma would cancel at small sigma; this is exact wherever nothing is limited.
            return prediction._replace(x0=x0, eps=prediction.eps + like(alpha / sigma, x_t) * (prediction.x0 - x0))

        return limited


class Clip(Threshold):
    """x0 clipped to [low, high], as in DDPM's code. Raises ConfigError for an empty range."""

    def __init__(self, low: float = -1.0, high: float = 1.0) -> None:
        if low >= high:
            raise ConfigError(f"threshold.low={low} is not below threshold.high={high}; give the smaller one first")
        self.low, self.high = low, high

    def limit(self, x0: Tensor) -> Tensor:
        return x0.clamp(self.low, self.high)
