"""Files that are whole or not there, whatever happens while they are written."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


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
