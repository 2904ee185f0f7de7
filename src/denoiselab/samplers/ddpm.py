"""Ancestral sampling (DDPM, Ho 2020, algorithm 2): x_s ~ N(mean of q(x_s|x_t, x0_hat), Sigma).

log Sigma = f log beta + (1 - f) log beta-tilde (iDDPM, Nichol 2021, eq. 15), beta = var_ts and beta-tilde its share
sigma_s^2/sigma_t^2. f = 0 is right for data of one point; f = 1 for N(0, I) data on a variance-preserving schedule
(DDPM §3.2).
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from denoiselab.denoiser import DenoiseFn, Prediction
from denoiselab.errors import IncompatibleError
from denoiselab.limits import Count, Share, checked
from denoiselab.samplers.sampler import NoiseFn, Sampler, batched, posterior_variance
from denoiselab.schedules import Schedule
from denoiselab.spacings import Spacing


def _learned(prediction: Prediction, fraction: float) -> Tensor:
    if prediction.variance is None:
        raise IncompatibleError(
            "sampler.variance=learned needs a model trained with loss=hybrid; take sampler.variance=small or large"
        )
    return prediction.variance.to(prediction.x0.dtype)


FRACTIONS: dict[str, Callable[[Prediction, float], Tensor | float]] = {
    "small": lambda prediction, fraction: 0.0,
    "large": lambda prediction, fraction: 1.0,
    "interpolated": lambda prediction, fraction: fraction,
    "learned": _learned,
}
"""f for each word: of the prediction and of the number `fraction`."""


class DDPM(Sampler):
    """variance "small" is f = 0, "large" 1, "interpolated" the number `fraction`, "learned" the network's.

    The last step adds no noise. Raises IncompatibleError, when sampling, for a learned one that the model has not.
    """

    @checked
    def __init__(
        self,
        steps: Count,
        spacing: Spacing,
        variance: Literal["small", "large", "interpolated", "learned"] = "small",
        fraction: Share = 0.5,
    ) -> None:
        super().__init__(steps, spacing)
        self.variance, self.fraction = variance, fraction

    def step(
        self, denoise: DenoiseFn, schedule: Schedule, x: Tensor, t: Tensor, s: Tensor, state: Any, noise: NoiseFn
    ) -> tuple[Tensor, Any]:
        prediction = denoise(x, batched(t, x))
        (alpha_t, sigma_t), (alpha_s, sigma_s) = at_t, at_s = schedule(t), schedule(s)
        beta, beta_tilde = posterior_variance(at_t, at_s)
        mean = (alpha_t / alpha_s) * (sigma_s / sigma_t) ** 2 * x + (alpha_s * beta / sigma_t**2) * prediction.x0
        if s == 0 or beta == 0:  # the last step; or one past the end of a schedule ended early, where nothing moves
            return mean, None
        f = FRACTIONS[self.variance](prediction, self.fraction)
        return mean + torch.sqrt(beta_tilde) * (sigma_t / sigma_s) ** f * noise(x), None
