"""Loss weights on the eps-MSE: L(t) = w(t) E|eps - eps_hat|^2, with lambda = log SNR.

The weight on the x0-MSE is w SNR, on the v-MSE of a VP schedule w/(1 + 1/SNR). What decides between two losses is the
product of w and the density of the time sampler in lambda.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from denoiselab.schedules import Schedule


class Weighting(ABC):
    @abstractmethod
    def __call__(self, schedule: Schedule, t: Tensor) -> Tensor:
        """w, float64 of the shape of t: (B,)."""


class Simple(Weighting):
    """w = 1 (DDPM, eq. 14)."""

    def __call__(self, schedule: Schedule, t: Tensor) -> Tensor:
        return torch.ones_like(schedule.log_snr(t))


class MinSNR(Weighting):
    """w = min(1, gamma/SNR) (Hang 2023, eq. 8); 1 at SNR = 0."""

    def __init__(self, gamma: float = 5.0) -> None:
        self.gamma = gamma

    def __call__(self, schedule: Schedule, t: Tensor) -> Tensor:
        return (self.gamma * torch.exp(-schedule.log_snr(t))).clamp(max=1.0)


class VLB(Weighting):
    """w = -lambda'(t)/2: with uniform t, the diffusion term of the variational bound in nats (VDM, eq. 17).

    Infinite at t = 1 for a schedule that ends at alpha = 0.
    """

    def __call__(self, schedule: Schedule, t: Tensor) -> Tensor:
        return -schedule.log_snr_slope(t) / 2
