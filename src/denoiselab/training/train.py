"""Run one training, in this process or in several; Lightning is imported after all checks have passed."""

import json
import math
import os
from pathlib import Path
from signal import Signals

import torch
from omegaconf import DictConfig

from denoiselab.assembly.configuration import plain
from denoiselab.errors import ConfigError, Interrupted
from denoiselab.progress import console
from denoiselab.runs import checkpoint, codecs, experiment, state
from denoiselab.training import faults, processes
from denoiselab.training.parts import parts
from denoiselab.training.start import Resumed, Start, resumed


def train(cfg: DictConfig, start: Start) -> float | None:
    """Train and return the headline metric. Raises ConfigError, RunError, Interrupted and BrokenRunError."""
    folder = start.folder
    _check_device(cfg.trainer.get("accelerator"))
    if cfg.data.get("root") is not None:
        cfg.data.root = os.path.abspath(cfg.data.root)  # so that evaluate.py finds it from any directory
    own = checkpoint.checkpoint_of(folder, cfg.checkpoint)
    codecs.describe(cfg, own if cfg.resume and own.exists() else None)
    if start.job and (metric := _finished(cfg, folder)) is not None:
        return metric
    if processes.rank() > 0 or processes.started_here():
        with processes.telling():
            return _train(cfg, start, resumed(cfg, folder, processes.started_here()))[0]
    going_on = resumed(cfg, folder)  # an error here leaves run.json unchanged
    with state.running(folder, experiment.identity(plain(cfg))):
        n = processes.to_start(cfg)
        if n < 2:
            metric, signal = _train(cfg, start, going_on)
        else:
            signal = processes.launch(n, plain(cfg), start)
            metric = _headline(folder)
    if signal and start.job:
        raise Interrupted(f"{signal.name}: this job had come to its end, and the sweep stops after it", 128 + signal)
    return metric


def _check_device(accelerator: str | None) -> None:
    """Raise ConfigError if the machine lacks the requested GPU."""
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if not {"gpu": cuda or mps, "cuda": cuda, "mps": mps}.get(accelerator or "auto", True):
        kind = "Apple GPU" if accelerator == "mps" else "GPU"
        raise ConfigError(f"this machine has no {kind} that torch can use; give trainer=auto or trainer=cpu")


def _headline(folder: Path) -> float:
    """Return the headline metric of a finished run, NaN if it has none."""
    metrics = json.loads((folder / "metrics.json").read_text())
    return float(metrics.get(metrics.get("headline", ""), math.nan))


def _finished(cfg: DictConfig, folder: Path) -> float | None:
    """Return the headline metric of a sweep's finished job. Raises ConfigError if its configuration has changed."""
    there = state.read(folder)
    if there.get("status") != "finished":
        return None
    if there["identity"] != experiment.identity(plain(cfg)):
        saved = checkpoint.read(checkpoint.checkpoint_of(folder, "last"))["denoiselab"]["config"]
        experiment.changes(saved, plain(cfg))
        if saved["trainer"]["max_steps"] != cfg.trainer.max_steps:
            return None  # max_steps has changed
    console.print(f"job {folder.name} is finished already", highlight=False)
    return _headline(folder)


def _train(cfg: DictConfig, start: Start, going_on: Resumed | None) -> tuple[float | None, Signals | None]:
    if going_on and processes.rank() == 0:
        message = f"resuming at step {going_on.step} of {cfg.trainer.max_steps}"
        console.print(message, *going_on.changed, sep="\n  ", highlight=False)
    with faults.told(cfg, start.folder):
        made = parts(cfg, going_on and going_on.path)

        from denoiselab.training.fit import fit  # imports Lightning, which takes seconds

        return fit(cfg, made, start, going_on)
