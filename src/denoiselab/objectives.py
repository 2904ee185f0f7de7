"""Training objectives: per-sample losses, never reduced over the batch, and averaged over a sample's dimensions."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from math import log
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as nnf

from denoiselab import likelihood
from denoiselab.backbones import Encoder
from denoiselab.conditioning.cond import Cond
from denoiselab.denoiser import Denoiser, Output
from denoiselab.errors import ConfigError, IncompatibleError
from denoiselab.norms import L2, Norm
from denoiselab.parameterizations import Parameterization
from denoiselab.schedules import Schedule, as_time, like
from denoiselab.schedules.learned import Learned
from denoiselab.time_sampling import Discrete, LossSecondMoment, TimeSampler, Uniform
from denoiselab.weightings import VLB, Simple, Weighting

# The reverse variance by iDDPM's f: log Sigma = f log beta + (1 - f) log beta-tilde; None: as the network says.
FRACTIONS: dict[str, float | None] = {"small": 0.0, "large": 1.0, "learned": None}


class Objective(nn.Module, ABC):
    """Losses (B,) of x0: (B, ...) at times t: (B,) and noise eps, which are drawn if not given."""

    names: tuple[str, ...]  # of its figures

    def __init__(self, time_sampler: TimeSampler) -> None:
        super().__init__()
        self.time_sampler = time_sampler

    @abstractmethod
    def figures(self, denoiser: Denoiser, x0: Tensor, cond: Cond | None, t: Tensor, eps: Tensor) -> dict[str, Tensor]:
        """Figures (B,) of each sample: "loss", which is trained, and what else one network pass tells."""

    def check(self, denoiser: Denoiser) -> None:
        """Raises IncompatibleError where this objective has no meaning with the denoiser's parts."""
        if isinstance(denoiser.backbone, Encoder) != isinstance(self, CrossEntropy):
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


def rounded_up(t: Tensor, T: int) -> Tensor:
    """t: (B,) as i/T, i in 1 ... T, with i/T itself unmoved whatever its rounding."""
    return torch.ceil(as_time(t) * T - 1e-9).clamp(1, T) / T


class Denoising(Objective):
    """An objective that is, or bounds, a weighted eps-MSE."""

    @abstractmethod
    def weight(self, schedule: Schedule, t: Tensor) -> Tensor:
        """Its weight on the eps-MSE, float64 of the shape of t."""

    @torch.no_grad()
    def at_the_end(self, schedule: Schedule) -> float:
        """The share of the drawn times at which the schedule has ended: at one log-SNR, its last."""
        t = self.time_sampler.quantile((torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000, schedule)
        return float((t >= schedule.t_end).double().mean())

    @torch.no_grad()
    def effective(self, schedule: Schedule, points: int = 400) -> tuple[Tensor, Tensor]:
        """(log-SNR, weight times the density of the drawn times in log-SNR), each float64 of shape (points,).

        From log-SNR 20 to -20 and within the schedule's range; what is drawn `at_the_end` has no density.
        """
        low, high = (float(schedule.log_snr(t).clamp(-20, 20)) for t in (1.0, 1e-9))
        t = schedule.time(torch.linspace(low, high, points + 1, dtype=torch.float64)).clamp(max=schedule.t_end)
        # The density by differences of t, which smooth over the pieces of a table of betas.
        middle, falls = (t[:-1] + t[1:]) / 2, -schedule.log_snr(t).diff()
        density = self.time_sampler.density(middle, schedule) * t.diff() / falls
        return schedule.log_snr(middle), self.weight(schedule, middle) * density


class _Pass:
    """One network pass: x_t, the output, and its error against the target, F - F*."""

    def __init__(self, denoiser: Denoiser, x0: Tensor, cond: Cond | None, t: Tensor, eps: Tensor) -> None:
        self.denoiser, self.t = denoiser, t
        alpha, sigma = denoiser.schedule(t)
        self.x_t = like(alpha, x0) * x0 + like(sigma, x0) * eps
        self.output: Output = denoiser.output(self.x_t, t, cond)
        self.error = self.output.F - denoiser.parameterization.target(x0, eps, denoiser.schedule, t)

    def eps_error(self, weighting: Callable[[Schedule, Tensor], Tensor], norm: Norm) -> Tensor:
        """(B,): the weighted norm of the error of eps, computed in the network's output space."""
        e_out, weight = _output_scale(self.denoiser.schedule, self.denoiser.parameterization, weighting, self.t)
        return norm(self.error, torch.sqrt(weight) * e_out).flatten(1).mean(1)


_FAINTEST = -60.0  # log-SNR: alpha is 1e-13 there, and what is infinite at alpha = 0 still has its limit's digits


def _output_scale(
    schedule: Schedule,
    parameterization: Parameterization,
    weighting: Callable[[Schedule, Tensor], Tensor],
    t: Tensor,
) -> tuple[Tensor, Tensor]:
    """(e_out, w), float64 of the shape of t; their limit where alpha = 0, as there w may be infinite and e_out 0."""
    t = as_time(t)
    if schedule.log_snr(1.0) < _FAINTEST:
        t = torch.minimum(t, schedule.time(_FAINTEST))
    return parameterization.eps_coefficients(schedule, t)[1], weighting(schedule, t)


class WeightedMSE(Denoising):
    """w(lambda) |d eps/dF|^2 |F - F*|^2: the weighted eps-MSE, computed in the network's output space.

    That is where it is stable: no division by alpha or sigma meets the network's error. `norm` may take the square's
    place, on sqrt(w) times the error of eps.
    """

    names = ("loss", "eps_mse")

    def __init__(self, weighting: Weighting, time_sampler: TimeSampler, norm: Norm | None = None) -> None:
        super().__init__(time_sampler)
        self.weighting = weighting
        self.norm = L2() if norm is None else norm

    def figures(self, denoiser: Denoiser, x0: Tensor, cond: Cond | None, t: Tensor, eps: Tensor) -> dict[str, Tensor]:
        made = _Pass(denoiser, x0, cond, t, eps)
        return {"loss": made.eps_error(self.weighting, self.norm), "eps_mse": made.eps_error(Simple(), L2())}

    def weight(self, schedule: Schedule, t: Tensor) -> Tensor:
        return self.weighting(schedule, t)

    def output_weight(self, schedule: Schedule, parameterization: Parameterization, t: Tensor) -> Tensor:
        """The weight on |F - F*|^2, float64 of the shape of t."""
        e_out, weight = _output_scale(schedule, parameterization, self.weighting, t)
        return weight * e_out**2


class LearnedUncertainty(Denoising):
    """e^{-u(lambda)} L + u(lambda), with a small network u trained beside the model (EDM2, Karras 2024, eq. 14).

    At its optimum u = log E[L], so every noise level counts alike whatever the weighting of L was.
    """

    names = ("loss", "eps_mse", "unscaled_loss")

    def __init__(
        self, weighting: Weighting, time_sampler: TimeSampler, norm: Norm | None = None, features: int = 64
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
        """u, of the shape of t: (B,); from random Fourier features of log(sigma/alpha)/4, as EDM2's network is told."""
        label = (-schedule.log_snr(t).clamp(-60, 60) / 8).to(self.frequencies)
        waves = torch.cos(2 * torch.pi * (label[:, None] * self.frequencies + self.phases))
        return self.linear(waves * 2**0.5)[:, 0]

    def figures(self, denoiser: Denoiser, x0: Tensor, cond: Cond | None, t: Tensor, eps: Tensor) -> dict[str, Tensor]:
        figures, u = self.base.figures(denoiser, x0, cond, t, eps), self.uncertainty(denoiser.schedule, t).to(x0)
        return figures | {"loss": torch.exp(-u) * figures["loss"] + u, "unscaled_loss": figures["loss"]}

    @torch.no_grad()
    def weight(self, schedule: Schedule, t: Tensor) -> Tensor:
        return self.base.weight(schedule, t) * torch.exp(-self.uncertainty(schedule, t)).to(t)


class VariationalBound(Denoising):
    """The bound on -log p(x_0), in nats a dimension, each loss an estimate of the whole sum over uniform times.

    T None: continuous time, -lambda'/2 |eps - eps_hat|^2 (VDM, eq. 17); its other two terms do not depend on the
    network, and are added for a learned schedule, whose ends they hold. T a number: the exact terms of the chain of T
    steps, with t rounded up to i/T: T L_{i-1} (DDPM, eq. 8), and for i = 1 T times the decoder's, of 256 levels.
    variance: that of the reverse steps, small, large or learned; in continuous time it makes no difference, and the sum
    runs to the smallest t drawn: on schedules that begin at sigma = 0 it grows as log(1/t) for data in a continuum.
    """

    names = ("loss", "eps_mse")

    def __init__(self, time_sampler: TimeSampler, T: int | None = None, variance: str = "small") -> None:
        """Raises ConfigError for another variance, and for a learned one in continuous time."""
        super().__init__(time_sampler)
        if variance not in FRACTIONS:
            raise ConfigError(f"loss.variance={variance} is not known; allowed: {', '.join(FRACTIONS)}")
        if variance == "learned" and T is None:
            raise ConfigError("loss.variance=learned has a meaning in steps alone; give loss.T=1000, or loss=hybrid")
        self.T, self.fraction = T, FRACTIONS[variance]

    def check(self, denoiser: Denoiser) -> None:
        """Every schedule has a bound; but a learned one is trained in continuous time."""
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
            made = _Pass(denoiser, x0, cond, t, eps)
            loss = step_bound(made, x0, self.T, self.fraction)
            return {"loss": loss, "eps_mse": made.eps_error(Simple(), L2())}
        schedule = denoiser.schedule
        if not isinstance(schedule, Learned):
            made = _Pass(denoiser, x0, cond, t, eps)
            return {"loss": made.eps_error(VLB(), L2()), "eps_mse": made.eps_error(Simple(), L2())}
        with schedule.minimising_variance() as tell:
            made = _Pass(denoiser, x0, cond, t, eps)
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
        # The decoder's, as of a density: |x0 - x0_hat|^2/(2 std^2), where x0 - x0_hat is sigma/alpha of eps' error.
        scale = likelihood.decoder_log_std(schedule, t, 2 * t.clamp(max=0.5), fraction)
        return self.T / 2 * torch.where(first, torch.exp(-schedule.log_snr(t) - 2 * scale), step)


def step_bound(made: _Pass, x0: Tensor, T: int, fraction: float | None) -> Tensor:
    """T L_{i-1} in nats a dimension, (B,), at times i/T; for i = 1 the decoder's term. fraction None: as predicted."""
    schedule, t = made.denoiser.schedule, made.t
    prediction = made.denoiser.prediction(made.output, made.x_t, t)
    f = prediction.variance if fraction is None else fraction
    if f is None:
        raise IncompatibleError("loss.variance=learned needs a network that says the variance")
    first = t < 1.5 / T
    inside = torch.where(first, 2 / T, t)  # so that each term is finite where the other one counts
    step = likelihood.step_nats(schedule, x0, made.x_t, prediction, inside, inside - 1 / T, f)
    t_1 = torch.full_like(t, 1 / T)
    scale = likelihood.decoder_log_std(schedule, t_1, 2 * t_1, f)
    decoder = likelihood.decoder_nats(x0, prediction.x0, scale)
    return T * torch.where(like(first, x0).bool(), decoder, step).flatten(1).mean(1)


def decoder_of(schedule: Schedule, x0: Tensor, eps: Tensor) -> Tensor:
    """-log p(x_0|z_0) of each element, in nats: 256 levels, weighted by N(z_0; alpha x, sigma^2) (VDM).

    z_0 is x_0 at the level where the schedule begins, t -> 0.
    """
    alpha, sigma = schedule.level(as_time(torch.zeros(())))
    levels = torch.linspace(-1, 1, 256, dtype=x0.dtype, device=x0.device)
    n = like(sigma / alpha, x0)
    scores = -(((x0 + n * eps)[..., None] - levels) / n).square() / 2
    return torch.logsumexp(scores, -1) - (-eps.square() / 2)


class Hybrid(Denoising):
    """A weighted MSE for the mean, and `weight_vlb` times the bound for the variance alone (iDDPM, eq. 16).

    The bound is in bits a dimension, as in iDDPM's code, and sees the mean without its gradient.
    """

    names = ("loss", "eps_mse", "bound_bits")

    def __init__(
        self,
        weighting: Weighting,
        time_sampler: TimeSampler,
        norm: Norm | None = None,
        T: int = 1000,
        variance: str = "learned",
        weight_vlb: float = 0.001,
    ) -> None:
        """Raises ConfigError for a variance that is not learned: that is what this loss is for."""
        super().__init__(time_sampler)
        if variance != "learned":
            raise ConfigError(f"loss=hybrid learns the variance, and {variance} is fixed; take loss=simple")
        self.base, self.T, self.weight_vlb = WeightedMSE(weighting, time_sampler, norm), T, weight_vlb

    def figures(self, denoiser: Denoiser, x0: Tensor, cond: Cond | None, t: Tensor, eps: Tensor) -> dict[str, Tensor]:
        t = rounded_up(t, self.T)
        made = _Pass(denoiser, x0, cond, t, eps)
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


class CrossEntropy(Objective):
    """-log p(y|x_t): trains a classifier of noisy images, for classifier guidance (Dhariwal & Nichol 2021, §4).

    The backbone gives class scores (B, classes); the classes are cond.label.
    """

    names = ("loss", "accuracy")

    def figures(self, denoiser: Denoiser, x0: Tensor, cond: Cond | None, t: Tensor, eps: Tensor) -> dict[str, Tensor]:
        assert cond is not None and cond.label is not None
        alpha, sigma = denoiser.schedule(t)
        scores = denoiser.output(like(alpha, x0) * x0 + like(sigma, x0) * eps, t).F
        loss = nnf.cross_entropy(scores, cond.label, reduction="none")
        return {"loss": loss, "accuracy": (scores.argmax(1) == cond.label).to(loss)}
