"""The pipeline: a trained denoiser with its conditioner and codec, and how it generates images."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from denoiselab.codecs import Codec, HasPrior, Identity
from denoiselab.conditioning import Conditioner, Keeps, Shows
from denoiselab.conditioning.known import Known
from denoiselab.conditioning.wishes import labelled, moved
from denoiselab.data.source import Batch, to_float, to_uint8
from denoiselab.denoiser import DenoiseFn, Denoiser, Prediction
from denoiselab.errors import RunError
from denoiselab.guidance import Guidance
from denoiselab.inpainting import Inpainting, encoded, held
from denoiselab.randomness import SampleNoise, uniform
from denoiselab.samplers import Sampler, Step
from denoiselab.thresholding import Threshold


@dataclass(frozen=True)
class Recipe:
    """The sampling options, which may change after training; `words` has them as plain values, for provenance."""

    sampler: Sampler
    guidance: Guidance
    threshold: Threshold | None = None
    words: dict[str, Any] = field(default_factory=dict)
    float64: bool = False  # the precision of the state; the noise is the same
    inpainting: Inpainting | None = None  # training-free: keeps some pixels of the request's image


@dataclass(frozen=True)
class Generated:
    images: Tensor  # uint8 (B, C, H, W), or points, float32 (B, D)
    asked: Batch  # the sample request, on the CPU
    indices: Sequence[int]  # of the samples under their seed
    evaluations: int  # calls of the guided denoiser per sample (NFE)
    known: Known | None = None  # the recipe's inpainting input, on the CPU

    @property
    def labels(self) -> Tensor:
        """The requested classes: int64 (B,)."""
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
        """The device of the parameters, or of the buffers of an exact denoiser."""
        return next(chain(self.parameters(), self.buffers())).device

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Turns dropout off inside the context; afterwards each part is back in its own mode."""
        modes = [(module, module.training) for module in self.modules()]
        self.eval()
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training

    @property
    def views(self) -> int:
        """The number of pictures per sample in `explained`."""
        shows = sum(isinstance(part, Shows) for part, _ in self.conditioner.each({}))
        return shows + 2 if shows else 1

    def explained(self, made: Generated) -> Tensor:
        """Returns each sample between its visible conditions and the image they come from: uint8 (B, views, C, H, W).

        If no condition is visible, as with classes, the samples alone. Inpainting adds its known pixels.
        """
        asked = moved(made.asked, self.device)
        shown = [part.shown(own).cpu() for part, own in self.conditioner.each(asked) if isinstance(part, Shows)]
        shown += [] if made.known is None else [made.known.shown()]
        return torch.stack([*shown, made.images, *([made.asked["image"]] if shown else [])], 1)

    def reconstructed(self, images: Tensor) -> Tensor:
        """Encodes and decodes images, uint8 (B, C, H, W), and returns them on the CPU."""
        with torch.inference_mode(), self.evaluating():
            return to_uint8(self.codec.decode(self.codec.encode(to_float(images.to(self.device))))).cpu()

    def denoise_fn(self, recipe: Recipe, asked: Batch | Tensor, against: Batch | None = None) -> DenoiseFn:
        """Returns the guided and thresholded denoiser for a sample request: a batch, or classes (B,).

        `against` is the batch that guidance leads away from, in place of the empty condition (negative prompts). In
        pixel diffusion, x0 is set at the pixels that the conditioner keeps.
        """
        told, schedule = moved(labelled(asked), self.device), self.denoiser.schedule
        cond = self.conditioner(told)
        steps = self.conditioner.steps(cond)
        if against is not None:
            steps = [self.conditioner(moved(against, self.device)), cond]
        denoise = recipe.guidance(self.denoiser, cond, steps[0], steps[1:-1])
        denoise = denoise if recipe.threshold is None else recipe.threshold(denoise, schedule)
        if isinstance(self.codec, Identity):
            for kept in self._kept(told):
                denoise = held(denoise, schedule, kept)
        return denoise

    def _kept(self, asked: Batch) -> list[Known]:
        keepers = [(part, own) for part, own in self.conditioner.each(asked) if isinstance(part, Keeps)]
        return [Known(asked["image"], part.kept(own)) for part, own in keepers]

    def _known(self, recipe: Recipe, indices: Sequence[int], asked: Batch) -> Known | None:
        """Returns the input of the recipe's inpainting; the mask of sample i does not depend on the seed."""
        if recipe.inpainting is None:
            return None
        masks, image = recipe.inpainting.masks(self.image_shape), asked["image"]
        u = uniform(masks.draws, "inpainting", indices).to(image.device)
        return Known(image, masks(u, *image.shape[2:]))

    def sample(
        self,
        recipe: Recipe,
        indices: Sequence[int],
        asked: Batch | Tensor,
        seed: int,
        watch: Callable[[Step, Prediction], None] | None = None,
        against: Batch | None = None,
    ) -> Generated:
        """Generates images for a sample request: a batch, or classes (B,). Sample i depends on (seed, i) alone.

        `watch` gets each step and its last prediction; `against` is what guidance leads away from. Raises RunError
        where the model returns NaN.
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
        asked = moved(asked, self.device)
        denoise, schedule = self.denoise_fn(recipe, asked, against), self.denoiser.schedule
        seen: list[Prediction] = []
        count = 0

        def counted(x_t: Tensor, t: Tensor) -> Prediction:
            nonlocal count
            count += 1
            seen[:] = [denoise(x_t, t)]
            return seen[0]

        def drawn(purpose: str) -> Callable[[Tensor], Tensor]:
            single = SampleNoise(seed, indices, purpose)
            return lambda x: single(x.float()).to(x.dtype)

        noise, sampler, known = drawn("sample"), recipe.sampler, self._known(recipe, indices, asked)
        if recipe.inpainting is not None and known is not None:
            sampler = recipe.inpainting.sampler(sampler, *encoded(known, self.codec), drawn("inpainting"))
        dtype = torch.float64 if recipe.float64 else torch.float32
        x_T = schedule.prior_std * noise(torch.empty(len(indices), *self.latent_shape, device=self.device, dtype=dtype))
        if isinstance(self.codec, HasPrior):
            x_T = self.codec.prior(x_T)
        on_step = None if watch is None else lambda step: watch(step, seen[0])
        images = self.codec.decode(sampler(counted, schedule, x_T, noise, on_step))
        if images.isnan().any():
            raise RunError("the model gives NaN for an image: training has diverged; take a smaller optimizer.lr")
        finished = images.float() if len(self.image_shape) == 1 else to_uint8(images)
        for given in (*self._kept(asked), *([] if known is None else [known])):
            finished = given.pasted(finished)
        cpu = torch.device("cpu")
        known = known and Known(*(part.to(cpu) for part in known))
        return Generated(finished.to(cpu), moved(asked, cpu), indices, count, known)

    def generate(
        self,
        recipe: Recipe,
        indices: Sequence[int],
        asked: Callable[[Sequence[int]], Batch] | Tensor,
        seed: int,
        batch_size: int,
        against: Callable[[Sequence[int]], Batch] | None = None,
    ) -> Iterator[Generated]:
        """Yields samples in batches; `asked` maps sample indices to a request, or holds classes (n,)."""
        for start in range(0, len(indices), batch_size):
            part = indices[start : start + batch_size]
            wish = asked[start : start + batch_size] if isinstance(asked, Tensor) else asked(part)
            yield self.sample(recipe, part, wish, seed, against=against and against(part))
