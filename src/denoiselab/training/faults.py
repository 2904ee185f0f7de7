"""One-line errors for system faults: out of memory, disk full, folder not writable."""

import errno
import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hydra.errors import InstantiationException
from omegaconf import DictConfig, OmegaConf

from denoiselab.errors import BrokenRunError, RunError, UserError

_NO_MEMORY = ("DefaultCPUAllocator", "not enough memory", "can't allocate memory", "out of memory", "bad_alloc")
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_PLACE = (errno.ENOTDIR, errno.EEXIST, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG)


@contextmanager
def told(cfg: DictConfig | None = None, folder: Path | None = None) -> Iterator[None]:
    """Turn a system fault inside the context into a one-line error. `cfg` and `folder`: of a training, if it is one."""
    try:
        yield
    except (MemoryError, OSError, RuntimeError, InstantiationException) as error:
        line = _line(error, cfg, folder)
        if line is None:
            raise
        raise line from error


def _line(error: BaseException, cfg: DictConfig | None, folder: Path | None) -> UserError | None:
    if isinstance(error, InstantiationException):  # Hydra's wrapper around a part's own error
        return _line(error.__cause__, cfg, folder) if error.__cause__ else None
    code = error.errno if isinstance(error, OSError) else None
    if code in _NO_ROOM or code in _NO_PLACE:
        assert isinstance(error, OSError)
        what = f"{error.filename or (f'a file in {folder}' if folder else 'a file')} could not be written"
        what += f" ({error.strerror})"
        if code in _NO_PLACE:
            return RunError(f"{what}; give a folder that can be, as in hydra.run.dir=outputs/mine")
        if folder is None:
            return BrokenRunError(f"{what}; make room and start it again")
        return BrokenRunError(f"{what}; make room, then run={os.path.relpath(folder)} resume=true goes on")
    if isinstance(error, MemoryError) or code == errno.ENOMEM or any(words in str(error) for words in _NO_MEMORY):
        return BrokenRunError(f"out of memory{'; take a smaller batch_size' if cfg is None else _less(error, cfg)}")
    return None


def _less(error: BaseException, cfg: DictConfig) -> str:
    """Say where in a training memory ran out, and which option to lower."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    inside = {type(frame.f_locals.get("self")).__name__ for frame in frames}
    for name, key in _beside(cfg).items():
        if name in inside:
            size = OmegaConf.select(cfg, key)
            return f" in {name}, which stands beside the training; {key}={size} is too much, take {max(1, size // 2)}"
    if not any(frame.f_code.co_name == "fit" for frame in frames):
        return " while the network was made; take a smaller backbone"

    from denoiselab import distributed

    devices, parts = distributed.world_size(), cfg.trainer.accumulate_grad_batches
    size = cfg.batch_size // (devices * parts)
    what = (
        f" with {size} images at once on each of {devices} devices" if devices > 1 else f" with {size} images at once"
    )
    fewer = next((k for k in range(2, size + 1) if size % k == 0), None)
    if fewer is None:
        return f"{what}; take a smaller backbone, or trainer.precision=bf16-mixed"
    return (
        f"{what}; trainer.accumulate_grad_batches={parts * fewer} computes {size // fewer} at once, and a step is of "
        f"batch_size={cfg.batch_size} images as before"
    )


def _beside(cfg: DictConfig) -> dict[str, str]:
    """Return the callbacks that compute beside the training, each with the key of its batch size."""
    own = {part._target_.rpartition(".")[2]: (name, part) for name, part in cfg.callbacks.items() if part}
    keys = {
        kind: f"callbacks.{name}.{'batch_size' if 'batch_size' in part else 'n'}" for kind, (name, part) in own.items()
    }
    keys = {kind: key for kind, key in keys.items() if OmegaConf.select(cfg, key) is not None}
    return keys | {"Evaluate": "metrics.batch_size", "BitsPerDim": "likelihood.batch_size"}
