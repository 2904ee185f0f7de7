"""What the network's output F means: x0_hat = c_skip x_t + c_out F.

The same choice, seen as a target, is linear in (x0, eps): F* = a x0 + b eps, so no target cancels at small sigma.
A parameterization is these two pairs and nothing else. Its loss weight follows: since
eps_hat = (x_t - alpha x0_hat)/sigma, the eps-MSE is |d eps/dF|^2 |F - F*|^2 with d eps/dF = -alpha c_out/sigma.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from denoiselab.schedules import Schedule, like


class Parameterization(ABC):
    @abstractmethod
    def coefficients(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        """(c_skip, c_out), float64 of the shape of t; infinite where x0 does not follow from F."""

    @abstractmethod
    def target_coefficients(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        """(a, b) of the network's target F* = a x0 + b eps, float64 of the shape of t."""

    def target(self, x0: Tensor, eps: Tensor, schedule: Schedule, t: Tensor) -> Tensor:
        """F* of the shape of x0: (B, ...), for t: (B,)."""
        a, b = self.target_coefficients(schedule, t)
        return like(a, x0) * x0 + like(b, x0) * eps

    def eps_coefficients(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        """(e_skip, e_out) of eps_hat = e_skip x_t + e_out F, float64 of the shape of t."""
        (alpha, sigma), (c_skip, c_out) = schedule(t), self.coefficients(schedule, t)
        return (1 - alpha * c_skip) / sigma, -alpha * c_out / sigma


class Eps(Parameterization):
    """F = eps (DDPM §3.2). Undefined where alpha = 0."""

    def coefficients(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = schedule(t)
        return 1 / alpha, -sigma / alpha

    def target_coefficients(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, _ = schedule(t)
        return torch.zeros_like(alpha), torch.ones_like(alpha)


class X0(Parameterization):
    """F = x0 (DDPM §3.2, where it is called predicting x_0)."""

    def coefficients(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, _ = schedule(t)
        return torch.zeros_like(alpha), torch.ones_like(alpha)

    def target_coefficients(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, _ = schedule(t)
        return torch.ones_like(alpha), torch.zeros_like(alpha)


class V(Parameterization):
    """F = v = alpha eps - sigma x0 (Salimans & Ho 2022, §4)."""

    def coefficients(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = schedule(t)
        variance = alpha**2 + sigma**2
        return alpha / variance, -sigma / variance

    def target_coefficients(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = schedule(t)
        return -sigma, alpha
