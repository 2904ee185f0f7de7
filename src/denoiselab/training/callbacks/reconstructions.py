"""Images of an autoencoder's reconstructions."""

import pytorch_lightning as pl
import torch

from denoiselab import distributed
from denoiselab.limits import Count, checked
from denoiselab.pictures import groups, write_png
from denoiselab.training.callbacks.logging import log_picture, run_folder
from denoiselab.training.callbacks.periodic import Periodic
from denoiselab.training.system import System


class Reconstructions(Periodic):
    """Callback that shows the first n test images, each with its reconstruction (averaged weights) to its right.

    Writes samples/reconstruction_<N>.png, with `columns` pairs a row, and the loggers' key "reconstructions".
    """

    @checked
    def __init__(self, n: Count = 50, columns: Count = 10, every: Count | None = None, batch_size: Count = 100) -> None:
        super().__init__(every)
        self.n, self.columns, self.batch_size = n, columns, batch_size

    def work(self, trainer: pl.Trainer, system: System) -> None:
        images = trainer.datamodule.source.test  # type: ignore[attr-defined]
        n = min(self.n, len(images))
        mine, rows = distributed.share(n, self.batch_size), []
        with system.ema.swapped():
            for start in range(0, len(mine), self.batch_size):
                real = images.__getitems__(mine[start : start + self.batch_size])["image"]
                rows.append(torch.stack([real, system.pipeline.reconstructed(real)], 1))
        empty = torch.empty(0, 2, *system.pipeline.image_shape, dtype=torch.uint8)
        pairs = distributed.collect(torch.cat([empty, *rows]), mine, n)
        if trainer.is_global_zero:
            picture = groups(pairs, self.columns, "of each: the image, its reconstruction")
            write_png(picture, run_folder(trainer) / "samples" / f"reconstruction_{trainer.global_step}.png")
            log_picture(trainer, "reconstructions", picture, f"step {trainer.global_step}, image and reconstruction")
