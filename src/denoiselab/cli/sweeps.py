"""Jobs of a sweep: where each lies, what has become of it, and that the others go on when one fails."""

import hashlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from denoiselab.cli.resume import pair
from denoiselab.errors import UserError

ERROR = "error.txt"  # in the folder of a job that has failed
_started: list[Path] = []  # the folder of the sweep that this process has started


class Jobs(Callback):
    """Notes where a sweep's jobs lie, and keeps the words that it was started with, to go on with it."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(config, folder / "multirun.yaml")
        _started[:] = [folder]


def folder_of(sweep: str, number: int, words: Sequence[str]) -> str:
    """A job's folder within its sweep's: the one that has these words already, else its number.

    So a sweep that goes on finds its jobs, though more of them have come between.
    """
    wanted = told(words)
    for path in sorted(Path(sweep).glob("*/.hydra/overrides.yaml")):
        if told([str(word) for word in OmegaConf.load(path)]) == wanted:
            return path.parents[1].name
    taken = (Path(sweep) / str(number) / ".hydra").exists()
    return f"{number}_{hashlib.blake2b(repr(wanted).encode(), digest_size=3).hexdigest()}" if taken else str(number)


OmegaConf.register_new_resolver("job_folder", folder_of, replace=True)


def told(words: Sequence[str]) -> list[str]:
    """The words that say what a job is, in any order."""
    return sorted(word for word in words if pair(word)[0] not in ("run", "resume", "checkpoint"))


def surviving(work: Callable[[], Any]) -> Any:
    """One job's work; a failure is told at once and kept in its folder, and None is its result."""
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    (folder / ERROR).unlink(missing_ok=True)
    try:
        return work()
    except Exception as error:
        slip = error.__cause__ if isinstance(error, InstantiationException) else error
        line = str(slip) if isinstance(slip, UserError) else f"{type(slip).__name__}: {' '.join(str(slip).split())}"
        (folder / ERROR).write_text(f"{line}\n\n{traceback.format_exc()}")
        print(f"job {hydra.job.num} ({' '.join(hydra.overrides.task)}) failed: {line}", file=sys.stderr, flush=True)
        return None


def conclude() -> int:
    """Says what has become of the jobs of the sweep that was run, if one was; the exit status."""
    if not _started:
        return 0
    jobs = sorted({path.parent for name in (".hydra", ERROR) for path in _started[0].glob(f"*/{name}")}, key=_place)
    failed = [job for job in jobs if (job / ERROR).exists()]
    left = [job for job in jobs if job not in failed and _status(job) not in (None, "finished")]
    lines = [f"{len(jobs) - len(failed) - len(left)} of {len(jobs)} jobs finished"]
    lines += [f"  failed: {_line(job)}" for job in failed] + [f"  not finished: {_near(job)}" for job in left]
    if failed or left:
        lines.append(f"to go on with those: {Path(sys.argv[0]).name} -m run={_near(_started[0])} resume=true")
    print("\n".join(lines))
    return 1 if failed else 0


def _status(job: Path) -> str | None:
    path = job / "run.json"
    return json.loads(path.read_text())["status"] if path.exists() else None


def _line(job: Path) -> str:
    return f"{_near(job)}: {(job / ERROR).read_text().splitlines()[0]}"


def _place(job: Path) -> tuple[int, str]:
    number = job.name.partition("_")[0]
    return (int(number) if number.isdigit() else 0, job.name)


def _near(path: Path) -> str:
    return os.path.relpath(path)
