"""Ancestral sampling (DDPM, Ho 2020, algorithm 2): x_s ~ N(mean of q(x_s|x_t, x0_hat), Sigma)."""

from typing import Any

import torch
from torch import Tensor

from denoiselab.denoiser import DenoiseFn
from denoiselab.errors import ConfigError
from denoiselab.samplers.sampler import NoiseFn, Sampler, batched, posterior_variance
from denoiselab.schedules import Schedule
from denoiselab.spacings import Spacing


class DDPM(Sampler):
    """variance "small" is beta-tilde, right for one-point data; "large" is beta, right for N(0, I) data (DDPM §3.2).

    The last step adds no noise. Raises ConfigError for another variance.
    """

    def __init__(self, steps: int, spacing: Spacing, variance: str = "small") -> None:
        super().__init__(steps, spacing)
        if variance not in ("small", "large"):
            raise ConfigError(f"sampler.variance is {variance!r}; allowed are small and large")
        self.variance = variance

    def step(
        self, denoise: DenoiseFn, schedule: Schedule, x: Tensor, t: Tensor, s: Tensor, state: Any, noise: NoiseFn
    ) -> tuple[Tensor, Any]:
        x0 = denoise(x, batched(t, x)).x0
        (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
        large, small = posterior_variance(schedule, t, s)
        mean = (alpha_t / alpha_s) * (sigma_s / sigma_t) ** 2 * x + (alpha_s * large / sigma_t**2) * x0
        if s == 0 or large == 0:  # the last step; or one past the end of a schedule ended early, where nothing moves
            return mean, None
        return mean + torch.sqrt(small if self.variance == "small" else large) * noise(x), None
