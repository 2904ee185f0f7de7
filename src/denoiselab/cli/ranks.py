"""Several processes on this machine for one training, started and watched over by one that does nothing else.

Lightning would have its first process run the command line again for each of the others: under -m that is the whole
sweep, in each of them. Here every process is handed one job's words and folder. torchrun and srun start the processes
themselves, and are left to do so.
"""

import ctypes
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
from typing import Any

from omegaconf import DictConfig

from denoiselab.errors import BrokenRunError, ConfigError, Interrupted, RunError, UserError

COMMAND = Path(__file__).resolve().parents[3] / "train.py"  # a launcher's process has another sys.argv
_FAILURES = "DENOISELAB_FAILURES"  # the folder in which a process that was started here says why it failed
_STOPPED = "stopped"
_PATIENCE = 10.0  # seconds that the others have for ending by themselves when one has failed


def started_here() -> bool:
    return _FAILURES in os.environ


def _started_elsewhere() -> bool:
    """By torchrun or srun."""
    return "TORCHELASTIC_RUN_ID" in os.environ or (
        int(os.environ.get("SLURM_NTASKS", 1)) > 1 and "SLURM_PROCID" in os.environ
    )


def rank() -> int:
    """This process's number among those of the training, before torch knows."""
    return int(next((os.environ[key] for key in ("RANK", "LOCAL_RANK", "SLURM_PROCID") if key in os.environ), 0))


def to_start(cfg: DictConfig) -> int:
    """How many processes this one has to start: those of several devices; 0 where it trains itself."""
    strategy = str(cfg.trainer.get("strategy"))
    if started_here() or _started_elsewhere() or not strategy.startswith(("ddp", "fsdp")):
        return 0
    return count(cfg.trainer.get("devices"), str(cfg.trainer.get("accelerator")))


def count(devices: Any, accelerator: str) -> int:
    """The number of devices that trainer.devices means. Raises ConfigError."""
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


def launch(n: int, words: Sequence[str], folder: Path) -> None:
    """Trains in n processes with these overrides. Returns when all have ended well.

    A signal goes to the first process, which stops all of them between two steps. When one fails the others are
    stopped, and its error is raised: RunError for a slip, BrokenRunError for what broke, Interrupted for a signal.
    """
    with tempfile.TemporaryDirectory(prefix="denoiselab-") as failures:
        environment = os.environ | {
            _FAILURES: failures,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(_free_port()),
            "NODE_RANK": "0",
            "WORLD_SIZE": str(n),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // n))),
        }
        command = [sys.executable, str(COMMAND), *words]
        command += [f"hydra.run.dir='{folder}'", "hydra.mode=RUN", "hydra.output_subdir=null"]
        processes = [
            subprocess.Popen(
                command, env=environment | {"LOCAL_RANK": str(i)}, start_new_session=True, preexec_fn=_die_with_parent
            )
            for i in range(n)
        ]
        try:
            with _handed_on(processes[0]) as asked:
                first = _watch(processes)
        finally:
            _end(processes)
        if first is not None:
            raise _error(first, processes[first].returncode, Path(failures), asked)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _die_with_parent() -> None:
    """On Linux, so that no process is left behind when this one is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


@contextmanager
def _handed_on(process: subprocess.Popen[bytes]) -> Iterator[list[int]]:
    """Inside, SIGTERM and SIGINT go to the process; yields those that came."""
    came: list[int] = []

    def hand_on(number: int, frame: Any) -> None:
        came.append(number)
        process.send_signal(number)

    before = {number: signal.signal(number, hand_on) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _watch(processes: list[subprocess.Popen[bytes]]) -> int | None:
    """Waits until all have ended, or for some time after one has failed; the first that failed."""
    first, since = None, 0.0
    while None in (codes := [process.poll() for process in processes]):
        failed = [i for i, code in enumerate(codes) if code]
        if failed and first is None:
            # One that was killed has no say; what the others make of its silence comes later.
            first, since = min(failed, key=lambda i: ((codes[i] or 0) > 0, i)), time.monotonic()
        if first is not None and time.monotonic() - since > _PATIENCE:
            break
        time.sleep(0.05)
    failed = [i for i, code in enumerate(codes) if code]
    return first if first is not None else min(failed, default=None)


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.kill()
    for process in processes:
        process.wait()


def _error(first: int, code: int, failures: Path, asked: list[int]) -> BaseException:
    """What the first process that failed has died of."""
    told = failures / f"{first}.txt"
    status, _, message = told.read_text().partition("\n") if told.exists() else ("", "", "")
    if asked or status == _STOPPED:
        number = signal.Signals(asked[0]) if asked else signal.SIGTERM
        return Interrupted(message or f"{number.name}: stopped before training began", 128 + number)
    if status == str(UserError.status):
        return RunError(message)
    if code < 0:
        return BrokenRunError(f"process {first} was killed by {signal.Signals(-code).name}; the others were stopped")
    return BrokenRunError(f"process {first} failed; the others were stopped\n{message}".rstrip())


@contextmanager
def telling() -> Iterator[None]:
    """In a process that was started here, an error goes to the one that watches, which tells it once for all."""
    try:
        yield
    except BaseException as error:
        if not started_here():
            raise
        if isinstance(error, Interrupted):
            status, text = _STOPPED, str(error)
        elif isinstance(error, UserError):
            status, text = str(error.status), str(error)
        else:
            status, text = "1", traceback.format_exc()
        Path(os.environ[_FAILURES], f"{rank()}.txt").write_text(f"{status}\n{text}")
        sys.stdout.flush()
        os._exit(1)  # nothing that hangs in a collective is waited for
