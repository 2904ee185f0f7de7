r"""Parameterizations: the meaning of the network's output F.

The target is linear in $(x_0, \epsilon)$, $F^* = a x_0 + b\epsilon$, so that no target cancels at small $\sigma$. With
$x_t = \alpha x_0 + \sigma\epsilon$ and $D = \alpha b - \sigma a$,

$$\hat x_0 = c_\mathrm{skip} x_t + c_\mathrm{out} F, \quad c_\mathrm{skip} = b/D, \quad c_\mathrm{out} = -\sigma/D$$

$$\hat\epsilon = e_\mathrm{skip} x_t + e_\mathrm{out} F, \quad e_\mathrm{skip} = -a/D, \quad e_\mathrm{out} = \alpha/D$$

A parameterization is the pair $(a, b)$ and the network's input, nothing else. Its loss weight follows: the eps-MSE is
$e_\mathrm{out}^2 |F - F^*|^2$. Where $D = 0$, F does not determine $x_0$.
"""

from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from denoiselab.limits import AtLeastTwo, Positive, checked
from denoiselab.schedules import Schedule, as_time, like, noise_label


class Inverse(NamedTuple):
    """Coefficients of x0_hat = c_skip x_t + c_out F and eps_hat = e_skip x_t + e_out F: float64, of the shape of t."""

    c_skip: Tensor
    c_out: Tensor
    e_skip: Tensor
    e_out: Tensor


class Parameterization(ABC):
    @abstractmethod
    def target_coefficients(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (a, b) of the target F* = a x0 + b eps: float64, of the shape of t, for t > 0."""

    def target(self, x0: Tensor, eps: Tensor, schedule: Schedule, t: Tensor) -> Tensor:
        """Returns F* of the shape of x0: (B, ...), for t: (B,)."""
        a, b = self.target_coefficients(schedule, t)
        return like(a, x0) * x0 + like(b, x0) * eps

    def inverse(self, schedule: Schedule, t: Tensor) -> Inverse:
        """Returns the inverse for t > 0; infinite where x0 does not follow from F."""
        (alpha, sigma), (a, b) = schedule(t), self.target_coefficients(schedule, t)
        D = alpha * b - sigma * a
        return Inverse(b / D, -sigma / D, -a / D, alpha / D)

    def coefficients(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (c_skip, c_out)."""
        return self.inverse(schedule, t)[:2]

    def eps_coefficients(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (e_skip, e_out)."""
        return self.inverse(schedule, t)[2:]

    def network_input(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (c_in, label) of the shape of t: the network takes c_in x_t, with label as its time."""
        return schedule.network_input(t)


class Eps(Parameterization):
    r"""$F = \epsilon$ (DDPM, arXiv:2006.11239, §3.2). Undefined where $\alpha = 0$."""

    def target_coefficients(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        t = as_time(t)
        return torch.zeros_like(t), torch.ones_like(t)


class X0(Parameterization):
    """$F = x_0$ ("predicting $x_0$" in DDPM, arXiv:2006.11239, §3.2)."""

    def target_coefficients(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        t = as_time(t)
        return torch.ones_like(t), torch.zeros_like(t)


class V(Parameterization):
    r"""$F = v = \alpha\epsilon - \sigma x_0$ (Salimans & Ho 2022, arXiv:2202.00512, §4)."""

    def target_coefficients(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = schedule(t)
        return -sigma, alpha


class Flow(Parameterization):
    r"""$F = \epsilon - x_0 = dx_t/dt$ on the flow schedule, noise at $t = 1$ (Liu 2022, arXiv:2209.03003, eq. 1)."""

    def target_coefficients(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        t = as_time(t)
        return -torch.ones_like(t), torch.ones_like(t)


class Score(Parameterization):
    r"""$F = \nabla\log q(x_t|x_0) = -\epsilon/\sigma$ (Score-SDE, arXiv:2011.13456, eq. 7). Not for $\alpha = 0$."""

    def target_coefficients(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        _, sigma = schedule(t)
        return torch.zeros_like(sigma), -1 / sigma


class Mean(Parameterization):
    r"""F is the mean of $q(x_s|x_t, x_0)$, $s = t - 1/T$ (DDPM, arXiv:2006.11239, eq. 8).

    $a = \alpha_s$ and $b = (\alpha_t/\alpha_s)\,\sigma_s^2/\sigma_t$. Undefined where the levels at s and t are equal,
    on the last part of a schedule that ended early.
    """

    @checked
    def __init__(self, T: AtLeastTwo = 1000) -> None:
        self.T = T

    def target_coefficients(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        t = as_time(t)
        (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule((t - 1 / self.T).clamp(min=0.0))
        # D is exactly 0 at equal levels, which rounding must not hide.
        stays = (alpha_s == alpha_t) & (sigma_s == sigma_t)
        return alpha_s, torch.where(stays, sigma_t, alpha_t / alpha_s * sigma_s**2 / sigma_t)


class EDM(Parameterization):
    r"""EDM's F, with its scaling of input and output, on any schedule (Karras 2022, arXiv:2206.00364, table 1).

    With $V = \alpha^2 s^2 + \sigma^2$ and data of standard deviation $s$ = `sigma_data`:
    $c_\mathrm{skip} = \alpha s^2/V$, $c_\mathrm{out} = \sigma s/\sqrt V$, $c_\mathrm{in} = 1/\sqrt V$,
    $\mathrm{label} = \log(\sigma/\alpha)/4$. With $s = 1$ on a VP schedule, $F = -v$.
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
