"""python export.py run=<folder>: write a run's averaged weights and configuration to one file."""

import torch
from omegaconf import DictConfig, OmegaConf

from denoiselab.cli.application import Job
from denoiselab.errors import RunError
from denoiselab.progress import console
from denoiselab.report import summary
from denoiselab.runs import export
from denoiselab.runs.configuration import saved_config
from denoiselab.runs.identity import code_version
from denoiselab.runs.load import open_run


def run(cfg: DictConfig, job: Job) -> None:
    """Write model.safetensors."""
    if export.is_export(cfg.run):
        raise RunError(f"run={cfg.run} is an exported file already; give the folder of its run")
    path = job.folder / "model.safetensors"
    pipeline, _, about = open_run(cfg.run, cfg.checkpoint, torch.device("cpu"), cfg.ema)
    weights, origin = pipeline.state_dict(), about["origin"]
    facts = {key: about[key] for key in ("config", "image_shape", "num_classes", "class_names", "step")}
    facts |= {key: origin[key] for key in ("checkpoint", "ema")} | {"code": code_version()}
    facts["unresolved"] = OmegaConf.to_container(saved_config(cfg.run), resolve=False)
    before = path.exists()
    export.write(path, weights, facts)
    if before:
        console.print("replaces an earlier export", highlight=False)
    parameters = sum(values.numel() for values in weights.values())
    summary.conclude(f"{parameters:,} weights of step {about['step']}, {origin['ema']}", {}, [path])
