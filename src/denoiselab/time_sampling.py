"""Training times t in (0, 1]. Which t are drawn, and how often, is one half of the effective loss weight.

A time sampler is called once for the *global* batch; each rank takes its part of the answer. It is a distribution,
given by its quantiles, and `stratified` draws those of (u + i/n) mod 1 with one u (VDM, appendix I.1) rather than of n
independent u: each t is distributed alike, and the batch is spread evenly.
"""

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from denoiselab.limits import Count, Finite, Positive, PositiveShare, checked
from denoiselab.schedules import Schedule, as_time


class TimeSampler(ABC):
    stratified: bool = False

    @abstractmethod
    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        """The time in (0, 1] below which a share u of the draws lies, float64 of the shape of u, for u in (0, 1]."""

    @abstractmethod
    def density(self, t: Tensor, schedule: Schedule) -> Tensor:
        """The density of t, float64 of its shape."""

    def __call__(self, n: int, generator: torch.Generator | None = None, schedule: Schedule | None = None) -> Tensor:
        """n times in (0, 1], float64 of shape (n,). `schedule` is needed by those that think in noise levels."""
        return self.quantile(1 - shares(n, generator, self.stratified), _given(self, schedule))

    def importance(self, t: Tensor) -> Tensor:
        """What a loss at t: (B,) is multiplied by to correct for draws more frequent than `density` says."""
        return torch.ones_like(as_time(t))


def shares(n: int, generator: torch.Generator | None, stratified: bool) -> Tensor:
    """n uniform numbers in [0, 1), float64."""
    u = torch.rand(1 if stratified else n, generator=generator, dtype=torch.float64)
    return (u + torch.arange(n, dtype=torch.float64) / n) % 1 if stratified else u


class _Nothing:
    """Stands for a schedule that was not given, for time samplers that do not ask it anything."""

    def __init__(self, who: str) -> None:
        self.who = who

    def __getattr__(self, name: str) -> Any:
        raise TypeError(f"{self.who} draws noise levels: call it with schedule=...")


def _given(sampler: TimeSampler, schedule: Schedule | None) -> Any:
    return _Nothing(type(sampler).__name__) if schedule is None else schedule


class Uniform(TimeSampler):
    """t ~ U(0, 1]."""

    def __init__(self, stratified: bool = False) -> None:
        self.stratified = stratified

    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        return u

    def density(self, t: Tensor, schedule: Schedule) -> Tensor:
        return torch.ones_like(as_time(t))


class Discrete(TimeSampler):
    """t = i/T with i uniform on 1 ... T (DDPM, algorithm 1)."""

    @checked
    def __init__(self, T: Count = 1000, stratified: bool = False) -> None:
        self.T, self.stratified = T, stratified

    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        return torch.ceil(u * self.T).clamp(1, self.T) / self.T

    def density(self, t: Tensor, schedule: Schedule) -> Tensor:
        return torch.ones_like(as_time(t))


class LogNormal(TimeSampler):
    """log(sigma/alpha) ~ N(mean, std^2) within the schedule's range: P_mean and P_std of EDM (Karras 2022, table 1)."""

    @checked
    def __init__(self, mean: Finite = -1.2, std: Positive = 1.2, stratified: bool = True) -> None:
        self.mean, self.std, self.stratified = mean, std, stratified

    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        t = schedule.time(-2 * (self.mean + self.std * _normal_quantile(u)))
        return t.clamp(min=1e-9)  # 0 is data, where a schedule begins with some noise

    def density(self, t: Tensor, schedule: Schedule) -> Tensor:
        z = (-schedule.log_snr(t) / 2 - self.mean) / self.std
        return _normal_density(z) / self.std * schedule.log_snr_slope(t).abs() / 2


class LogitNormal(TimeSampler):
    """logit t ~ N(mean, std^2) (Stable Diffusion 3, Esser 2024, eq. 19; JiT has std 0.8, and mean 0.8 in our time)."""

    @checked
    def __init__(self, mean: Finite = 0.0, std: Positive = 1.0, stratified: bool = True) -> None:
        self.mean, self.std, self.stratified = mean, std, stratified

    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        return torch.sigmoid(self.mean + self.std * _normal_quantile(u))

    def density(self, t: Tensor, schedule: Schedule) -> Tensor:
        t = as_time(t)
        z = (torch.logit(t) - self.mean) / self.std
        # At t = 1 the normal density has long won over 1/(1 - t).
        return torch.nan_to_num(_normal_density(z) / (self.std * t * (1 - t)))


def _normal_quantile(u: Tensor) -> Tensor:
    """Finite for u in [0, 1]: the outermost 1e-12 are left out."""
    return torch.special.ndtri(u.clamp(1e-12, 1 - 1e-12))


def _normal_density(z: Tensor) -> Tensor:
    return torch.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)


class LossSecondMoment(nn.Module, TimeSampler):
    """t = i/T with p_i proportional to sqrt(E[L_i^2]), from the last `history` losses at i (iDDPM, eq. 18).

    Uniform until each i has its history; mixed with a share `uniform` of uniform draws. A loss counts 1/(T p_i), so its
    expectation stays that of uniform t. The history is saved with a run.
    """

    @checked
    def __init__(
        self, T: Count = 1000, history: Count = 10, uniform: PositiveShare = 0.001, stratified: bool = True
    ) -> None:
        super().__init__()
        self.T, self.length, self.uniform, self.stratified = T, history, uniform, stratified
        self.history = torch.zeros(T, history, dtype=torch.float64)
        self.counts = torch.zeros(T, dtype=torch.int64)

    def probabilities(self) -> Tensor:
        """p: (T,)."""
        if not (self.counts >= self.length).all():
            return torch.full((self.T,), 1 / self.T, dtype=torch.float64)
        p = self.history.square().mean(1).sqrt()
        return p / p.sum() * (1 - self.uniform) + self.uniform / self.T

    def __call__(self, n: int, generator: torch.Generator | None = None, schedule: Schedule | None = None) -> Tensor:
        edges = self.probabilities().cumsum(0)
        u = shares(n, generator, self.stratified) * edges[-1]
        return (torch.searchsorted(edges, u, right=True).clamp(max=self.T - 1) + 1).to(torch.float64) / self.T

    def importance(self, t: Tensor) -> Tensor:
        return 1 / (self.T * self.probabilities()[self._place(t)])

    def update(self, t: Tensor, losses: Tensor) -> None:
        """The losses (B,) at t: (B,), unweighted; those of the global batch, the same on all ranks."""
        for i, loss in zip(self._place(t).tolist(), losses.tolist(), strict=True):
            self.history[i, self.counts[i] % self.length] = loss
            self.counts[i] += 1

    def _place(self, t: Tensor) -> Tensor:
        return torch.round(t.cpu() * self.T).to(torch.int64) - 1

    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        return torch.ceil(u * self.T).clamp(1, self.T) / self.T

    def density(self, t: Tensor, schedule: Schedule) -> Tensor:
        return torch.ones_like(as_time(t))

    def get_extra_state(self) -> dict[str, Tensor]:
        return {"history": self.history, "counts": self.counts}

    def set_extra_state(self, state: dict[str, Tensor]) -> None:
        self.history, self.counts = state["history"].cpu(), state["counts"].cpu()
