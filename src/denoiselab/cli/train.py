"""python train.py: what is wrong is found while only torch is imported; Lightning comes when training begins."""

import os
from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from denoiselab.cli import build
from denoiselab.errors import ConfigError


def run(cfg: DictConfig) -> float | None:
    folder = Path(HydraConfig.get().runtime.output_dir)
    if (folder / "checkpoints" / "last.ckpt").exists():
        raise ConfigError(f"{folder} has a run in it already; give another hydra.run.dir")
    if cfg.trainer.get("accelerator") in ("gpu", "cuda") and not torch.cuda.is_available():
        raise ConfigError("this machine has no GPU that torch can use; take trainer=auto or trainer=cpu")
    if cfg.data.get("root") is not None:
        cfg.data.root = os.path.abspath(cfg.data.root)  # evaluate.py finds it from wherever it is called
    parts = build.parts(cfg)

    from denoiselab.cli.fit import fit

    return fit(cfg, parts, folder)
