"""The power-function averages of a run's weights on disk, of which others are made afterwards."""

import pytorch_lightning as pl
import torch

from denoiselab.files import replacing
from denoiselab.training.callbacks.logging import run_folder
from denoiselab.training.callbacks.periodic import Periodic
from denoiselab.training.system import System


class Snapshots(Periodic):
    """ema/<step>.pt in the run's folder every so many optimizer steps, and at the end."""

    def work(self, trainer: pl.Trainer, system: System) -> None:
        snapshots = system.ema.snapshots()  # of sharded weights all ranks make them together
        if trainer.is_global_zero:
            path = run_folder(trainer) / "ema" / f"{trainer.global_step}.pt"
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary, temporary.open("wb") as file:
                torch.save([tuple(snapshot) for snapshot in snapshots], file)
