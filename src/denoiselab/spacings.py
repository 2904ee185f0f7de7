"""Inference grids: at which times t_0 > t_1 > ... > t_N = 0 a sampler evaluates the denoiser (at all but the last)."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise

import torch
from torch import Tensor

from denoiselab.errors import ConfigError, InvalidValue
from denoiselab.limits import Count, EarlyTime, Positive, PositiveShare, checked
from denoiselab.schedules import Schedule


class Spacing(ABC):
    @abstractmethod
    def __call__(self, steps: int, schedule: Schedule) -> Tensor:
        """The grid, float64 of shape (steps + 1,), strictly descending to 0. Raises ConfigError for too many."""


class Trailing(Spacing):
    """1, 1 - 1/N, ..., 1/N, 0: evenly spaced from the noise's end (Lin 2023, §3.3).

    With T, rounded to the T-step diffusion's own times.
    """

    @checked
    def __init__(self, T: Count | None = None) -> None:
        self.T = T

    def __call__(self, steps: int, schedule: Schedule) -> Tensor:
        _check(steps, self.T)
        grid = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        return grid if self.T is None else torch.round(grid * self.T) / self.T


class Leading(Spacing):
    """The steps 1, 1 + T//N, 1 + 2 T//N, ... of a T-step diffusion, downwards (DDPM's and DDIM's code).

    It is guided-diffusion's "ddimN" where N divides T. It never visits t = 1: pure noise is taken for x at t_0 < 1,
    which biases images towards grey (Lin 2023).
    """

    @checked
    def __init__(self, T: Count = 1000) -> None:
        self.T = T

    def __call__(self, steps: int, schedule: Schedule) -> Tensor:
        _check(steps, self.T)
        return _visiting([i * (self.T // steps) for i in range(steps)], self.T)


class Linspace(Spacing):
    """Even from a T-step diffusion's last step to its first, both visited, rounded (Lin 2023, table 2)."""

    @checked
    def __init__(self, T: Count = 1000) -> None:
        self.T = T

    def __call__(self, steps: int, schedule: Schedule) -> Tensor:
        _check(steps, self.T)
        # Downwards, so that one step alone is from t = 1.
        downwards = [round((self.T - 1) * (1 - Fraction(i, max(1, steps - 1)))) for i in range(steps)]
        return _visiting(downwards[::-1], self.T)


class Quadratic(Spacing):
    """The steps 1 + floor(0.8 T (i/(N - 1))^2) of a T-step diffusion, i = 0 ... N - 1 (DDIM's code, "quad").

    Where that names a step twice, the next one takes the second place. Like `Leading` it never visits t = 1.
    """

    @checked
    def __init__(self, T: Count = 1000) -> None:
        self.T = T

    def __call__(self, steps: int, schedule: Schedule) -> Tensor:
        _check(steps, self.T)
        visited: list[int] = []
        for i in range(steps):
            part = Fraction(i, steps - 1) if steps > 1 else Fraction(1)
            visited.append(max(int(Fraction(4, 5) * self.T * part**2), visited[-1] + 1 if visited else 0))
        return _visiting(visited, self.T)


class Sections(Spacing):
    """A T-step diffusion cut into equal sections, from the data's end; counts[j] steps, even and rounded, in section j.

    guided-diffusion's space_timesteps (iDDPM, Nichol 2021, §4): counts [250] is its "250", and null is [steps]. Raises
    ConfigError where a section has fewer steps than its count, or the counts do not add up to the sampler's steps.
    """

    @checked
    def __init__(self, T: Count = 1000, counts: Sequence[Count] | None = None) -> None:
        self.T, self.counts = T, None if counts is None else list(counts)

    def __call__(self, steps: int, schedule: Schedule) -> Tensor:
        counts = [steps] if self.counts is None else self.counts
        if sum(counts) != steps:
            raise ConfigError(f"spacing.counts={counts} add up to {sum(counts)}; take sampler.steps={sum(counts)}")
        visited: list[int] = []
        size, larger = divmod(self.T, len(counts))
        start = 0
        for section, count in enumerate(counts):
            end = start + size + (section < larger)
            if not 1 <= count <= end - start or int(count) != count:
                raise ConfigError(
                    f"spacing.counts={counts} asks for {count} of the {end - start} steps in section {section + 1}; "
                    f"allowed: whole numbers from 1 to {end - start}"
                )
            visited += [start + round(Fraction(i * (end - start - 1), max(1, count - 1))) for i in range(count)]
            start = end
        return _visiting(visited, self.T)


def _check(steps: int, T: int | None) -> None:
    if T is not None and steps > T:
        raise ConfigError(f"sampler.steps={steps} is more than spacing.T={T}, the steps there are; take fewer")


def _visiting(steps: Sequence[int], T: int) -> Tensor:
    """The grid of a T-step diffusion's steps, which are ascending and counted from 0: step i is t = (i + 1)/T."""
    ascending = torch.tensor([0, *(i + 1 for i in steps)], dtype=torch.float64)
    return ascending.flip(0) / T


class Custom(Spacing):
    """The given times, then 0. Raises ConfigError unless they descend in (0, 1] and are as many as the steps."""

    @checked
    def __init__(self, times: Sequence[PositiveShare]) -> None:
        self.times = list(times)
        if not self.times or not all(t > s for t, s in pairwise([*self.times, 0.0])):
            raise InvalidValue("times", self.times, "a list that descends, such as [1,0.6,0.3]")

    def __call__(self, steps: int, schedule: Schedule) -> Tensor:
        if steps != len(self.times):
            raise ConfigError(
                f"sampler.steps={steps}, but spacing.times are {len(self.times)}; take sampler.steps={len(self.times)}"
            )
        return torch.tensor([*self.times, 0.0], dtype=torch.float64)


class LogSNR(Spacing):
    """Even in log-SNR from t = 1 to `t_min`, then 0 (DPM-Solver, Lu 2022).

    On to where sigma/alpha is `sigma_min`, on schedules (edm, ve_sqrt) on which it is larger at t_min. Where log-SNR is
    -infinity at t = 1 the even part begins at 1 - t_min, and t = 1 takes the first point's place.
    """

    @checked
    def __init__(self, t_min: EarlyTime = 1e-3, sigma_min: Positive = 0.02) -> None:
        self.t_min, self.sigma_min = t_min, sigma_min

    def __call__(self, steps: int, schedule: Schedule) -> Tensor:
        # ve starts at a sigma above 0: that of the smallest time that is not yet 0.
        within = min(-2 * math.log(self.sigma_min), float(schedule.log_snr(1e-9)))
        first, last = schedule.log_snr(1.0), schedule.log_snr(self.t_min).clamp(min=within)
        if not first.isfinite():
            first = schedule.log_snr(1 - self.t_min)
        if first >= last:
            raise ConfigError(f"spacing.t_min={self.t_min} leaves nothing of this schedule; take a smaller one")
        return _from_noise(schedule, torch.linspace(float(first), float(last), steps, dtype=torch.float64))


class Karras(Spacing):
    """n = sigma/alpha with n^(1/rho) even from `sigma_max` to `sigma_min`, then 0 (EDM, Karras 2022, eq. 5).

    The schedule's own range of n limits both. Where it goes beyond sigma_max the grid begins there, not at t = 1: x is
    noise there but for a part of 1/sigma_max, and second-order steps are spared levels at which nothing happens.
    Raises ConfigError where nothing is left of the range.
    """

    @checked
    def __init__(self, rho: Positive = 7.0, sigma_min: Positive = 0.002, sigma_max: Positive = 80.0) -> None:
        self.rho, self.sigma_min, self.sigma_max = rho, sigma_min, sigma_max

    def __call__(self, steps: int, schedule: Schedule) -> Tensor:
        # ve starts at sigma_min > 0: n of the smallest time that is not yet 0.
        low, high = (float(torch.exp(-schedule.log_snr(t) / 2)) for t in (1e-9, 1.0))
        first, last = min(self.sigma_max, high), max(self.sigma_min, low)
        if first <= last:
            raise ConfigError(
                f"spacing.sigma_min={self.sigma_min} and sigma_max={self.sigma_max} leave nothing of this schedule's "
                f"sigma/alpha, which is from {low:.3g} to {high:.3g}; give a range inside, the smaller one first"
            )
        root = 1 / self.rho
        n = torch.linspace(first**root, last**root, steps, dtype=torch.float64) ** self.rho
        grid = torch.cat([schedule.time(-2 * torch.log(n)), torch.zeros(1, dtype=torch.float64)])
        grid[0] = 1.0 if first == high else grid[0]
        return grid


def _from_noise(schedule: Schedule, log_snr: Tensor) -> Tensor:
    """The grid at which log-SNR has these values, but from t = 1, and to 0."""
    grid = torch.cat([schedule.time(log_snr), torch.zeros(1, dtype=torch.float64)])
    grid[0] = 1.0
    return grid
