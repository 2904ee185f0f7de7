"""Identity of an evaluation, a hash of all that determines its metrics: equal identities have equal metrics.

It covers the resolved configuration except where and how it runs, the weights, the data, the feature extractor and the
code itself, so that changed code never reuses old metrics.
"""

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

import denoiselab
from denoiselab import axes
from denoiselab.assembly.configuration import plain
from denoiselab.assembly.rules.rule import conditions
from denoiselab.assembly.sampling import guide_file, hash_of
from denoiselab.axes import Role, role
from denoiselab.data.source import Source
from denoiselab.nested import leaves
from denoiselab.pipeline import Pipeline

PACKAGE = Path(denoiselab.__file__).parent


@cache
def source() -> str:
    """Hash the package's own source files: 12 hexadecimal digits."""
    return _hash({str(path.relative_to(PACKAGE)): path.read_bytes() for path in sorted(PACKAGE.rglob("*.py"))})


def code_version() -> str:
    """Return the package's version, with the commit if the code is in a git checkout."""
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=PACKAGE, capture_output=True, text=True, check=False
    )
    return denoiselab.__version__ + (f"+{git.stdout.strip()}" if git.returncode == 0 else "")


def identity(
    cfg: DictConfig, trained: DictConfig, pipeline: Pipeline, data: Source, looked_through: str, about: dict[str, Any]
) -> str:
    """Hash an evaluation: 12 hexadecimal digits. `looked_through`: the digest of the extractor's weights, or empty.

    `trained`: the configuration that the pipeline was built from. `about`: its checkpoint's step and average.
    """
    now, model = plain(cfg), plain(trained)
    told = {key: repr(value) for key, value in _leaves(now)}
    told |= {
        f"trained.{key}": repr(value)
        for key, value in _leaves({k: model[k] for k in axes.of(Role.MODEL) if k in model})
    }
    files = [path for path in map(guide_file, now["guidance"].values()) if path is not None]
    parts = [now.get("inpainting"), *conditions(trained)]
    files += [Path(part["mask"]) for part in parts if part and Path(str(part.get("mask"))).is_file()]
    told |= {f"file {path}": hash_of(path) for path in files}
    targets = {value for config in (now, model) for key, value in _leaves(config) if key.endswith("_target_")}
    own = sorted({file for file in map(_own_file, targets) if file is not None})
    told |= {
        "step": repr((about.get("step"), about.get("ema"))),
        "weights": _of_weights(pipeline),
        "conditioner": str(pipeline.conditioner),  # names a frozen encoder, which is in no checkpoint
        "data": data.fingerprint,
        "extractor": looked_through,
        "source": source(),
        "torch": torch.__version__,
        "own": _hash({f"{index} {path.name}": path.read_bytes() for index, path in enumerate(own)}),
    }
    return _hash({"told": json.dumps(told, sort_keys=True).encode()})


def _leaves(config: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the options that determine metrics: not running options, nor paths of files hashed by content."""
    for key, value in leaves(config):
        files = key.startswith(("metrics.", "extractor.")) and key.endswith((".cache", ".weights"))
        named = files or axes.within(key, axes.WEIGHTS)
        if not named and role(key) is not Role.RUNNING:
            yield key, value


def _of_weights(pipeline: Pipeline) -> str:
    """Hash a pipeline's state, also an exact denoiser's, which is empty or the data."""
    digest = hashlib.sha256()
    for name, values in sorted(pipeline.state_dict().items()):
        digest.update(f"{name} {values.dtype} {list(values.shape)}".encode())
        digest.update(values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _own_file(target: str) -> Path | None:
    """Return the file that defines a `_target_` if it is the user's own, not this package's or a library's."""
    parts = target.split(".")
    for end in range(len(parts), 0, -1):
        module = sys.modules.get(".".join(parts[:end]))
        if module is not None:
            file = Path(getattr(module, "__file__", None) or sys.executable)
            library = PACKAGE in file.parents or {"site-packages", "dist-packages"} & set(file.parts)
            return file if file.suffix == ".py" and not library else None
    return None


def _hash(contents: dict[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name, content in contents.items():
        digest.update(f"{name} {len(content)}\n".encode())
        digest.update(content)
    return digest.hexdigest()[:12]
