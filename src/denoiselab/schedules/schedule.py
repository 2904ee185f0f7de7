r"""Noise schedules: $x_t = \alpha(t)\,x_0 + \sigma(t)\,\epsilon$ with t from 0 (data) to 1 (noise).

Log-SNR, $\lambda(t) = 2\log(\alpha/\sigma)$, is strictly decreasing. A variance-preserving (VP) schedule has
$\alpha^2 + \sigma^2 = 1$ and is given by $\log\bar\alpha(t) = \log\alpha(t)^2$; T-step diffusion is the same process at
$t = i/T$. All arithmetic is float64: in float32, $1 - \bar\alpha_1$ of DDPM has a relative error of 1.7e-4.
"""

import math
from abc import ABC, abstractmethod
from typing import NamedTuple, TypedDict

import torch
from torch import Tensor

from denoiselab.errors import InvalidValue
from denoiselab.limits import Finite, Positive, checked


class Level(NamedTuple):
    """The coefficients of x_t = alpha x_0 + sigma eps, each of the shape of t."""

    alpha: Tensor
    sigma: Tensor


def as_time(t: Tensor | float) -> Tensor:
    """Returns t in float64 on its own device, or on the CPU where that has no float64 (mps)."""
    if isinstance(t, Tensor) and t.device.type == "mps":
        t = t.cpu()
    return torch.as_tensor(t, dtype=torch.float64)


def like(coefficient: Tensor, x: Tensor) -> Tensor:
    """Reshapes a coefficient (B,) to (B, 1, ..., 1), with dtype and device of x: (B, ...). A scalar stays a scalar."""
    shape = (*coefficient.shape, *[1] * (x.ndim - coefficient.ndim)) if coefficient.ndim else ()
    return coefficient.to(x.device, x.dtype).reshape(shape)


class Ends(TypedDict, total=False):
    """Options of every schedule: see `Schedule`."""

    log_snr_min: Finite | None
    shift: Positive


def noise_label(log_snr: Tensor) -> Tensor:
    r"""Returns $\log(\sigma/\alpha)/4$, the network's time in EDM (arXiv:2206.00364, table 1), clamped to be finite."""
    return (-log_snr / 8).clamp(-8, 8)


class Schedule(ABC):
    r"""A noise schedule: subclasses give the formula for alpha(t) and sigma(t), and this class sets the ends.

    schedule(0) is (1, 0) for every schedule. `log_snr_min` ends the process early, where log-SNR has fallen to it
    (None: at t = 1), for formulas whose log-SNR runs to $-\infty$, where eps does not determine x_0. `shift` $s$ lowers
    log-SNR by $2\log s$ everywhere, $s = d/64$ for images of side d (simple diffusion, Hoogeboom 2023,
    arXiv:2301.11093, §2.3); on the flow schedule this is $t \to s t/(1 + (s - 1)\,t)$ (Stable Diffusion 3, Esser 2024,
    arXiv:2403.03206, eq. 23). `prior_std` is the standard deviation of x at t = 1, where sampling starts (None:
    sigma(1)), and `t_end` the time at which the process ends.
    """

    @checked
    def __init__(
        self, prior_std: float | None = None, log_snr_min: Finite | None = None, shift: Positive = 1.0
    ) -> None:
        self.log_snr_min = log_snr_min
        self.shift = shift
        self._fall = 2 * math.log(shift)
        self.t_end = 1.0 if log_snr_min is None else min(1.0, float(self.time_of(as_time(log_snr_min + self._fall))))
        if self.t_end <= 0:
            raise InvalidValue("log_snr_min", log_snr_min, "below the log-SNR at which the schedule begins")
        self.prior_std = float(self(1.0).sigma) if prior_std is None else prior_std

    @abstractmethod
    def level(self, t: Tensor) -> Level:
        """Returns the formula's level, for float64 t in (0, 1]."""

    @abstractmethod
    def log_snr_of(self, t: Tensor) -> Tensor:
        """Returns lambda(t) without cancellation, for float64 t in (0, 1]."""

    @abstractmethod
    def time_of(self, log_snr: Tensor) -> Tensor:
        """Inverts `log_snr_of`, in float64."""

    def level_of(self, log_snr: Tensor) -> Level:
        """Returns the level at a log-SNR; with a shift, that may lie outside the formula's own range."""
        return self.level(self.time_of(log_snr))

    def __call__(self, t: Tensor | float) -> Level:
        t = as_time(t)
        used = t.clamp(max=self.t_end)
        alpha, sigma = self.level(used) if self.shift == 1 else self.level_of(self.log_snr_of(used) - self._fall)
        data = t == 0
        return Level(torch.where(data, 1.0, alpha), torch.where(data, 0.0, sigma))

    def log_snr(self, t: Tensor | float) -> Tensor:
        """Returns lambda(t) of the shape of t; +infinity at t = 0."""
        t = as_time(t)
        return torch.where(t == 0, math.inf, self.log_snr_of(t.clamp(max=self.t_end)) - self._fall)

    def time(self, log_snr: Tensor | float) -> Tensor:
        """Returns the t at which log-SNR has fallen to `log_snr`, or 1 where it never does."""
        log_snr = as_time(log_snr)
        t = self.time_of(log_snr + self._fall)
        return torch.where((log_snr <= self.log_snr(1.0)) | (t >= self.t_end), 1.0, t.clamp(min=0.0))

    def log_snr_slope(self, t: Tensor | float) -> Tensor:
        """Returns d lambda/dt of the shape of t, by automatic differentiation of `log_snr_of`."""
        with torch.inference_mode(False), torch.enable_grad():
            t = as_time(t).clone().requires_grad_()
            (slope,) = torch.autograd.grad(self.log_snr_of(t.clamp(max=self.t_end)).sum(), t)
        return slope

    def network_input(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """Returns (c_in, label) of the shape of t: the network takes c_in x_t, with label as its time."""
        t = as_time(t)
        return torch.ones_like(t), t
