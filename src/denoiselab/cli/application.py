"""Commands as Hydra applications: a job, or the jobs of a sweep, from configurations composed once."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from hydra._internal.callbacks import Callbacks
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.utils import JobStatus, configure_log, run_job
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig

from denoiselab.assembly.configuration import Loader

Task = Callable[[DictConfig], Any]


class Job(NamedTuple):
    """Hydra's facts about the running job."""

    folder: Path
    choices: Mapping[str, str]  # the chosen option of each axis
    overrides: list[str]
    folder_given: bool  # with hydra.run.dir
    sweep: Path | None  # the folder of its sweep
    searches: bool  # whether the sweep is a search, which proposes the values

    @classmethod
    def current(cls) -> "Job":
        hydra = HydraConfig.get()
        chosen = {k: v for k, v in hydra.runtime.choices.items() if v is not None and "/" not in k and "@" not in k}
        return cls(
            Path(hydra.runtime.output_dir),
            {str(axis): str(option) for axis, option in chosen.items()},
            list(map(str, hydra.overrides.task)),
            any(str(override).startswith("hydra.run.dir") for override in hydra.overrides.hydra),
            Path(hydra.sweep.dir) if hydra.mode == RunMode.MULTIRUN else None,
            "optuna" in str(hydra.sweeper._target_),
        )


def run(loader: Loader, cfg: DictConfig, task: Task) -> Any:
    """Run one job. cfg: its configuration with the node "hydra". Raises the job's own error."""
    callbacks = _begun(cfg)
    callbacks.on_run_start(config=cfg, config_name=loader.command)
    done = run_job(task, cfg, "hydra.run.dir", None, HydraContext(loader, callbacks))
    callbacks.on_run_end(config=cfg, config_name=loader.command, job_return=done)
    if done.status is JobStatus.FAILED:
        raise done._return_value
    return done._return_value


def sweep(loader: Loader, cfg: DictConfig, task: Task) -> None:
    """Run the jobs of a sweep with the configured sweeper and launcher."""
    callbacks = _begun(cfg)
    callbacks.on_multirun_start(config=cfg, config_name=loader.command)
    context = HydraContext(loader, callbacks)
    sweeper = Plugins.instance().instantiate_sweeper(config=cfg, hydra_context=context, task_function=task)
    sweeper.sweep(arguments=list(map(str, cfg.hydra.overrides.task)))
    callbacks.on_multirun_end(config=cfg, config_name=loader.command)


def _begun(cfg: DictConfig) -> Callbacks:
    configure_log(cfg.hydra.hydra_logging, cfg.hydra.verbose)
    return Callbacks(cfg)
