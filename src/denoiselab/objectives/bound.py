"""The variational bound as a loss, and iDDPM's hybrid of it and an MSE."""

from math import log
from typing import Literal

import torch
from torch import Tensor

from denoiselab import likelihood
from denoiselab.conditioning.cond import Cond
from denoiselab.denoiser import Denoiser
from denoiselab.errors import IncompatibleError, InvalidValue
from denoiselab.likelihood.terms import FRACTIONS
from denoiselab.limits import AtLeastTwo, Positive, checked
from denoiselab.norms import L2, Norm
from denoiselab.objectives.mse import Pass, WeightedMSE
from denoiselab.objectives.objective import Denoising
from denoiselab.schedules import Learned, Schedule, as_time, like
from denoiselab.time_sampling import Discrete, LossSecondMoment, TimeSampler, Uniform
from denoiselab.weightings import VLB, Simple, Weighting

Variance = Literal["small", "large", "learned"]

# f of each reverse variance; None: the network's prediction.
VARIANCES: dict[str, float | None] = {**FRACTIONS, "learned": None}


def rounded_up(t: Tensor, T: int) -> Tensor:
    """Rounds t: (B,) up to i/T, i in 1 ... T; i/T itself does not change, whatever its rounding."""
    return torch.ceil(as_time(t) * T - 1e-9).clamp(1, T) / T


class VariationalBound(Denoising):
    r"""The bound on $-\log p(x_0)$, in nats per dimension; each loss estimates the whole sum over uniform times.

    T None: continuous time, $-\tfrac12\lambda'|\epsilon - \hat\epsilon|^2$ (VDM, arXiv:2107.00630, eq. 17). The other
    two terms do not depend on the network; they are added for a learned schedule, whose ends they constrain. The sum
    runs to the smallest t drawn: on schedules that begin at sigma = 0 it grows as log(1/t) for continuous data. T a
    number: the exact terms of the T-step chain, with t rounded up to i/T: $T L_{i-1}$ (DDPM, arXiv:2006.11239, eq. 8),
    and for i = 1, T times the decoder's, of 256 levels. variance: of the reverse steps, small, large or learned; no
    effect in continuous time.
    """

    names = ("loss", "eps_mse")

    @checked
    def __init__(self, time_sampler: TimeSampler, T: AtLeastTwo | None = None, variance: Variance = "small") -> None:
        """Raises ConfigError for a learned variance in continuous time."""
        super().__init__(time_sampler)
        if variance == "learned" and T is None:
            raise InvalidValue("variance", variance, "small or large where T=null", "take T=1000, or loss=hybrid")
        self.T, self.fraction = T, VARIANCES[variance]

    def check(self, denoiser: Denoiser) -> None:
        """Accepts any schedule with uniform times, but a learned one in continuous time only."""
        if not isinstance(self.time_sampler, Uniform | Discrete | LossSecondMoment):
            raise IncompatibleError(
                "loss=vlb is a sum over uniform times; take time_sampling=stratified, uniform, discrete or "
                "loss_second_moment"
            )
        if not isinstance(denoiser.schedule, Learned):
            super().check(denoiser)
        elif self.T is not None:
            raise IncompatibleError("schedule=learned is trained in continuous time; take loss.T=null")

    def figures(self, denoiser: Denoiser, x0: Tensor, cond: Cond | None, t: Tensor, eps: Tensor) -> dict[str, Tensor]:
        if self.T is not None:
            t = rounded_up(t, self.T)
            made = Pass(denoiser, x0, cond, t, eps)
            loss = step_bound(made, x0, self.T, self.fraction)
            return {"loss": loss, "eps_mse": made.eps_error(Simple(), L2())}
        schedule = denoiser.schedule
        if not isinstance(schedule, Learned):
            made = Pass(denoiser, x0, cond, t, eps)
            return {"loss": made.eps_error(VLB(), L2()), "eps_mse": made.eps_error(Simple(), L2())}
        with schedule.minimising_variance() as tell:
            made = Pass(denoiser, x0, cond, t, eps)
            loss = made.eps_error(VLB(), L2())
            tell(loss)
        loss = loss + (likelihood.prior_nats(schedule, x0) + decoder_of(schedule, x0, eps)).flatten(1).mean(1)
        return {"loss": loss, "eps_mse": made.eps_error(Simple(), L2()).detach()}

    def weight(self, schedule: Schedule, t: Tensor) -> Tensor:
        if self.T is None:
            return VLB()(schedule, t)
        t = rounded_up(t, self.T)
        s, fraction = t - 1 / self.T, 0.5 if self.fraction is None else self.fraction
        first = s < 0.5 / self.T
        (_, sigma_t), (_, sigma_s) = schedule(t), schedule(torch.where(first, t / 2, s))
        narrower = (sigma_s / sigma_t) ** (2 * fraction)
        step = narrower * torch.expm1(schedule.log_snr(torch.where(first, t / 2, s)) - schedule.log_snr(t))
        # The decoder's term as a density: |x0 - x0_hat|^2/(2 std^2), where x0 - x0_hat is sigma/alpha of the eps error.
        scale = likelihood.decoder_log_std(schedule, t, 2 * t.clamp(max=0.5), fraction)
        return self.T / 2 * torch.where(first, torch.exp(-schedule.log_snr(t) - 2 * scale), step)


def step_bound(made: Pass, x0: Tensor, T: int, fraction: float | None) -> Tensor:
    """Returns T L_{i-1} at i/T, (B,), in nats per dimension; for i = 1 the decoder's. fraction None: as predicted."""
    schedule, t = made.denoiser.schedule, made.t
    prediction = made.denoiser.prediction(made.output, made.x_t, t)
    f = prediction.variance if fraction is None else fraction
    if f is None:
        raise IncompatibleError("loss.variance=learned needs a network that says the variance")
    first = t < 1.5 / T
    inside = torch.where(first, 2 / T, t)  # keeps each term finite where the other one is used
    step = likelihood.step_nats(schedule, x0, made.x_t, prediction, inside, inside - 1 / T, f)
    t_1 = torch.full_like(t, 1 / T)
    scale = likelihood.decoder_log_std(schedule, t_1, 2 * t_1, f)
    decoder = likelihood.decoder_nats(x0, prediction.x0, scale)
    return T * torch.where(like(first, x0).bool(), decoder, step).flatten(1).mean(1)


def decoder_of(schedule: Schedule, x0: Tensor, eps: Tensor) -> Tensor:
    """Returns -log p(x_0|z_0) of each element, in nats: 256 levels, weighted by N(z_0; alpha x, sigma^2) (VDM).

    z_0 is x_0 with the noise of the schedule's first level, t -> 0.
    """
    alpha, sigma = schedule.level(as_time(torch.zeros(())))
    levels = torch.linspace(-1, 1, 256, dtype=x0.dtype, device=x0.device)
    n = like(sigma / alpha, x0)
    scores = -(((x0 + n * eps)[..., None] - levels) / n).square() / 2
    return torch.logsumexp(scores, -1) - (-eps.square() / 2)


class Hybrid(Denoising):
    """A weighted MSE for the mean plus `weight_vlb` times the bound, for the variance alone (iDDPM, eq. 16).

    The bound is in bits per dimension with the mean detached, as in iDDPM's code (arXiv:2102.09672).
    """

    names = ("loss", "eps_mse", "bound_bits")

    @checked
    def __init__(
        self,
        weighting: Weighting,
        time_sampler: TimeSampler,
        norm: Norm | None = None,
        T: AtLeastTwo = 1000,
        variance: Variance = "learned",
        weight_vlb: Positive = 0.001,
    ) -> None:
        """Raises ConfigError unless the variance is learned."""
        super().__init__(time_sampler)
        if variance != "learned":
            raise InvalidValue("variance", variance, "learned", "for a fixed variance take loss=simple")
        self.base, self.T, self.weight_vlb = WeightedMSE(weighting, time_sampler, norm), T, weight_vlb

    def figures(self, denoiser: Denoiser, x0: Tensor, cond: Cond | None, t: Tensor, eps: Tensor) -> dict[str, Tensor]:
        t = rounded_up(t, self.T)
        made = Pass(denoiser, x0, cond, t, eps)
        simple = made.eps_error(self.base.weighting, self.base.norm)
        made.output = made.output._replace(F=made.output.F.detach())
        bound = step_bound(made, x0, self.T, None) / log(2)
        return {
            "loss": simple + self.weight_vlb * bound,
            "eps_mse": made.eps_error(Simple(), L2()),
            "bound_bits": bound,
        }

    def weight(self, schedule: Schedule, t: Tensor) -> Tensor:
        return self.base.weight(schedule, t)
