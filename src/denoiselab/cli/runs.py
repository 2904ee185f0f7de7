"""Runs on disk: what is written into a run's folder, and a run read back from it."""

import json
import os
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

import denoiselab
from denoiselab.cli import build
from denoiselab.errors import RunError
from denoiselab.pipeline import Pipeline
from denoiselab.progress import console


def code_version() -> str:
    """The package's version, and the commit where the code is a git checkout."""
    here = Path(__file__).parent
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True, check=False
    )
    return denoiselab.__version__ + (f"+{git.stdout.strip()}" if git.returncode == 0 else "")


def write_json(values: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(values, indent=2) + "\n")
    temporary.replace(path)


def conclude(said: str, figures: dict[str, Any], files: Iterable[Path]) -> None:
    """The last words on the terminal: what was done, the figures that a person looks for, and where the rest lies."""
    lines = [said] if said else []
    if "fid" in figures:
        few = "" if figures["floor_n"] == figures["n"] else f" at n {figures['floor_n']}, not to be compared"
        floor, seen = f"real test images {figures['floor']:.2f}{few}", f"n {figures['n']}, {figures['extractor']}"
        lines.append(f"FID {figures['fid']:.2f}, {floor} ({seen})")
    if "class_accuracy" in figures:
        lines.append(f"{figures['class_accuracy']:.1%} are named as the class asked for by {figures['extractor']}")
    console.print("\n".join([*lines, *map(os.path.relpath, files)]), highlight=False, soft_wrap=True)


def device(name: str) -> torch.device:
    """Raises RunError for one that is not there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, here in there.items() if here))
    if not there[name]:
        raise RunError(f"device={name} is not on this machine; there is {' and '.join(k for k in there if there[k])}")
    return torch.device(name)


def load(folder: str, checkpoint: str, on: torch.device) -> tuple[Pipeline, DictConfig, dict[str, Any]]:
    """A run's pipeline with its averaged weights, its configuration, and what its checkpoint says of itself.

    The configuration is that in the checkpoint: the run as it was, whatever has become of conf/. Raises RunError.
    """
    path = Path(folder) / "checkpoints" / f"{checkpoint}.ckpt"
    if not path.exists():
        others = sorted(p.stem for p in path.parent.glob("*.ckpt"))
        hint = f"there is checkpoint={others[0]}" if others else "it was stopped before it saved one"
        raise RunError(f"run={folder} has no checkpoint {path.name}; {hint}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        about, weights = state["denoiselab"], state["ema"]["weights"]
        cfg = OmegaConf.create(about["config"])
        pipeline = build.pipeline(cfg, tuple(about["image_shape"]), about["num_classes"])
        pipeline.load_state_dict(weights)
    except Exception as error:
        reason = " ".join(str(error).split())[:120]
        raise RunError(
            f"{path} is damaged or of another version of denoiselab ({type(error).__name__}: {reason})"
        ) from error
    return pipeline.to(on).eval(), cfg, about | {"step": state["global_step"]}
