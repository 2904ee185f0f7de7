"""Loggers of a run: metrics.csv in the run folder, and W&B if configured."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from pytorch_lightning.loggers import CSVLogger, Logger, WandbLogger
from pytorch_lightning.utilities.rank_zero import rank_zero_only

from denoiselab.assembly.configuration import plain
from denoiselab.runs.experiment import ASIDE
from denoiselab.training import wandb_runs
from denoiselab.training.start import Resumed


def loggers(
    cfg: DictConfig,
    folder: Path,
    job_type: str,
    choices: Mapping[str, str],
    group: str,
    resumed: Resumed | None = None,
) -> list[Logger]:
    """Return the loggers. `choices`, the option of each axis, become tags; `group` is the default W&B group.

    A resumed run continues its table and its W&B run.
    """
    if getattr(rank_zero_only, "rank", 0):
        return [CSVLogger(folder, name="", version="")]  # other ranks write nothing
    made: list[Logger] = [_table(folder)]
    if cfg.logger:
        tags = [f"{axis}={word}" for axis, word in choices.items()]
        run = wandb_runs.opened(cfg.logger, folder, job_type, tags, group, plain(cfg), resumed and resumed.wandb_id)
        run.define_metric("trainer/global_step")
        run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
        made.append(WandbLogger(experiment=run))
    return made


def _table(folder: Path) -> CSVLogger:
    """Open metrics.csv and keep its rows, which Lightning would delete."""
    path, aside = folder / "metrics.csv", folder / ASIDE
    if path.exists():
        os.replace(path, aside)
    table = CSVLogger(folder, name="", version="", flush_logs_every_n_steps=50)
    if aside.exists():
        with aside.open() as file:
            table.experiment.metrics_keys = file.readline().rstrip("\n").split(",")
        os.replace(aside, path)
    return table


def close(made: list[Logger], exit_code: int, preempted: bool = False) -> None:
    """End the W&B run (finished, failed or preempted), so that a sweep's next job does not log to it."""
    for logger in made:
        if isinstance(logger, WandbLogger):
            if preempted:
                logger.experiment.mark_preempting()
            logger.experiment.finish(exit_code=exit_code)


def config_of(made: list[Logger]) -> dict[str, Any]:
    """Return what a checkpoint stores of the loggers, to resume the same W&B run."""
    runs = [logger.experiment for logger in made if isinstance(logger, WandbLogger)]
    return {"wandb_id": runs[0].id, "wandb_group": runs[0].group} if runs else {}
