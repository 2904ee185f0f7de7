r"""The sampler contract: from $x_T$ at the first time of a grid to $x_0$, one `step` at a time.

Times are 0-dimensional float64 tensors on the CPU, so $\alpha$, $\sigma$ and every coefficient computed from them are
float64 scalars. The state keeps the dtype and device of $x_T$, and a coefficient is rounded once, where it multiplies
the state. A step evaluates the schedule once at $t$ and once at $s$; log-SNR is computed from the same `Level`.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Generic

import torch
from torch import Tensor
from typing_extensions import TypeVar

from denoiselab.denoiser import DenoiseFn, Prediction
from denoiselab.limits import Count, checked
from denoiselab.schedules import Level, Schedule
from denoiselab.spacings import Spacing

NoiseFn = Callable[[Tensor], Tensor]
State = TypeVar("State", default=Any)  # a bare `Sampler` is one whose state the holder does not look at


@dataclass(frozen=True)
class Step:
    """The argument of `on_step`: one step that has been taken."""

    index: int  # 0 ... steps - 1
    steps: int
    t: Tensor  # where the step started
    s: Tensor  # where it ended
    x: Tensor  # the state at s: (B, ...)


class Sampler(ABC, Generic[State]):
    """A sampler with its number of steps and its time grid.

    `State` is the type of what a step hands to the next one: None for a one-step method. Raises ConfigError for fewer
    than one step.
    """

    @checked
    def __init__(self, steps: Count, spacing: Spacing) -> None:
        self.steps = steps
        self.spacing = spacing

    @abstractmethod
    def step(
        self,
        denoise: DenoiseFn,
        schedule: Schedule,
        x: Tensor,
        t: Tensor,
        s: Tensor,
        state: State | None,
        noise: NoiseFn,
    ) -> tuple[Tensor, State | None]:
        """Takes x: (B, ...) from time t to time s < t.

        Returns x at s and the state for the next step; the first step gets None. Calls `noise` once for each draw, and
        not at all where the step adds no noise.
        """

    def __call__(
        self,
        denoise: DenoiseFn,
        schedule: Schedule,
        x_T: Tensor,
        noise: NoiseFn = torch.randn_like,
        on_step: Callable[[Step], object] | None = None,
    ) -> Tensor:
        """Returns x_0, of the shape and dtype of x_T: (B, ...), which is normal noise of standard deviation prior_std.

        Where the grid starts below t = 1, x_T is rescaled to the standard deviation of unit-variance data at that time.
        """
        denoise = precise(denoise)
        times = self.spacing(self.steps, schedule).cpu().unbind()
        x = start_scale(schedule, times[0]) * x_T
        state: State | None = None
        for index, (t, s) in enumerate(pairwise(times)):
            x, state = self.step(denoise, schedule, x, t, s, state, noise)
            if on_step is not None:
                on_step(Step(index, len(times) - 1, t, s, x))
        return x


def start_scale(schedule: Schedule, t: Tensor) -> Tensor:
    """The standard deviation of unit-variance data at t over that at t = 1: 1 on a variance-preserving schedule."""
    return torch.hypot(*schedule(t)) / torch.hypot(*schedule(1.0)) if t < 1 else torch.ones_like(t)


def precise(denoise: DenoiseFn) -> DenoiseFn:
    """Wraps a denoiser so that its predictions have the dtype of the state."""

    def denoise_precisely(x_t: Tensor, t: Tensor) -> Prediction:
        prediction = denoise(x_t, t)
        return prediction._replace(x0=prediction.x0.to(x_t.dtype), eps=prediction.eps.to(x_t.dtype))

    return denoise_precisely


def batched(t: Tensor, x: Tensor) -> Tensor:
    """A scalar time in the form a denoiser takes: (B,), float64, on the CPU."""
    return torch.as_tensor(t, dtype=torch.float64).expand(len(x))


def posterior_variance(at_t: Level, at_s: Level) -> tuple[Tensor, Tensor]:
    r"""The variances of $q(x_t|x_s)$ and $q(x_s|x_t, x_0)$ for s < t: DDPM's $\beta$ and $\tilde\beta$.

    $\beta = \sigma_t^2 - (\alpha_t/\alpha_s)^2 \sigma_s^2$ and $\tilde\beta = \beta\,\sigma_s^2/\sigma_t^2$
    (Ho 2020, arXiv:2006.11239, eq. 7, in terms of the levels).
    """
    (alpha_t, sigma_t), (alpha_s, sigma_s) = at_t, at_s
    var_ts = sigma_t**2 - (alpha_t / alpha_s * sigma_s) ** 2
    return var_ts, var_ts * (sigma_s / sigma_t) ** 2


def half_log_snr(level: Level) -> Tensor:
    r"""Returns $\ell = \log(\alpha/\sigma)$, which is infinite where alpha or sigma is 0.

    It is as exact as half of `Schedule.log_snr`, since schedules return alpha and sigma with a small relative error.
    """
    return torch.log(level.alpha) - torch.log(level.sigma)


def half_log_snr_step(at_t: Level, at_s: Level) -> Tensor:
    r"""Returns $h = \ell_s - \ell_t \ge 0$ for s < t: 0 between equal levels, infinite from alpha 0 or to sigma 0."""
    start, end = half_log_snr(at_t), half_log_snr(at_s)
    return torch.where(start < end, end - start, 0.0)
