"""Run one training with Lightning, from its parts to its final metrics."""

import logging
import os
import shlex
import time
import warnings
from functools import partial
from pathlib import Path
from signal import Signals
from typing import Any

import pytorch_lightning as pl
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from denoiselab.assembly.configuration import plain
from denoiselab.assembly.evaluation import evaluation, likelihood
from denoiselab.assembly.make import make
from denoiselab.conditioning import Wishes
from denoiselab.data import ImageDataModule
from denoiselab.errors import ConfigError, Interrupted
from denoiselab.files import step_of, write_json
from denoiselab.objectives import Autoencoding
from denoiselab.progress import console
from denoiselab.report import summary
from denoiselab.runs import experiment
from denoiselab.runs.identity import code_version
from denoiselab.training import loggers, processes
from denoiselab.training.callbacks import BitsPerDim, Evaluate, Snapshots, Stop
from denoiselab.training.callbacks.logging import log_summary
from denoiselab.training.checkpoint_io import WholeFiles
from denoiselab.training.parts import Parts
from denoiselab.training.start import Resumed, Start
from denoiselab.training.system import AutoencoderSystem, DiffusionSystem, System


def fit(
    cfg: DictConfig, parts: Parts, start: Start, resumed: Resumed | None = None
) -> tuple[float | None, Signals | None]:
    """Train and write all results to the run folder.

    Returns the headline metric, for a search, and the signal, if any, that arrived after the last step.
    """
    quiet()
    folder, group = start.folder, start.group
    system = make_system(cfg, parts)
    callbacks = {name: make(cfg, f"callbacks.{name}") for name, part in cfg.callbacks.items() if part}
    if cfg.metrics:
        own = cfg.metrics
        judge = partial(evaluation, cfg, parts.source)
        callbacks["evaluate"] = Evaluate(judge, own.n, own.every, own.seed, own.batch_size, own.max_seconds)
    if cfg.likelihood:
        callbacks["likelihood"] = BitsPerDim(likelihood(cfg, parts.source), cfg.likelihood.every)
    if system.ema.snapshot_every:
        callbacks["snapshots"] = Snapshots(system.ema.snapshot_every)
    if "checkpoint" in callbacks:  # last: a resumed run repeats nothing of the saved step
        callbacks["checkpoint"] = callbacks.pop("checkpoint")
    if resumed and resumed.wandb_group:
        group = resumed.wandb_group  # a sweep's job may be resumed on its own
    stop = Stop()
    trainer = make_trainer(cfg, folder, [*callbacks.values(), stop])
    part = batch_part(cfg.batch_size, trainer)
    if trainer.is_global_zero:  # a run killed before its first checkpoint may have logged too
        experiment.cut(folder / "metrics.csv", *((resumed.step, resumed.validated) if resumed else (-1,)))
    trainer.loggers = made = loggers.loggers(cfg, folder, "train", start.choices, group, resumed)
    system.description |= loggers.config_of(made)
    try:
        started = time.monotonic()
        if trainer.is_global_zero:
            console.print(_stated(cfg, trainer, system), highlight=False)
        data = ImageDataModule(parts.data, part, cfg.seed, cfg.num_workers)
        trainer.fit(system, datamodule=data, ckpt_path=resumed and resumed.path)
        if system.validated_at != trainer.global_step:
            trainer.validate(system, datamodule=data, verbose=False)
        seconds = time.monotonic() - started
        figure = _conclude(cfg, trainer, system, folder, {"train_seconds": round(seconds, 1), **system.losses})
    except BaseException as error:
        loggers.close(made, exit_code=1, preempted=stop.asked is not None)
        if stop.asked is not None:
            raise _interrupted(trainer, stop.asked, folder) from error
        raise
    loggers.close(made, exit_code=0)
    return figure, stop.asked


def _interrupted(trainer: pl.Trainer, asked: Signals, folder: Path) -> Interrupted:
    step, where = step_of(folder / "checkpoints" / "last.ckpt"), shlex.quote(os.path.relpath(folder))
    told = f"stopped at step {trainer.global_step}"
    if step is None or step < trainer.global_step:
        told += f", and the last checkpoint is {'none' if step is None else f'of step {step}'}"
    return Interrupted(f"{asked.name}: {told}; python train.py run={where} resume=true goes on", 128 + asked)


def make_system(cfg: DictConfig, parts: Parts) -> System:
    system = AutoencoderSystem if isinstance(parts.objective, Autoencoding) else DiffusionSystem
    return system(
        parts.pipeline,
        parts.objective,
        parts.recipe,
        make(cfg, "optimizer"),
        make(cfg, "ema"),
        cfg.seed,
        parts.source.flip,
        {
            "config": plain(cfg),
            "image_shape": list(parts.source.shape),
            "num_classes": parts.source.num_classes,
            "class_names": list(parts.source.class_names),
        },
        Wishes(parts.pipeline.conditioner, parts.source.num_classes, parts.source.test),
    )


def make_trainer(cfg: DictConfig, folder: Path, callbacks: list[pl.Callback]) -> pl.Trainer:
    """Raise ConfigError for what Lightning rejects, such as a missing device or an unknown precision."""
    try:
        return instantiate(
            cfg.trainer,
            callbacks=callbacks,
            plugins=[WholeFiles(), *processes.environment()],
            default_root_dir=str(folder),
        )
    except InstantiationException as error:
        raise ConfigError(f"trainer: {' '.join(str(error.__cause__).split())}") from error


def batch_part(batch_size: int, trainer: pl.Trainer) -> int:
    """Return the images per forward pass over all devices. Raises ConfigError if they do not divide evenly."""
    devices, parts = trainer.world_size, trainer.accumulate_grad_batches
    if rest := batch_size % (devices * parts):
        raise ConfigError(
            f"batch_size={batch_size} counts the images of a step and is no multiple of {devices} devices x "
            f"trainer.accumulate_grad_batches={parts}; take batch_size={batch_size - rest + devices * parts}"
        )
    return batch_size // parts


def _stated(cfg: DictConfig, trainer: pl.Trainer, system: System) -> str:
    """Describe a step; its batch size does not depend on the number of devices or parts."""
    devices, parts = trainer.world_size, trainer.accumulate_grad_batches
    size = f"{cfg.batch_size} images a step"
    if devices * parts > 1:
        size += f" ({devices} devices x {parts} parts x {cfg.batch_size // (devices * parts)})"
    weights = sum(p.numel() for p in system.pipeline.parameters())
    return f"{weights:,} parameters, {size}, {trainer.max_steps} steps on {trainer.strategy.root_device.type}"


def _conclude(
    cfg: DictConfig, trainer: pl.Trainer, system: System, folder: Path, logged: dict[str, Any]
) -> float | None:
    """Write metrics.json, the loggers' summary and the closing lines on the terminal."""
    if not trainer.is_global_zero:
        return None
    figures = {
        **system.figures,
        "seed": cfg.seed,
        "batch_size": cfg.batch_size,
        "devices": trainer.world_size,
        **{name: float(value) for name, value in logged.items()},
        "step": trainer.global_step,
        "parameters": sum(p.numel() for p in system.pipeline.parameters()),
        "ema": str(system.ema.profiles[0]),
        "code": code_version(),
    }
    best = system.description.get("best")
    write_json(figures | ({"best": best} if best else {}), folder / "metrics.json")
    log_summary(trainer, figures)
    if best:
        log_summary(trainer, {f"best/{best['monitor']}": best["value"], "best/step": best["step"]})
    made = (folder / "samples").glob(f"*_{trainer.global_step}.*")
    pictures = sorted((path for path in made if path.suffix in (".png", ".gif")), reverse=True)
    said = f"{trainer.global_step} steps in {figures['train_seconds']:.0f} s"
    summary.conclude(said, figures, [*pictures, folder / "metrics.json"])
    if best and best["step"] != trainer.global_step:
        told = f"checkpoint=best is of step {best['step']}: {best['monitor']} {best['value']:.4g} (n {best['n']})"
        if last := system.judged.get(best["monitor"]):
            told += f"; at step {last.step} it was {last.value:.4g}"
        console.print(told, highlight=False, soft_wrap=True)
    return system.figures.get(system.figures.get("headline", ""))


def quiet() -> None:
    """Silence Lightning's advertisements, and its advice that is wrong here."""
    logging.raiseExceptions = False  # no tracebacks from a library's log on a full disk
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*Experiment logs directory.*exists and is not empty.*",
        ".*sync_dist=True.*",
        ".*GPU available but not used.*",
        ".*`isinstance.treespec, LeafSpec.`.*",
        ".*in eval mode at the start of training.*",  # a frozen codec, on purpose
    ):
        warnings.filterwarnings("ignore", message)
