"""Multi-process training on one machine, started and supervised by a process that does nothing else.

Lightning's first process would rerun the command line for each of the others, under -m the whole sweep. Here each
process gets the resolved configuration and the run folder. Processes started by torchrun or srun are used as they are.
"""

import ctypes
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from denoiselab.errors import BrokenRunError, ConfigError, Interrupted, RunError, UserError

if TYPE_CHECKING:  # imports torch
    from denoiselab.training.start import Start

_RANK = ("-m", "denoiselab.training.rank")  # the program of each process
_FAILURES = "DENOISELAB_FAILURES"  # the folder to which a process started here writes its error
_STOPPED, _BROKEN = "stopped", "broken"
_PATIENCE = 10.0  # seconds that the others have to exit after one has failed


def started_here() -> bool:
    return _FAILURES in os.environ


def starter() -> str | None:
    """Return the launcher of this process, if it is one of several: "torchrun" (or compatible) or "srun"."""
    if started_here():
        return None
    if "LOCAL_RANK" in os.environ and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        return "torchrun"
    # SLURM sets SLURM_NTASKS in a batch script too, which is not a step of its job.
    if int(os.environ.get("SLURM_NTASKS", 1)) > 1 and "SLURM_STEP_ID" in os.environ:
        return "srun"
    return None


def rank() -> int:
    """Return this process's rank, before torch.distributed is initialized."""
    if started_here():
        return int(os.environ["LOCAL_RANK"])
    return int(os.environ.get({"torchrun": "RANK", "srun": "SLURM_PROCID"}.get(starter() or "", ""), 0))


def as_one_of_several(words: Sequence[str], multirun: bool) -> list[str]:
    """Return the overrides for a process started by torchrun or srun; unchanged otherwise.

    Only rank 0 saves the configuration. Raises ConfigError if each process would make a run folder of its own, named
    by its own clock.
    """
    if (by := starter()) is None:
        return list(words)
    if multirun:
        raise ConfigError(f"-m starts the processes of each job itself: leave {by} out, and give trainer.devices=...")
    if not any(word.startswith("hydra.run.dir=") for word in words):
        raise ConfigError(f"each of {by}'s processes would make a folder of its own; give hydra.run.dir=outputs/<name>")
    return [*words, "hydra.output_subdir=null"] if rank() > 0 else list(words)


def environment() -> list[Any]:
    """Return Lightning's plugin for the launcher. Raises ConfigError.

    Lightning by itself would take a SLURM batch script for a task of srun, and handle its signals amid a step.
    """
    from pytorch_lightning.plugins.environments import LightningEnvironment, SLURMEnvironment

    if starter() != "srun":
        return [] if "TORCHELASTIC_RUN_ID" in os.environ else [LightningEnvironment()]
    try:
        return [SLURMEnvironment(auto_requeue=False)]
    except RuntimeError as error:
        raise ConfigError("srun: give --ntasks-per-node, not --ntasks, so that each node has as many tasks") from error


def to_start(cfg: DictConfig) -> int:
    """Return the number of processes to start, one a device; 0 if this process trains itself.

    Raises ConfigError for processes that would each train alone in the same folder.
    """
    several = str(cfg.trainer.get("strategy")).startswith(("ddp", "fsdp"))
    if (by := starter()) is not None and not several:
        raise ConfigError(f"{by} has started several processes, of which this trainer takes one; take trainer=ddp")
    if started_here() or by is not None:
        return 0
    if cfg.trainer.get("num_nodes", 1) > 1:
        raise ConfigError(
            f"trainer.num_nodes={cfg.trainer.num_nodes} takes torchrun or srun to start the other nodes' processes; "
            "start it by one of them, or leave it out"
        )
    return count(cfg.trainer.get("devices"), str(cfg.trainer.get("accelerator")))


def count(devices: Any, accelerator: str) -> int:
    """Return the number of devices that trainer.devices selects. Raises ConfigError."""
    if isinstance(devices, str) and devices.lstrip("-").isdigit():
        devices = int(devices)
    if devices in (-1, "auto"):
        import torch

        return 1 if accelerator == "cpu" else max(1, torch.cuda.device_count())
    if isinstance(devices, int) and devices >= 1:
        return devices
    if isinstance(devices, str) and "," in devices:
        return len([part for part in devices.split(",") if part.strip()])
    if isinstance(devices, Sequence) and not isinstance(devices, str) and len(devices):
        return len(devices)
    raise ConfigError(
        f"trainer.devices={devices} makes no sense; allowed: a number, -1 for all, or a list such as [0,1]"
    )


def launch(n: int, config: dict[str, Any], start: "Start") -> signal.Signals | None:
    """Train in n processes. Returns when all have succeeded, with a signal, if any, that came too late to stop them.

    A signal goes to the first process, which stops all of them between two steps; a second Ctrl-C ends them at once.
    If one fails, the others are stopped and its error is raised: RunError for a user's error, BrokenRunError for a
    fault, Interrupted for a signal.
    """
    with tempfile.TemporaryDirectory(prefix="denoiselab-") as failures:
        environment = os.environ | {
            _FAILURES: failures,
            "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),  # this process's import path
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(_free_port()),
            "NODE_RANK": "0",
            "WORLD_SIZE": str(n),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // n))),
        }
        job = Path(failures, "job.json")
        job.write_text(json.dumps({"config": config, "start": {**start._asdict(), "folder": str(start.folder)}}))
        command = [sys.executable, *_RANK, str(job)]
        processes = [
            subprocess.Popen(
                command, env=environment | {"LOCAL_RANK": str(i)}, start_new_session=True, preexec_fn=_die_with_parent
            )
            for i in range(n)
        ]
        try:
            with _handed_on(processes[0]) as asked:
                first = _watch(processes, Path(failures), asked)
        finally:
            _end(processes)
        if first is not None:
            raise _error(first, processes[first].returncode, Path(failures), asked)
        return signal.Signals(asked[0]) if asked else None


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _die_with_parent() -> None:
    """Have the kernel kill this process with its parent, on Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


@contextmanager
def _handed_on(process: subprocess.Popen[bytes]) -> Iterator[list[int]]:
    """Forward the first SIGTERM or SIGINT to the process; yields the list of signals received."""
    came: list[int] = []

    def hand_on(number: int, frame: Any) -> None:
        came.append(number)
        if len(came) == 1:
            process.send_signal(number)

    before = {number: signal.signal(number, hand_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _watch(processes: list[subprocess.Popen[bytes]], failures: Path, asked: list[int]) -> int | None:
    """Wait until all have exited, or for _PATIENCE seconds after a failure; returns the first that failed."""
    since = 0.0
    while None in (codes := [process.poll() for process in processes]):
        if asked.count(signal.SIGINT) > 1:
            return 0
        if any(codes):
            since = since or time.monotonic()
            if time.monotonic() - since > _PATIENCE:
                break
        time.sleep(0.05)
    failed = [i for i, code in enumerate(codes) if code]
    # A killed process reports nothing; the errors that this causes in the others come later.
    return min(failed, key=lambda i: ((codes[i] or 0) > 0, _told(failures, i)[0]), default=None)


def _told(failures: Path, i: int) -> tuple[int, str, str]:
    """Return the time, kind and message of a process's reported error."""
    path = failures / f"{i}.txt"
    when, kind, words = path.read_text().split("\n", 2) if path.exists() else (sys.maxsize, "", "")
    return int(when), kind, words


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.kill()
    for process in processes:
        process.wait()


def _error(first: int, code: int, failures: Path, asked: list[int]) -> BaseException:
    _, kind, message = _told(failures, first)
    if kind == _STOPPED and (said := _told(failures, 0))[1] == _STOPPED:
        message = said[2]  # process 0 writes the checkpoint
    if asked or kind == _STOPPED:
        number = signal.Signals(asked[0]) if asked else signal.SIGTERM
        when = "stopped at once, without a checkpoint" if len(asked) > 1 else "stopped before training began"
        return Interrupted(message if kind == _STOPPED else f"{number.name}: {when}", 128 + number)
    if kind == str(UserError.status):
        return RunError(message)
    if kind == str(BrokenRunError.status):
        return BrokenRunError(message)
    if code < 0:
        name = signal.Signals(-code).name + (" (as by a system without memory left)" if code == -signal.SIGKILL else "")
        return BrokenRunError(f"process {first} was killed by {name}; the others were stopped")
    return BrokenRunError(f"process {first} failed; the others were stopped\n{message}".rstrip())


@contextmanager
def telling() -> Iterator[None]:
    """Report an error of a process started here to its supervisor, which prints it once."""
    try:
        yield
    except BaseException as error:
        if not started_here():
            raise
        if isinstance(error, Interrupted):
            kind, text = _STOPPED, str(error)
        elif isinstance(error, UserError):
            kind, text = str(error.status), str(error)
        else:
            kind, text = _BROKEN, traceback.format_exc()
        path = Path(os.environ[_FAILURES], f"{rank()}.txt")
        path.with_suffix(".part").write_text(f"{time.monotonic_ns()}\n{kind}\n{text}")
        path.with_suffix(".part").rename(path)
        sys.stdout.flush()
        os._exit(1)  # do not wait for a hanging collective
