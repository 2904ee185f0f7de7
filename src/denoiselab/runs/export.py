"""A run in one safetensors file: averaged weights, and metadata from which the model is rebuilt.

Metadata values are strings, those that are not text as JSON.
"""

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from denoiselab.assembly.aliases import renamed
from denoiselab.errors import RunError
from denoiselab.files import replacing, short
from denoiselab.runs import trust

if TYPE_CHECKING:  # metadata are read without torch
    from denoiselab.ema import Weights

FORMAT = "1"
_MADE = "python export.py run=<a run's folder> makes one that is"
_JSON = ("config", "unresolved", "image_shape", "num_classes", "class_names", "step")
_TEXT = ("ema", "checkpoint", "code", "sha256")


def is_export(run: str | Path) -> bool:
    """Whether run=... is an exported file rather than a run folder."""
    return Path(run).suffix == ".safetensors"


def write(path: Path, weights: "Weights", facts: dict[str, Any]) -> None:
    """Write the file atomically; `facts`: as returned by `about`, without sha256. Raises RunError if writing fails."""
    from safetensors.torch import save

    weights = {name: values.detach().cpu().contiguous() for name, values in weights.items()}
    told = {key: value if key in _TEXT else json.dumps(value) for key, value in facts.items()}
    told["denoiselab"] = FORMAT
    told["sha256"] = _digest(weights, told)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_bytes(save(weights, told))
    except OSError as error:
        raise RunError(f"{path} could not be written ({error.strerror or error})") from error


def about(path: str | Path) -> dict[str, Any]:
    """Return a file's metadata: config, unresolved (as written in conf/), image_shape, num_classes, class_names, step,
    ema, checkpoint, code and sha256. Raises RunError."""
    return _parsed(Path(path), _metadata(Path(path)))


def _metadata(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise RunError(f"run={path} is no file; python export.py run=<a run's folder> makes one")
    try:
        with safe_open(path, "np") as file:
            told = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise RunError(f"{path} is damaged or no safetensors file ({short(error)})") from error
    if "denoiselab" not in told:
        raise RunError(f"{path} is not of denoiselab: its metadata say nothing of a configuration; {_MADE}")
    if told["denoiselab"] != FORMAT:
        raise RunError(f"{path} is of format {told['denoiselab']}, and this denoiselab reads {FORMAT}; {_MADE}")
    return told


def _parsed(path: Path, told: dict[str, str]) -> dict[str, Any]:
    try:
        return {key: told[key] for key in _TEXT} | {key: renamed(json.loads(told[key])) for key in _JSON}
    except (KeyError, ValueError) as error:
        raise RunError(f"{path} is damaged: its metadata are not whole ({short(error)}); {_MADE}") from error


def read(path: str | Path) -> tuple["Weights", dict[str, Any]]:
    """Return (weights, metadata). Raises RunError, also for a wrong checksum and as `trust.check` does."""
    from safetensors.torch import load_file

    raw = _metadata(Path(path))
    told = _parsed(Path(path), raw)
    trust.check(Path(path), told["config"], told["unresolved"])
    weights = load_file(path)
    if _digest(weights, raw) != told["sha256"]:
        raise RunError(f"{path} is damaged: it does not hold what was exported; export it again")
    return weights, told


def _digest(weights: "Weights", told: dict[str, str]) -> str:
    """Return the sha256 of the metadata and of the weights' names, dtypes, shapes and bits."""
    import torch

    digest = hashlib.sha256(json.dumps({k: v for k, v in told.items() if k != "sha256"}, sort_keys=True).encode())
    for name, values in sorted(weights.items()):
        digest.update(f"{name} {values.dtype} {list(values.shape)}".encode())
        digest.update(values.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()
