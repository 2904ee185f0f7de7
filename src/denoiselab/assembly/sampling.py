"""Sampling recipes from a configuration, and their options in plain values for captions and provenance."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from denoiselab import axes
from denoiselab.assembly.configuration import plain
from denoiselab.assembly.make import make
from denoiselab.axes import Role
from denoiselab.pipeline import Recipe


def recipe(cfg: DictConfig, image_shape: tuple[int, ...] | None = None) -> Recipe:
    """Build the recipe. Raises ConfigError and DataError for a mask that does not fit images of that shape."""
    inpainting = make(cfg, "inpainting") if cfg.get("inpainting") else None
    if inpainting is not None and image_shape is not None:
        inpainting.masks(image_shape)
    used = [axis for axis in axes.of(Role.SAMPLING) if axis in cfg and (axis != "inpainting" or inpainting)]
    return Recipe(
        make(cfg, "sampler"),
        make(cfg, "guidance"),
        make(cfg, "threshold") if cfg.threshold else None,
        described(cfg, used) | ({"float64": True} if cfg.get("float64") else {}),
        cfg.get("float64", False),
        inpainting,
    )


def described(cfg: DictConfig, parts: Iterable[str]) -> dict[str, Any]:
    """Describe parts in plain values for captions and metrics: {"sampler": "DDIM", "sampler.steps": 50, ...}.

    For a guide's run, this includes its checkpoint and the first 16 hexadecimal digits of that file's sha256.
    """
    found: dict[str, Any] = {}
    for axis in parts:
        part = plain(cfg[axis])
        found[axis] = str(part.pop("_target_", "none")).rpartition(".")[2]
        part.pop("_partial_", None)
        found |= {f"{axis}.{key}": value for key, value in part.items() if not isinstance(value, dict | None)}
        for key, guide in part.items():
            if (path := guide_file(guide)) is not None:
                found |= {f"{axis}.{key}.{name}": guide[name] for name in ("run", "checkpoint")}
                found[f"{axis}.{key}.weights"] = hash_of(path)[:16]
    return found


def guide_file(part: Any) -> Path | None:
    """Return the checkpoint or exported file of a guide's run; None if the part has no run."""
    if not isinstance(part, dict) or not part.get("run"):
        return None
    run = Path(part["run"])
    return run if run.is_file() else run / "checkpoints" / f"{part['checkpoint']}.ckpt"


def hash_of(path: Path) -> str:
    """Return a file's sha256, 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
