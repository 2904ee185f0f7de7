"""Inference grids: at which times t_0 > t_1 > ... > t_N = 0 a sampler evaluates the denoiser (at all but the last)."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from denoiselab.errors import ConfigError
from denoiselab.schedules import Schedule


class Spacing(ABC):
    @abstractmethod
    def __call__(self, steps: int, schedule: Schedule) -> Tensor:
        """The grid, float64 of shape (steps + 1,), strictly descending to 0. Raises ConfigError for too many."""


class Trailing(Spacing):
    """1, 1 - 1/N, ..., 1/N, 0: evenly spaced from the noise's end (Lin 2023, §3.3).

    With T, rounded to the T-step diffusion's own times.
    """

    def __init__(self, T: int | None = None) -> None:
        self.T = T

    def __call__(self, steps: int, schedule: Schedule) -> Tensor:
        _check(steps, self.T)
        grid = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        return grid if self.T is None else torch.round(grid * self.T) / self.T


class Leading(Spacing):
    """The steps 1, 1 + T//N, 1 + 2 T//N, ... of a T-step diffusion, downwards (DDPM's and DDIM's code).

    It never visits t = 1: pure noise is taken for x at t_0 < 1, which biases images towards grey (Lin 2023).
    """

    def __init__(self, T: int = 1000) -> None:
        self.T = T

    def __call__(self, steps: int, schedule: Schedule) -> Tensor:
        _check(steps, self.T)
        visited = torch.arange(steps, dtype=torch.float64) * (self.T // steps) + 1
        return torch.cat([visited.flip(0) / self.T, torch.zeros(1, dtype=torch.float64)])


def _check(steps: int, T: int | None) -> None:
    if T is not None and steps > T:
        raise ConfigError(f"sampler.steps={steps} is more than spacing.T={T}, the steps there are; take fewer")


class LogSNR(Spacing):
    """Even in log-SNR from t = 1 to `t_min`, then 0 (DPM-Solver, Lu 2022).

    Where log-SNR is -infinity at t = 1 the even part begins at 1 - t_min, and t = 1 takes the first point's place.
    """

    def __init__(self, t_min: float = 1e-3) -> None:
        self.t_min = t_min

    def __call__(self, steps: int, schedule: Schedule) -> Tensor:
        first = schedule.log_snr(1.0)
        if not first.isfinite():
            first = schedule.log_snr(1 - self.t_min)
        log_snr = torch.linspace(float(first), float(schedule.log_snr(self.t_min)), steps, dtype=torch.float64)
        grid = torch.cat([schedule.time(log_snr), torch.zeros(1, dtype=torch.float64)])
        grid[0] = 1.0
        return grid
