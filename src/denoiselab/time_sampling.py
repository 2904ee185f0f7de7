"""Time samplers: the distribution of training times t in (0, 1], one half of the effective loss weight.

A time sampler is called once for the *global* batch; each rank takes its part. With `stratified`, it draws the
quantiles (u + i/n) mod 1 with one u (VDM, arXiv:2107.00630, appendix I.1) rather than of n independent u: each t has
the same distribution, and the batch is spread evenly.
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
        """Returns the u-quantile of t, in (0, 1]: float64, of the shape of u, for u in (0, 1]."""

    @abstractmethod
    def density(self, t: Tensor, schedule: Schedule) -> Tensor:
        """Returns the density of t: float64, of its shape."""

    def __call__(self, n: int, generator: torch.Generator | None = None, schedule: Schedule | None = None) -> Tensor:
        """Draws n times in (0, 1]: float64 (n,). Samplers that draw noise levels need `schedule`."""
        return self.quantile(1 - shares(n, generator, self.stratified), _given(self, schedule))

    def importance(self, t: Tensor) -> Tensor:
        """Returns the factor on the loss at t: (B,) that corrects for drawing t more often than `density`."""
        return torch.ones_like(as_time(t))


def shares(n: int, generator: torch.Generator | None, stratified: bool) -> Tensor:
    """Draws n uniform numbers in [0, 1), float64."""
    u = torch.rand(1 if stratified else n, generator=generator, dtype=torch.float64)
    return (u + torch.arange(n, dtype=torch.float64) / n) % 1 if stratified else u


class _Nothing:
    """Placeholder for a missing schedule, for time samplers that use none."""

    def __init__(self, who: str) -> None:
        self.who = who

    def __getattr__(self, name: str) -> Any:
        raise TypeError(f"{self.who} draws noise levels: call it with schedule=...")


def _given(sampler: TimeSampler, schedule: Schedule | None) -> Any:
    return _Nothing(type(sampler).__name__) if schedule is None else schedule


class Uniform(TimeSampler):
    r"""$t \sim U(0, 1]$."""

    def __init__(self, stratified: bool = False) -> None:
        self.stratified = stratified

    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        return u

    def density(self, t: Tensor, schedule: Schedule) -> Tensor:
        return torch.ones_like(as_time(t))


class Discrete(TimeSampler):
    r"""$t = i/T$ with $i$ uniform on $1 \dots T$ (DDPM, arXiv:2006.11239, algorithm 1)."""

    @checked
    def __init__(self, T: Count = 1000, stratified: bool = False) -> None:
        self.T, self.stratified = T, stratified

    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        return torch.ceil(u * self.T).clamp(1, self.T) / self.T

    def density(self, t: Tensor, schedule: Schedule) -> Tensor:
        return torch.ones_like(as_time(t))


class LogNormal(TimeSampler):
    r"""Normal $\log(\sigma/\alpha)$ within the schedule's range: EDM's P_mean and P_std (arXiv:2206.00364, table 1)."""

    @checked
    def __init__(self, mean: Finite = -1.2, std: Positive = 1.2, stratified: bool = True) -> None:
        self.mean, self.std, self.stratified = mean, std, stratified

    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        t = schedule.time(-2 * (self.mean + self.std * _normal_quantile(u)))
        return t.clamp(min=1e-9)  # t = 0 is clean data, even if the schedule starts with noise

    def density(self, t: Tensor, schedule: Schedule) -> Tensor:
        z = (-schedule.log_snr(t) / 2 - self.mean) / self.std
        return _normal_density(z) / self.std * schedule.log_snr_slope(t).abs() / 2


class LogitNormal(TimeSampler):
    r"""Normal $\mathrm{logit}\,t$ (Esser 2024, arXiv:2403.03206, eq. 19; JiT has mean 0.8 in our time, std 0.8)."""

    @checked
    def __init__(self, mean: Finite = 0.0, std: Positive = 1.0, stratified: bool = True) -> None:
        self.mean, self.std, self.stratified = mean, std, stratified

    def quantile(self, u: Tensor, schedule: Schedule) -> Tensor:
        return torch.sigmoid(self.mean + self.std * _normal_quantile(u))

    def density(self, t: Tensor, schedule: Schedule) -> Tensor:
        t = as_time(t)
        z = (torch.logit(t) - self.mean) / self.std
        # At t = 1 the normal density has fallen to 0 faster than 1 - t.
        return torch.nan_to_num(_normal_density(z) / (self.std * t * (1 - t)))


def _normal_quantile(u: Tensor) -> Tensor:
    """Returns the normal quantile, finite for u in [0, 1]: the outermost 1e-12 are cut off."""
    return torch.special.ndtri(u.clamp(1e-12, 1 - 1e-12))


def _normal_density(z: Tensor) -> Tensor:
    return torch.exp(-(z**2) / 2) / math.sqrt(2 * math.pi)


class LossSecondMoment(nn.Module, TimeSampler):
    r"""$t = i/T$ with $p_i \propto \sqrt{E[L_i^2]}$, from the last `history` losses (iDDPM, arXiv:2102.09672, eq. 18).

    Uniform until every $i$ has its history; mixed with a share `uniform` of uniform draws. A loss is multiplied by
    $1/(T p_i)$, so its expectation is that of uniform t. The history is saved with a run.
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
        """Returns p: (T,)."""
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
        """Records the unweighted losses (B,) of the global batch at t: (B,); they must be the same on all ranks."""
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
