"""Check of the `_target_`s that an exported file's configuration calls: only parts of a model are allowed."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hydra.utils import get_object

from denoiselab import axes
from denoiselab.assembly.aliases import target as present
from denoiselab.axes import Role
from denoiselab.errors import RunError

# Packages of the parts: our configurations call nothing else to build a model and sample from it.
_PARTS = (
    *("codecs", "conditioning", "backbones", "schedules", "parameterizations", "data", "spacings", "samplers"),
    *("thresholding", "guidance", "inpainting", "runs.guides"),
)
_HOMES = tuple(f"denoiselab.{part}" for part in _PARTS)


def check(path: Path, config: dict[str, Any], unresolved: dict[str, Any]) -> None:
    """Raise RunError if a file's configuration calls anything but parts to build its model and sample from it."""
    if "${" in json.dumps(config):
        raise RunError(f"{path} is damaged: its configuration is not resolved; do not trust this file")
    for target in {*_targets(config), *_targets(unresolved)}:
        if not _is_part(target, path):
            raise RunError(f"{path} wants {target} called, which is no part of a model; do not trust this file")


def _targets(config: dict[str, Any]) -> Iterator[str]:
    waiting = [config.get(axis) for axis in axes.of(Role.MODEL, Role.SAMPLING)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            waiting += node.values()
            if "_target_" in node:
                yield present(str(node["_target_"]))
        elif isinstance(node, list):
            waiting += node


def _is_part(target: str, path: Path) -> bool:
    """Whether the target is one of our parts, or derived from one or from torch.nn."""
    try:
        found = get_object(target)
    except Exception as error:
        raise RunError(f"{path} needs {target}, which is not here; put its module beside train.py") from error
    homes = {kind.__module__ for kind in getattr(found, "__mro__", [found])}
    return any(home == part or home.startswith(f"{part}.") for home in homes for part in (*_HOMES, "torch.nn"))
