r"""Loss weights on the eps-MSE: $L(t) = w(t)\,E|\epsilon - \hat\epsilon|^2$, with $\lambda = \log\mathrm{SNR}$.

The weight on the x0-MSE is $w\,\mathrm{SNR}$, that on the v-MSE of a VP schedule $w/(1 + 1/\mathrm{SNR})$. Two losses
differ only in the product of $w$ and the time sampler's density in $\lambda$.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from denoiselab.limits import AtLeastTwo, Finite, NonNegative, Positive, checked
from denoiselab.schedules import Schedule, as_time


class Weighting(ABC):
    @abstractmethod
    def __call__(self, schedule: Schedule, t: Tensor) -> Tensor:
        """Returns w: float64, of the shape of t, for t > 0."""


def _inverse_snr(schedule: Schedule, t: Tensor) -> Tensor:
    return torch.exp(-schedule.log_snr(t))


class Simple(Weighting):
    r"""$w = 1$ (DDPM, arXiv:2006.11239, eq. 14). NCSN and Score-SDE weight the score by $\sigma^2$: the same."""

    def __call__(self, schedule: Schedule, t: Tensor) -> Tensor:
        return torch.ones_like(as_time(t))


class SNR(Weighting):
    r"""$w = 1 + \mathrm{offset}/\mathrm{SNR}$, SNR + offset on the x0-MSE (Salimans & Ho 2022, arXiv:2202.00512, §4).

    Offset 0 is their "SNR", the same as the simple loss; 1 is their "SNR+1", the v-MSE of a VP schedule.
    """

    @checked
    def __init__(self, offset: NonNegative = 1.0) -> None:
        self.offset = offset

    def __call__(self, schedule: Schedule, t: Tensor) -> Tensor:
        return 1 + self.offset * _inverse_snr(schedule, t)


class TruncatedSNR(Weighting):
    r"""$w = \max(1, 1/\mathrm{SNR})$, max(SNR, 1) on the x0-MSE (Salimans & Ho 2022, arXiv:2202.00512, eq. 10)."""

    def __call__(self, schedule: Schedule, t: Tensor) -> Tensor:
        return _inverse_snr(schedule, t).clamp(min=1.0)


class MinSNR(Weighting):
    r"""$w = \min(1, \gamma/\mathrm{SNR})$ (Hang 2023, arXiv:2303.09556, eq. 8); 1 at SNR = 0."""

    @checked
    def __init__(self, gamma: Positive = 5.0) -> None:
        self.gamma = gamma

    def __call__(self, schedule: Schedule, t: Tensor) -> Tensor:
        return (self.gamma * _inverse_snr(schedule, t)).clamp(max=1.0)


class P2(Weighting):
    r"""$w = (k + \mathrm{SNR})^{-\gamma}$ (Choi 2022, arXiv:2204.00227, eq. 8)."""

    @checked
    def __init__(self, k: NonNegative = 1.0, gamma: Positive = 1.0) -> None:
        self.k, self.gamma = k, gamma

    def __call__(self, schedule: Schedule, t: Tensor) -> Tensor:
        return (self.k + torch.exp(schedule.log_snr(t))) ** -self.gamma


class X0MSE(Weighting):
    r"""$w = 1/\mathrm{SNR}$: the x0-MSE itself."""

    def __call__(self, schedule: Schedule, t: Tensor) -> Tensor:
        return _inverse_snr(schedule, t)


class VMSE(Weighting):
    r"""$w = ((\alpha^2 + \sigma^2)/\alpha)^2$: the MSE of $v = \alpha\epsilon - \sigma x_0$ itself."""

    def __call__(self, schedule: Schedule, t: Tensor) -> Tensor:
        alpha, sigma = schedule(t)
        return ((alpha**2 + sigma**2) / alpha) ** 2


class FlowMSE(Weighting):
    r"""$w = (1 + \sigma/\alpha)^2$, on `Flow` $1/(1 - t)^2$: the MSE of $\epsilon - x_0$ (arXiv:2210.02747)."""

    def __call__(self, schedule: Schedule, t: Tensor) -> Tensor:
        return (1 + torch.exp(-schedule.log_snr(t) / 2)) ** 2


class EDM(Weighting):
    r"""$w = 1 + 1/(s^2\,\mathrm{SNR})$, $s$ = `sigma_data`: the MSE of EDM's F (arXiv:2206.00364, table 1)."""

    @checked
    def __init__(self, sigma_data: Positive = 0.5) -> None:
        self.sigma_data = sigma_data

    def __call__(self, schedule: Schedule, t: Tensor) -> Tensor:
        return 1 + _inverse_snr(schedule, t) / self.sigma_data**2


class Sigmoid(Weighting):
    r"""$w = S(b - \lambda)$, S the logistic function (Kingma & Gao 2023, arXiv:2303.00848, §5.2)."""

    @checked
    def __init__(self, b: Finite = 2.0) -> None:
        self.b = b

    def __call__(self, schedule: Schedule, t: Tensor) -> Tensor:
        return torch.sigmoid(self.b - schedule.log_snr(t))


class RandomWalk(Weighting):
    r"""A term of the bound of T steps with reverse variance $\beta$: $\alpha_s^2\beta/(2\sigma_t^4)$ on the x0-MSE.

    $s = t - 1/T$ and $\beta = \sigma_t^2 - (\alpha_t\sigma_s/\alpha_s)^2$. On the unit random walk, schedule=ve_sqrt of
    T steps, it is $1/(2 i^2)$ at step i.
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
    r"""$w = -\lambda'(t)/2$: with uniform t, the bound's diffusion term in nats (VDM, arXiv:2107.00630, eq. 17)."""

    def __call__(self, schedule: Schedule, t: Tensor) -> Tensor:
        return -schedule.log_snr_slope(t) / 2
