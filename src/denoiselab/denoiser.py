"""The denoiser: a network, the schedule it was trained on, and its parameterization."""

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from denoiselab.conditioning.cond import Cond
from denoiselab.errors import IncompatibleError
from denoiselab.parameterizations import Parameterization
from denoiselab.schedules import Schedule, like


class Prediction(NamedTuple):
    r"""A denoiser's estimates of x_0 and eps in $x_t = \alpha x_0 + \sigma\epsilon$, each of the shape of x_t.

    `variance` is iDDPM's $f$ (arXiv:2102.09672, eq. 15) of the reverse variance,
    $\log\Sigma = f\log\beta + (1 - f)\log\tilde\beta$, where the network learns it.
    """

    x0: Tensor
    eps: Tensor
    variance: Tensor | None = None


class DenoiseFn(Protocol):
    """The function that a sampler calls: a raw, EMA, guided or analytic denoiser."""

    def __call__(self, x_t: Tensor, t: Tensor, /) -> Prediction:
        """x_t: (B, ...), t: (B,). Samplers pass t in float64 on the CPU, since some devices have no float64."""


class Output(NamedTuple):
    """The network's own output, each part of the shape and dtype of x_t."""

    F: Tensor
    variance: Tensor | None = None  # f, see Prediction


class Denoiser(nn.Module):
    """A denoiser from a backbone, backbone(c_in x_t, label, cond) -> F of the shape of x_t, and a parameterization.

    With `learns_variance` the backbone has twice the channels: F, and the variance from -1 (beta-tilde) to 1 (beta).
    Raises IncompatibleError where x0 does not follow from F at the schedule's end (eps at alpha = 0).
    """

    def __init__(
        self,
        backbone: nn.Module,
        schedule: Schedule,
        parameterization: Parameterization,
        learns_variance: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.schedule = schedule
        self.parameterization = parameterization
        self.learns_variance = learns_variance
        with torch.no_grad():
            end = torch.stack(parameterization.coefficients(schedule, torch.ones((), dtype=torch.float64)))
            if not end.isfinite().all():
                raise IncompatibleError(
                    f"{type(parameterization).__name__}-prediction says nothing about x0 at t = 1, where "
                    f"{type(schedule).__name__} has alpha = {schedule(1.0).alpha:.3g}; predict v or x0, "
                    "or end the schedule elsewhere with log_snr_min=-15"
                )

    def output(self, x_t: Tensor, t: Tensor, cond: Cond | None = None) -> Output:
        """Returns the network's output for x_t: (B, ...) and t: (B,), in the dtype of x_t whatever the network's."""
        c_in, label = self.parameterization.network_input(self.schedule, t)
        weight = next(self.backbone.parameters(), x_t)
        told = Cond() if cond is None else cond
        F = self.backbone((like(c_in, x_t) * x_t).to(weight.dtype), label, told).to(x_t.dtype)
        if not self.learns_variance:
            return Output(F)
        F, variance = F.chunk(2, dim=1)
        return Output(F, (variance + 1) / 2)

    def prediction(self, output: Output, x_t: Tensor, t: Tensor) -> Prediction:
        """Converts the network's output to a prediction."""
        c_skip, c_out, e_skip, e_out = (like(c, x_t) for c in self.parameterization.inverse(self.schedule, t))
        return Prediction(c_skip * x_t + c_out * output.F, e_skip * x_t + e_out * output.F, output.variance)

    def forward(self, x_t: Tensor, t: Tensor, cond: Cond | None = None) -> Prediction:
        return self.prediction(self.output(x_t, t, cond), x_t, t)

    def __call__(self, *args: Any, **kwargs: Any) -> Prediction:
        return super().__call__(*args, **kwargs)
