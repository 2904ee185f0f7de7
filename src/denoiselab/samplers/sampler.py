"""The sampler's contract: from x_T at the grid's first time to x_0, one `step` at a time.

Times are 0-dimensional float64 tensors on the CPU, so alpha, sigma and what is made of them are float64 scalars: the
state keeps the dtype and device of x_T, and each coefficient is rounded once, when it meets the state.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from denoiselab.denoiser import DenoiseFn, Prediction
from denoiselab.limits import Count, checked
from denoiselab.schedules import Level, Schedule
from denoiselab.spacings import Spacing

NoiseFn = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Step:
    """What `on_step` is told after a step."""

    index: int  # 0 ... steps - 1
    steps: int
    t: Tensor  # the step went from time t
    s: Tensor  # to time s
    x: Tensor  # the state at s: (B, ...)


class Sampler(ABC):
    """A sampler with its number of steps and its grid. Raises ConfigError for fewer than one step."""

    @checked
    def __init__(self, steps: Count, spacing: Spacing) -> None:
        self.steps = steps
        self.spacing = spacing

    @abstractmethod
    def step(
        self, denoise: DenoiseFn, schedule: Schedule, x: Tensor, t: Tensor, s: Tensor, state: Any, noise: NoiseFn
    ) -> tuple[Tensor, Any]:
        """x: (B, ...) at time t -> x at time s < t.

        `state` is None at the first step; what one step returns, the next is given. `noise` is called once for each
        draw, and not at all where the step adds none.
        """

    def __call__(
        self,
        denoise: DenoiseFn,
        schedule: Schedule,
        x_T: Tensor,
        noise: NoiseFn = torch.randn_like,
        on_step: Callable[[Step], object] | None = None,
    ) -> Tensor:
        """x_0 of the shape and dtype of x_T: (B, ...), which is schedule.prior_std times standard normal noise.

        A grid that begins below t = 1 takes it for x there, in the size that data of unit variance have at that time.
        """
        denoise = precise(denoise)
        times = self.spacing(self.steps, schedule).cpu().unbind()
        x, state = start_scale(schedule, times[0]) * x_T, None
        for index, (t, s) in enumerate(pairwise(times)):
            x, state = self.step(denoise, schedule, x, t, s, state, noise)
            if on_step is not None:
                on_step(Step(index, len(times) - 1, t, s, x))
        return x


def start_scale(schedule: Schedule, t: Tensor) -> Tensor:
    """The size of x at t over that at t = 1, for data of unit variance: 1 where the variance is preserved."""
    return torch.hypot(*schedule(t)) / torch.hypot(*schedule(1.0)) if t < 1 else torch.ones_like(t)


def precise(denoise: DenoiseFn) -> DenoiseFn:
    """The same denoiser, whose predictions have the state's dtype."""

    def denoise_precisely(x_t: Tensor, t: Tensor) -> Prediction:
        prediction = denoise(x_t, t)
        return prediction._replace(x0=prediction.x0.to(x_t.dtype), eps=prediction.eps.to(x_t.dtype))

    return denoise_precisely


def batched(t: Tensor, x: Tensor) -> Tensor:
    """A scalar time as the denoiser takes it: (B,), float64, on the CPU."""
    return torch.as_tensor(t, dtype=torch.float64).expand(len(x))


def posterior_variance(at_t: Level, at_s: Level) -> tuple[Tensor, Tensor]:
    """(var_ts, var_ts sigma_s^2/sigma_t^2) for s < t, of q(x_t|x_s) and q(x_s|x_t, x_0): DDPM's beta and beta-tilde."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = at_t, at_s
    var_ts = sigma_t**2 - (alpha_t / alpha_s * sigma_s) ** 2
    return var_ts, var_ts * (sigma_s / sigma_t) ** 2


def half_log_snr_step(schedule: Schedule, t: Tensor, s: Tensor) -> Tensor:
    """h = log(alpha_s/sigma_s) - log(alpha_t/sigma_t) >= 0 for s < t: 0 where nothing moves, infinite at either end."""
    start, end = schedule.log_snr(t), schedule.log_snr(s)
    return torch.where(start < end, (end - start) / 2, 0.0)
