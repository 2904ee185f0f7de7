"""Noise schedules: x_t = alpha(t) x_0 + sigma(t) eps with t in [0, 1], t = 0 data and t = 1 noise.

log-SNR is lambda(t) = 2 log(alpha/sigma), strictly decreasing. A variance-preserving (VP) schedule has
alpha^2 + sigma^2 = 1 and is given by log abar(t) = log alpha(t)^2; T-step diffusion is the same process seen at
t = i/T. All arithmetic is float64: in float32, 1 - abar_1 of DDPM is off by 1.7e-4 relative.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple, TypedDict, Unpack

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

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


class Ends(TypedDict, total=False):
    """What every schedule can be told of its ends: see `Schedule`."""

    log_snr_min: float | None
    shift: float


class Modifiers(Ends, total=False):
    """What a variance-preserving schedule can be told besides: see `VariancePreserving`."""

    zero_terminal_snr: bool


def noise_label(log_snr: Tensor) -> Tensor:
    """log(sigma/alpha)/4, the network's time in EDM (table 1); bounded, for levels at which it would be infinite."""
    return (-log_snr / 8).clamp(-8, 8)


class Schedule(ABC):
    """alpha(t) and sigma(t). Subclasses give the formula; the ends of the process are fixed here, once.

    schedule(0) is (1, 0) for every schedule. `log_snr_min` ends the process early, at the t where log-SNR has fallen
    to it (None: at t = 1): for formulas whose log-SNR runs to -infinity, where eps says nothing about x_0.
    `shift` s moves the whole log-SNR by -2 log s, for images of d pixels a side s = d/64 (simple diffusion, Hoogeboom
    2023, §2.3); on the flow schedule it is t -> s t/(1 + (s - 1) t) (Stable Diffusion 3, Esser 2024, eq. 23).
    `prior_std` is the standard deviation of x at t = 1, from which sampling starts; `t_end` where the process ends.
    """

    def __init__(self, prior_std: float = 1.0, log_snr_min: float | None = None, shift: float = 1.0) -> None:
        if shift <= 0:
            raise ConfigError(f"schedule.shift={shift} makes no sense; allowed: above 0, and 1 is no shift")
        self.prior_std = prior_std
        self.log_snr_min = log_snr_min
        self.shift = shift
        self._fall = 2 * math.log(shift)
        self.t_end = 1.0 if log_snr_min is None else min(1.0, float(self.time_of(as_time(log_snr_min + self._fall))))
        if self.t_end <= 0:
            raise ConfigError(f"schedule.log_snr_min={log_snr_min} is where this schedule begins; give a smaller one")

    @abstractmethod
    def level(self, t: Tensor) -> Level:
        """The formula, for float64 t in (0, 1]."""

    @abstractmethod
    def log_snr_of(self, t: Tensor) -> Tensor:
        """lambda(t), written so that nothing cancels, for float64 t in (0, 1]."""

    @abstractmethod
    def time_of(self, log_snr: Tensor) -> Tensor:
        """The inverse of `log_snr_of`, in float64."""

    def level_of(self, log_snr: Tensor) -> Level:
        """The level at which log-SNR is `log_snr`; a shift goes beyond the formula's own range."""
        return self.level(self.time_of(log_snr))

    def __call__(self, t: Tensor | float) -> Level:
        t = as_time(t)
        used = t.clamp(max=self.t_end)
        alpha, sigma = self.level(used) if self.shift == 1 else self.level_of(self.log_snr_of(used) - self._fall)
        data = t == 0
        return Level(torch.where(data, 1.0, alpha), torch.where(data, 0.0, sigma))

    def log_snr(self, t: Tensor | float) -> Tensor:
        """lambda(t) of the shape of t; +infinity at t = 0."""
        t = as_time(t)
        return torch.where(t == 0, math.inf, self.log_snr_of(t.clamp(max=self.t_end)) - self._fall)

    def time(self, log_snr: Tensor | float) -> Tensor:
        """The t at which log-SNR has fallen to `log_snr`; 1 where it never falls so far."""
        log_snr = as_time(log_snr)
        t = self.time_of(log_snr + self._fall)
        return torch.where((log_snr <= self.log_snr(1.0)) | (t >= self.t_end), 1.0, t.clamp(min=0.0))

    def log_snr_slope(self, t: Tensor | float) -> Tensor:
        """d lambda/dt of the shape of t, by automatic differentiation of `log_snr_of`."""
        with torch.inference_mode(False), torch.enable_grad():
            t = as_time(t).clone().requires_grad_()
            (slope,) = torch.autograd.grad(self.log_snr_of(t.clamp(max=self.t_end)).sum(), t)
        return slope

    def network_input(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """(c_in, label) of the shape of t: a network is given c_in x_t, and label as its time."""
        t = as_time(t)
        return torch.ones_like(t), t


class VariancePreserving(Schedule):
    """alpha^2 = abar and sigma^2 = 1 - abar, from log abar(t).

    `zero_terminal_snr` moves and stretches alpha so that it is 0 at t = 1 (Lin 2023, algorithm 1, in continuous time).
    """

    def __init__(self, zero_terminal_snr: bool = False, **ends: Unpack[Ends]) -> None:
        self.zero_terminal_snr = zero_terminal_snr
        if zero_terminal_snr:
            # alpha' = (alpha - alpha(1))/(1 - alpha(1)); `_drop` is 1 - alpha(1).
            self._drop = -float(torch.expm1(self.log_alpha_bar(as_time(1.0)) / 2))
        super().__init__(**ends)

    @abstractmethod
    def log_alpha_bar(self, t: Tensor) -> Tensor:
        """log abar(t), 0 at t = 0 and strictly decreasing."""

    @abstractmethod
    def time_of_log_alpha_bar(self, log_alpha_bar: Tensor) -> Tensor:
        """The inverse of `log_alpha_bar`."""

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
        log_alpha_bar = logsigmoid(log_snr)  # not softplus, which torch rounds beyond 20
        if self.zero_terminal_snr:
            log_alpha_bar = 2 * torch.log1p(torch.expm1(log_alpha_bar / 2) * self._drop)
        return self.time_of_log_alpha_bar(log_alpha_bar)

    def level_of(self, log_snr: Tensor) -> Level:
        return Level(torch.exp(logsigmoid(log_snr) / 2), torch.exp(logsigmoid(-log_snr) / 2))


class Table(VariancePreserving):
    """A table of betas, beta_1 ... beta_T: log abar at t = i/T is sum log(1 - beta_j), and linear in t between.

    This is the VP process with piecewise-constant beta: exact at the nodes, and defined down to t = 0. Where beta_T = 1
    the last step goes to alpha = 0, linearly in alpha.
    """

    def __init__(self, betas: Tensor | Sequence[float], zero_terminal_snr: bool = False, **ends: Unpack[Ends]) -> None:
        """betas: (T,), each in (0, 1), the last in (0, 1]; ConfigError otherwise."""
        betas = torch.as_tensor(list(betas) if not isinstance(betas, Tensor) else betas, dtype=torch.float64)
        if betas.ndim != 1 or len(betas) < 2:
            raise ConfigError("a table has at least two betas, one a step: schedule.betas=[0.01,0.05,0.2]")
        if not (betas > 0).all() or not (betas[:-1] < 1).all() or betas[-1] > 1:
            raise ConfigError(
                f"a table's betas lie between 0 and 1, but these go from {float(betas.min()):g} to "
                f"{float(betas.max()):g}; take more steps (schedule.T) or a smaller schedule.beta_max"
            )
        self.steps = len(betas)
        self.values = torch.cat([torch.zeros(1), torch.log1p(-betas).cumsum(0)])
        if zero_terminal_snr:
            self.values[1:] = _to_zero(self.values[1:])
        self.nodes = torch.arange(self.steps + 1, dtype=torch.float64) / self.steps
        super().__init__(**ends)

    def log_alpha_bar(self, t: Tensor) -> Tensor:
        if self.values[-1].isfinite():
            return _interpolate(t, self.nodes, self.values)
        last = (t - self.nodes[-2]) / (1 - self.nodes[-2])
        return _interpolate(t, self.nodes[:-1], self.values[:-1]) + 2 * torch.log1p(-last.clamp(0, 1))

    def time_of_log_alpha_bar(self, log_alpha_bar: Tensor) -> Tensor:
        if self.values[-1].isfinite():
            return _interpolate(-log_alpha_bar, -self.values, self.nodes)
        last = -torch.expm1((log_alpha_bar - self.values[-2]).clamp(max=0) / 2)
        return _interpolate(-log_alpha_bar, -self.values[:-1], self.nodes[:-1]) + last / self.steps


def _to_zero(log_alpha_bar: Tensor) -> Tensor:
    """log abar_1 ... log abar_T with alpha_T brought to 0 and alpha_1 kept (Lin 2023, algorithm 1)."""
    first = log_alpha_bar[0]
    # (alpha_i - alpha_T)/(alpha_1 - alpha_T) = 1 + expm1(log alpha_i/alpha_1)/(1 - alpha_T/alpha_1)
    fall = torch.expm1((log_alpha_bar - first) / 2)
    return first + 2 * torch.log1p((fall / -fall[-1]).clamp(min=-1.0))


def _interpolate(x: Tensor, nodes: Tensor, values: Tensor) -> Tensor:
    """Linear interpolation through (nodes, values), nodes ascending; exact at the nodes, constant outside."""
    nodes, values = nodes.to(x.device), values.to(x.device)
    right = torch.searchsorted(nodes, x.detach().contiguous()).clamp(1, len(nodes) - 1)
    left = right - 1
    part = ((x - nodes[left]) / (nodes[right] - nodes[left])).clamp(0, 1)
    return values[left] * (1 - part) + values[right] * part


class Linear(VariancePreserving):
    """beta(t) linear from 0.1 to 20, in continuous time (Score-SDE, eq. 33): log abar = -(19.9 t^2/2 + 0.1 t)."""

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0, **modifiers: Unpack[Modifiers]) -> None:
        self.beta_min, self.beta_max = beta_min, beta_max
        super().__init__(**modifiers)

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

    def __init__(self, s: float = 0.008, **modifiers: Unpack[Modifiers]) -> None:
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
    """abar = (S(e/tau) - S(u/tau))/(S(e/tau) - S(s/tau)), u = s + t (e - s), S the logistic function (Chen 2023, §2.1).

    Its log-SNR runs to -infinity; it is used down to `log_snr_min`, as cosine is.
    """

    def __init__(self, start: float = -3.0, end: float = 3.0, tau: float = 1.0, **modifiers: Unpack[Modifiers]) -> None:
        """Raises ConfigError unless start < end."""
        if start >= end:
            raise ConfigError(f"schedule.start={start} is not below schedule.end={end}; give the smaller one first")
        self.start, self.end, self.tau = start, end, tau
        # In halves of the argument: S(a) - S(b) = sinh((a - b)/2)/(2 cosh(a/2) cosh(b/2)) cancels nowhere.
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
    """`log_snr_min` -15 where none is given, for schedules that would end at alpha = 0, unless that is asked for."""
    if modifiers.get("log_snr_min") is None and not modifiers.get("zero_terminal_snr"):
        modifiers["log_snr_min"] = -15.0
    return modifiers


class SubVP(Schedule):
    """alpha = e^B, sigma = 1 - e^{2B}, B = -((beta_max - beta_min) t^2/4 + beta_min t/2) (Score-SDE, eq. 29)."""

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0, **ends: Unpack[Ends]) -> None:
        self._vp = Linear(beta_min, beta_max)
        super().__init__(**ends)

    def level(self, t: Tensor) -> Level:
        log_alpha_bar = self._vp.log_alpha_bar(t)
        return Level(torch.exp(log_alpha_bar / 2), -torch.expm1(log_alpha_bar))

    def log_snr_of(self, t: Tensor) -> Tensor:
        log_alpha_bar = self._vp.log_alpha_bar(t)
        return log_alpha_bar - 2 * torch.log(-torch.expm1(log_alpha_bar))

    def time_of(self, log_snr: Tensor) -> Tensor:
        # With n = sigma/alpha, (1 - alpha^2)/alpha = n, or 2 sinh(-log alpha) = n.
        return self._vp.time_of_log_alpha_bar(-2 * torch.asinh(torch.exp(-log_snr / 2) / 2))

    def level_of(self, log_snr: Tensor) -> Level:
        n = torch.exp(-log_snr / 2)
        alpha = torch.exp(-torch.asinh(n / 2))
        return Level(alpha, alpha * n)


class Flow(Schedule):
    """alpha = 1 - t, sigma = t (rectified flow, Liu 2022; flow matching, Lipman 2022). It ends at alpha = 0 exactly."""

    def __init__(self, **ends: Unpack[Ends]) -> None:
        super().__init__(**ends)

    def level(self, t: Tensor) -> Level:
        return Level(1 - t, t)

    def log_snr_of(self, t: Tensor) -> Tensor:
        return 2 * (torch.log1p(-t) - torch.log(t))

    def time_of(self, log_snr: Tensor) -> Tensor:
        return torch.sigmoid(-log_snr / 2)

    def level_of(self, log_snr: Tensor) -> Level:
        return Level(torch.sigmoid(log_snr / 2), torch.sigmoid(-log_snr / 2))


class VarianceExploding(Schedule):
    """alpha = 1, and sigma(t) grows: x_t = x_0 + sigma eps. `sigma_max` is sigma(1).

    x_t is far from unit variance, so a network is given x_t/sqrt(1 + sigma^2), and log(sigma)/4 as its time (EDM,
    table 1, with data of unit variance).
    """

    def __init__(self, sigma_max: float, log_snr_min: float | None = None, shift: float = 1.0) -> None:
        self.sigma_max = sigma_max
        top = sigma_max * shift if log_snr_min is None else min(sigma_max * shift, math.exp(-log_snr_min / 2))
        super().__init__(prior_std=top, log_snr_min=log_snr_min, shift=shift)

    @abstractmethod
    def log_sigma(self, t: Tensor) -> Tensor:
        """log sigma(t), strictly increasing."""

    @abstractmethod
    def time_of_log_sigma(self, log_sigma: Tensor) -> Tensor:
        """The inverse of `log_sigma`."""

    def level(self, t: Tensor) -> Level:
        return self.level_of(self.log_snr_of(t))

    def log_snr_of(self, t: Tensor) -> Tensor:
        return -2 * self.log_sigma(t)

    def time_of(self, log_snr: Tensor) -> Tensor:
        return self.time_of_log_sigma(-log_snr / 2)

    def level_of(self, log_snr: Tensor) -> Level:
        return Level(torch.ones_like(log_snr), torch.exp(-log_snr / 2))

    def network_input(self, t: Tensor | float) -> tuple[Tensor, Tensor]:
        log_snr = self.log_snr(t)
        return torch.exp(logsigmoid(log_snr) / 2), noise_label(log_snr)


class VE(VarianceExploding):
    """sigma = sigma_min (sigma_max/sigma_min)^t (Score-SDE, eq. 31; NCSN has 10 such levels from 0.01 to 1)."""

    def __init__(self, sigma_min: float = 0.01, sigma_max: float = 50.0, **ends: Unpack[Ends]) -> None:
        """Raises ConfigError unless sigma_min < sigma_max."""
        if sigma_min >= sigma_max:
            raise ConfigError(f"schedule.sigma_min={sigma_min} is not below schedule.sigma_max={sigma_max}")
        self.sigma_min = sigma_min
        self._start, self._rise = math.log(sigma_min), math.log(sigma_max / sigma_min)
        super().__init__(sigma_max, **ends)

    def log_sigma(self, t: Tensor) -> Tensor:
        return self._start + t * self._rise

    def time_of_log_sigma(self, log_sigma: Tensor) -> Tensor:
        return (log_sigma - self._start) / self._rise


class VESqrt(VarianceExploding):
    """The unit random walk x_i = x_{i-1} + eps in T steps: sigma^2 = T t, i at t = i/T."""

    def __init__(self, T: int = 1000, **ends: Unpack[Ends]) -> None:
        self.T = T
        super().__init__(math.sqrt(T), **ends)

    def log_sigma(self, t: Tensor) -> Tensor:
        return torch.log(self.T * t) / 2

    def time_of_log_sigma(self, log_sigma: Tensor) -> Tensor:
        return torch.exp(2 * log_sigma) / self.T


class EDM(VarianceExploding):
    """sigma = sigma_max t (EDM, Karras 2022, table 1: its time is sigma; a Karras grid is exact in it)."""

    def __init__(self, sigma_max: float = 80.0, **ends: Unpack[Ends]) -> None:
        super().__init__(sigma_max, **ends)

    def log_sigma(self, t: Tensor) -> Tensor:
        return torch.log(self.sigma_max * t)

    def time_of_log_sigma(self, log_sigma: Tensor) -> Tensor:
        return torch.exp(log_sigma) / self.sigma_max


# What the command line names. A table's betas are given for T = 1000 and scaled by 1000/T, which keeps abar(t).


def linear(
    T: int | None = 1000, beta_min: float = 0.1, beta_max: float = 20.0, **modifiers: Unpack[Modifiers]
) -> Schedule:
    """DDPM's linear schedule (§4): beta from beta_min/T to beta_max/T in T steps; T None is its continuous form."""
    if T is None:
        return Linear(beta_min, beta_max, **modifiers)
    return Table(_even(beta_min, beta_max, T) / T, **modifiers)


def cosine(T: int | None = None, s: float = 0.008, **modifiers: Unpack[Modifiers]) -> Schedule:
    """iDDPM's cosine schedule, in continuous time or as its table of T betas clipped at 0.999.

    The clip is what keeps the table's end finite; in continuous time `log_snr_min` does, by default at -15.
    """
    if T is None:
        return Cosine(s, **modifiers)
    log_alpha_bar = Cosine(s, zero_terminal_snr=True).log_alpha_bar(_even(0, 1, T + 1))
    return Table((-torch.expm1(log_alpha_bar.diff())).clamp(max=0.999), **modifiers)


def scaled_linear(
    T: int = 1000, beta_min: float = 0.85, beta_max: float = 12.0, **modifiers: Unpack[Modifiers]
) -> Schedule:
    """sqrt(beta) linear, from sqrt(beta_min/T) to sqrt(beta_max/T): latent diffusion's (its code calls it "linear")."""
    return Table(_even(math.sqrt(beta_min), math.sqrt(beta_max), T) ** 2 / T, **modifiers)


def sqrt_linear(
    T: int = 1000, beta_min: float = 0.1, beta_max: float = 20.0, **modifiers: Unpack[Modifiers]
) -> Schedule:
    """beta^2 linear: beta from sqrt(beta_min/1000) to sqrt(beta_max/1000) at T = 1000 (latent diffusion's code).

    It ends at abar = 3e-44 in its own 1000 steps, so `log_snr_min` is wanted for eps-prediction.
    """
    return Table(torch.sqrt(_even(beta_min, beta_max, T) / 1000) * (1000 / T), **modifiers)


def constant(T: int = 1000, beta: float = 20.0, **modifiers: Unpack[Modifiers]) -> Schedule:
    """beta/T at each of T steps (DDPM's code, "const")."""
    return Table(torch.full((T,), beta / T, dtype=torch.float64), **modifiers)


def jsd(T: int = 1000, **modifiers: Unpack[Modifiers]) -> Schedule:
    """beta_i = 1/(T - i + 1): 1/T, 1/(T-1), ... 1 (Sohl-Dickstein 2015, §2.4.1), so that abar falls linearly, to 0."""
    return Table(1 / torch.arange(T, 0, -1, dtype=torch.float64), **modifiers)


def _even(first: float, last: float, points: int) -> Tensor:
    return torch.linspace(first, last, points, dtype=torch.float64)
