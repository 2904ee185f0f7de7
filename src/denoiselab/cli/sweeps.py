"""Jobs of a sweep: their folders, their status, and how the others continue when one fails.

Reports are read from disk, as jobs may run in other processes and on other machines.
"""

import fcntl
import os
import shlex
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from denoiselab.cli import studies
from denoiselab.cli.resume import swept
from denoiselab.errors import BrokenRunError, ConfigError, RunError, UserError
from denoiselab.files import replacing
from denoiselab.overrides import key_of
from denoiselab.report import sweep as report
from denoiselab.runs import state
from denoiselab.runs.experiment import SWEEP, free

ERROR = "error.txt"  # in the folder of a failed job


class Sweeps:
    """The sweeps of one command, each with a lock on its folder. `close` also stops the reports of failures."""

    def __init__(self) -> None:
        self.begun: list[Path] = []
        self._held: set[Path] = set()
        self._locks, self._watches = ExitStack(), ExitStack()

    def hold(self, hydra: DictConfig, overrides: Sequence[str]) -> None:
        """Lock a folder that already holds a sweep. Raises RunError if another process is running it, ConfigError if it
        is another study."""
        folder = Path(hydra.sweep.dir)
        if (folder / SWEEP).exists():
            self._lock(folder)
            if studies.searches(hydra):
                studies.check(folder / SWEEP, hydra, overrides)

    def begin(self, cfg: DictConfig) -> None:
        """Create and lock the sweep's folder, and save the configuration for resuming, before the first job."""
        folder = Path(cfg.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        self._lock(folder)
        self.begun.append(folder)
        OmegaConf.save(cfg, folder / SWEEP)
        if studies.searches(cfg.hydra):
            studies.prepare(cfg.hydra)
        if "submitit" in cfg.hydra.launcher._target_:  # its jobs print to their own files
            self._watches.enter_context(_watched(folder))

    def _lock(self, folder: Path) -> None:
        if folder in self._held:
            return
        lock = self._locks.enter_context((folder / ".lock").open("a"))
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RunError(f"{folder} is a sweep that another process is running; stop that first") from error
        self._held.add(folder)

    def close(self) -> None:
        self._watches.close()
        self._locks.close()


@contextmanager
def _watched(folder: Path) -> Iterator[None]:
    """Print failures of jobs as they happen, inside the context."""
    ended = threading.Event()
    watch = threading.Thread(target=_report_failures, args=(folder, ended), daemon=True)
    watch.start()
    try:
        yield
    finally:
        ended.set()
        watch.join()


def _report_failures(folder: Path, ended: threading.Event) -> None:
    known, over = _failures(folder), False
    while not over:
        over = ended.wait(0.5)
        for job, when in _failures(folder).items():
            if known.get(job) != when:
                print(f"failed: {_line(job)}", file=sys.stderr, flush=True)
                known[job] = when


def _failures(folder: Path) -> dict[Path, int]:
    return {path.parent: path.stat().st_mtime_ns for path in folder.glob(f"*/{ERROR}")}


def job_folder(sweep: str, number: int, overrides: Sequence[str]) -> str:
    """Return a job's folder name in its sweep: the one that has these overrides, else the next free number.

    A resumed sweep thus finds its jobs even if others were added, and overwrites none. The overrides are saved in a new
    folder for the next look-up.
    """
    several = swept(Path(sweep))
    wanted = _defining(overrides, several)
    for path in sorted(Path(sweep).glob("*/.hydra/overrides.yaml")):
        if _defining(list(map(str, OmegaConf.load(path))), several) == wanted:
            return path.parents[1].name
    while True:
        folder = Path(sweep) / str(number)
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1
            continue
        (folder / ".hydra").mkdir()
        with replacing(folder / ".hydra" / "overrides.yaml") as temporary:
            OmegaConf.save(OmegaConf.create(list(overrides)), temporary)
        return folder.name


OmegaConf.register_new_resolver("job_folder", job_folder, replace=True)


def _defining(overrides: Sequence[str], several: set[str]) -> list[str]:
    """Return the sorted overrides that define a job; options of running and evaluation count only if swept."""
    return sorted(o for o in overrides if key_of(o) in several or not free(key_of(o)))


def surviving(work: Callable[[], Any]) -> Any:
    """Run one job; a failure is printed, saved in its folder, and returned as None."""
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    try:
        state.check_idle(folder)
    except RunError as error:  # another process works in it
        print(f"left out: {error}", file=sys.stderr, flush=True)
        return None
    (folder / ERROR).unlink(missing_ok=True)
    try:
        metric = work()
        return studies.comparable(metric) if studies.searches(hydra) else metric
    except Exception as error:
        line = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {' '.join(str(error).split())}"
        if "\n" in line:  # a process's traceback, which ends with the reason
            line = f"{line.splitlines()[0]} ({line.splitlines()[-1]})"
        with replacing(folder / ERROR) as temporary:
            temporary.write_text(f"{line}\n\n{traceback.format_exc()}")
        print(f"failed: {_line(folder)}", file=sys.stderr, flush=True)
        return None


@contextmanager
def launched() -> Iterator[None]:
    """Turn errors of a launcher, and of a search without a completed trial, into one-line errors."""
    try:
        yield
    except Exception as error:
        if str(error) == studies.NONE_ENDED:
            raise BrokenRunError("no trial of the study yielded a metric") from error
        if "srun" in str(error) and "slurm" in str(error):
            raise ConfigError(
                "hydra/launcher=submitit_slurm needs SLURM, which this machine does not have; use "
                "hydra/launcher=submitit_local or joblib"
            ) from error
        if type(error).__module__.partition(".")[0] in ("joblib", "submitit", "sqlalchemy"):
            first = str(error).splitlines()[:1] or [""]
            raise BrokenRunError(f"the sweep broke off: {type(error).__name__}: {first[0]}") from error
        raise


def conclude(folders: Sequence[Path], together: Path | None = None) -> int:
    """Print the status of the sweeps' jobs and a table that compares them; returns the exit status.

    The table is saved in the sweep's folder, for several sweeps in `together`.
    """
    if not folders:
        return 0
    jobs = [job for folder in folders for job in _jobs(folder)]
    failed = [job for job in jobs if (job / ERROR).exists()]
    hydra = OmegaConf.load(folders[0] / SWEEP).hydra
    command = hydra.job.config_name
    stateful = command in ("train", "evaluate")
    left = [job for job in jobs if stateful and job not in failed and state.read(job).get("status") != "finished"]
    lines = [f"{len(jobs) - len(failed) - len(left)} of {len(jobs)} jobs finished"]
    lines += [f"  failed: {_line(job)}" for job in failed]
    lines += [f"  {_unfinished(job)}: {os.path.relpath(job)}" for job in left]
    if command == "train" and (failed or left):
        place = shlex.quote(os.path.relpath(folders[0]))
        lines.append(f"to continue those: python train.py -m run={place} resume=true")
    elif stateful and (failed or left):
        lines.append("to continue those: the same command again")
    if stateful and "table" not in hydra.callbacks:  # else the experiment writes its own
        lines += report.side_by_side(jobs, together or folders[0])
    print("\n".join(lines))
    return 1 if failed or left else 0


def _jobs(folder: Path) -> list[Path]:
    return sorted({path.parent for name in (".hydra", ERROR) for path in folder.glob(f"*/{name}")}, key=place)


def _unfinished(job: Path) -> str:
    """Return the status of a job that has not finished."""
    try:
        state.check_idle(job)
    except RunError:
        return f"still running, as process {state.read(job).get('process')}"
    return "not finished"


def _line(job: Path) -> str:
    """Describe a failed job: its folder, its swept values and its error."""
    overrides = [str(override) for override in OmegaConf.load(job / ".hydra" / "overrides.yaml")]
    several = swept(job.parent)
    own = " ".join(override for override in overrides if key_of(override) in several)
    return f"{os.path.relpath(job)}{f' ({own})' if own else ''}: {(job / ERROR).read_text().splitlines()[0]}"


def place(job: Path) -> tuple[int, str]:
    """Return the sort key that orders jobs by number."""
    number = job.name.partition("_")[0]
    return (int(number) if number.isdigit() else 0, job.name)
