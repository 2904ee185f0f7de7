"""Files that are whole or not there, whatever happens while they are written."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from denoiselab.errors import RunError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`, whose file takes its place when it is on the disk; gone if anything fails.

    After a crash of the machine there is the old file or the new one, never half of either.
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
    """Raises RunError for a file that holds no JSON object."""
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise RunError(f"{near(path)} is damaged ({short(error)}); remove it") from error
    if not isinstance(values, dict):
        raise RunError(f"{near(path)} is damaged: it holds no JSON object; remove it")
    return values


def near(path: Path) -> str:
    """A path as one would type it here."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def short(error: Exception) -> str:
    """An error of another library in a few words."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"


def step_of(path: Path) -> int | None:
    """The step of a checkpoint, without reading its weights; None where there is none, or a damaged one."""
    import torch

    with suppress(Exception):
        return int(torch.load(path, map_location="cpu", weights_only=True, mmap=True)["global_step"])
    return None


def _flush(path: Path) -> None:
    """Has the system write a file's contents, or a folder's entries, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
