"""Exact denoisers, with which schedules, spacings, samplers and guidance are judged with no trained network at all."""

import torch
from torch import Tensor

from denoiselab.denoiser import Prediction
from denoiselab.schedules import Schedule, like


class Gaussian:
    """For x_0 ~ N(mean, std^2 I): E[x_0|x_t] = mean + alpha std^2/(alpha^2 std^2 + sigma^2) (x_t - alpha mean)."""

    def __init__(self, schedule: Schedule, mean: float = 0.0, std: float = 1.0) -> None:
        self.schedule, self.mean, self.std = schedule, mean, std

    def __call__(self, x_t: Tensor, t: Tensor) -> Prediction:
        alpha, sigma = self.schedule(t)
        variance = alpha**2 * self.std**2 + sigma**2
        centred = x_t - like(alpha, x_t) * self.mean
        return Prediction(
            x0=self.mean + like(alpha * self.std**2 / variance, x_t) * centred,
            eps=like(sigma / variance, x_t) * centred,
        )

    def flow(self, x: Tensor, t: Tensor | float, s: Tensor | float) -> Tensor:
        """The probability-flow ODE's exact solution: x at time t -> x at time s, in closed form."""
        (alpha_t, sigma_t), (alpha_s, sigma_s) = self.schedule(t), self.schedule(s)
        scale = torch.sqrt((alpha_s**2 * self.std**2 + sigma_s**2) / (alpha_t**2 * self.std**2 + sigma_t**2))
        return like(alpha_s, x) * self.mean + like(scale, x) * (x - like(alpha_t, x) * self.mean)
