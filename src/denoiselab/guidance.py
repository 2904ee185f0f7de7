"""Guidance: from a conditional denoiser to the function a sampler is handed.

One convention: prediction = weak + scale (strong - weak), where weak is the unconditional prediction, or a worse
model's; scale 1 is off. (The papers' w is scale - 1; of a classifier scale 0 is off.) It is linear in x0 and in eps
alike, since both come from the same x_t.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from denoiselab.conditioning.cond import Cond
from denoiselab.denoiser import DenoiseFn, Denoiser, Prediction
from denoiselab.errors import ConfigError, IncompatibleError
from denoiselab.schedules import Schedule, like


class Guidance(ABC):
    @abstractmethod
    def __call__(self, denoiser: Denoiser, cond: Cond, null: Cond) -> DenoiseFn:
        """The guided denoiser of a batch whose condition is `cond`; `null` is no condition, of the same batch."""


class Unguided(Guidance):
    """The conditional prediction as it is."""

    def __call__(self, denoiser: Denoiser, cond: Cond, null: Cond) -> DenoiseFn:
        return lambda x_t, t: denoiser(x_t, t, cond)


class ClassifierFree(Guidance):
    """uncond + scale (cond - uncond) (Ho & Salimans 2022, eq. 6), both from one pass over a batch of 2B.

    It is the score of p_t(x_t) p_t(y|x_t)^scale at each t; its samples are not those of p(x) p(y|x)^scale, as noising
    does not lead from one such density to the next.
    Only where sigma/alpha is in (sigma_low, sigma_high] (Kynkäänniemi 2024); elsewhere, and with scale 0 or 1, one pass
    over B is enough. `rescale` phi brings the standard deviation of each sample's x0 to phi times that of the
    conditional x0 plus 1 - phi times its own (Lin 2023, eq. 15-16, on x0).
    """

    def __init__(
        self, scale: float = 1.2, sigma_low: float = 0.0, sigma_high: float | None = None, rescale: float = 0.0
    ) -> None:
        self.scale, self.rescale = scale, rescale
        self.sigma_low, self.sigma_high = sigma_low, math.inf if sigma_high is None else sigma_high
        if self.sigma_low >= self.sigma_high:
            raise ConfigError(f"guidance.sigma_low={sigma_low} is not below guidance.sigma_high={sigma_high}")

    def __call__(self, denoiser: Denoiser, cond: Cond, null: Cond) -> DenoiseFn:
        if self.scale in (0, 1) and self.sigma_low == 0 and math.isinf(self.sigma_high):
            return lambda x_t, t: denoiser(x_t, t, cond if self.scale == 1 else null)
        both = null.cat(cond)

        def denoise(x_t: Tensor, t: Tensor) -> Prediction:
            inside = self.inside(denoiser.schedule, t)
            if not inside.any():
                return denoiser(x_t, t, cond)
            weak, strong = _halves(denoiser(x_t.repeat(2, *[1] * (x_t.ndim - 1)), t.repeat(2), both))
            made = blend(weak, strong, like(1 + inside.double() * (self.scale - 1), x_t))
            return _rescaled(made, strong, self.rescale, denoiser.schedule, t) if self.rescale else made

        return denoise

    def inside(self, schedule: Schedule, t: Tensor) -> Tensor:
        """Whether guidance acts at t: (B,)."""
        n = torch.exp(-schedule.log_snr(t) / 2)
        return (n > self.sigma_low) & (n <= self.sigma_high)


class Classifier(Guidance):
    """eps_hat = eps - scale sigma grad log p(y|x_t) (Dhariwal & Nichol 2021, algorithm 2), y the label of `cond`.

    `classifier` maps (x_t, t, schedule) to class scores: one that was trained on noisy images. The denoiser is told
    what it is trained to be told, so an unconditional one is guided to y by the classifier alone. scale 0 is off.
    """

    def __init__(self, classifier: Callable[[Tensor, Tensor, Schedule], Tensor], scale: float = 1.0) -> None:
        self.classifier, self.scale = classifier, scale

    def __call__(self, denoiser: Denoiser, cond: Cond, null: Cond) -> DenoiseFn:
        label = cond.label
        if label is None:
            raise IncompatibleError("guidance=classifier needs labels to guide to, and none are given")

        def denoise(x_t: Tensor, t: Tensor) -> Prediction:
            prediction = denoiser(x_t, t, cond)
            alpha, sigma = denoiser.schedule(t)
            # x0 = (x_t - sigma eps)/alpha. At alpha = 0 a classifier cannot tell the limit, and does nothing.
            told = alpha > 0
            scale = like(torch.where(told, self.scale * sigma, 0.0), x_t)
            push = scale * self.gradient(x_t, t, label, denoiser.schedule)
            ratio = like(torch.where(told, sigma / alpha, 0.0), x_t)
            return prediction._replace(x0=prediction.x0 + ratio * push, eps=prediction.eps - push)

        return denoise

    def gradient(self, x_t: Tensor, t: Tensor, label: Tensor, schedule: Schedule) -> Tensor:
        """grad log p(label|x_t) of the shape of x_t."""
        with torch.inference_mode(False), torch.enable_grad():
            x = x_t.clone().requires_grad_()
            scores = self.classifier(x, t, schedule).log_softmax(1)
            (gradient,) = torch.autograd.grad(scores.gather(1, label.clone()[:, None]).sum(), x)
        return gradient


class Autoguidance(Guidance):
    """weak + scale (strong - weak), where weak is a smaller or less trained model with the same condition.

    (Karras 2024, "Guiding a diffusion model with a bad version of itself".) `weak` maps (x_t, t, schedule, label) to
    its prediction.
    """

    def __init__(
        self, weak: Callable[[Tensor, Tensor, Schedule, Tensor | None], Prediction], scale: float = 1.5
    ) -> None:
        self.weak, self.scale = weak, scale

    def __call__(self, denoiser: Denoiser, cond: Cond, null: Cond) -> DenoiseFn:
        # An exact denoiser with classes looks at the label, a network at what is made of it.
        told = getattr(denoiser, "classes", None), cond.vector, cond.concat, cond.tokens
        label = cond.label if any(part is not None for part in told) else None

        def denoise(x_t: Tensor, t: Tensor) -> Prediction:
            strong = denoiser(x_t, t, cond)
            weak = self.weak(x_t, t, denoiser.schedule, label)
            return blend(weak, strong, self.scale)

        return denoise if self.scale != 1 else lambda x_t, t: denoiser(x_t, t, cond)


def blend(weak: Prediction, strong: Prediction, scale: Tensor | float) -> Prediction:
    """weak + scale (strong - weak) of x0 and eps; the variance is the strong one's."""
    return strong._replace(x0=weak.x0 + scale * (strong.x0 - weak.x0), eps=weak.eps + scale * (strong.eps - weak.eps))


def _halves(both: Prediction) -> tuple[Prediction, Prediction]:
    """The predictions of a batch of 2B, for each of its halves."""
    parts = [(None, None) if part is None else part.chunk(2) for part in both]
    first, second = zip(*parts, strict=True)
    return Prediction(*first), Prediction(*second)


def _rescaled(made: Prediction, cond: Prediction, phi: float, schedule: Schedule, t: Tensor) -> Prediction:
    """x0 with its standard deviation over a sample's dimensions brought towards the conditional one's, and its eps."""
    alpha, sigma = schedule(t)
    wanted, found = cond.x0.flatten(1).std(1), made.x0.flatten(1).std(1)
    ratio = torch.where(found > 0, wanted / found, 1.0)  # an even x0 stays as it is
    x0 = like(phi * ratio + 1 - phi, made.x0) * made.x0
    return made._replace(x0=x0, eps=made.eps + like(alpha / sigma, x0) * (made.x0 - x0))


class AtSameSNR:
    """A model asked about another schedule's x_t: at its own time of the same log-SNR, with x_t in its own scale."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def __call__(self, x_t: Tensor, t: Tensor, other: Schedule) -> tuple[Tensor, Tensor]:
        """(x_t, t) of `other` -> (x_t, t) of this schedule; t: (B,)."""
        own = self.schedule.time(other.log_snr(t)).clamp(min=1e-9)  # 0 is data, which no model is asked about
        size, size_there = (
            torch.linalg.vector_norm(torch.stack(level), dim=0) for level in (self.schedule(own), other(t))
        )
        return like(size / size_there, x_t) * x_t, own
