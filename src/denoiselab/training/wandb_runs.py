"""Weights & Biases runs of trainings and evaluations. Imports neither Lightning nor torch."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

if TYPE_CHECKING:
    import wandb


def opened(
    logger: DictConfig,
    folder: Path,
    job_type: str,
    tags: Sequence[str],
    group: str,
    config: dict[str, Any],
    id: str | None = None,
) -> "wandb.Run":
    """Open a run. `group` applies where logger.group is not set; `id` is the run to resume.

    Calls wandb.init directly: Lightning's logger with offline=True would change WANDB_MODE for the whole process.
    """
    import wandb

    return wandb.init(
        project=logger.project,
        mode=logger.mode,
        dir=folder,
        group=logger.group or group,
        job_type=job_type,
        name=f"{folder.parent.name}/{folder.name}",
        tags=[*tags, *logger.tags],
        config=config,
        id=id,
        resume="allow" if id and logger.mode == "online" else None,  # offline, the id is enough
        reinit="finish_previous",
        settings=wandb.Settings(silent=True, console="off"),
    )
