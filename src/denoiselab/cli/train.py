"""python train.py: what is wrong is found while only torch is imported; Lightning comes when training begins."""

import os
from pathlib import Path
from typing import NamedTuple

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from denoiselab.cli import build, resume, runs, state
from denoiselab.errors import ConfigError, RunError
from denoiselab.progress import console


class Resumed(NamedTuple):
    """The checkpoint that a run goes on from."""

    path: Path
    step: int
    wandb_id: str | None


def run(cfg: DictConfig) -> float | None:
    folder = Path(HydraConfig.get().runtime.output_dir)
    if cfg.trainer.get("accelerator") in ("gpu", "cuda") and not torch.cuda.is_available():
        raise ConfigError("this machine has no GPU that torch can use; take trainer=auto or trainer=cpu")
    if cfg.data.get("root") is not None:
        cfg.data.root = os.path.abspath(cfg.data.root)  # evaluate.py finds it from wherever it is called
    with state.running(folder, resume.identity(build.plain(cfg))):
        resumed = _resumed(cfg, folder)
        parts = build.parts(cfg)

        from denoiselab.cli.fit import fit

        return fit(cfg, parts, folder, resumed)


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
        raise RunError(f"{folder} has done its {step} steps; for more take trainer.max_steps={2 * step}")
    if int(os.environ.get("LOCAL_RANK", 0)) == 0:
        console.print(f"going on at step {step} of {cfg.trainer.max_steps}", *changed, sep="\n  ", highlight=False)
    return Resumed(path, step, about.get("wandb_id"))
