"""Status of a run: run.json in its folder, and a lock while it runs."""

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from denoiselab.errors import RunError
from denoiselab.files import replacing

NAME = "run.json"


def read(folder: Path) -> dict[str, Any]:
    """Return the contents of run.json, empty if there is none."""
    path = folder / NAME
    return json.loads(path.read_text()) if path.exists() else {}


def write(folder: Path, **facts: Any) -> None:
    """Update run.json with these facts."""
    with replacing(folder / NAME) as temporary:
        temporary.write_text(json.dumps(read(folder) | facts, indent=2) + "\n")


def check_idle(folder: Path) -> None:
    """Raise RunError if the run is in progress."""
    if (folder / ".lock").exists():
        with (folder / ".lock").open("a+") as lock:
            _take(lock, folder)


def _take(lock: IO[str], folder: Path) -> None:
    """Lock a run until the file is closed."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        there = read(folder)
        who = f"process {there.get('process')} on {there.get('host')}"
        raise RunError(f"{folder} is a run that is going on ({who}); stop that first") from error


@contextmanager
def running(folder: Path, identity: str) -> Iterator[None]:
    """Record the status "running" in run.json, and afterwards "finished", or "failed" or "interrupted" with the error.

    A killed process leaves "running" behind but not the lock, which distinguishes it from one in progress. Raises
    RunError for the latter.
    """
    with (folder / ".lock").open("a+") as lock:
        _take(lock, folder)
        os.register_at_fork(after_in_child=lock.close)  # a worker that outlives a killed run must not hold its lock
        write(folder, status="running", identity=identity, process=os.getpid(), host=socket.gethostname(), error=None)
        try:
            yield
        except BaseException as error:
            status = "interrupted" if isinstance(error, KeyboardInterrupt | SystemExit) else "failed"
            with suppress(OSError):  # on a full disk, still raise the original error
                write(folder, status=status, error=f"{type(error).__name__}: {' '.join(str(error).split())}"[:500])
            raise
        write(folder, status="finished")
