r"""Guidance: turns a conditional denoiser into the function that a sampler calls.

There is one convention,

$$\mathrm{prediction} = \mathrm{weak} + \mathrm{scale}\,(\mathrm{strong} - \mathrm{weak}),$$

where weak is the unconditional prediction or that of a worse model, and scale 1 is off. (The $w$ of the papers is
scale - 1; classifier guidance is off at scale 0.) It applies to $\hat x_0$ and $\hat\epsilon$ alike, since both are
linear in each other given $x_t$.
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
    """A way to guide a denoiser by its condition."""

    @abstractmethod
    def __call__(self, denoiser: Denoiser, cond: Cond, null: Cond, between: Sequence[Cond] = ()) -> DenoiseFn:
        """Returns the guided denoiser for a batch with condition `cond`; `null` is the empty condition, for that batch.

        For a condition of several parts, `between` holds the conditions with only the first part, the first two, and
        so on.
        """


class Unguided(Guidance):
    """The conditional prediction, unchanged."""

    def __call__(self, denoiser: Denoiser, cond: Cond, null: Cond, between: Sequence[Cond] = ()) -> DenoiseFn:
        return lambda x_t, t: denoiser(x_t, t, cond)


class Interval:
    """The noise levels at which guidance acts: sigma/alpha in (low, high] (Kynkäänniemi 2024, arXiv:2404.07724).

    `high` None means no upper limit. Raises ConfigError for an empty interval.
    """

    def __init__(self, low: float, high: float | None) -> None:
        self.low, self.high = low, math.inf if high is None else high
        if self.low >= self.high:
            raise InvalidValue("sigma_low", low, f"below sigma_high={high}")

    @property
    def everywhere(self) -> bool:
        """Whether guidance acts at every noise level, so that there is no need to evaluate the schedule."""
        return self.low == 0 and math.isinf(self.high)

    def __call__(self, schedule: Schedule, t: Tensor) -> Tensor:
        """Returns whether guidance acts at t: (B,), bool."""
        n = torch.exp(-schedule.log_snr(t) / 2)
        return (n > self.low) & (n <= self.high)


class ClassifierFree(Guidance):
    r"""Classifier-free guidance, uncond + scale (cond - uncond) (Ho & Salimans 2022, arXiv:2207.12598, eq. 6).

    Both predictions come from one pass over a batch of 2B. Guidance acts where $\sigma/\alpha$ is in
    (sigma_low, sigma_high]; elsewhere, and with scale 0 or 1, one pass over B is enough. `rescale`, $\phi$, changes the
    standard deviation of each sample's $\hat x_0$ to $\phi$ times that of the conditional $\hat x_0$ plus $1 - \phi$
    times its own (Lin 2023, arXiv:2305.08891, eq. 15-16, on $\hat x_0$).

    The result is the score of $p_t(x_t)\,p_t(y|x_t)^\mathrm{scale}$ at each $t$. Its samples are not those of
    $p(x)\,p(y|x)^\mathrm{scale}$, since diffusing one such density does not give the next.
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
    r"""Classifier-free guidance with a scale for each part of the condition.

    $$d_0 + \sum_k \mathrm{scales}_k\,(d_k - d_{k-1}),$$

    where $d_k$ is conditioned on the first $k$ parts (InstructPix2Pix, Brooks 2023, arXiv:2211.09800, eq. 3; there the
    image comes first, then the text). Equal scales are ClassifierFree, and scales of 1 are off. The order of the parts
    matters unless $p(y_1, y_2|x_t) = p(y_1|x_t)\,p(y_2|x_t)$, where each difference is the score of its own part.
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
        """Raises IncompatibleError unless the condition has as many parts as there are scales."""
        steps = [null, *between, cond]
        if len(self.scales) != len(steps) - 1:
            raise IncompatibleError(
                f"guidance.scales={self.scales} has {len(self.scales)} values, but the condition has "
                f"{len(steps) - 1} {'part' if len(steps) == 2 else 'parts'}; give one scale for each part"
            )
        return _combined(denoiser, steps, self.scales, self.inside, self.rescale)


def _combined(
    denoiser: Denoiser, steps: Sequence[Cond], scales: Sequence[float], inside: Interval, rescale: float
) -> DenoiseFn:
    """Returns d_0 + sum_k scales_k (d_k - d_{k-1}) = sum_k (scales_k - scales_{k+1}) d_k, d_k predicted from steps[k].

    scales_0 is 1 and the one after the last is 0. Predictions with a factor of 0 are left out; all others come from one
    pass.
    """
    cond, ends = steps[-1], [1.0, *scales, 0.0]
    used = [k for k in range(len(steps)) if ends[k] != ends[k + 1]]
    if inside.everywhere and len(used) == 1:
        return lambda x_t, t: denoiser(x_t, t, steps[used[0]])
    used = sorted({*used, len(steps) - 1})  # the conditional prediction is needed outside the interval and to rescale
    count, together = len(used), steps[used[0]]
    for k in used[1:]:
        together = together.cat(steps[k])

    def denoise(x_t: Tensor, t: Tensor) -> Prediction:
        acts = None if inside.everywhere else inside(denoiser.schedule, t)
        if acts is not None and not acts.any():
            return denoiser(x_t, t, cond)
        predictions = _split(denoiser(x_t.repeat(count, *[1] * (x_t.ndim - 1)), t.repeat(count), together), count)
        guided = predictions[0]
        for k, weak, strong in zip(used[1:], predictions, predictions[1:], strict=False):
            scale = ends[k] if acts is None else like(torch.ones_like(acts).double().masked_fill(acts, ends[k]), x_t)
            x0, eps = scale * (strong.x0 - weak.x0), scale * (strong.eps - weak.eps)
            guided = strong._replace(x0=guided.x0 + x0, eps=guided.eps + eps)
        return _rescaled(guided, predictions[-1], rescale, denoiser.schedule, t) if rescale else guided

    return denoise


class Classifier(Guidance):
    r"""Classifier guidance towards y, the label of `cond` (Dhariwal & Nichol 2021, arXiv:2105.05233, algorithm 2).

    $$\hat\epsilon \leftarrow \hat\epsilon - \mathrm{scale}\;\sigma\,\nabla_{x_t} \log p(y|x_t)$$

    `classifier` maps (x_t, t, schedule) to class scores (B, classes) and has been trained on noisy images. The denoiser
    gets `cond` too, so an unconditional one is guided by the classifier alone. Scale 0 is off.
    """

    @checked
    def __init__(self, classifier: Callable[[Tensor, Tensor, Schedule], Tensor], scale: Finite = 1.0) -> None:
        self.classifier, self.scale = classifier, scale

    def __call__(self, denoiser: Denoiser, cond: Cond, null: Cond, between: Sequence[Cond] = ()) -> DenoiseFn:
        label = cond.label
        if label is None:
            raise IncompatibleError(
                "guidance=classifier needs labels, but the condition has none; use data with classes or guidance=none"
            )

        def denoise(x_t: Tensor, t: Tensor) -> Prediction:
            prediction = denoiser(x_t, t, cond)
            alpha, sigma = denoiser.schedule(t)
            # x0 = (x_t - sigma eps)/alpha has no limit at alpha = 0 that a classifier could give, so nothing changes.
            defined = alpha > 0
            scale = like(torch.where(defined, self.scale * sigma, 0.0), x_t)
            push = scale * self.gradient(x_t, t, label, denoiser.schedule)
            ratio = like(torch.where(defined, sigma / alpha, 0.0), x_t)
            return prediction._replace(x0=prediction.x0 + ratio * push, eps=prediction.eps - push)

        return denoise

    def gradient(self, x_t: Tensor, t: Tensor, label: Tensor, schedule: Schedule) -> Tensor:
        """Returns the gradient of log p(label|x_t) with respect to x_t, of the shape of x_t."""
        with torch.inference_mode(False), torch.enable_grad():
            x = x_t.clone().requires_grad_()
            scores = self.classifier(x, t, schedule).log_softmax(1)
            (gradient,) = torch.autograd.grad(scores.gather(1, label.clone()[:, None]).sum(), x)
        return gradient


class Autoguidance(Guidance):
    """Guidance by a smaller or less trained model with the same condition (Karras 2024, arXiv:2406.02507).

    The prediction is weak + scale (strong - weak). `weak` maps (x_t, t, schedule, label) to its prediction; label is
    None where the strong model is unconditional.
    """

    @checked
    def __init__(
        self, weak: Callable[[Tensor, Tensor, Schedule, Tensor | None], Prediction], scale: Finite = 1.5
    ) -> None:
        self.weak, self.scale = weak, scale

    def __call__(self, denoiser: Denoiser, cond: Cond, null: Cond, between: Sequence[Cond] = ()) -> DenoiseFn:
        # An exact denoiser with classes takes the label itself, a network takes the embeddings made of it.
        inputs = getattr(denoiser, "classes", None), cond.vector, cond.concat, cond.tokens
        label = cond.label if any(part is not None for part in inputs) else None

        def denoise(x_t: Tensor, t: Tensor) -> Prediction:
            strong = denoiser(x_t, t, cond)
            weak = self.weak(x_t, t, denoiser.schedule, label)
            return blend(weak, strong, self.scale)

        return denoise if self.scale != 1 else lambda x_t, t: denoiser(x_t, t, cond)


def blend(weak: Prediction, strong: Prediction, scale: Tensor | float) -> Prediction:
    """Returns weak + scale (strong - weak) for x0 and eps, with the variance of `strong`."""
    return strong._replace(x0=weak.x0 + scale * (strong.x0 - weak.x0), eps=weak.eps + scale * (strong.eps - weak.eps))


def _split(stacked: Prediction, count: int) -> list[Prediction]:
    """Splits a prediction for a batch of count B into `count` predictions for B."""
    parts = [[None] * count if part is None else part.chunk(count) for part in stacked]
    return [Prediction(*part) for part in zip(*parts, strict=True)]


def _rescaled(guided: Prediction, cond: Prediction, phi: float, schedule: Schedule, t: Tensor) -> Prediction:
    """Moves the standard deviation of each sample's x0 towards that of the conditional x0, and updates eps to match."""
    alpha, sigma = schedule(t)
    target, current = cond.x0.flatten(1).std(1), guided.x0.flatten(1).std(1)
    ratio = torch.where(current > 0, target / current, 1.0)  # a constant x0 stays as it is
    x0 = like(phi * ratio + 1 - phi, guided.x0) * guided.x0
    return guided._replace(x0=x0, eps=guided.eps + like(alpha / sigma, x0) * (guided.x0 - x0))


class AtSameSNR:
    """Translates x_t of another schedule for a model: to its own time of the same log-SNR, in its own scale."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def __call__(self, x_t: Tensor, t: Tensor, other: Schedule) -> tuple[Tensor, Tensor]:
        """Returns (x_t, t) of this schedule for (x_t, t) of `other`; x_t: (B, ...), t: (B,)."""
        own = self.schedule.time(other.log_snr(t)).clamp(min=1e-9)  # models are not defined at 0, which is data
        size, size_there = (
            torch.linalg.vector_norm(torch.stack(level), dim=0) for level in (self.schedule(own), other(t))
        )
        return like(size / size_there, x_t) * x_t, own
