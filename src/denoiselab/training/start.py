"""The start of a training: its run folder, and the checkpoint to resume from."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig

from denoiselab.assembly.configuration import plain
from denoiselab.errors import ConfigError, RunError
from denoiselab.progress import console
from denoiselab.runs import checkpoint, experiment, state


class Start(NamedTuple):
    """A run's folder, chosen option of each axis, and W&B group; `job`: whether it is a job of a sweep."""

    folder: Path
    choices: Mapping[str, str]
    group: str
    job: bool = False


class Resumed(NamedTuple):
    """The checkpoint to resume from."""

    path: Path
    step: int
    validated: bool  # at that step, if validation was due
    wandb_id: str | None
    wandb_group: str | None
    changed: list[str]  # configuration changes since then


def resumed(cfg: DictConfig, folder: Path, quiet: bool = False) -> Resumed | None:
    """Return the checkpoint in the run folder, if any. Raises ConfigError if it cannot be resumed."""
    path = checkpoint.checkpoint_of(folder, cfg.checkpoint)
    if not cfg.resume:
        if path.exists():
            raise ConfigError(f"{folder} already holds a run; add resume=true to continue it, or give another folder")
        return None
    if not path.exists() and not any(path.parent.glob("*.ckpt")):
        return None  # stopped before the first checkpoint
    saved = checkpoint.read(path)
    about, step = saved["denoiselab"], int(saved["global_step"])
    changed = experiment.changes(about["config"], plain(cfg))
    if step >= cfg.trainer.max_steps:
        finished = state.read(folder).get("status") == "finished"
        if finished or cfg.trainer.max_steps < about["config"]["trainer"]["max_steps"]:
            raise RunError(f"{folder} has done its {step} steps; for more give trainer.max_steps={2 * step}")
        # Killed before its final evaluation, which needs a preceding step.
        path = path.with_name("previous.ckpt")
        again = checkpoint.read(path)["global_step"] if path.exists() else 0
        if not quiet:
            console.print(f"killed before its final evaluation; repeating from step {again}")
        if not again:
            return None
        saved = checkpoint.read(path)
    return Resumed(
        path,
        int(saved["global_step"]),
        experiment.validated(saved),
        about.get("wandb_id"),
        about.get("wandb_group"),
        changed,
    )
