"""Inpainting: images of which some pixels are known.

By a model that was trained on anything: before each step from t the known part of x_t is set to q(x_t|x_0), with fresh
noise, so that what the network sees is as noisy there as elsewhere (replacement; Song 2021, Score-SDE, appendix I.2).
The unknown part goes by the known one at the same level of noise alone, which says little of x_0 early on. RePaint
(Lugmayr 2022, algorithm 1) goes back to a higher level with q(x_t|x_s) and down again, several times, which brings both
parts into harmony. Neither of them samples the exact p(x_0|known): replacement leans to the unconditional distribution,
and RePaint comes the nearer the more it resamples.
"""

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from denoiselab.codecs import Codec
from denoiselab.conditioning.known import Known
from denoiselab.conditioning.masks import Masks, masks
from denoiselab.data.source import to_float
from denoiselab.denoiser import DenoiseFn, Prediction
from denoiselab.errors import ConfigError
from denoiselab.limits import Count, checked
from denoiselab.samplers.sampler import NoiseFn, Sampler, posterior_variance
from denoiselab.schedules import Schedule, like


def held(denoise: DenoiseFn, schedule: Schedule, known: Known) -> DenoiseFn:
    """The same denoiser, which knows these pixels: x0 is set there, and eps follows from x_t. Without a codec."""
    truth = to_float(known.image)

    def denoise_knowing(x_t: Tensor, t: Tensor) -> Prediction:
        prediction, (alpha, sigma) = denoise(x_t, t), schedule(t)
        x0 = torch.where(known.mask, truth.to(prediction.x0.dtype), prediction.x0)
        # As in thresholding.py: exact wherever nothing is set.
        return prediction._replace(x0=x0, eps=prediction.eps + like(alpha / sigma, x_t) * (prediction.x0 - x0))

    return denoise_knowing


def encoded(known: Known, codec: Codec) -> tuple[Tensor, Tensor]:
    """x_0: (B, c, h, w) and where it is known, bool (B, 1, h, w): where all pixels of a place are.

    What is not known is grey to the codec, so that nothing of it comes through.
    """
    x0 = codec.encode(to_float(known.image) * known.mask)
    rows, columns = (side // small for side, small in zip(known.mask.shape[2:], x0.shape[2:], strict=True))
    places = known.mask.unflatten(3, (-1, columns)).unflatten(2, (-1, rows))
    return x0, places.all(5).all(3)


class Inpainting(ABC):
    """`mask` is a word or a file, see `masks.masks`; sample i has a mask of its own."""

    def __init__(self, mask: str | Masks) -> None:
        self.mask = mask

    @abstractmethod
    def sampler(self, inner: Sampler, x0: Tensor, known: Tensor, noise: NoiseFn) -> Sampler:
        """`inner`, which keeps x0: (B, ...) where known, bool that broadcasts to it; `noise` is for the known part.

        Raises ConfigError where the sampler's steps do not allow it.
        """

    def masks(self, image_shape: tuple[int, ...]) -> Masks:
        """Raises ConfigError for a word that is none, DataError for a file that is none, or what is not for images."""
        if len(image_shape) != 3:
            raise ConfigError("inpainting keeps pixels of images, and these data are points; take inpainting=none")
        return masks(self.mask, *image_shape[1:])


class Replacement(Inpainting):
    """As many evaluations as the sampler has by itself."""

    def sampler(self, inner: Sampler, x0: Tensor, known: Tensor, noise: NoiseFn) -> Sampler:
        return Replaced(inner, x0, known, noise)


class RePaint(Inpainting):
    """`resamples` r: how often a stretch of `jump` j steps is gone down; r = 1 is replacement.

    The paper's is T = 250, j = 10, r = 10: sampler=ddpm sampler.steps=250. Raises ConfigError for less than 1 of each.
    """

    @checked
    def __init__(self, mask: str | Masks, jump: Count = 10, resamples: Count = 10) -> None:
        super().__init__(mask)
        self.jump, self.resamples = jump, resamples

    def sampler(self, inner: Sampler, x0: Tensor, known: Tensor, noise: NoiseFn) -> Sampler:
        if self.jump >= inner.steps:
            raise ConfigError(
                f"inpainting.jump={self.jump} goes back to before the first of sampler.steps={inner.steps}; take a "
                "jump below the steps"
            )
        return Resampled(Replaced(inner, x0, known, noise), self.jump, self.resamples)

    def taken(self, steps: int) -> int:
        """How many steps are taken in all of a sampler's `steps` N: N + (r - 1) j (ceil(N/j) - 1)."""
        return steps + (self.resamples - 1) * self.jump * (math.ceil(steps / self.jump) - 1)


class Replaced(Sampler):
    """`inner`, with the known part of x_t replaced before each step, and of x_0 after the last."""

    def __init__(self, inner: Sampler, x0: Tensor, known: Tensor, noise: NoiseFn) -> None:
        super().__init__(inner.steps, inner.spacing)
        self.inner, self.x0, self.known, self.noise = inner, x0, known, noise

    def step(
        self, denoise: DenoiseFn, schedule: Schedule, x: Tensor, t: Tensor, s: Tensor, state: Any, noise: NoiseFn
    ) -> tuple[Tensor, Any]:
        (alpha_t, sigma_t), x0 = schedule(t), self.x0.to(x.dtype)
        x = torch.where(self.known, alpha_t * x0 + sigma_t * self.noise(x), x)
        x, state = self.inner.step(denoise, schedule, x, t, s, state, noise)
        return (torch.where(self.known, x0, x) if s == 0 else x), state


class Resampled(Sampler):
    """`inner`; when 1, 1 + jump, 1 + 2 jump, ... steps are left it goes back by `jump` steps and down again, until it
    has gone that way `resamples` times. A solver that looks back begins anew after a jump.

    The state is (times, the number of steps done, the inner sampler's).
    """

    def __init__(self, inner: Sampler, jump: int, resamples: int) -> None:
        super().__init__(inner.steps, inner.spacing)
        self.inner, self.jump, self.resamples = inner, jump, resamples

    def step(
        self, denoise: DenoiseFn, schedule: Schedule, x: Tensor, t: Tensor, s: Tensor, state: Any, noise: NoiseFn
    ) -> tuple[Tensor, Any]:
        times, done, past = state or (self.spacing(self.steps, schedule).cpu(), 0, None)
        x, past = self.inner.step(denoise, schedule, x, t, s, past, noise)
        done += 1
        left, back = len(times) - 1 - done, done - self.jump
        if back >= 0 and left > 0 and (left - 1) % self.jump == 0:
            for _ in range(self.resamples - 1):
                x, past = noised(schedule, x, s, times[back], noise), None
                for here, there in zip(times[back:done], times[back + 1 : done + 1], strict=True):
                    x, past = self.inner.step(denoise, schedule, x, here, there, past, noise)
        return x, (times, done, past)


def noised(schedule: Schedule, x: Tensor, s: Tensor, t: Tensor, noise: NoiseFn) -> Tensor:
    """A draw of q(x_t|x_s), x at s < t: (B, ...)."""
    at_t, at_s = schedule(t), schedule(s)
    return at_t.alpha / at_s.alpha * x + torch.sqrt(posterior_variance(at_t, at_s)[0]) * noise(x)
