"""python -m denoiselab.tools.selftest resume [how=sigterm|sigkill|stop] [overrides]: test that resuming is exact.

Trains once without and once with an interruption, running train.py in subprocesses, and compares the two last
checkpoints and the two logs bit by bit.
"""

import csv
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from omegaconf import OmegaConf
from torch import Tensor

from denoiselab.assembly.configuration import CONF
from denoiselab.errors import BrokenRunError, ConfigError, UserError
from denoiselab.overrides import pair
from denoiselab.runs.checkpoint import read

SIGNALS = {"sigterm": signal.SIGTERM, "sigkill": signal.SIGKILL}
PARTS = {"state_dict": "weights", "ema": "averages", "optimizer_states": "optimizer"}
# Describes the run and counts its ends and validations, of which an interrupted run has one more.
APART = (
    "denoiselab",
    "pytorch-lightning_version",
    "epoch",
    "loops.validate_loop",
    "loops.fit_loop.epoch_progress",
    "loops.fit_loop.epoch_loop.state_dict",
    "loops.fit_loop.epoch_loop.val_loop",
    "callbacks.Evaluate.seconds",
)
CLOCK = ("train/images_per_second", "seconds")


class Difference(NamedTuple):
    """The first difference, with its key and description."""

    key: str
    how: str

    def __str__(self) -> str:
        return f"{self.key}: {self.how}"


def resume(words: Sequence[str]) -> str:
    """Describe what is equal. Raises BrokenRunError with the first differing tensor and metric."""
    how, words = _how(words)
    words, steps = _quick(words)
    place = Path(tempfile.mkdtemp(prefix="denoiselab-selftest-"))
    found: list[Difference] = []
    try:
        folders = _runs(how, words, steps, place)
        states = [read(folder / "checkpoints" / "last.ckpt") for folder in folders]
        logs = [figures(folder / "metrics.csv") for folder in folders]
        found = [difference for difference in (compared(*states), compared_logs(*logs)) if difference]
    finally:
        if not found:
            shutil.rmtree(place)
    if found:
        raise BrokenRunError("\n".join(["not equal:", *(f"  {d}" for d in found), f"  both runs lie in {place}"]))
    return _equal(states[0], logs[0])


def _runs(how: str, words: Sequence[str], steps: int, place: Path) -> tuple[Path, Path]:
    """Folders of the uninterrupted and the interrupted run. Raises UserError if train.py refuses."""
    whole, parted = place / "whole", place / "parted"
    with _telling(f"{steps} steps in one go"):
        train([*words, f"hydra.run.dir={whole}"])
    decay = OmegaConf.select(OmegaConf.load(whole / ".hydra" / "config.yaml"), "optimizer.decay")
    if how == "stop" and decay != "constant":
        raise ConfigError(
            f"how=stop goes on with another trainer.max_steps, by which optimizer.decay={decay} sets the learning "
            "rate; add optimizer.decay=constant, or take how=sigterm"
        )
    with _telling(f"the same in another folder, ended by {how}"):
        if how == "stop":
            train([*words, f"trainer.max_steps={steps // 2}", f"hydra.run.dir={parted}"])
        else:
            stopped([*words, f"hydra.run.dir={parted}"], parted, SIGNALS[how])
    at = read(parted / "checkpoints" / "last.ckpt")["global_step"]
    with _telling(f"going on from step {at}"):
        train([f"run={parted}", "resume=true", f"trainer.max_steps={steps}"])
    return whole, parted


def _how(words: Sequence[str]) -> tuple[str, list[str]]:
    """Return how to end the first part, and the remaining overrides. Raises ConfigError for unknown values."""
    told = dict(map(pair, words)).get("how", "sigterm")
    if told not in (*SIGNALS, "stop"):
        raise ConfigError(f"how={told} is not known; allowed: sigterm, sigkill or stop, which ends it by max_steps")
    return told, [word for word in words if pair(word)[0] != "how"]


def _quick(words: Sequence[str]) -> tuple[list[str], int]:
    """Add overrides that shorten the test, unless given; also return the number of steps."""
    own = dict(map(pair, words))
    steps = own.get("trainer.max_steps", "20")
    if not steps.isdigit() or int(steps) < 4:
        raise ConfigError(f"trainer.max_steps={steps} cannot be done in two parts; take 4 or more")
    short = {
        "trainer.max_steps": steps,
        "trainer.log_every_n_steps": 1,
        "trainer.val_check_interval": int(steps) // 2,
        "callbacks.checkpoint.every_n_train_steps": int(steps) // 4,
        "metrics": "none",
        "likelihood": "none",
        "logger": "csv",
    }
    return [*words, *(f"{key}={value}" for key, value in short.items() if key not in own)], int(steps)


class _telling:
    """Print the current task and its duration."""

    def __init__(self, what: str) -> None:
        self.what = what

    def __enter__(self) -> None:
        self.started = time.monotonic()
        print(f"{self.what} ...", end=" ", flush=True)

    def __exit__(self, error: type[BaseException] | None, *_: Any) -> None:
        print("failed" if error else f"{time.monotonic() - self.started:.0f} s", flush=True)


def train(words: Sequence[str]) -> None:
    """Run train.py. Raises UserError with its message if it fails."""
    done = subprocess.run(_command(words), capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(done.stderr.strip() or f"train.py ended with status {done.returncode}")


def stopped(words: Sequence[str], folder: Path, number: signal.Signals) -> int:
    """Train until a new checkpoint appears, then send the signal; return the exit status, negative for a signal.

    Raises UserError if the signal came too late.
    """
    path = folder / "checkpoints" / "last.ckpt"
    before = _written(path)
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(_command(words), stdout=said, stderr=said)
        while process.poll() is None and _written(path) == before:
            time.sleep(0.001)
        process.send_signal(number)
        status = process.wait()
        if status not in (-number, 128 + number):
            said.seek(0)
            raise UserError(
                f"train.py had ended with status {status} before {number.name} came; take more steps, "
                f"trainer.max_steps=...\n{said.read()[-2000:]}".rstrip()
            )
        return status


def _written(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def _command(words: Sequence[str]) -> list[str]:
    return [sys.executable, str(CONF.parent / "train.py"), *words]


def leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every tensor and plain value of a checkpoint that affects resuming, with its key."""
    if any(key == part or key.startswith(f"{part}.") for part in APART):
        return
    if isinstance(value, dict):
        items = [(str(name), item) for name, item in value.items()]
    elif isinstance(value, list | tuple):
        items = [(str(place), item) for place, item in enumerate(value)]
    else:
        yield key, value
        return
    for name, item in items:
        yield from leaves(item, f"{key}.{name}" if key else name)


def compared(one: dict[str, Any], other: dict[str, Any]) -> Difference | None:
    """The first tensor or value of two checkpoints that differs in any bit; None if they are equal."""
    mine, theirs = dict(leaves(one)), dict(leaves(other))
    for key in [*mine, *(key for key in theirs if key not in mine)]:
        if key not in mine or key not in theirs:
            return Difference(key, f"is in the {'first' if key in mine else 'second'} checkpoint alone")
        if how := _difference(mine[key], theirs[key]):
            return Difference(key, how)
    return None


def _difference(one: Any, other: Any) -> str | None:
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return None if repr(one) == repr(other) else f"{one!r} and {other!r}"
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return " and ".join(f"{tensor.dtype} {tuple(tensor.shape)}" for tensor in (one, other))
    bits = [tensor.contiguous().view(-1).view(torch.uint8).view(-1, tensor.itemsize) for tensor in (one, other)]
    count = int((bits[0] != bits[1]).any(1).sum())
    if not count:
        return None
    return (
        f"{count} of {one.numel()} elements differ, by {float((one.double() - other.double()).abs().max()):.3g} at most"
    )


def figures(table: Path) -> dict[tuple[int, str], list[str]]:
    """Map (step, name) to the values in metrics.csv, one per row, without timings."""
    found: dict[tuple[int, str], list[str]] = {}
    with table.open(newline="") as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if value and name != "step" and not name.endswith(CLOCK):
                    found.setdefault((int(row["step"]), name), []).append(value)
    return dict(sorted(found.items()))


def compared_logs(one: dict[tuple[int, str], list[str]], other: dict[tuple[int, str], list[str]]) -> Difference | None:
    """The first step and metric in which the second log differs; it may have more metrics, except training ones."""
    for step, name in sorted({*one, *(key for key in other if key[1].startswith("train/"))}):
        mine, theirs = one.get((step, name), []), other.get((step, name), [])
        if mine != theirs:
            said = [" and ".join(values) or "nothing" for values in (mine, theirs)]
            return Difference(f"metrics.csv, step {step}, {name}", f"{said[0]} in one go, {said[1]} in two")
    return None


def _equal(state: dict[str, Any], log: dict[tuple[int, str], list[str]]) -> str:
    tensors = Counter(
        PARTS.get(key.split(".")[0], "others") for key, value in leaves(state) if isinstance(value, Tensor)
    )
    parts = ", ".join(f"{name} {count}" for name, count in tensors.items())
    values = sum(not isinstance(value, Tensor) for _, value in leaves(state))
    return (
        f"equal: {sum(tensors.values())} tensors ({parts}), {values} other values, and {len(log)} figures of "
        f"{len({step for step, _ in log})} steps in metrics.csv"
    )


def main(arguments: Sequence[str]) -> int:
    """Exit status 0: equal; 1: not equal; 2: invalid arguments."""
    if not arguments or arguments[0] != "resume":
        print(f"selftest.py: what is to be tested? {(__doc__ or '').splitlines()[0]}", file=sys.stderr)
        return 2
    try:
        print(resume(arguments[1:]))
    except UserError as error:
        print(error, file=sys.stderr)
        return error.status
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
