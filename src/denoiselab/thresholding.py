"""Thresholding: brings predictions back into the range of the data.

The order is: guide, limit x0, then compute eps again from the limited x0.
"""

import math
from abc import ABC, abstractmethod

from torch import Tensor

from denoiselab.denoiser import DenoiseFn, Prediction
from denoiselab.errors import InvalidValue
from denoiselab.limits import Finite, PositiveShare, checked
from denoiselab.schedules import Schedule, like


class Threshold(ABC):
    """A way to limit x0_hat."""

    @abstractmethod
    def limit(self, x0: Tensor) -> Tensor:
        """Returns x0: (B, ...), limited to its range."""

    def __call__(self, denoise: DenoiseFn, schedule: Schedule) -> DenoiseFn:
        """Returns the denoiser with x0 limited and eps changed to match, so that x_t = alpha x0 + sigma eps holds."""

        def limited(x_t: Tensor, t: Tensor) -> Prediction:
            prediction = denoise(x_t, t)
            x0, (alpha, sigma) = self.limit(prediction.x0), schedule(t)
            # (x_t - alpha x0)/sigma would cancel at small sigma; this is exact wherever x0 is within its range.
            return prediction._replace(x0=x0, eps=prediction.eps + like(alpha / sigma, x_t) * (prediction.x0 - x0))

        return limited


class Clip(Threshold):
    """Clips x0 to [low, high], as DDPM's code does. Raises ConfigError for an empty range."""

    @checked
    def __init__(self, low: Finite = -1.0, high: Finite = 1.0) -> None:
        if low >= high:
            raise InvalidValue("low", low, f"below high={high}")
        self.low, self.high = low, high

    def limit(self, x0: Tensor) -> Tensor:
        return x0.clamp(self.low, self.high)


class Dynamic(Threshold):
    """Clips x0 to [-s, s] and divides it by s (dynamic thresholding; Imagen, Saharia 2022, arXiv:2205.11487, §2.3).

    s is the `percentile`, a fraction, of |x0| over the sample, interpolated linearly, and at least 1. Raises
    ConfigError for a percentile outside (0, 1].
    """

    @checked
    def __init__(self, percentile: PositiveShare = 0.995) -> None:
        self.percentile = percentile

    def limit(self, x0: Tensor) -> Tensor:
        # torch.quantile does not take more than 16 million numbers.
        magnitude = x0.abs().reshape(len(x0), -1).sort(dim=1).values
        place = self.percentile * (magnitude.shape[1] - 1)
        below, above = magnitude[:, math.floor(place)], magnitude[:, math.ceil(place)]
        s = like((below + (place % 1) * (above - below)).clamp(min=1.0), x0)
        return x0.clamp(-s, s) / s
