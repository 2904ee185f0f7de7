"""What a trained run is: a denoiser, its conditioner and its codec; and how images come out of it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from denoiselab.codecs import Codec
from denoiselab.conditioning import Conditioner
from denoiselab.data.source import to_uint8
from denoiselab.denoiser import DenoiseFn, Denoiser, Prediction
from denoiselab.errors import RunError
from denoiselab.guidance import Guidance
from denoiselab.randomness import SampleNoise
from denoiselab.samplers import Sampler, Step
from denoiselab.thresholding import Threshold


@dataclass(frozen=True)
class Recipe:
    """How samples are made: what may be changed after training. `words` says so in plain values, for provenance."""

    sampler: Sampler
    guidance: Guidance
    threshold: Threshold | None = None
    words: dict[str, Any] = field(default_factory=dict)
    float64: bool = False  # the state on its way; the noise is the same numbers


@dataclass(frozen=True)
class Generated:
    images: Tensor  # uint8 (B, C, H, W), or points, float32 (B, D)
    labels: Tensor  # int64 (B,), the classes asked for
    indices: Sequence[int]  # which samples of the seed these are
    evaluations: int  # of the guided denoiser, per sample (NFE)


class Pipeline(nn.Module):
    def __init__(
        self, denoiser: Denoiser, conditioner: Conditioner, codec: Codec, image_shape: tuple[int, ...]
    ) -> None:
        super().__init__()
        self.denoiser = denoiser
        self.conditioner = conditioner
        self.codec = codec
        self.image_shape = image_shape
        self.latent_shape = codec.latent_shape(image_shape)

    @property
    def device(self) -> torch.device:
        """Where it computes; an exact denoiser has no parameters."""
        return next(chain(self.parameters(), self.buffers())).device

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Inside, dropout is off; afterwards each part is in the mode that it was in."""
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training

    def denoise_fn(self, recipe: Recipe, labels: Tensor) -> DenoiseFn:
        """The denoiser, guided and thresholded, of a batch of the classes labels: (B,)."""
        cond = self.conditioner({"label": labels.to(self.device)})
        denoise = recipe.guidance(self.denoiser, cond, self.conditioner.null(cond))
        return denoise if recipe.threshold is None else recipe.threshold(denoise, self.denoiser.schedule)

    def sample(
        self,
        recipe: Recipe,
        indices: Sequence[int],
        labels: Tensor,
        seed: int,
        watch: Callable[[Step, Prediction], None] | None = None,
    ) -> Generated:
        """Images of the classes labels: (B,). Sample i is a function of (seed, i) alone.

        `watch` sees each step and the last prediction made in it. Raises RunError where the model gives NaN.
        """
        with torch.inference_mode(), self.evaluating():
            return self._sample(recipe, indices, labels, seed, watch)

    def _sample(
        self,
        recipe: Recipe,
        indices: Sequence[int],
        labels: Tensor,
        seed: int,
        watch: Callable[[Step, Prediction], None] | None,
    ) -> Generated:
        denoise, schedule = self.denoise_fn(recipe, labels), self.denoiser.schedule
        seen: list[Prediction] = []
        count = 0

        def counted(x_t: Tensor, t: Tensor) -> Prediction:
            nonlocal count
            count += 1
            seen[:] = [denoise(x_t, t)]
            return seen[0]

        single = SampleNoise(seed, indices)

        def noise(x: Tensor) -> Tensor:
            return single(x.float()).to(x.dtype)

        dtype = torch.float64 if recipe.float64 else torch.float32
        x_T = schedule.prior_std * noise(torch.empty(len(indices), *self.latent_shape, device=self.device, dtype=dtype))
        on_step = None if watch is None else lambda step: watch(step, seen[0])
        images = self.codec.decode(recipe.sampler(counted, schedule, x_T, noise, on_step))
        if images.isnan().any():
            raise RunError("the model gives NaN for an image: training has diverged; take a smaller optimizer.lr")
        finished = images.float() if len(self.image_shape) == 1 else to_uint8(images)
        return Generated(finished.cpu(), labels.cpu(), indices, count)

    def generate(
        self, recipe: Recipe, indices: Sequence[int], labels: Tensor, seed: int, batch_size: int
    ) -> Iterator[Generated]:
        """The same in batches."""
        for start in range(0, len(indices), batch_size):
            part = slice(start, start + batch_size)
            yield self.sample(recipe, indices[part], labels[part], seed)


def balanced_labels(indices: Sequence[int], num_classes: int) -> Tensor:
    """Sample i is asked for class i mod num_classes: (B,) int64."""
    return torch.as_tensor(list(indices), dtype=torch.int64) % max(1, num_classes)
