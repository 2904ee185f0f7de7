"""The objective contract: losses of each sample, averaged over dimensions and never over the batch."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from denoiselab.backbones import Encoder
from denoiselab.conditioning.cond import Cond
from denoiselab.denoiser import Denoiser
from denoiselab.errors import IncompatibleError
from denoiselab.schedules import Learned, Schedule
from denoiselab.time_sampling import TimeSampler


class Objective(nn.Module, ABC):
    """Losses (B,) of x0: (B, ...) at times t: (B,) with noise eps, both drawn if not given."""

    names: tuple[str, ...]  # of its metrics
    classifies = False  # whether the network is a classifier

    def __init__(self, time_sampler: TimeSampler) -> None:
        super().__init__()
        self.time_sampler = time_sampler

    @abstractmethod
    def figures(self, denoiser: Denoiser, x0: Tensor, cond: Cond | None, t: Tensor, eps: Tensor) -> dict[str, Tensor]:
        """Returns metrics (B,): "loss", which is trained, and others from the same network pass."""

    def check(self, denoiser: Denoiser) -> None:
        """Raises IncompatibleError if this objective does not work with the denoiser's parts."""
        if isinstance(denoiser.backbone, Encoder) != self.classifies:
            raise IncompatibleError(
                "loss=cross_entropy and backbone=encoder make a classifier together, and neither has a meaning without "
                "the other; take experiment=noisy_classifier"
            )
        if isinstance(denoiser.schedule, Learned):
            raise IncompatibleError(
                "schedule=learned is trained by the bound alone: under other weights it would run to the easiest noise "
                "levels; take loss=vlb"
            )

    def forward(
        self,
        denoiser: Denoiser,
        x0: Tensor,
        cond: Cond | None = None,
        *,
        t: Tensor | None = None,
        eps: Tensor | None = None,
    ) -> Tensor:
        t = self.time_sampler(len(x0), schedule=denoiser.schedule) if t is None else t
        eps = torch.randn_like(x0) if eps is None else eps
        loss = self.figures(denoiser, x0, cond, t, eps)["loss"]
        return self.time_sampler.importance(t).to(loss) * loss

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        return super().__call__(*args, **kwargs)


class Denoising(Objective):
    """An objective that is, or bounds, a weighted eps-MSE."""

    @abstractmethod
    def weight(self, schedule: Schedule, t: Tensor) -> Tensor:
        """Returns the weight on the eps-MSE: float64, of the shape of t."""

    @torch.no_grad()
    def at_the_end(self, schedule: Schedule) -> float:
        """Returns the share of drawn times at which the schedule has ended, all at its last log-SNR."""
        t = self.time_sampler.quantile((torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000, schedule)
        return float((t >= schedule.t_end).double().mean())

    @torch.no_grad()
    def effective(self, schedule: Schedule, points: int = 400) -> tuple[Tensor, Tensor]:
        """Returns (log-SNR, weight times the density of drawn times in log-SNR), each float64 (points,).

        Covers log-SNR 20 to -20 within the schedule's range; times drawn `at_the_end` have no density.
        """
        low, high = (float(schedule.log_snr(t).clamp(-20, 20)) for t in (1.0, 1e-9))
        t = schedule.time(torch.linspace(low, high, points + 1, dtype=torch.float64)).clamp(max=schedule.t_end)
        # Finite differences of t, which smooth over the pieces of a table of betas.
        middle, falls = (t[:-1] + t[1:]) / 2, -schedule.log_snr(t).diff()
        density = self.time_sampler.density(middle, schedule) * t.diff() / falls
        return schedule.log_snr(middle), self.weight(schedule, middle) * density
