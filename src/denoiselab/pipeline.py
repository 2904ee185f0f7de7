"""What a trained run is: a denoiser, its conditioner and its codec; and how images come out of it."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from denoiselab.codecs import Codec, HasPrior
from denoiselab.conditioning import Conditioner, Shows
from denoiselab.conditioning.wishes import labelled, moved
from denoiselab.data.source import Batch, to_float, to_uint8
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
    asked: Batch  # what they were asked for, on the CPU
    indices: Sequence[int]  # which samples of the seed these are
    evaluations: int  # of the guided denoiser, per sample (NFE)

    @property
    def labels(self) -> Tensor:
        """The classes asked for: int64 (B,)."""
        return self.asked["label"]


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

    @property
    def views(self) -> int:
        """Pictures of a sample in `explained`."""
        return 3 if isinstance(self.conditioner, Shows) else 1

    def explained(self, made: Generated) -> Tensor:
        """Each sample, uint8 (B, views, C, H, W): what was told of it, the sample, and the image that this was told of.

        Of what cannot be seen, such as a class, the samples alone.
        """
        if not isinstance(self.conditioner, Shows):
            return made.images[:, None]
        asked = moved(made.asked, self.device)
        return torch.stack([self.conditioner.shown(asked).cpu(), made.images, made.asked["image"]], 1)

    def reconstructed(self, images: Tensor) -> Tensor:
        """What the codec makes of images: uint8 (B, C, H, W), the same on the CPU."""
        with torch.inference_mode(), self.evaluating():
            return to_uint8(self.codec.decode(self.codec.encode(to_float(images.to(self.device))))).cpu()

    def denoise_fn(self, recipe: Recipe, asked: Batch | Tensor, against: Batch | None = None) -> DenoiseFn:
        """The denoiser, guided and thresholded, of a batch that is asked for these things, or for classes: (B,).

        `against` is a batch of what guidance leads away from, in place of no condition (negative prompts).
        """
        cond = self.conditioner(moved(labelled(asked), self.device))
        null = self.conditioner.null(cond) if against is None else self.conditioner(moved(against, self.device))
        denoise = recipe.guidance(self.denoiser, cond, null)
        return denoise if recipe.threshold is None else recipe.threshold(denoise, self.denoiser.schedule)

    def sample(
        self,
        recipe: Recipe,
        indices: Sequence[int],
        asked: Batch | Tensor,
        seed: int,
        watch: Callable[[Step, Prediction], None] | None = None,
        against: Batch | None = None,
    ) -> Generated:
        """Images of what is asked for, a batch or classes: (B,). Sample i is a function of (seed, i) and that alone.

        `watch` sees each step and the last prediction made in it; `against` is what guidance leads away from. Raises
        RunError where the model gives NaN.
        """
        with torch.inference_mode(), self.evaluating():
            return self._sample(recipe, indices, labelled(asked), seed, watch, against)

    def _sample(
        self,
        recipe: Recipe,
        indices: Sequence[int],
        asked: Batch,
        seed: int,
        watch: Callable[[Step, Prediction], None] | None,
        against: Batch | None,
    ) -> Generated:
        denoise, schedule = self.denoise_fn(recipe, asked, against), self.denoiser.schedule
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
        if isinstance(self.codec, HasPrior):
            x_T = self.codec.prior(x_T)
        on_step = None if watch is None else lambda step: watch(step, seen[0])
        images = self.codec.decode(recipe.sampler(counted, schedule, x_T, noise, on_step))
        if images.isnan().any():
            raise RunError("the model gives NaN for an image: training has diverged; take a smaller optimizer.lr")
        finished = images.float() if len(self.image_shape) == 1 else to_uint8(images)
        return Generated(finished.cpu(), moved(asked, torch.device("cpu")), indices, count)

    def generate(
        self,
        recipe: Recipe,
        indices: Sequence[int],
        asked: Callable[[Sequence[int]], Batch] | Tensor,
        seed: int,
        batch_size: int,
        against: Callable[[Sequence[int]], Batch] | None = None,
    ) -> Iterator[Generated]:
        """The same in batches; what is asked for is a function of the samples' numbers, or classes: (n,)."""
        for start in range(0, len(indices), batch_size):
            part = indices[start : start + batch_size]
            wish = asked[start : start + batch_size] if isinstance(asked, Tensor) else asked(part)
            yield self.sample(recipe, part, wish, seed, against=against and against(part))
