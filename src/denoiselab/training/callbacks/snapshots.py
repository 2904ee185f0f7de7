"""Snapshots of the power-function averages, from which other averages are reconstructed after training."""

import pytorch_lightning as pl
import torch

from denoiselab.files import replacing
from denoiselab.training.callbacks.logging import run_folder
from denoiselab.training.callbacks.periodic import Periodic
from denoiselab.training.system import System


class Snapshots(Periodic):
    """Callback that writes ema/<step>.pt to the run folder every `every` optimizer steps and at the end."""

    def work(self, trainer: pl.Trainer, system: System) -> None:
        snapshots = system.ema.snapshots()  # a collective if weights are sharded
        if trainer.is_global_zero:
            path = run_folder(trainer) / "ema" / f"{trainer.global_step}.pt"
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary, temporary.open("wb") as file:
                torch.save([tuple(snapshot) for snapshot in snapshots], file)
