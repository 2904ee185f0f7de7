"""What a trained run is: a denoiser, its conditioner and its codec; and how images come out of it."""

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
    """How samples are made: what may be changed after training. `words` says so in plain values, for provenance."""

    sampler: Sampler
    guidance: Guidance
    threshold: Threshold | None = None
    words: dict[str, Any] = field(default_factory=dict)
    float64: bool = False  # the state on its way; the noise is the same numbers
    inpainting: Inpainting | None = None  # without training: some pixels are those of the image in what is asked for


@dataclass(frozen=True)
class Generated:
    images: Tensor  # uint8 (B, C, H, W), or points, float32 (B, D)
    asked: Batch  # what they were asked for, on the CPU
    indices: Sequence[int]  # which samples of the seed these are
    evaluations: int  # of the guided denoiser, per sample (NFE)
    known: Known | None = None  # on the CPU, what the recipe's inpainting was given

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
        shows = sum(isinstance(part, Shows) for part, _ in self.conditioner.each({}))
        return shows + 2 if shows else 1

    def explained(self, made: Generated) -> Tensor:
        """Each sample, uint8 (B, views, C, H, W): what was told of it, the sample, and the image that this was told of.

        Of what cannot be seen, such as a class, the samples alone; of inpainting what was known, too.
        """
        asked = moved(made.asked, self.device)
        shown = [part.shown(own).cpu() for part, own in self.conditioner.each(asked) if isinstance(part, Shows)]
        shown += [] if made.known is None else [made.known.shown()]
        return torch.stack([*shown, made.images, *([made.asked["image"]] if shown else [])], 1)

    def reconstructed(self, images: Tensor) -> Tensor:
        """What the codec makes of images: uint8 (B, C, H, W), the same on the CPU."""
        with torch.inference_mode(), self.evaluating():
            return to_uint8(self.codec.decode(self.codec.encode(to_float(images.to(self.device))))).cpu()

    def denoise_fn(self, recipe: Recipe, asked: Batch | Tensor, against: Batch | None = None) -> DenoiseFn:
        """The denoiser, guided and thresholded, of a batch that is asked for these things, or for classes: (B,).

        `against` is a batch of what guidance leads away from, in place of no condition (negative prompts). Pixels that
        the conditioner keeps are known to it, where pixels are diffused.
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
        """What conditions give as it is to be."""
        keepers = [(part, own) for part, own in self.conditioner.each(asked) if isinstance(part, Keeps)]
        return [Known(asked["image"], part.kept(own)) for part, own in keepers]

    def _known(self, recipe: Recipe, indices: Sequence[int], asked: Batch) -> Known | None:
        """What is given to the recipe's inpainting: sample i has a mask of its own, whatever the seed."""
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
        """The same in batches; what is asked for is a function of the samples' numbers, or classes: (n,)."""
        for start in range(0, len(indices), batch_size):
            part = indices[start : start + batch_size]
            wish = asked[start : start + batch_size] if isinstance(asked, Tensor) else asked(part)
            yield self.sample(recipe, part, wish, seed, against=against and against(part))
