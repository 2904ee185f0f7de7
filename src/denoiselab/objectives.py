"""Training objectives: per-sample losses, never reduced over the batch."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from denoiselab.conditioning.cond import Cond
from denoiselab.denoiser import Denoiser
from denoiselab.errors import IncompatibleError
from denoiselab.parameterizations import Parameterization
from denoiselab.schedules import Schedule, like
from denoiselab.time_sampling import TimeSampler
from denoiselab.weightings import Weighting


class Objective(ABC):
    time_sampler: TimeSampler

    @abstractmethod
    def __call__(
        self,
        denoiser: Denoiser,
        x0: Tensor,
        cond: Cond | None = None,
        *,
        t: Tensor | None = None,
        eps: Tensor | None = None,
    ) -> Tensor:
        """Losses (B,) of x0: (B, ...), averaged over an image's dimensions; t: (B,) and eps are drawn if not given."""


class WeightedMSE(Objective):
    """w(lambda) |d eps/dF|^2 |F - F*|^2: the weighted eps-MSE, computed in the network's output space.

    That is where it is stable: no division by alpha or sigma meets the network's error.
    """

    def __init__(self, weighting: Weighting, time_sampler: TimeSampler) -> None:
        self.weighting = weighting
        self.time_sampler = time_sampler

    def __call__(
        self,
        denoiser: Denoiser,
        x0: Tensor,
        cond: Cond | None = None,
        *,
        t: Tensor | None = None,
        eps: Tensor | None = None,
    ) -> Tensor:
        t = self.time_sampler(len(x0)) if t is None else t
        eps = torch.randn_like(x0) if eps is None else eps
        schedule, parameterization = denoiser.schedule, denoiser.parameterization
        alpha, sigma = schedule(t)
        F = denoiser.output(like(alpha, x0) * x0 + like(sigma, x0) * eps, t, cond)
        error = F - parameterization.target(x0, eps, schedule, t)
        weight = self.output_weight(schedule, parameterization, t)
        return like(weight, error).flatten() * error.square().flatten(1).mean(1)

    def output_weight(self, schedule: Schedule, parameterization: Parameterization, t: Tensor) -> Tensor:
        """The weight on |F - F*|^2, float64 of the shape of t."""
        _, e_out = parameterization.eps_coefficients(schedule, t)
        return self.weighting(schedule, t) * e_out**2

    def check(self, schedule: Schedule, parameterization: Parameterization) -> None:
        """Raises IncompatibleError where a time that training may draw has no finite weight."""
        weight = self.output_weight(schedule, parameterization, torch.ones((), dtype=torch.float64))
        if not weight.isfinite():
            raise IncompatibleError(
                f"{type(self.weighting).__name__} weights the end of {type(schedule).__name__}, where alpha = 0, "
                "infinitely; take the simple or min_snr loss, or end the schedule before that with log_snr_min=-15"
            )
