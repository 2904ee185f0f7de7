r"""Inpainting without training: fills in the pixels of an image that are not known.

Replacement works with any trained model: before each step from $t$ it sets the known part of $x_t$ to a draw of
$q(x_t|x_0)$ with fresh noise, so that the network's input is as noisy there as elsewhere (Score-SDE, Song 2021,
arXiv:2011.13456, appendix I.2). The unknown part then depends on the known part at the same noise level only, which
carries little information about $x_0$ early on. RePaint (Lugmayr 2022, arXiv:2201.09865, algorithm 1) goes back to a
higher level with $q(x_t|x_s)$ and comes down again, several times, which makes the two parts consistent. Neither
samples the exact $p(x_0|\mathrm{known})$: replacement is biased towards the unconditional distribution, and RePaint
less so the more it resamples.
"""

import math
from abc import ABC, abstractmethod
from typing import Generic, NamedTuple

import torch
from torch import Tensor

from denoiselab.codecs import Codec
from denoiselab.conditioning.known import Known
from denoiselab.conditioning.masks import Masks, masks
from denoiselab.data.source import to_float
from denoiselab.denoiser import DenoiseFn, Prediction
from denoiselab.errors import ConfigError
from denoiselab.limits import Count, checked
from denoiselab.samplers.sampler import NoiseFn, Sampler, State, posterior_variance
from denoiselab.schedules import Schedule, like


def held(denoise: DenoiseFn, schedule: Schedule, known: Known) -> DenoiseFn:
    """Wraps a denoiser so that it knows these pixels: x0 is set there, and eps follows from x_t. For pixels only."""
    truth = to_float(known.image)

    def denoise_knowing(x_t: Tensor, t: Tensor) -> Prediction:
        prediction, (alpha, sigma) = denoise(x_t, t), schedule(t)
        x0 = torch.where(known.mask, truth.to(prediction.x0.dtype), prediction.x0)
        # As in thresholding.py: exact wherever nothing changes.
        return prediction._replace(x0=x0, eps=prediction.eps + like(alpha / sigma, x_t) * (prediction.x0 - x0))

    return denoise_knowing


def encoded(known: Known, codec: Codec) -> tuple[Tensor, Tensor]:
    """Returns x_0: (B, c, h, w), and where it is known, bool (B, 1, h, w): where all pixels of a latent position are.

    Unknown pixels are set to grey before encoding, so that no information about them gets through.
    """
    x0 = codec.encode(to_float(known.image) * known.mask)
    (batch, channels, height, width), (h, w) = known.mask.shape, x0.shape[2:]
    patches = known.mask.reshape(batch, channels, h, height // h, w, width // w)
    return x0, patches.all(5).all(3)


class Inpainting(ABC):
    """A way to inpaint. `mask` is a name or a file, see `masks.masks`; sample i has its own mask."""

    def __init__(self, mask: str | Masks) -> None:
        self.mask = mask

    @abstractmethod
    def sampler(self, inner: Sampler, x0: Tensor, known: Tensor, noise: NoiseFn) -> Sampler:
        """Wraps `inner` so that it keeps x0: (B, ...) where `known`, bool and broadcastable to x0.

        `noise` is for the known part. Raises ConfigError if the sampler has too few steps.
        """

    def masks(self, image_shape: tuple[int, ...]) -> Masks:
        """Returns the masks for images of this shape: (C, H, W).

        Raises ConfigError for an unknown name and for data that are not images, DataError for an unreadable file.
        """
        if len(image_shape) != 3:
            raise ConfigError("inpainting keeps pixels of images, and these data are points; take inpainting=none")
        return masks(self.mask, *image_shape[1:])


class Replacement(Inpainting):
    """Replaces the known part before each step, with as many evaluations as the sampler alone."""

    def sampler(self, inner: Sampler, x0: Tensor, known: Tensor, noise: NoiseFn) -> Sampler:
        return Replaced(inner, x0, known, noise)


class RePaint(Inpainting):
    """Takes each stretch of `jump` j steps `resamples` r times; r = 1 is replacement.

    The paper has T = 250, j = 10, r = 10: sampler=ddpm sampler.steps=250. Raises ConfigError if either is below 1.
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
        r"""Returns the total number of steps for a sampler with N steps: $N + (r - 1) j (\lceil N/j\rceil - 1)$."""
        return steps + (self.resamples - 1) * self.jump * (math.ceil(steps / self.jump) - 1)


class Replaced(Sampler[State]):
    """Runs `inner` with the known part of x_t replaced before each step, and that of x_0 after the last.

    A step evaluates the schedule at t for the known part, besides what `inner` evaluates.
    """

    def __init__(self, inner: Sampler[State], x0: Tensor, known: Tensor, noise: NoiseFn) -> None:
        super().__init__(inner.steps, inner.spacing)
        self.inner, self.x0, self.known, self.noise = inner, x0, known, noise

    def step(
        self,
        denoise: DenoiseFn,
        schedule: Schedule,
        x: Tensor,
        t: Tensor,
        s: Tensor,
        state: State | None,
        noise: NoiseFn,
    ) -> tuple[Tensor, State | None]:
        (alpha_t, sigma_t), x0 = schedule(t), self.x0.to(x.dtype)
        x = torch.where(self.known, alpha_t * x0 + sigma_t * self.noise(x), x)
        x, state = self.inner.step(denoise, schedule, x, t, s, state, noise)
        return (torch.where(self.known, x0, x) if s == 0 else x), state


class Progress(NamedTuple, Generic[State]):
    """Where a resampled run is."""

    times: Tensor  # the grid
    done: int  # steps of the grid that are complete
    inner: State | None  # the inner sampler's state


class Resampled(Sampler[Progress[State]]):
    """Runs `inner`, and repeats stretches of `jump` steps.

    When 1, 1 + jump, 1 + 2 jump, ... steps are left, it goes back to the noise level of `jump` steps before and comes
    down again, until it has taken that stretch `resamples` times. A multistep solver starts afresh after each jump.
    """

    def __init__(self, inner: Sampler[State], jump: int, resamples: int) -> None:
        super().__init__(inner.steps, inner.spacing)
        self.inner, self.jump, self.resamples = inner, jump, resamples

    def step(
        self,
        denoise: DenoiseFn,
        schedule: Schedule,
        x: Tensor,
        t: Tensor,
        s: Tensor,
        state: Progress[State] | None,
        noise: NoiseFn,
    ) -> tuple[Tensor, Progress[State]]:
        times, done, past = state or Progress(self.spacing(self.steps, schedule).cpu(), 0, None)
        x, past = self.inner.step(denoise, schedule, x, t, s, past, noise)
        done += 1
        left, back = len(times) - 1 - done, done - self.jump
        if back >= 0 and left > 0 and (left - 1) % self.jump == 0:
            for _ in range(self.resamples - 1):
                x, past = noised(schedule, x, s, times[back], noise), None
                for here, there in zip(times[back:done], times[back + 1 : done + 1], strict=True):
                    x, past = self.inner.step(denoise, schedule, x, here, there, past, noise)
        return x, Progress(times, done, past)


def noised(schedule: Schedule, x: Tensor, s: Tensor, t: Tensor, noise: NoiseFn) -> Tensor:
    """Draws from q(x_t|x_s), from x: (B, ...) at s to t > s."""
    at_t, at_s = schedule(t), schedule(s)
    return at_t.alpha / at_s.alpha * x + torch.sqrt(posterior_variance(at_t, at_s)[0]) * noise(x)
