"""python train.py: what is wrong is found while only torch is imported; Lightning comes when training begins."""

import json
import math
import os
from pathlib import Path
from signal import Signals
from typing import NamedTuple

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from denoiselab.cli import build, faults, frozen, ranks, resume, runs, state
from denoiselab.errors import ConfigError, Interrupted, RunError
from denoiselab.progress import console


class Resumed(NamedTuple):
    """The checkpoint that a run goes on from."""

    path: Path
    step: int
    validated: bool  # at that step, where that is due
    wandb_id: str | None
    wandb_group: str | None
    changed: list[str]  # in the configuration since


def run(cfg: DictConfig) -> float | None:
    folder = Path(HydraConfig.get().runtime.output_dir)
    wanted = cfg.trainer.get("accelerator")
    there = {"gpu": torch.cuda.is_available() or torch.backends.mps.is_available(), "cuda": torch.cuda.is_available()}
    if not (there | {"mps": torch.backends.mps.is_available()}).get(wanted, True):
        kind = "Apple GPU" if wanted == "mps" else "GPU"
        raise ConfigError(f"this machine has no {kind} that torch can use; take trainer=auto or trainer=cpu")
    if cfg.data.get("root") is not None:
        cfg.data.root = os.path.abspath(cfg.data.root)  # evaluate.py finds it from wherever it is called
    own = folder / "checkpoints" / f"{cfg.checkpoint}.ckpt"
    frozen.describe(cfg, own if cfg.resume and own.exists() else None)
    if HydraConfig.get().mode == RunMode.MULTIRUN and (figure := _finished(cfg, folder)) is not None:
        return figure
    if ranks.rank() > 0 or ranks.started_here():
        with ranks.telling():
            return _train(cfg, folder, _resumed(cfg, folder))[0]
    resumed = _resumed(cfg, folder)  # what is refused here leaves run.json as it was
    with state.running(folder, resume.identity(build.plain(cfg))):
        n = ranks.to_start(cfg)
        if n < 2:
            figure, asked = _train(cfg, folder, resumed)
        else:
            asked = ranks.launch(n, _words(cfg), folder)
            figure = _figure(folder)
    if asked and HydraConfig.get().mode == RunMode.MULTIRUN:
        raise Interrupted(f"{asked.name}: this job had come to its end, and the sweep stops after it", 128 + asked)
    return figure


def _figure(folder: Path) -> float:
    """The headline figure of a run that has ended; NaN where it has none."""
    figures = json.loads((folder / "metrics.json").read_text())
    return float(figures.get(figures.get("headline", ""), math.nan))


def _finished(cfg: DictConfig, folder: Path) -> float | None:
    """The figure of a job of a sweep that was finished before. Raises ConfigError if it would be another one now."""
    there = state.read(folder)
    if there.get("status") != "finished":
        return None
    if there["identity"] != resume.identity(build.plain(cfg)):
        resume.changes(runs.read(folder / "checkpoints" / "last.ckpt")["denoiselab"]["config"], build.plain(cfg))
        return None  # it has more steps to do
    console.print(f"job {HydraConfig.get().job.num} is finished already", highlight=False)
    return _figure(folder)


def _train(cfg: DictConfig, folder: Path, resumed: Resumed | None) -> tuple[float | None, Signals | None]:
    if resumed and ranks.rank() == 0:
        told = f"going on at step {resumed.step} of {cfg.trainer.max_steps}"
        console.print(told, *resumed.changed, sep="\n  ", highlight=False)
    with faults.told(cfg, folder):
        parts = build.parts(cfg, resumed and resumed.path)

        from denoiselab.cli.fit import fit

        return fit(cfg, parts, folder, resumed)


def _words(cfg: DictConfig) -> list[str]:
    """The overrides of this run, or of this job of a sweep, which is one group in W&B."""
    hydra = HydraConfig.get()
    words = list(hydra.overrides.task)
    if hydra.mode == RunMode.MULTIRUN and cfg.logger and cfg.logger.group is None:
        words.append(f"logger.group='{Path(hydra.sweep.dir).name}'")
    return words


def _resumed(cfg: DictConfig, folder: Path) -> Resumed | None:
    """The checkpoint in the run's folder, if there is one. Raises ConfigError if it is not to be gone on with."""
    path = folder / "checkpoints" / f"{cfg.checkpoint}.ckpt"
    if not cfg.resume:
        if path.exists():
            raise ConfigError(f"{folder} has a run in it already; add resume=true to go on with it, or give another")
        return None
    if not path.exists() and not any(path.parent.glob("*.ckpt")):
        return None  # it was stopped before it saved one
    saved = runs.read(path)
    about, step = saved["denoiselab"], int(saved["global_step"])
    changed = resume.changes(about["config"], build.plain(cfg))
    if step >= cfg.trainer.max_steps:
        finished = state.read(folder).get("status") == "finished"
        if finished or cfg.trainer.max_steps < about["config"]["trainer"]["max_steps"]:
            raise RunError(f"{folder} has done its {step} steps; for more take trainer.max_steps={2 * step}")
        # It was killed when all was done but its last figures, and those need a step before them.
        path = path.with_name("previous.ckpt")
        again = runs.read(path)["global_step"] if path.exists() else 0
        if not ranks.started_here():
            console.print(f"it was killed before its last figures, and does its steps from {again} on once more")
        if not again:
            return None
        saved = runs.read(path)
    return Resumed(
        path,
        int(saved["global_step"]),
        resume.validated(saved),
        about.get("wandb_id"),
        about.get("wandb_group"),
        changed,
    )
