"""The weighted eps-MSE, and the same with a learned uncertainty."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from denoiselab.conditioning.cond import Cond
from denoiselab.denoiser import Denoiser, Output
from denoiselab.limits import Count, checked
from denoiselab.norms import L2, Norm
from denoiselab.objectives.objective import Denoising
from denoiselab.parameterizations import Parameterization
from denoiselab.schedules import Schedule, as_time, like
from denoiselab.time_sampling import TimeSampler
from denoiselab.weightings import Simple, Weighting


class Pass:
    """One network pass: x_t, the output, and its error F - F*."""

    def __init__(self, denoiser: Denoiser, x0: Tensor, cond: Cond | None, t: Tensor, eps: Tensor) -> None:
        self.denoiser, self.t = denoiser, t
        alpha, sigma = denoiser.schedule(t)
        self.x_t = like(alpha, x0) * x0 + like(sigma, x0) * eps
        self.output: Output = denoiser.output(self.x_t, t, cond)
        self.error = self.output.F - denoiser.parameterization.target(x0, eps, denoiser.schedule, t)

    def eps_error(self, weighting: Callable[[Schedule, Tensor], Tensor], norm: Norm) -> Tensor:
        """Returns the weighted norm of the eps error: (B,), computed in the network's output space."""
        e_out, weight = _output_scale(self.denoiser.schedule, self.denoiser.parameterization, weighting, self.t)
        return norm(self.error, torch.sqrt(weight) * e_out).flatten(1).mean(1)


_FAINTEST = -60.0  # log-SNR: alpha is 1e-13, and terms that are infinite at alpha = 0 have their limit's digits


def _output_scale(
    schedule: Schedule,
    parameterization: Parameterization,
    weighting: Callable[[Schedule, Tensor], Tensor],
    t: Tensor,
) -> tuple[Tensor, Tensor]:
    """Returns (e_out, w): float64, of the shape of t; their limit at alpha = 0, where w may be infinite and e_out 0."""
    t = as_time(t)
    if schedule.log_snr(1.0) < _FAINTEST:
        t = torch.minimum(t, schedule.time(_FAINTEST))
    return parameterization.eps_coefficients(schedule, t)[1], weighting(schedule, t)


class WeightedMSE(Denoising):
    r"""$w(\lambda)\,|d\epsilon/dF|^2\,|F - F^*|^2$: the weighted eps-MSE, computed in the network's output space.

    This is stable, since the network's error is never divided by alpha or sigma. `norm` may replace the square; it
    applies to $\sqrt w$ times the eps error.
    """

    names = ("loss", "eps_mse")

    def __init__(self, weighting: Weighting, time_sampler: TimeSampler, norm: Norm | None = None) -> None:
        super().__init__(time_sampler)
        self.weighting = weighting
        self.norm = L2() if norm is None else norm

    def figures(self, denoiser: Denoiser, x0: Tensor, cond: Cond | None, t: Tensor, eps: Tensor) -> dict[str, Tensor]:
        made = Pass(denoiser, x0, cond, t, eps)
        return {"loss": made.eps_error(self.weighting, self.norm), "eps_mse": made.eps_error(Simple(), L2())}

    def weight(self, schedule: Schedule, t: Tensor) -> Tensor:
        return self.weighting(schedule, t)

    def output_weight(self, schedule: Schedule, parameterization: Parameterization, t: Tensor) -> Tensor:
        """Returns the weight on |F - F*|^2: float64, of the shape of t."""
        e_out, weight = _output_scale(schedule, parameterization, self.weighting, t)
        return weight * e_out**2


class LearnedUncertainty(Denoising):
    r"""$e^{-u(\lambda)} L + u(\lambda)$, with a small network u trained beside the model (arXiv:2312.02696, eq. 14).

    EDM2's loss. At its optimum $u = \log E[L]$, so every noise level counts equally, whatever the weighting of L.
    """

    names = ("loss", "eps_mse", "unscaled_loss")

    @checked
    def __init__(
        self, weighting: Weighting, time_sampler: TimeSampler, norm: Norm | None = None, features: Count = 64
    ) -> None:
        super().__init__(time_sampler)
        self.base = WeightedMSE(weighting, time_sampler, norm)
        self.frequencies: Tensor
        self.register_buffer("frequencies", torch.randn(features))
        self.phases: Tensor
        self.register_buffer("phases", torch.rand(features))
        self.linear = nn.Linear(features, 1, bias=False)
        nn.init.zeros_(self.linear.weight)

    def uncertainty(self, schedule: Schedule, t: Tensor) -> Tensor:
        """Returns u: (B,), from random Fourier features of log(sigma/alpha)/4, the time of EDM2's network."""
        label = (-schedule.log_snr(t).clamp(-60, 60) / 8).to(self.frequencies)
        waves = torch.cos(2 * torch.pi * (label[:, None] * self.frequencies + self.phases))
        return self.linear(waves * 2**0.5)[:, 0]

    def figures(self, denoiser: Denoiser, x0: Tensor, cond: Cond | None, t: Tensor, eps: Tensor) -> dict[str, Tensor]:
        figures, u = self.base.figures(denoiser, x0, cond, t, eps), self.uncertainty(denoiser.schedule, t).to(x0)
        return figures | {"loss": torch.exp(-u) * figures["loss"] + u, "unscaled_loss": figures["loss"]}

    @torch.no_grad()
    def weight(self, schedule: Schedule, t: Tensor) -> Tensor:
        return self.base.weight(schedule, t) * torch.exp(-self.uncertainty(schedule, t)).to(t)
