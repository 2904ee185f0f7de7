"""Images of samples during training, with the same seeds each time so that only the model changes."""

import pytorch_lightning as pl
import torch
from torch import Tensor

from denoiselab import distributed
from denoiselab.data.source import to_uint8
from denoiselab.denoiser import Prediction
from denoiselab.limits import Count, Natural, checked
from denoiselab.pictures import TOLD, grid, groups, write_png
from denoiselab.samplers import Step
from denoiselab.training.callbacks.logging import log_picture, run_folder
from denoiselab.training.callbacks.periodic import Periodic
from denoiselab.training.system import System


def caption(trainer: pl.Trainer, system: System, seed: int, evaluations: int) -> str:
    """Describe how an image's samples were made."""
    words = ", ".join(f"{key} {value}" for key, value in system.recipe.words.items())
    return f"step {trainer.global_step}, seed {seed}, NFE {evaluations}, {words}"


class SampleGrid(Periodic):
    """Callback that writes n samples of the averaged weights to samples/step_<N>.png and the loggers' key "samples"."""

    @checked
    def __init__(
        self,
        n: Count = 100,
        columns: Count = 10,
        every: Count | None = None,
        seed: Natural = 0,
        batch_size: Count = 100,
    ) -> None:
        super().__init__(every)
        self.n, self.columns, self.seed, self.batch_size = n, columns, seed, batch_size

    def work(self, trainer: pl.Trainer, system: System) -> None:
        mine = distributed.share(self.n, self.batch_size)
        with system.ema.swapped():
            batches = list(system.pipeline.generate(system.recipe, mine, system.wishes, self.seed, self.batch_size))
        empty = torch.empty(0, system.pipeline.views, *system.pipeline.image_shape, dtype=torch.uint8)
        rows = torch.cat([empty, *map(system.pipeline.explained, batches)])
        images = distributed.collect(rows, mine, self.n)
        if trainer.is_global_zero:
            picture = groups(images, self.columns, TOLD)
            write_png(picture, run_folder(trainer) / "samples" / f"step_{trainer.global_step}.png")
            log_picture(trainer, "samples", picture, caption(trainer, system, self.seed, batches[0].evaluations))


class DenoisingStrip(Periodic):
    """Callback that shows n samples from noise to image: for each a row of x_t and, below it, of the predicted x_0.

    Writes samples/denoising_<N>.png and the loggers' key "denoising". Only rank 0 samples.
    """

    @checked
    def __init__(self, n: Count = 4, moments: Count = 10, every: Count | None = None, seed: Natural = 0) -> None:
        super().__init__(every)
        self.n, self.moments, self.seed = n, moments, seed

    def work(self, trainer: pl.Trainer, system: System) -> None:
        pipeline, states, predictions = system.pipeline, [], []

        def watch(step: Step, prediction: Prediction) -> None:
            kept = {round(i * (step.steps - 1) / max(1, self.moments - 1)) for i in range(self.moments)}
            if step.index in kept:
                states.append(to_uint8(pipeline.codec.decode(step.x).nan_to_num()).cpu())
                predictions.append(to_uint8(pipeline.codec.decode(prediction.x0).nan_to_num()).cpu())

        indices = range(self.n)
        with system.ema.swapped():  # all ranks, which may have to gather the weights
            if not trainer.is_global_zero:
                return
            generated = pipeline.sample(system.recipe, indices, system.wishes(indices), self.seed, watch)
        picture = grid(_rows(states, predictions), len(states))
        write_png(picture, run_folder(trainer) / "samples" / f"denoising_{trainer.global_step}.png")
        said = caption(trainer, system, self.seed, generated.evaluations)
        log_picture(trainer, "denoising", picture, f"{said}; x_t and below it the predicted x_0")


def _rows(states: list[Tensor], predictions: list[Tensor]) -> Tensor:
    """Stack tensors (n, C, H, W) per moment to (n 2 moments, C, H, W): each sample's states, then its predictions."""
    return torch.stack([torch.stack(states, 1), torch.stack(predictions, 1)], 1).flatten(0, 2)
