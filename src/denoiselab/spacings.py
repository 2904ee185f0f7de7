r"""Spacings: the times $t_0 > t_1 > \dots > t_N = 0$ of sampling. The denoiser is evaluated at all but the last."""

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
    """A way to choose the times of a sampler's steps."""

    @abstractmethod
    def __call__(self, steps: int, schedule: Schedule) -> Tensor:
        """Returns the grid: float64 (steps + 1,), strictly descending to 0. Raises ConfigError for too many steps."""


class Trailing(Spacing):
    """Evenly spaced from t = 1: 1, 1 - 1/N, ..., 1/N, 0 (Lin 2023, arXiv:2305.08891, §3.3).

    With T, rounded to the times of a T-step diffusion.
    """

    @checked
    def __init__(self, T: Count | None = None) -> None:
        self.T = T

    def __call__(self, steps: int, schedule: Schedule) -> Tensor:
        _check(steps, self.T)
        grid = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        return grid if self.T is None else torch.round(grid * self.T) / self.T


class Leading(Spacing):
    """The steps 1, 1 + T//N, 1 + 2 T//N, ... of a T-step diffusion, in descending order (DDPM's and DDIM's code).

    Where N divides T this is guided-diffusion's "ddimN". It never visits t = 1: pure noise stands in for x at t_0 < 1,
    which biases images towards grey (Lin 2023, arXiv:2305.08891).
    """

    @checked
    def __init__(self, T: Count = 1000) -> None:
        self.T = T

    def __call__(self, steps: int, schedule: Schedule) -> Tensor:
        _check(steps, self.T)
        return _visiting([i * (self.T // steps) for i in range(steps)], self.T)


class Linspace(Spacing):
    """Even from the last step of a T-step diffusion to the first, both included (arXiv:2305.08891, table 2)."""

    @checked
    def __init__(self, T: Count = 1000) -> None:
        self.T = T

    def __call__(self, steps: int, schedule: Schedule) -> Tensor:
        _check(steps, self.T)
        # Descending, so that a single step starts from t = 1.
        descending = [round((self.T - 1) * (1 - Fraction(i, max(1, steps - 1)))) for i in range(steps)]
        return _visiting(descending[::-1], self.T)


class Quadratic(Spacing):
    r"""The steps $1 + \lfloor 0.8\,T (i/(N - 1))^2 \rfloor$ of a T-step diffusion, $i = 0 \dots N - 1$ (DDIM's "quad").

    A step that would come up twice is replaced by the next one. Like `Leading`, this never visits t = 1.
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
    """A T-step diffusion in equal sections, starting at the data, with counts[j] evenly spaced steps in section j.

    This is guided-diffusion's space_timesteps (iDDPM, Nichol 2021, arXiv:2102.09672, §4): counts [250] is its "250",
    and None is [steps]. Raises ConfigError if a section has fewer steps than its count, or if the counts do not add up
    to the sampler's steps.
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
    """Returns the grid of these steps of a T-step diffusion, ascending and counted from 0: step i is t = (i + 1)/T."""
    ascending = torch.tensor([0, *(i + 1 for i in steps)], dtype=torch.float64)
    return ascending.flip(0) / T


class Custom(Spacing):
    """The given times, then 0. Raises ConfigError unless they descend within (0, 1] and match the number of steps."""

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
    """Even in log-SNR from t = 1 to `t_min`, then 0 (DPM-Solver, Lu 2022, arXiv:2206.00927).

    The grid goes below t_min, to sigma/alpha = `sigma_min`, on schedules where that ratio is larger at t_min (edm,
    ve_sqrt). Where log-SNR is -infinity at t = 1, the even part starts at 1 - t_min, and t = 1 replaces its first
    point. Raises ConfigError if the range is empty.
    """

    @checked
    def __init__(self, t_min: EarlyTime = 1e-3, sigma_min: Positive = 0.02) -> None:
        self.t_min, self.sigma_min = t_min, sigma_min

    def __call__(self, steps: int, schedule: Schedule) -> Tensor:
        # The smallest sigma of ve is above 0: it is that of the smallest time above 0.
        within = min(-2 * math.log(self.sigma_min), float(schedule.log_snr(1e-9)))
        first, last = schedule.log_snr(1.0), schedule.log_snr(self.t_min).clamp(min=within)
        if not first.isfinite():
            first = schedule.log_snr(1 - self.t_min)
        if first >= last:
            raise ConfigError(f"spacing.t_min={self.t_min} leaves nothing of this schedule; take a smaller one")
        return _from_noise(schedule, torch.linspace(float(first), float(last), steps, dtype=torch.float64))


class Karras(Spacing):
    r"""$n^{1/\rho}$ even from `sigma_max` to `sigma_min`, $n = \sigma/\alpha$, then 0 (EDM, arXiv:2206.00364, eq. 5).

    The schedule's own range of n limits both ends. If that range goes beyond sigma_max, the grid starts at sigma_max
    and not at t = 1: data are only a share 1/sigma_max of x there, and second-order steps are not spent on levels where
    nothing happens. Raises ConfigError if the range is empty.
    """

    @checked
    def __init__(self, rho: Positive = 7.0, sigma_min: Positive = 0.002, sigma_max: Positive = 80.0) -> None:
        self.rho, self.sigma_min, self.sigma_max = rho, sigma_min, sigma_max

    def __call__(self, steps: int, schedule: Schedule) -> Tensor:
        # The smallest n of ve is above 0: it is that of the smallest time above 0.
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
    """Returns the times at which log-SNR has these values, with the first replaced by t = 1, then 0."""
    grid = torch.cat([schedule.time(log_snr), torch.zeros(1, dtype=torch.float64)])
    grid[0] = 1.0
    return grid
