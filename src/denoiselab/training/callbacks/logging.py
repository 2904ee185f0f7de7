"""Logging of metrics and images to every logger, from rank 0, at the trainer's own step."""

from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.loggers import WandbLogger


def log_figures(trainer: pl.Trainer, figures: dict[str, float]) -> None:
    for logger in trainer.loggers:
        logger.log_metrics(figures, step=trainer.global_step)


def log_picture(trainer: pl.Trainer, key: str, picture: np.ndarray, caption: str) -> None:
    """Log an image to W&B; other loggers rely on the file in the run folder."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            import wandb

            image = wandb.Image(picture, caption=caption)
            logger.experiment.log({key: image, "trainer/global_step": trainer.global_step})


def log_animation(trainer: pl.Trainer, key: str, path: Path, caption: str) -> None:
    """Log a GIF file to W&B."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            import wandb

            video = wandb.Video(str(path), caption=caption, format="gif")
            logger.experiment.log({key: video, "trainer/global_step": trainer.global_step})


def log_summary(trainer: pl.Trainer, figures: dict[str, Any]) -> None:
    """Write a run's final metrics, with their provenance, to the W&B run's summary."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.summary.update(figures)


def run_folder(trainer: pl.Trainer) -> Path:
    return Path(trainer.default_root_dir)


def due(trainer: pl.Trainer, every: int | None) -> bool:
    """Whether the optimizer step is a multiple of `every`; the last step is left to `on_train_end`."""
    step = trainer.global_step
    return every is not None and step > 0 and step % every == 0 and step != trainer.max_steps
