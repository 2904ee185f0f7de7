"""Noise schedules: x_t = alpha(t) x_0 + sigma(t) eps with t in [0, 1], t = 0 data and t = 1 noise.

log-SNR is lambda(t) = 2 log(alpha/sigma), strictly decreasing. A variance-preserving (VP) schedule has
alpha^2 + sigma^2 = 1 and is given by log abar(t) = log alpha(t)^2; T-step diffusion is the same process seen at
t = i/T. All arithmetic is float64: in float32, 1 - abar_1 of DDPM is off by 1.7e-4 relative.
"""

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from denoiselab.errors import ConfigError


class Level(NamedTuple):
    """The two coefficients of x_t = alpha x_0 + sigma eps, each of the shape of t."""

    alpha: Tensor
    sigma: Tensor


def as_time(t: Tensor | float) -> Tensor:
    """t as float64, on its own device where that has float64 and on the CPU where not (mps)."""
    if isinstance(t, Tensor) and t.device.type == "mps":
        t = t.cpu()
    return torch.as_tensor(t, dtype=torch.float64)


def like(coefficient: Tensor, x: Tensor) -> Tensor:
    """A coefficient (B,) as (B, 1, ..., 1), in the dtype and on the device of x: (B, ...). A scalar stays a scalar."""
    shape = (*coefficient.shape, *[1] * (x.ndim - coefficient.ndim)) if coefficient.ndim else ()
    return coefficient.to(x.device, x.dtype).reshape(shape)


class Schedule(ABC):
    """alpha(t) and sigma(t). Subclasses give the formula; the ends of the process are fixed here, once.

    schedule(0) is (1, 0) for every schedule. `log_snr_min` ends the process early, at the t where log-SNR has fallen
    to it (None: at t = 1): for formulas whose log-SNR runs to -infinity, where eps says nothing about x_0.
    """

    def __init__(self, prior_std: float = 1.0, log_snr_min: float | None = None) -> None:
        self.prior_std = prior_std
        self.log_snr_min = log_snr_min
        self._t_max = 1.0 if log_snr_min is None else min(1.0, float(self.time_of(as_time(log_snr_min))))

    @abstractmethod
    def level(self, t: Tensor) -> Level:
        """The formula, for float64 t in (0, 1]."""

    @abstractmethod
    def log_snr_of(self, t: Tensor) -> Tensor:
        """lambda(t), written so that nothing cancels, for float64 t in (0, 1]."""

    @abstractmethod
    def time_of(self, log_snr: Tensor) -> Tensor:
        """The inverse of `log_snr_of`, in float64."""

    def __call__(self, t: Tensor | float) -> Level:
        t = as_time(t)
        alpha, sigma = self.level(t.clamp(max=self._t_max))
        data = t == 0
        return Level(torch.where(data, 1.0, alpha), torch.where(data, 0.0, sigma))

    def log_snr(self, t: Tensor | float) -> Tensor:
        """lambda(t) of the shape of t; +infinity at t = 0."""
        t = as_time(t)
        return torch.where(t == 0, math.inf, self.log_snr_of(t.clamp(max=self._t_max)))

    def time(self, log_snr: Tensor | float) -> Tensor:
        """The t at which log-SNR has fallen to `log_snr`; 1 where it never falls so far."""
        t = self.time_of(as_time(log_snr))
        return torch.where(t >= self._t_max, 1.0, t.clamp(min=0.0))

    def log_snr_slope(self, t: Tensor | float) -> Tensor:
        """d lambda/dt of the shape of t, by automatic differentiation of `log_snr_of`."""
        with torch.inference_mode(False), torch.enable_grad():
            t = as_time(t).clone().requires_grad_()
            (slope,) = torch.autograd.grad(self.log_snr_of(t.clamp(max=self._t_max)).sum(), t)
        return slope


class VariancePreserving(Schedule):
    """alpha^2 = abar and sigma^2 = 1 - abar, from log abar(t)."""

    @abstractmethod
    def log_alpha_bar(self, t: Tensor) -> Tensor:
        """log abar(t), 0 at t = 0 and strictly decreasing."""

    @abstractmethod
    def time_of_log_alpha_bar(self, log_alpha_bar: Tensor) -> Tensor:
        """The inverse of `log_alpha_bar`."""

    def level(self, t: Tensor) -> Level:
        log_alpha_bar = self.log_alpha_bar(t)
        return Level(torch.exp(log_alpha_bar / 2), torch.sqrt(-torch.expm1(log_alpha_bar)))

    def log_snr_of(self, t: Tensor) -> Tensor:
        log_alpha_bar = self.log_alpha_bar(t)
        return log_alpha_bar - torch.log(-torch.expm1(log_alpha_bar))

    def time_of(self, log_snr: Tensor) -> Tensor:
        return self.time_of_log_alpha_bar(-softplus(-log_snr))


class Table(VariancePreserving):
    """A table of betas, beta_1 ... beta_T: log abar at t = i/T is sum log(1 - beta_j), and linear in t between.

    This is the VP process with piecewise-constant beta: exact at the nodes, and defined down to t = 0.
    """

    def __init__(self, betas: Tensor, log_snr_min: float | None = None) -> None:
        """betas: (T,), each in (0, 1); ConfigError otherwise."""
        if not ((betas > 0) & (betas < 1)).all():
            raise ConfigError(
                f"a table's betas lie between 0 and 1, but these go from {float(betas.min()):g} to "
                f"{float(betas.max()):g}; take more steps (schedule.T) or a smaller schedule.beta_max"
            )
        self.steps = len(betas)
        self.values = torch.cat([torch.zeros(1), torch.log1p(-betas.to(torch.float64)).cumsum(0)])
        self.nodes = torch.arange(self.steps + 1, dtype=torch.float64) / self.steps
        super().__init__(log_snr_min=log_snr_min)

    def log_alpha_bar(self, t: Tensor) -> Tensor:
        return _interpolate(t, self.nodes, self.values)

    def time_of_log_alpha_bar(self, log_alpha_bar: Tensor) -> Tensor:
        return _interpolate(-log_alpha_bar, -self.values, self.nodes)


def _interpolate(x: Tensor, nodes: Tensor, values: Tensor) -> Tensor:
    """Linear interpolation through (nodes, values), nodes ascending; exact at the nodes, constant outside."""
    nodes, values = nodes.to(x.device), values.to(x.device)
    right = torch.searchsorted(nodes, x.detach().contiguous()).clamp(1, len(nodes) - 1)
    left = right - 1
    part = ((x - nodes[left]) / (nodes[right] - nodes[left])).clamp(0, 1)
    return values[left] * (1 - part) + values[right] * part


class Linear(VariancePreserving):
    """beta(t) linear from 0.1 to 20, in continuous time (Score-SDE, eq. 33): log abar = -(19.9 t^2/2 + 0.1 t)."""

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0, log_snr_min: float | None = None) -> None:
        self.beta_min, self.beta_max = beta_min, beta_max
        super().__init__(log_snr_min=log_snr_min)

    def log_alpha_bar(self, t: Tensor) -> Tensor:
        return -((self.beta_max - self.beta_min) * t**2 / 2 + self.beta_min * t)

    def time_of_log_alpha_bar(self, log_alpha_bar: Tensor) -> Tensor:
        # The positive root of (b - a) t^2/2 + a t + log abar = 0, in the form without cancellation.
        slope = self.beta_max - self.beta_min
        return -2 * log_alpha_bar / (self.beta_min + torch.sqrt(self.beta_min**2 - 2 * slope * log_alpha_bar))


class Cosine(VariancePreserving):
    """abar = f(t)/f(0), f(t) = cos^2((t + s)/(1 + s) pi/2), s = 0.008 (iDDPM, eq. 17).

    Its log-SNR runs to -infinity; it is used down to `log_snr_min` (-15: simple diffusion, Hoogeboom 2023, §2.2).
    """

    def __init__(self, s: float = 0.008, log_snr_min: float = -15.0) -> None:
        self.s = s
        super().__init__(log_snr_min=log_snr_min)

    def _angle(self, t: Tensor) -> Tensor:
        return (t + self.s) / (1 + self.s) * (math.pi / 2)

    @property
    def _start(self) -> float:
        return self.s / (1 + self.s) * (math.pi / 2)

    def log_alpha_bar(self, t: Tensor) -> Tensor:
        # cos(a)/cos(b) = 1 - 2 sin((a - b)/2) sin((a + b)/2) / cos(b): log1p keeps 1 - abar exact near t = 0.
        angle, start = self._angle(t), self._start
        drop = 2 * torch.sin((angle - start) / 2) * torch.sin((angle + start) / 2) / math.cos(start)
        return 2 * torch.log1p(-drop.clamp(max=1.0))

    def time_of_log_alpha_bar(self, log_alpha_bar: Tensor) -> Tensor:
        # angle - start = arccos(c) - arccos(c0) by the sine of the difference, exact near t = 0.
        ratio = torch.exp(log_alpha_bar / 2)
        c0, s0 = math.cos(self._start), math.sin(self._start)
        c = ratio * c0
        sine = torch.sqrt(s0**2 - c0**2 * torch.expm1(log_alpha_bar))
        return torch.atan2(sine * c0 - c * s0, c * c0 + sine * s0) / (math.pi / 2) * (1 + self.s)


class Flow(Schedule):
    """alpha = 1 - t, sigma = t (rectified flow, Liu 2022; flow matching, Lipman 2022). It ends at alpha = 0 exactly."""

    def __init__(self, log_snr_min: float | None = None) -> None:
        super().__init__(log_snr_min=log_snr_min)

    def level(self, t: Tensor) -> Level:
        return Level(1 - t, t)

    def log_snr_of(self, t: Tensor) -> Tensor:
        return 2 * (torch.log1p(-t) - torch.log(t))

    def time_of(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-log_snr / 2)


def linear(
    T: int | None = 1000, beta_min: float = 0.1, beta_max: float = 20.0, log_snr_min: float | None = None
) -> Schedule:
    """DDPM's linear schedule (§4): beta from beta_min/T to beta_max/T in T steps; T None is its continuous form."""
    if T is None:
        return Linear(beta_min, beta_max, log_snr_min)
    return Table(torch.linspace(beta_min / T, beta_max / T, T, dtype=torch.float64), log_snr_min)


def cosine(T: int | None = None, s: float = 0.008, log_snr_min: float | None = None) -> Schedule:
    """iDDPM's cosine schedule, in continuous time or as its table of T betas clipped at 0.999.

    The clip is what keeps the table's end finite; in continuous time `log_snr_min` does, by default at -15.
    """
    if T is None:
        return Cosine(s, -15.0 if log_snr_min is None else log_snr_min)
    log_alpha_bar = Cosine(s).log_alpha_bar(torch.arange(T + 1, dtype=torch.float64) / T)
    return Table((-torch.expm1(log_alpha_bar.diff())).clamp(max=0.999), log_snr_min)
