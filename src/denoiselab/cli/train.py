"""python train.py: one training run, from its configuration to its figures."""

import logging
import time
import warnings
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig

from denoiselab.callbacks import Evaluate
from denoiselab.callbacks.logging import log_summary
from denoiselab.cli import build, loggers, runs
from denoiselab.data import ImageDataModule
from denoiselab.data.source import Source
from denoiselab.errors import ConfigError
from denoiselab.metrics import Evaluation
from denoiselab.progress import console
from denoiselab.system import DiffusionSystem


def run(cfg: DictConfig) -> float | None:
    """Trains, leaves pictures, figures and checkpoints in the run's folder, and returns the FID for a search."""
    _quiet()
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    if (folder / "checkpoints" / "last.ckpt").exists():
        raise ConfigError(f"{folder} has a finished run in it; give another hydra.run.dir")
    source = build.source(cfg)
    system = make_system(cfg, source)
    callbacks = {name: instantiate(part) for name, part in cfg.callbacks.items()}
    if cfg.metrics:
        callbacks = _with_evaluation(callbacks, cfg, source)
    choices = {k: v for k, v in hydra.runtime.choices.items() if v is not None and "/" not in k and "@" not in k}
    group = Path(hydra.sweep.dir).name if hydra.mode == RunMode.MULTIRUN else choices["experiment"]
    made = loggers.loggers(cfg, folder, "train", choices, group)
    system.description |= loggers.config_of(made)
    try:
        started = time.monotonic()
        trainer = make_trainer(cfg, folder, list(callbacks.values()), made)
        data = ImageDataModule(source, cfg.batch_size, cfg.seed, cfg.num_workers)
        trainer.fit(system, datamodule=data)
        return _conclude(cfg, trainer, system, folder, time.monotonic() - started)
    finally:
        loggers.close(made)


def make_system(cfg: DictConfig, source: Source) -> DiffusionSystem:
    """All that is trained, built from the configuration; combinations without meaning are refused here."""
    pipeline = build.pipeline(cfg, source.shape, source.num_classes)
    if "dim" in cfg.conditioning and source.num_classes < 1:
        raise ConfigError(
            f"conditioning=class needs labels, and data={source.name} has none: a sub-folder for each class would give "
            "them; or take conditioning=none guidance=none metrics=none"
        )
    about = {
        "config": build.plain(cfg),
        "image_shape": list(source.shape),
        "num_classes": source.num_classes,
        "class_names": list(source.class_names),
    }
    return DiffusionSystem(
        pipeline,
        build.objective(cfg, pipeline.denoiser),
        build.recipe(cfg),
        instantiate(cfg.optimizer, _convert_="all"),
        instantiate(cfg.ema),
        cfg.seed,
        source.flip,
        about,
    )


def make_trainer(cfg: DictConfig, folder: Path, callbacks: list[pl.Callback], made: list[Any]) -> pl.Trainer:
    return instantiate(
        cfg.trainer,
        callbacks=callbacks,
        logger=made,
        default_root_dir=str(folder),
        max_epochs=-1,  # the stream of batches never ends; max_steps does
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        inference_mode=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _with_evaluation(callbacks: dict[str, pl.Callback], cfg: DictConfig, source: Source) -> dict[str, pl.Callback]:
    """The evaluation goes before the checkpoint, which judges by its figures."""

    def make() -> Evaluation:
        return Evaluation(source, instantiate(cfg.metrics.extractor)(source), cfg.cache)

    evaluate = Evaluate(make, cfg.metrics.n, cfg.metrics.every, cfg.metrics.seed, cfg.metrics.batch_size)
    checkpoint = callbacks.pop("checkpoint", None)
    return callbacks | {"evaluate": evaluate} | ({"checkpoint": checkpoint} if checkpoint else {})


def _conclude(
    cfg: DictConfig, trainer: pl.Trainer, system: DiffusionSystem, folder: Path, seconds: float
) -> float | None:
    """metrics.json, the loggers' summary, and the last words on the terminal."""
    if not trainer.is_global_zero:
        return None
    logged = {name: float(value) for name, value in trainer.callback_metrics.items()}
    figures = {
        **system.figures,
        "seed": cfg.seed,
        **logged,
        "step": trainer.global_step,
        "parameters": sum(p.numel() for p in system.pipeline.parameters()),
        "ema_decay": system.ema.decay,
        "code": runs.code_version(),
        "train_seconds": round(seconds, 1),
    }
    runs.write_json(figures, folder / "metrics.json")
    log_summary(trainer, figures)
    console.print(_last_words(figures, folder), highlight=False, soft_wrap=True)
    return system.figures.get("fid")


def _last_words(figures: dict[str, Any], folder: Path) -> str:
    lines = [f"{figures['step']} steps in {figures['train_seconds']:.0f} s"]
    if "fid" in figures:
        floor, seen = f"real test images {figures['floor']:.2f}", f"n {figures['n']}, {figures['extractor']}"
        lines.append(f"FID {figures['fid']:.2f}, {floor} ({seen})")
    if "class_accuracy" in figures:
        lines.append(f"{figures['class_accuracy']:.1%} are named as the class asked for by {figures['extractor']}")
    pictures = sorted((folder / "samples").glob(f"*_{figures['step']}.png"), reverse=True)
    return "\n".join([*lines, *map(str, [*pictures, folder / "metrics.json"])])


def _quiet() -> None:
    """Lightning's advertisements and advice that is wrong here."""
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*Experiment logs directory.*exists and is not empty.*",
        ".*sync_dist=True.*",
        ".*GPU available but not used.*",
        ".*`isinstance.treespec, LeafSpec.`.*",
    ):
        warnings.filterwarnings("ignore", message)
