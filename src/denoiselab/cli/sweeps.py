"""Jobs of a sweep: where each lies, what has become of it, and that the others go on when one fails.

All that is said is read from the disk, since the jobs may run in other processes and on other machines.
"""

import fcntl
import os
import shlex
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from denoiselab.cli import comparison, resume, state, studies
from denoiselab.errors import BrokenRunError, ConfigError, RunError, UserError
from denoiselab.files import replacing

ERROR = "error.txt"  # in the folder of a job that has failed
_started: dict[Path, TextIO] = {}  # the folders of the sweeps that this process has started, and their locks
_watcher: list[threading.Thread] = []
_ended = threading.Event()


class Jobs(Callback):
    """Notes where a sweep's jobs lie, and keeps the words that it was started with, to go on with it."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        _hold(folder)
        OmegaConf.save(config, folder / resume.SWEEP)
        if studies.searches(config.hydra):
            studies.prepare(config.hydra)
        if "submitit" in config.hydra.launcher._target_:  # its jobs speak to files of their own
            _ended.clear()
            _watcher.append(threading.Thread(target=_tell_failures, args=(folder,), daemon=True))
            _watcher[-1].start()


def check_folder(hydra: DictConfig, overrides: Sequence[str]) -> None:
    """Raises RunError for a sweep's folder that another process works in, ConfigError for that of another study."""
    folder = Path(hydra.sweep.dir)
    if (folder / resume.SWEEP).exists():
        _hold(folder)
        if studies.searches(hydra):
            try:
                studies.check(folder / resume.SWEEP, hydra, overrides)
            except UserError:
                _started.pop(folder).close()
                raise


def _hold(folder: Path) -> None:
    """A lock on the folder, which this process keeps as long as it lives."""
    if folder in _started:
        return
    lock = (folder / ".lock").open("a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise RunError(f"{folder} is a sweep that is going on in another process; stop that first") from error
    _started[folder] = lock


def folder_of(sweep: str, number: int, words: Sequence[str]) -> str:
    """A job's folder within its sweep's: the one that has these words already, else the next free number.

    So a sweep that goes on finds its jobs, though more of them have come between, and none is written over. The words
    are left in a new one, for whoever asks next.
    """
    swept = resume.swept(Path(sweep))
    wanted = _told(words, swept)
    for path in sorted(Path(sweep).glob("*/.hydra/overrides.yaml")):
        if _told(list(map(str, OmegaConf.load(path))), swept) == wanted:
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
            OmegaConf.save(OmegaConf.create(list(words)), temporary)
        return folder.name


OmegaConf.register_new_resolver("job_folder", folder_of, replace=True)


def _told(words: Sequence[str], swept: set[str]) -> list[str]:
    """The words that say what a job is, in any order: not how it is run or looked at, unless that is what is swept."""
    keyed = [(resume.pair(word)[0], word) for word in words]
    return sorted(word for key, word in keyed if key in swept or not (key == "trainer" or resume.free(key)))


def surviving(work: Callable[[], Any]) -> Any:
    """One job's work; a failure is told at once and kept in its folder, and None is its result."""
    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    try:
        state.check_idle(folder)
    except RunError as error:  # by another process, whose folder it is
        print(f"left out: {error}", file=sys.stderr, flush=True)
        return None
    (folder / ERROR).unlink(missing_ok=True)
    try:
        figure = work()
        return studies.judged(figure) if studies.searches(hydra) else figure
    except Exception as error:
        slip = error.__cause__ if isinstance(error, InstantiationException) else error
        line = str(slip) if isinstance(slip, UserError) else f"{type(slip).__name__}: {' '.join(str(slip).split())}"
        if "\n" in line:  # the trace of a process that broke, which ends with the reason
            line = f"{line.splitlines()[0]} ({line.splitlines()[-1]})"
        with replacing(folder / ERROR) as temporary:
            temporary.write_text(f"{line}\n\n{traceback.format_exc()}")
        print(f"failed: {_line(folder)}", file=sys.stderr, flush=True)
        return None


@contextmanager
def launched() -> Iterator[None]:
    """What a launcher says of a process that died, and a search of which no trial ended well, in one line."""
    try:
        yield
    except Exception as error:
        if str(error) == studies.NONE_ENDED:
            raise BrokenRunError("no trial of the study came to a figure") from error
        if "srun" in str(error) and "slurm" in str(error):
            raise ConfigError(
                "hydra/launcher=submitit_slurm hands jobs to SLURM, which is not on this machine; take "
                "hydra/launcher=submitit_local or joblib"
            ) from error
        if type(error).__module__.partition(".")[0] in ("joblib", "submitit", "sqlalchemy"):
            said = str(error).splitlines()[:1] or [""]
            raise BrokenRunError(f"the sweep broke off: {type(error).__name__}: {said[0]}") from error
        raise


def _tell_failures(folder: Path) -> None:
    """Says which jobs fail, as soon as they do, until the sweep has ended."""
    told, ended = _failures(folder), False
    while not ended:
        ended = _ended.wait(0.5)
        for job, when in _failures(folder).items():
            if told.get(job) != when:
                print(f"failed: {_line(job)}", file=sys.stderr, flush=True)
                told[job] = when


def _failures(folder: Path) -> dict[Path, int]:
    return {path.parent: path.stat().st_mtime_ns for path in folder.glob(f"*/{ERROR}")}


def conclude(together: Path | None = None) -> int:
    """Says what has become of the jobs of the sweeps that were run, if any were, and sets them side by side.

    The table lies in the sweep's folder, that of several sweeps in `together`. Returns the exit status.
    """
    _ended.set()
    while _watcher:
        _watcher.pop().join()
    if not _started:
        return 0
    folders = list(_started)
    while _started:
        _started.popitem()[1].close()
    jobs = [job for folder in folders for job in _jobs(folder)]
    failed = [job for job in jobs if (job / ERROR).exists()]
    hydra = OmegaConf.load(folders[0] / resume.SWEEP).hydra
    command = hydra.job.config_name
    tells = command in ("train", "evaluate")
    left = [job for job in jobs if tells and job not in failed and _status(job) != "finished"]
    lines = [f"{len(jobs) - len(failed) - len(left)} of {len(jobs)} jobs finished"]
    lines += [f"  failed: {_line(job)}" for job in failed]
    lines += [f"  {_why_not(job)}: {_near(job)}" for job in left]
    if command == "train" and (failed or left):
        lines.append(f"to go on with those: python train.py -m run={shlex.quote(_near(folders[0]))} resume=true")
    elif tells and (failed or left):
        lines.append("to go on with those: the same command again")
    if tells and "table" not in hydra.callbacks:  # of an experiment that has one of its own
        lines += comparison.told(jobs, together or folders[0])
    print("\n".join(lines))
    return 1 if failed or left else 0


def _jobs(folder: Path) -> list[Path]:
    return sorted({path.parent for name in (".hydra", ERROR) for path in folder.glob(f"*/{name}")}, key=place)


def _status(job: Path) -> str | None:
    return state.read(job).get("status")


def _why_not(job: Path) -> str:
    """What is the matter with a job that has not finished."""
    try:
        state.check_idle(job)
    except RunError:
        return f"still running, as process {state.read(job).get('process')}"
    return "not finished"


def _line(job: Path) -> str:
    """A job's folder, what is its own among the words of the sweep, and why it failed."""
    words = [str(word) for word in OmegaConf.load(job / ".hydra" / "overrides.yaml")]
    swept = resume.swept(job.parent)
    own = " ".join(word for word in words if resume.pair(word)[0] in swept)
    return f"{_near(job)}{f' ({own})' if own else ''}: {(job / ERROR).read_text().splitlines()[0]}"


def place(job: Path) -> tuple[int, str]:
    """Jobs in the order of their numbers."""
    number = job.name.partition("_")[0]
    return (int(number) if number.isdigit() else 0, job.name)


def _near(path: Path) -> str:
    return os.path.relpath(path)
