"""Loss weights on the eps-MSE: L(t) = w(t) E|eps - eps_hat|^2, with lambda = log SNR.

The weight on the x0-MSE is w SNR, on the v-MSE of a VP schedule w/(1 + 1/SNR). What decides between two losses is the
product of w and the density of the time sampler in lambda.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from denoiselab.limits import AtLeastTwo, Finite, NonNegative, Positive, checked
from denoiselab.schedules import Schedule, as_time


class Weighting(ABC):
    @abstractmethod
    def __call__(self, schedule: Schedule, t: Tensor) -> Tensor:
        """w, float64 of the shape of t, for t > 0."""


def _inverse_snr(schedule: Schedule, t: Tensor) -> Tensor:
    return torch.exp(-schedule.log_snr(t))


class Simple(Weighting):
    """w = 1 (DDPM, eq. 14; NCSN and Score-SDE weigh the score by sigma^2, which is the same)."""

    def __call__(self, schedule: Schedule, t: Tensor) -> Tensor:
        return torch.ones_like(as_time(t))


class SNR(Weighting):
    """w_x = SNR + offset on the x0-MSE, w = 1 + offset/SNR (Salimans & Ho 2022, §4).

    0 is their "SNR", the simple loss by another name; 1 their "SNR+1", the v-MSE of a VP schedule.
    """

    @checked
    def __init__(self, offset: NonNegative = 1.0) -> None:
        self.offset = offset

    def __call__(self, schedule: Schedule, t: Tensor) -> Tensor:
        return 1 + self.offset * _inverse_snr(schedule, t)


class TruncatedSNR(Weighting):
    """w_x = max(SNR, 1) on the x0-MSE, w = max(1, 1/SNR) (Salimans & Ho 2022, eq. 10)."""

    def __call__(self, schedule: Schedule, t: Tensor) -> Tensor:
        return _inverse_snr(schedule, t).clamp(min=1.0)


class MinSNR(Weighting):
    """w = min(1, gamma/SNR) (Hang 2023, eq. 8); 1 at SNR = 0."""

    @checked
    def __init__(self, gamma: Positive = 5.0) -> None:
        self.gamma = gamma

    def __call__(self, schedule: Schedule, t: Tensor) -> Tensor:
        return (self.gamma * _inverse_snr(schedule, t)).clamp(max=1.0)


class P2(Weighting):
    """w = (k + SNR)^-gamma (Choi 2022, eq. 8)."""

    @checked
    def __init__(self, k: NonNegative = 1.0, gamma: Positive = 1.0) -> None:
        self.k, self.gamma = k, gamma

    def __call__(self, schedule: Schedule, t: Tensor) -> Tensor:
        return (self.k + torch.exp(schedule.log_snr(t))) ** -self.gamma


class X0MSE(Weighting):
    """w = 1/SNR: the x0-MSE itself."""

    def __call__(self, schedule: Schedule, t: Tensor) -> Tensor:
        return _inverse_snr(schedule, t)


class VMSE(Weighting):
    """w = ((alpha^2 + sigma^2)/alpha)^2: the MSE of v = alpha eps - sigma x0 itself."""

    def __call__(self, schedule: Schedule, t: Tensor) -> Tensor:
        alpha, sigma = schedule(t)
        return ((alpha**2 + sigma**2) / alpha) ** 2


class FlowMSE(Weighting):
    """w = (1 + sigma/alpha)^2: the MSE of the velocity eps - x0; on the flow schedule 1/(1 - t)^2 (Lipman 2022)."""

    def __call__(self, schedule: Schedule, t: Tensor) -> Tensor:
        return (1 + torch.exp(-schedule.log_snr(t) / 2)) ** 2


class EDM(Weighting):
    """w = 1 + 1/(s^2 SNR), the MSE of EDM's F, with s = `sigma_data` (Karras 2022, table 1)."""

    @checked
    def __init__(self, sigma_data: Positive = 0.5) -> None:
        self.sigma_data = sigma_data

    def __call__(self, schedule: Schedule, t: Tensor) -> Tensor:
        return 1 + _inverse_snr(schedule, t) / self.sigma_data**2


class Sigmoid(Weighting):
    """w = S(b - lambda), S the logistic function (Kingma & Gao 2023, §5.2)."""

    @checked
    def __init__(self, b: Finite = 2.0) -> None:
        self.b = b

    def __call__(self, schedule: Schedule, t: Tensor) -> Tensor:
        return torch.sigmoid(self.b - schedule.log_snr(t))


class RandomWalk(Weighting):
    """A term of the bound of T steps with reverse variance beta: w_x = alpha_s^2 var_ts/(2 sigma_t^4), s = t - 1/T.

    On the unit random walk, schedule=ve_sqrt of T steps, it is 1/(2 i^2) on the x0-MSE at step i.
    """

    @checked
    def __init__(self, T: AtLeastTwo = 1000) -> None:
        self.T = T

    def __call__(self, schedule: Schedule, t: Tensor) -> Tensor:
        t = as_time(t)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule((t - 1 / self.T).clamp(min=0.0))
        # (alpha_s^2 sigma_t^2 - alpha_t^2 sigma_s^2)/(2 alpha_t^2 sigma_t^2)
        return ((alpha_s / alpha_t) ** 2 - (sigma_s / sigma_t) ** 2) / 2


class VLB(Weighting):
    """w = -lambda'(t)/2: with uniform t, the diffusion term of the variational bound in nats (VDM, eq. 17)."""

    def __call__(self, schedule: Schedule, t: Tensor) -> Tensor:
        return -schedule.log_snr_slope(t) / 2
