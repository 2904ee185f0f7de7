"""Effective weight of each noise level, from a run's loss, schedule and time sampling."""

import csv

import pytorch_lightning as pl

from denoiselab.objectives import Denoising
from denoiselab.pictures import curve
from denoiselab.training.callbacks.logging import log_picture, run_folder
from denoiselab.training.system import DiffusionSystem


class EffectiveWeight(pl.Callback):
    """Callback that writes weight.png and weight.csv when training starts and, as parts may be learned, when it ends.

    The loss's weight on the eps-MSE times the density of the sampled times, over log-SNR: runs with the same effective
    weight have the same expected loss (Kingma & Gao 2023, §4).
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.draw(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.draw(trainer, pl_module)

    def draw(self, trainer: pl.Trainer, system: pl.LightningModule) -> None:
        if not trainer.is_global_zero or not isinstance(system, DiffusionSystem):
            return
        if not isinstance(system.objective, Denoising):
            return
        log_snr, weight = (part.tolist() for part in system.objective.effective(system.pipeline.denoiser.schedule))
        folder = run_folder(trainer)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "weight.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["log_snr", "weight"], *zip(log_snr, weight, strict=True)])
        title = "weight on the eps-MSE times the density of the drawn times"
        ended = system.objective.at_the_end(system.pipeline.denoiser.schedule)
        if ended >= 0.01:
            title += f"; {ended:.0%} of them lie at the lower end"
        picture = curve(log_snr, weight, "log-SNR", "effective weight", title, folder / "weight.png")
        log_picture(trainer, "effective_weight", picture, f"step {trainer.global_step}, {title}, over log-SNR")
