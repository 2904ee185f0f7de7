"""Plot of the loss curve, from metrics.csv."""

import csv

import pytorch_lightning as pl

from denoiselab.pictures import Curves, loss_curve
from denoiselab.training.callbacks.logging import run_folder


class LossCurve(pl.Callback):
    """Callback that writes loss.png to the run folder at the end of training, and again after a final validation."""

    def teardown(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        if not trainer.is_global_zero:
            return
        for logger in trainer.loggers:
            logger.save()
        table = run_folder(trainer) / "metrics.csv"
        if not table.exists():
            return
        curves: Curves = {}
        with table.open() as file:
            for row in csv.DictReader(file):
                for name in ("train/loss", "val/loss"):
                    if row.get(name):
                        steps, values = curves.setdefault(name, ([], []))
                        steps.append(float(row["step"]))
                        values.append(float(row[name]))
        if curves:
            loss_curve(curves, run_folder(trainer) / "loss.png")
