"""What the network's output F means.

Its target is linear in (x0, eps): F* = a x0 + b eps, so that no target cancels at small sigma. With
x_t = alpha x0 + sigma eps that gives both back, with D = alpha b - sigma a:

    x0_hat = c_skip x_t + c_out F,   c_skip =  b/D,  c_out = -sigma/D
    eps_hat = e_skip x_t + e_out F,  e_skip = -a/D,  e_out = alpha/D

A parameterization is the pair (a, b) and what its network is given, nothing else. Its loss weight follows: the eps-MSE
is e_out^2 |F - F*|^2. D = 0 is where F says nothing about x0.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from denoiselab.limits import AtLeastTwo, Positive, checked
from denoiselab.schedules import Schedule, as_time, like, noise_label


class Inverse(NamedTuple):
    """x0_hat = c_skip x_t + c_out F and eps_hat = e_skip x_t + e_out F, each float64 of the shape of t."""

    c_skip: Tensor
    c_out: Tensor
    e_skip: Tensor
    e_out: Tensor


class Parameterization(ABC):
    @abstractmethod
    def target_coefficients(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        """(a, b) of the network's target F* = a x0 + b eps, float64 of the shape of t, for t > 0."""

    def target(self, x0: Tensor, eps: Tensor, schedule: Schedule, t: Tensor) -> Tensor:
        """F* of the shape of x0: (B, ...), for t: (B,)."""
        a, b = self.target_coefficients(schedule, t)
        return like(a, x0) * x0 + like(b, x0) * eps

    def inverse(self, schedule: Schedule, t: Tensor) -> Inverse:
        """For t > 0; infinite where x0 does not follow from F."""
        (alpha, sigma), (a, b) = schedule(t), self.target_coefficients(schedule, t)
        D = alpha * b - sigma * a
        return Inverse(b / D, -sigma / D, -a / D, alpha / D)

    def coefficients(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        """(c_skip, c_out)."""
        return self.inverse(schedule, t)[:2]

    def eps_coefficients(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        """(e_skip, e_out)."""
        return self.inverse(schedule, t)[2:]

    def network_input(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        """(c_in, label) of the shape of t: the network is given c_in x_t, and label as its time."""
        return schedule.network_input(t)


class Eps(Parameterization):
    """F = eps (DDPM §3.2). Undefined where alpha = 0."""

    def target_coefficients(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        t = as_time(t)
        return torch.zeros_like(t), torch.ones_like(t)


class X0(Parameterization):
    """F = x0 (DDPM §3.2, where it is called predicting x_0)."""

    def target_coefficients(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        t = as_time(t)
        return torch.ones_like(t), torch.zeros_like(t)


class V(Parameterization):
    """F = v = alpha eps - sigma x0 (Salimans & Ho 2022, §4)."""

    def target_coefficients(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = schedule(t)
        return -sigma, alpha


class Flow(Parameterization):
    """F = eps - x0, the velocity dx_t/dt of the flow schedule (rectified flow, Liu 2022, eq. 1; noise is at t = 1)."""

    def target_coefficients(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        t = as_time(t)
        return -torch.ones_like(t), torch.ones_like(t)


class Score(Parameterization):
    """F = grad log q(x_t|x_0) = -eps/sigma (Score-SDE, eq. 7). Undefined where alpha = 0."""

    def target_coefficients(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        _, sigma = schedule(t)
        return torch.zeros_like(sigma), -1 / sigma


class Mean(Parameterization):
    """F = mean of q(x_s|x_t, x_0), s = t - 1/T (DDPM, eq. 8): a = alpha_s, b = alpha_ts sigma_s^2/sigma_t.

    Undefined where the level at s is that at t, on the last part of a schedule that ended early.
    """

    @checked
    def __init__(self, T: AtLeastTwo = 1000) -> None:
        self.T = T

    def target_coefficients(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        t = as_time(t)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule((t - 1 / self.T).clamp(min=0.0))
        # Where the level stays D is 0, which rounding must not hide.
        stays = (alpha_s == alpha_t) & (sigma_s == sigma_t)
        return alpha_s, torch.where(stays, sigma_t, alpha_t / alpha_s * sigma_s**2 / sigma_t)


class EDM(Parameterization):
    """EDM's F with its scalings of input and output (Karras 2022, table 1), on any schedule.

    With V = alpha^2 s^2 + sigma^2 and data of standard deviation s = `sigma_data`: c_skip = alpha s^2/V,
    c_out = sigma s/sqrt(V), c_in = 1/sqrt(V), label = log(sigma/alpha)/4. With s = 1 on a VP schedule F = -v.
    """

    @checked
    def __init__(self, sigma_data: Positive = 0.5) -> None:
        self.sigma_data = sigma_data

    def _std(self, schedule: Schedule, t: Tensor) -> Tensor:
        alpha, sigma = schedule(t)
        return torch.sqrt(alpha**2 * self.sigma_data**2 + sigma**2)

    def target_coefficients(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        (alpha, sigma), std = schedule(t), self._std(schedule, t)
        return sigma / (self.sigma_data * std), -alpha * self.sigma_data / std

    def network_input(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        return 1 / self._std(schedule, t), noise_label(schedule.log_snr(t))
