"""Schedules with alpha^2 + sigma^2 = 1, each given by log abar(t)."""

import math
from abc import abstractmethod
from typing import Unpack

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from denoiselab.errors import InvalidValue
from denoiselab.limits import Finite, Positive, checked
from denoiselab.schedules.schedule import Ends, Level, Schedule, as_time


class Modifiers(Ends, total=False):
    """Options of every variance-preserving schedule: see `VariancePreserving`."""

    zero_terminal_snr: bool


class VariancePreserving(Schedule):
    r"""$\alpha^2 = \bar\alpha$ and $\sigma^2 = 1 - \bar\alpha$, from $\log\bar\alpha(t)$.

    `zero_terminal_snr` shifts and scales alpha to 0 at t = 1 (Lin 2023, arXiv:2305.08891, alg. 1, in continuous time).
    """

    def __init__(self, zero_terminal_snr: bool = False, **ends: Unpack[Ends]) -> None:
        self.zero_terminal_snr = zero_terminal_snr
        if zero_terminal_snr:
            # alpha' = (alpha - alpha(1))/(1 - alpha(1)); `_drop` is 1 - alpha(1).
            self._drop = -float(torch.expm1(self.log_alpha_bar(as_time(1.0)) / 2))
        super().__init__(prior_std=1.0, **ends)

    @abstractmethod
    def log_alpha_bar(self, t: Tensor) -> Tensor:
        """Returns log abar(t), 0 at t = 0 and strictly decreasing."""

    @abstractmethod
    def time_of_log_alpha_bar(self, log_alpha_bar: Tensor) -> Tensor:
        """Inverts `log_alpha_bar`."""

    def _log_alpha_bar(self, t: Tensor) -> Tensor:
        log_alpha_bar = self.log_alpha_bar(t)
        if not self.zero_terminal_snr:
            return log_alpha_bar
        return 2 * torch.log1p((torch.expm1(log_alpha_bar / 2) / self._drop).clamp(min=-1.0))

    def level(self, t: Tensor) -> Level:
        log_alpha_bar = self._log_alpha_bar(t)
        return Level(torch.exp(log_alpha_bar / 2), torch.sqrt(-torch.expm1(log_alpha_bar)))

    def log_snr_of(self, t: Tensor) -> Tensor:
        log_alpha_bar = self._log_alpha_bar(t)
        return log_alpha_bar - torch.log(-torch.expm1(log_alpha_bar))

    def time_of(self, log_snr: Tensor) -> Tensor:
        log_alpha_bar = logsigmoid(log_snr)  # not softplus, which torch approximates beyond 20
        if self.zero_terminal_snr:
            log_alpha_bar = 2 * torch.log1p(torch.expm1(log_alpha_bar / 2) * self._drop)
        return self.time_of_log_alpha_bar(log_alpha_bar)

    def level_of(self, log_snr: Tensor) -> Level:
        return Level(torch.exp(logsigmoid(log_snr) / 2), torch.exp(logsigmoid(-log_snr) / 2))


class Linear(VariancePreserving):
    r"""$\log\bar\alpha = -(b - a)\,t^2/2 - a t$, $a, b$ = beta_min, beta_max (Score-SDE, arXiv:2011.13456, eq. 33)."""

    @checked
    def __init__(self, beta_min: Positive = 0.1, beta_max: Positive = 20.0, **modifiers: Unpack[Modifiers]) -> None:
        self.beta_min, self.beta_max = beta_min, beta_max
        super().__init__(**modifiers)

    def log_alpha_bar(self, t: Tensor) -> Tensor:
        return -((self.beta_max - self.beta_min) * t**2 / 2 + self.beta_min * t)

    def time_of_log_alpha_bar(self, log_alpha_bar: Tensor) -> Tensor:
        # The positive root of (b - a) t^2/2 + a t + log abar = 0, in the form without cancellation.
        slope = self.beta_max - self.beta_min
        return -2 * log_alpha_bar / (self.beta_min + torch.sqrt(self.beta_min**2 - 2 * slope * log_alpha_bar))


class Cosine(VariancePreserving):
    r"""$\bar\alpha = f(t)/f(0)$, $f(t) = \cos^2\frac{\pi (t + s)}{2 (1 + s)}$ (iDDPM, arXiv:2102.09672, eq. 17).

    Log-SNR runs to $-\infty$; it ends at `log_snr_min`, by default -15 (simple diffusion, arXiv:2301.11093, §2.2).
    """

    @checked
    def __init__(self, s: Positive = 0.008, **modifiers: Unpack[Modifiers]) -> None:
        self.s = s
        super().__init__(**_ended(modifiers))

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


class Sigmoid(VariancePreserving):
    r"""The sigmoid schedule (Chen 2023, arXiv:2301.10972, §2.1).

    $$\bar\alpha = \frac{S(e/\tau) - S(u/\tau)}{S(e/\tau) - S(s/\tau)}, \qquad u = s + t\,(e - s)$$

    S is the logistic function, $s$ = `start`, $e$ = `end`. Log-SNR runs to $-\infty$; it ends as that of `Cosine` does.
    """

    @checked
    def __init__(
        self, start: Finite = -3.0, end: Finite = 3.0, tau: Positive = 1.0, **modifiers: Unpack[Modifiers]
    ) -> None:
        """Raises ConfigError unless start < end."""
        if start >= end:
            raise InvalidValue("start", start, f"below end={end}")
        self.start, self.end, self.tau = start, end, tau
        # In half arguments: S(a) - S(b) = sinh((a - b)/2)/(2 cosh(a/2) cosh(b/2)) cancels nowhere.
        self._s, self._e = start / (2 * tau), end / (2 * tau)
        super().__init__(**_ended(modifiers))

    def log_alpha_bar(self, t: Tensor) -> Tensor:
        s, e = self._s, self._e
        u = s + t * (e - s)
        below = torch.cosh(u) * math.sinh(e - s)
        done = torch.sinh(t * (e - s)) * math.cosh(e) / below
        left = torch.sinh((1 - t) * (e - s)) * math.cosh(s) / below
        return torch.where(done < 0.5, torch.log1p(-done.clamp(max=0.5)), torch.log(left))

    def time_of_log_alpha_bar(self, log_alpha_bar: Tensor) -> Tensor:
        # sinh(w)/cosh(s + w) = d for w = u - s is tanh(w) = d cosh(s)/(1 - d sinh(s)).
        s, e = self._s, self._e
        d = -torch.expm1(log_alpha_bar) * math.sinh(e - s) / math.cosh(e)
        return torch.atanh(d * math.cosh(s) / (1 - d * math.sinh(s))) / (e - s)


def _ended(modifiers: Modifiers) -> Modifiers:
    """Sets `log_snr_min` to -15 for schedules that end at alpha = 0, unless it or `zero_terminal_snr` is set."""
    if modifiers.get("log_snr_min") is None and not modifiers.get("zero_terminal_snr"):
        modifiers["log_snr_min"] = -15.0
    return modifiers
