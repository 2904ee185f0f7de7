"""Schedules given by a table of betas, and the factories that the configuration names."""

import math
from collections.abc import Sequence
from typing import Unpack

import torch
from torch import Tensor

from denoiselab.errors import ConfigError, InvalidValue
from denoiselab.limits import AtLeastTwo, Positive, PositiveShare, checked
from denoiselab.schedules.schedule import Ends, Schedule
from denoiselab.schedules.variance_preserving import Cosine, Linear, Modifiers, VariancePreserving


class Table(VariancePreserving):
    r"""A VP schedule from a table $\beta_1 \dots \beta_T$, with piecewise-constant beta.

    $\log\bar\alpha = \sum_{j \le i} \log(1 - \beta_j)$ at $t = i/T$, and linear between: exact at the nodes, and
    defined down to t = 0. Where $\beta_T = 1$, the last step goes to $\alpha = 0$, linearly in $\alpha$.
    """

    @checked
    def __init__(
        self, betas: Tensor | Sequence[PositiveShare], zero_terminal_snr: bool = False, **ends: Unpack[Ends]
    ) -> None:
        """betas: (T,), each in (0, 1), the last in (0, 1]. Raises ConfigError otherwise."""
        betas = torch.as_tensor(list(betas) if not isinstance(betas, Tensor) else betas, dtype=torch.float64)
        if betas.ndim != 1 or len(betas) < 2:
            raise InvalidValue(
                "betas", betas.tolist(), "a list of at least two, one for each step, such as [0.01,0.05,0.2]"
            )
        if not (betas > 0).all() or not (betas[:-1] < 1).all() or betas[-1] > 1:
            raise ConfigError(
                f"a table's betas lie between 0 and 1, but these go from {float(betas.min()):g} to "
                f"{float(betas.max()):g}; take more steps (T) or a smaller beta_max"
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
    """Rescales log abar_1 ... log abar_T to alpha_T = 0, keeping alpha_1 (Lin 2023, arXiv:2305.08891, algorithm 1)."""
    first = log_alpha_bar[0]
    # (alpha_i - alpha_T)/(alpha_1 - alpha_T) = 1 + expm1(log alpha_i/alpha_1)/(1 - alpha_T/alpha_1)
    fall = torch.expm1((log_alpha_bar - first) / 2)
    return first + 2 * torch.log1p((fall / -fall[-1]).clamp(min=-1.0))


def _interpolate(x: Tensor, nodes: Tensor, values: Tensor) -> Tensor:
    """Interpolates linearly through (nodes, values), nodes ascending; exact at the nodes, constant outside."""
    nodes, values = nodes.to(x.device), values.to(x.device)
    right = torch.searchsorted(nodes, x.detach().contiguous()).clamp(1, len(nodes) - 1)
    left = right - 1
    part = ((x - nodes[left]) / (nodes[right] - nodes[left])).clamp(0, 1)
    return values[left] * (1 - part) + values[right] * part


# Factories for conf/schedule. A table's betas are given for T = 1000 and scaled by 1000/T, which keeps abar(t).


@checked
def linear(
    T: AtLeastTwo | None = 1000, beta_min: Positive = 0.1, beta_max: Positive = 20.0, **modifiers: Unpack[Modifiers]
) -> Schedule:
    """DDPM's linear beta, beta_min/T to beta_max/T in T steps (arXiv:2006.11239, §4); T None: in continuous time."""
    if T is None:
        return Linear(beta_min, beta_max, **modifiers)
    return Table(_even(beta_min, beta_max, T) / T, **modifiers)


@checked
def cosine(T: AtLeastTwo | None = None, s: Positive = 0.008, **modifiers: Unpack[Modifiers]) -> Schedule:
    """iDDPM's cosine schedule, in continuous time or as a table of T betas clipped at 0.999.

    The clip keeps the table's end finite; in continuous time `log_snr_min` does, by default -15.
    """
    if T is None:
        return Cosine(s, **modifiers)
    log_alpha_bar = Cosine(s, zero_terminal_snr=True).log_alpha_bar(_even(0, 1, T + 1))
    return Table((-torch.expm1(log_alpha_bar.diff())).clamp(max=0.999), **modifiers)


@checked
def scaled_linear(
    T: AtLeastTwo = 1000, beta_min: Positive = 0.85, beta_max: Positive = 12.0, **modifiers: Unpack[Modifiers]
) -> Schedule:
    """Latent diffusion's schedule, its code's "linear": sqrt(beta) linear, sqrt(beta_min/T) to sqrt(beta_max/T)."""
    return Table(_even(math.sqrt(beta_min), math.sqrt(beta_max), T) ** 2 / T, **modifiers)


@checked
def sqrt_linear(
    T: AtLeastTwo = 1000, beta_min: Positive = 0.1, beta_max: Positive = 20.0, **modifiers: Unpack[Modifiers]
) -> Schedule:
    """beta^2 linear: beta from sqrt(beta_min/1000) to sqrt(beta_max/1000) at T = 1000 (latent diffusion's code).

    It ends at abar = 3e-44 after its own 1000 steps, so eps-prediction needs `log_snr_min`.
    """
    return Table(torch.sqrt(_even(beta_min, beta_max, T) / 1000) * (1000 / T), **modifiers)


@checked
def constant(T: AtLeastTwo = 1000, beta: Positive = 20.0, **modifiers: Unpack[Modifiers]) -> Schedule:
    """DDPM's "const": beta/T at each of T steps."""
    return Table(torch.full((T,), beta / T, dtype=torch.float64), **modifiers)


@checked
def jsd(T: AtLeastTwo = 1000, **modifiers: Unpack[Modifiers]) -> Schedule:
    """beta_i = 1/(T - i + 1), so that abar falls linearly to 0 (Sohl-Dickstein 2015, arXiv:1503.03585, §2.4.1)."""
    return Table(1 / torch.arange(T, 0, -1, dtype=torch.float64), **modifiers)


def _even(first: float, last: float, points: int) -> Tensor:
    return torch.linspace(first, last, points, dtype=torch.float64)
