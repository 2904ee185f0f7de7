"""Atomic file writes: a file is complete or absent, whatever happens."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from denoiselab.errors import RunError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`; its file replaces `path` once it is on disk, and is removed on errors.

    After a crash of the machine, the old or the new file is there, never half of one.
    """
    temporary = path.with_name(f"{path.name}.part")
    try:
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)
        _flush(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(values: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object. Raises RunError for a file without one."""
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise RunError(f"{near(path)} is damaged ({short(error)}); remove it") from error
    if not isinstance(values, dict):
        raise RunError(f"{near(path)} is damaged: it holds no JSON object; remove it")
    return values


def near(path: Path) -> str:
    """Returns a path relative to the current folder, if it is inside."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def short(error: Exception) -> str:
    """Returns another library's error on one short line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"


def step_of(path: Path) -> int | None:
    """Returns a checkpoint's step without reading its weights, or None if it is missing or damaged."""
    import torch

    with suppress(Exception):
        return int(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["global_step"])
    return None


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
