"""python export.py run=<folder>: a run's averaged weights and its configuration in one file."""

from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from denoiselab.cli import exports, run_options, runs
from denoiselab.errors import RunError
from denoiselab.progress import console


def run(cfg: DictConfig) -> None:
    """Writes model.safetensors."""
    if exports.is_export(cfg.run):
        raise RunError(f"run={cfg.run} is exported already; give the folder of its run")
    path = Path(HydraConfig.get().runtime.output_dir) / "model.safetensors"
    pipeline, _, about = runs.load(cfg.run, cfg.checkpoint, torch.device("cpu"), cfg.ema)
    weights, origin = pipeline.state_dict(), about["origin"]
    facts = {key: about[key] for key in ("config", "image_shape", "num_classes", "class_names", "step")}
    facts |= {key: origin[key] for key in ("checkpoint", "ema")} | {"code": runs.code_version()}
    facts["unresolved"] = OmegaConf.to_container(run_options.saved_config(cfg.run), resolve=False)
    before = path.exists()
    exports.write(path, weights, facts)
    if before:
        console.print("in place of an earlier export, which is gone", highlight=False)
    parameters = sum(values.numel() for values in weights.values())
    runs.conclude(f"{parameters:,} weights of step {about['step']}, {origin['ema']}", {}, [path])
