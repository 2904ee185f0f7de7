"""Predictions outside the data's range. The order: guide, then clip x0, then eps again from the clipped x0."""

import math
from abc import ABC, abstractmethod

from torch import Tensor

from denoiselab.denoiser import DenoiseFn, Prediction
from denoiselab.errors import InvalidValue
from denoiselab.limits import Finite, PositiveShare, checked
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

    @checked
    def __init__(self, low: Finite = -1.0, high: Finite = 1.0) -> None:
        if low >= high:
            raise InvalidValue("low", low, f"below high={high}")
        self.low, self.high = low, high

    def limit(self, x0: Tensor) -> Tensor:
        return x0.clamp(self.low, self.high)


class Dynamic(Threshold):
    """x0 clipped to [-s, s] and divided by s, s the `percentile` of |x0| in that sample, at least 1 (Imagen, §2.3).

    Between two values the percentile is linear. Raises ConfigError for a percentile outside (0, 1].
    """

    @checked
    def __init__(self, percentile: PositiveShare = 0.995) -> None:
        self.percentile = percentile

    def limit(self, x0: Tensor) -> Tensor:
        # Not torch.quantile, which refuses batches of more than 16 million numbers.
        magnitude = x0.abs().reshape(len(x0), -1).sort(dim=1).values
        place = self.percentile * (magnitude.shape[1] - 1)
        below, above = magnitude[:, math.floor(place)], magnitude[:, math.ceil(place)]
        s = like((below + (place % 1) * (above - below)).clamp(min=1.0), x0)
        return x0.clamp(-s, s) / s
