"""What is computed once for a data set and kept on disk: classifiers, reference moments."""

import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from denoiselab import distributed


def cached(path: Path, make: Callable[[], Any]) -> Any:
    """What `path` holds, or else what `make` gives, put there by rank 0. A file that cannot be read is made anew.

    Written under a temporary name and renamed: concurrent jobs find all of it or nothing.
    """
    if distributed.rank() == 0 and _read(path) is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        torch.save(make(), temporary)
        os.replace(temporary, path)
    distributed.barrier()
    return torch.load(path, weights_only=True)


def _read(path: Path) -> Any:
    if not path.exists():
        return None
    try:
        return torch.load(path, weights_only=True)
    except Exception as error:
        warnings.warn(f"{path} cannot be read ({type(error).__name__}) and is made anew", stacklevel=2)
        return None
