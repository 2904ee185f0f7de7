"""How a training begins: where it runs, and the checkpoint that it is resumed from."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig

from denoiselab.assembly.configuration import plain
from denoiselab.errors import ConfigError, RunError
from denoiselab.progress import console
from denoiselab.runs import checkpoint, experiment, state


class Start(NamedTuple):
    """choices: the chosen option of each axis. group: the name of several runs in W&B. job: one of a sweep's."""

    folder: Path
    choices: Mapping[str, str]
    group: str
    job: bool = False


class Resumed(NamedTuple):
    """The checkpoint that a run is resumed from."""

    path: Path
    step: int
    validated: bool  # at that step, where that is due
    wandb_id: str | None
    wandb_group: str | None
    changed: list[str]  # in the configuration since


def resumed(cfg: DictConfig, folder: Path, quiet: bool = False) -> Resumed | None:
    """The checkpoint in the run's folder, if there is one. Raises ConfigError where it cannot be resumed."""
    path = checkpoint.checkpoint_of(folder, cfg.checkpoint)
    if not cfg.resume:
        if path.exists():
            raise ConfigError(f"{folder} already holds a run; add resume=true to continue it, or give another folder")
        return None
    if not path.exists() and not any(path.parent.glob("*.ckpt")):
        return None  # it was stopped before it saved one
    saved = checkpoint.read(path)
    about, step = saved["denoiselab"], int(saved["global_step"])
    changed = experiment.changes(about["config"], plain(cfg))
    if step >= cfg.trainer.max_steps:
        finished = state.read(folder).get("status") == "finished"
        if finished or cfg.trainer.max_steps < about["config"]["trainer"]["max_steps"]:
            raise RunError(f"{folder} has done its {step} steps; for more give trainer.max_steps={2 * step}")
        # It was killed when all was done but its last evaluation, which needs a step before it.
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
