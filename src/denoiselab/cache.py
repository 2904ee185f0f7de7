"""Results computed once and kept on disk: classifiers, statistics of real images, caption states.

Concurrent jobs that need the same result wait for the one that computes it, then read it.
"""

import fcntl
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch

from denoiselab import distributed
from denoiselab.files import replacing
from denoiselab.progress import console


def cached(path: Path, make: Callable[[], Any], together: bool = False) -> Any:
    """Returns the contents of `path`, or else the result of `make`, which rank 0 stores; unreadable files are remade.

    together: all ranks take part in `make`; otherwise rank 0 does, and the others wait.
    """
    leads = distributed.rank() == 0
    known = read(path) if leads else None
    with _locked(path) if leads and known is None else nullcontext():
        if leads and known is None:
            known = read(path)  # another job may have made it meanwhile
        if distributed.gather(known is None)[0]:
            made = make() if leads or together else None
            if leads:
                with replacing(path) as temporary:
                    torch.save(made, temporary)
        distributed.barrier()
    return torch.load(path, weights_only=True) if known is None else known


def read(path: Path) -> Any:
    """Returns the contents of a torch.save file, or None if it is missing or unreadable."""
    if not path.exists():
        return None
    try:
        return torch.load(path, weights_only=True)
    except Exception as error:
        warnings.warn(f"{path} cannot be read ({type(error).__name__}) and is made anew", stacklevel=2)
        return None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Locks `path` against other processes. The lock ends with its process, however that exits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.with_name(f".{path.name}.lock")
    handle = _held(lock, path)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)  # waiting processes see that it is gone, and create another
        os.close(handle)


def _held(lock: Path, path: Path) -> int:
    waits = False
    while True:
        handle = os.open(lock, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
            if os.fstat(handle).st_ino == lock.stat().st_ino:
                return handle
        except BlockingIOError:
            console.print(f"waiting for another job to make {path.name}", highlight=False, soft_wrap=True)
            waits = True
        except FileNotFoundError:  # the job that held it has finished
            pass
        except OSError:  # no locks on this file system; writes are atomic even so
            return handle
        os.close(handle)
