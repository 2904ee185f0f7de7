"""Guidance: from a conditional denoiser to the function a sampler is handed.

One convention: prediction = weak + scale (strong - weak), where weak is the unconditional prediction, or a worse
model's; scale 1 is off. (The papers' w is scale - 1; of a classifier scale 0 is off.) It is linear in x0 and in eps
alike, since both come from the same x_t.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from denoiselab.conditioning.cond import Cond
from denoiselab.denoiser import DenoiseFn, Denoiser, Prediction
from denoiselab.errors import IncompatibleError, InvalidValue
from denoiselab.limits import Finite, NonNegative, Positive, Share, checked
from denoiselab.schedules import Schedule, like


class Guidance(ABC):
    @abstractmethod
    def __call__(self, denoiser: Denoiser, cond: Cond, null: Cond, between: Sequence[Cond] = ()) -> DenoiseFn:
        """The guided denoiser of a batch whose condition is `cond`; `null` is no condition, of the same batch.

        Of a condition of several parts, `between` are those with its first part told, with the first two, and so on.
        """


class Unguided(Guidance):
    """The conditional prediction as it is."""

    def __call__(self, denoiser: Denoiser, cond: Cond, null: Cond, between: Sequence[Cond] = ()) -> DenoiseFn:
        return lambda x_t, t: denoiser(x_t, t, cond)


class Interval:
    """Where guidance acts: where sigma/alpha is in (low, high] (Kynkäänniemi 2024); high None: without end."""

    def __init__(self, low: float, high: float | None) -> None:
        self.low, self.high = low, math.inf if high is None else high
        if self.low >= self.high:
            raise InvalidValue("sigma_low", low, f"below sigma_high={high}")

    @property
    def everywhere(self) -> bool:
        return self.low == 0 and math.isinf(self.high)

    def __call__(self, schedule: Schedule, t: Tensor) -> Tensor:
        """Whether guidance acts at t: (B,)."""
        n = torch.exp(-schedule.log_snr(t) / 2)
        return (n > self.low) & (n <= self.high)


class ClassifierFree(Guidance):
    """uncond + scale (cond - uncond) (Ho & Salimans 2022, eq. 6), both from one pass over a batch of 2B.

    It is the score of p_t(x_t) p_t(y|x_t)^scale at each t; its samples are not those of p(x) p(y|x)^scale, as noising
    does not lead from one such density to the next.
    Only inside of an interval of sigma/alpha; elsewhere, and with scale 0 or 1, one pass over B is enough. `rescale`
    phi brings the standard deviation of each sample's x0 to phi times that of the conditional x0 plus 1 - phi times its
    own (Lin 2023, eq. 15-16, on x0).
    """

    @checked
    def __init__(
        self,
        scale: Finite = 1.2,
        sigma_low: NonNegative = 0.0,
        sigma_high: Positive | None = None,
        rescale: Share = 0.0,
    ) -> None:
        self.scale, self.rescale, self.inside = scale, rescale, Interval(sigma_low, sigma_high)

    def __call__(self, denoiser: Denoiser, cond: Cond, null: Cond, between: Sequence[Cond] = ()) -> DenoiseFn:
        return _combined(denoiser, [null, cond], [self.scale], self.inside, self.rescale)


class ClassifierFreeEach(Guidance):
    """A scale for each part of a condition: d_0 + sum_k scales_k (d_k - d_{k-1}), d_k told the first k parts.

    (Brooks 2023, "InstructPix2Pix", eq. 3; there the image is first, then the text.) Equal scales are ClassifierFree,
    and scales of 1 off. The order of the parts counts, unless p(y_1, y_2|x_t) = p(y_1|x_t) p(y_2|x_t), where each
    difference is the score of its own part alone.
    """

    @checked
    def __init__(
        self,
        scales: Sequence[Finite],
        sigma_low: NonNegative = 0.0,
        sigma_high: Positive | None = None,
        rescale: Share = 0.0,
    ) -> None:
        self.scales, self.rescale, self.inside = list(scales), rescale, Interval(sigma_low, sigma_high)

    def __call__(self, denoiser: Denoiser, cond: Cond, null: Cond, between: Sequence[Cond] = ()) -> DenoiseFn:
        """Raises IncompatibleError for a condition of another number of parts."""
        steps = [null, *between, cond]
        if len(self.scales) != len(steps) - 1:
            raise IncompatibleError(
                f"guidance.scales={self.scales} gives {len(self.scales)} scales, and the condition has "
                f"{len(steps) - 1} {'part' if len(steps) == 2 else 'parts'}; give one scale a part"
            )
        return _combined(denoiser, steps, self.scales, self.inside, self.rescale)


def _combined(
    denoiser: Denoiser, steps: Sequence[Cond], scales: Sequence[float], inside: Interval, rescale: float
) -> DenoiseFn:
    """d_0 + sum_k scales_k (d_k - d_{k-1}) = sum_k (scales_k - scales_{k+1}) d_k, d_k the answer to steps[k].

    scales_0 = 1 and the one after the last is 0. Answers that count for nothing are not asked for; all others come from
    one pass.
    """
    cond, ends = steps[-1], [1.0, *scales, 0.0]
    asked = [k for k in range(len(steps)) if ends[k] != ends[k + 1]]
    if inside.everywhere and len(asked) == 1:
        return lambda x_t, t: denoiser(x_t, t, steps[asked[0]])
    asked = sorted({*asked, len(steps) - 1})  # the conditional answer is needed outside, and to rescale
    together = steps[asked[0]]
    for k in asked[1:]:
        together = together.cat(steps[k])

    def denoise(x_t: Tensor, t: Tensor) -> Prediction:
        acts = inside(denoiser.schedule, t)
        if not acts.any():
            return denoiser(x_t, t, cond)
        count = len(asked)
        answers = _shares(denoiser(x_t.repeat(count, *[1] * (x_t.ndim - 1)), t.repeat(count), together), count)
        made = answers[0]
        for k, weak, strong in zip(asked[1:], answers, answers[1:], strict=False):
            scale = like(1 + acts.double() * (ends[k] - 1), x_t)
            x0, eps = scale * (strong.x0 - weak.x0), scale * (strong.eps - weak.eps)
            made = strong._replace(x0=made.x0 + x0, eps=made.eps + eps)
        return _rescaled(made, answers[-1], rescale, denoiser.schedule, t) if rescale else made

    return denoise


class Classifier(Guidance):
    """eps_hat = eps - scale sigma grad log p(y|x_t) (Dhariwal & Nichol 2021, algorithm 2), y the label of `cond`.

    `classifier` maps (x_t, t, schedule) to class scores: one that was trained on noisy images. The denoiser is told
    what it is trained to be told, so an unconditional one is guided to y by the classifier alone. scale 0 is off.
    """

    @checked
    def __init__(self, classifier: Callable[[Tensor, Tensor, Schedule], Tensor], scale: Finite = 1.0) -> None:
        self.classifier, self.scale = classifier, scale

    def __call__(self, denoiser: Denoiser, cond: Cond, null: Cond, between: Sequence[Cond] = ()) -> DenoiseFn:
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

    @checked
    def __init__(
        self, weak: Callable[[Tensor, Tensor, Schedule, Tensor | None], Prediction], scale: Finite = 1.5
    ) -> None:
        self.weak, self.scale = weak, scale

    def __call__(self, denoiser: Denoiser, cond: Cond, null: Cond, between: Sequence[Cond] = ()) -> DenoiseFn:
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


def _shares(all_of_them: Prediction, count: int) -> list[Prediction]:
    """The predictions of a batch of count B, for each of its shares."""
    parts = [[None] * count if part is None else part.chunk(count) for part in all_of_them]
    return [Prediction(*share) for share in zip(*parts, strict=True)]


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
