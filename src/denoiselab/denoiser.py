"""The denoiser: a network, the schedule it was trained on, and what its output means."""

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from denoiselab.conditioning.cond import Cond
from denoiselab.errors import IncompatibleError
from denoiselab.parameterizations import Parameterization
from denoiselab.schedules import Schedule, like


class Prediction(NamedTuple):
    """What a denoiser says of x_t: x_t = alpha x0 + sigma eps. Both of the shape of x_t."""

    x0: Tensor
    eps: Tensor


class DenoiseFn(Protocol):
    """What a sampler is handed: raw, EMA, guided and analytic denoisers look the same to it."""

    def __call__(self, x_t: Tensor, t: Tensor, /) -> Prediction:
        """x_t: (B, ...), t: (B,); samplers give t in float64 on the CPU, which has it wherever x_t is."""


class Denoiser(nn.Module):
    """backbone(x_t, t, cond) -> F of the shape of x_t; the rest follows from the parameterization's coefficients.

    Raises IncompatibleError where x0 does not follow from F at the schedule's end (eps at alpha = 0).
    """

    def __init__(self, backbone: nn.Module, schedule: Schedule, parameterization: Parameterization) -> None:
        super().__init__()
        self.backbone = backbone
        self.schedule = schedule
        self.parameterization = parameterization
        end = torch.stack(parameterization.coefficients(schedule, torch.ones((), dtype=torch.float64)))
        if not end.isfinite().all():
            raise IncompatibleError(
                f"{type(parameterization).__name__}-prediction says nothing about x0 at t = 1, where "
                f"{type(schedule).__name__} has alpha = {schedule(1.0).alpha:.0f}; predict v or x0, "
                "or end the schedule before that with log_snr_min=-15"
            )

    def output(self, x_t: Tensor, t: Tensor, cond: Cond | None = None) -> Tensor:
        """F of the shape and dtype of x_t: (B, ...), for t: (B,), whatever precision the network has."""
        weight = next(self.backbone.parameters(), x_t)
        return self.backbone(x_t.to(weight.dtype), t, Cond() if cond is None else cond).to(x_t.dtype)

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond | None = None) -> Prediction:
        F = self.output(x_t, t, cond)
        c_skip, c_out = self.parameterization.coefficients(self.schedule, t)
        e_skip, e_out = self.parameterization.eps_coefficients(self.schedule, t)
        return Prediction(
            x0=like(c_skip, x_t) * x_t + like(c_out, x_t) * F,
            eps=like(e_skip, x_t) * x_t + like(e_out, x_t) * F,
        )

    def __call__(self, *args: Any, **kwargs: Any) -> Prediction:
        return super().__call__(*args, **kwargs)
