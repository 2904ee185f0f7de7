"""Read rows from folders: a row is one metrics.json, of a training or an evaluation, with its run's description.

Only files that the runs wrote are read: metrics.json, run.json, error.txt and Hydra's .hydra/.
"""

import glob
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from denoiselab.axes import Role, role
from denoiselab.errors import RunError
from denoiselab.overrides import key_of
from denoiselab.report.words import EVALUATED, Command, Words, command, told

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_PASSED = ("wandb", "checkpoints")  # folders without runs
# A training's metrics that also apply to evaluations of the same weights.
_OF_THE_WEIGHTS = re.compile(r"(bits_per_dim|nats_per_dim|likelihood|train_seconds|parameters|val/)")


@dataclass(frozen=True)
class Row:
    """Metrics with their provenance."""

    folder: Path  # contains metrics.json
    run: Path | None  # folder of the training; None for an exact denoiser
    words: Words
    typed: tuple[str, ...]  # keys given as overrides, in order
    experiment: str
    seed: int | None  # of the training
    figures: dict[str, Any]
    commands: tuple[Command, ...]
    written: float = 0.0  # modification time in seconds

    @property
    def headline(self) -> float:
        return float(self.figures[self.figures["headline"]])

    @property
    def name(self) -> str:
        return near(self.folder)


class Left(NamedTuple):
    """A job without metrics, and the reason."""

    folder: Path
    words: str
    reason: str


class Found(NamedTuple):
    rows: list[Row]
    left: list[Left]


@dataclass(frozen=True)
class Job:
    """Hydra's record of a job."""

    folder: Path
    config: dict[str, Any] = field(repr=False)
    choices: dict[str, Any] = field(repr=False)
    overrides: tuple[str, ...]
    command: str  # train, evaluate, ...; empty if the job never started
    sweeps_by_itself: bool  # its experiment is a sweep, without -m


def find(given: Sequence[str]) -> Found:
    """Find all rows in these folders (* allowed), and the jobs without metrics. Raises RunError if there are none."""
    if not given:
        raise RunError("run=[] names no folder; give a run's or a sweep's, such as run=outputs/study")
    _job.cache_clear()
    rows: dict[Path, Row] = {}
    left: dict[Path, Left] = {}
    for word in given:
        there = sorted(map(Path, glob.glob(word)), key=_natural)
        if not there:
            raise RunError(f"run={word} is not there; give a run's or a sweep's folder, such as outputs/study")
        before = len(rows) + len(left)
        for folder in there:
            for path in _folders(folder.resolve()):
                try:
                    job = _job(path)
                except _NoFiguresError as error:
                    left[path] = Left(path, "", str(error))
                    continue
                if job is None or job.command not in ("train", "evaluate", ""):
                    continue
                try:
                    rows[path] = _row(job)
                except _NoFiguresError as error:
                    left[path] = Left(path, _said(job), str(error))
        if len(rows) + len(left) == before and not any(folder.resolve() in (*rows, *left) for folder in there):
            raise RunError(
                f"run={word} has no runs in it; give the folder of a run, of a sweep or of an evaluation, such as "
                "outputs/study"
            )
    judged = {row.run for row in rows.values()}
    told = [one for one in left.values() if one.reason != _WENT_ON]
    return Found(list(rows.values()), [one for one in told if not (one.folder in judged and one.reason == _SILENT)])


_SILENT = "it has no figures (metrics=none)"
_WENT_ON = "it was interrupted, and went on in another folder"


class _NoFiguresError(Exception):
    """The reason why a job has no row."""


def near(path: Path) -> str:
    """The path relative to the working directory, if inside it."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def _natural(path: Path) -> list[Any]:
    """Sort key that compares numbers in paths by value, so that 2 precedes 10."""
    return [(part.isdigit(), int(part) if part.isdigit() else 0, part) for part in re.split(r"(\d+)", str(path))]


def _folders(folder: Path) -> Iterator[Path]:
    """Yield a folder and its subfolders that may contain trainings or evaluations."""
    for path, below, _ in os.walk(folder):
        below[:] = sorted((n for n in below if n not in _PASSED and n[0] != "."), key=lambda n: _natural(Path(n)))
        yield Path(path)


@cache
def _job(folder: Path) -> Job | None:
    """Read a job. Raises _NoFiguresError if Hydra's files are damaged."""
    if not (folder / ".hydra" / "overrides.yaml").exists():
        return None
    own = {name: _yaml(folder, name, kind) for name, kind in (("config", dict), ("hydra", dict), ("overrides", list))}
    hydra = own["hydra"].get("hydra", {})
    flags = hydra.get("overrides", {}).get("hydra", [])
    return Job(
        folder,
        own["config"],
        hydra.get("runtime", {}).get("choices", {}),
        tuple(map(str, own["overrides"])),
        hydra.get("job", {}).get("config_name", ""),
        str(hydra.get("mode")).endswith("MULTIRUN") and "hydra.mode=MULTIRUN" not in flags,
    )


def _yaml(folder: Path, name: str, kind: type) -> Any:
    """Load a file of Hydra's; empty if missing. Raises _NoFiguresError if it is damaged."""
    path = folder / ".hydra" / f"{name}.yaml"
    try:
        found = yaml.load(path.read_text(), _LOADER) if path.exists() else None  # safe with either loader
    except (yaml.YAMLError, ValueError) as error:
        raise _NoFiguresError(f"{near(path)} is damaged ({' '.join(str(error).split())})") from error
    if not isinstance(found, kind | None):
        raise _NoFiguresError(f"{near(path)} is damaged (it holds no {kind.__name__})")
    return kind() if found is None else found


def _row(job: Job) -> Row:
    """Build the row of a job. Raises _NoFiguresError if it has no metrics."""
    figures = _figures(job.folder)
    training = job if job.command == "train" else _training(job.folder, figures)
    trained = {} if training is None else told(training.config, training.choices)
    if training is None:
        trained = {key: word for key, word in told(job.config, job.choices).items() if role(key) is Role.MODEL}
        trained |= {"run": str(figures["run"])} if "run" in figures else {}
    words = {key: word for key, word in trained.items() if role(key) is not Role.SAMPLING}
    words |= {key: word for key, word in told(job.config, job.choices).items() if role(key) is Role.SAMPLING}
    for key in [key for key, word in words.items() if word == "from_run"]:
        words[key] = trained[key] if training else str(figures.get(key, "from_run")).lower()
    checkpoint, average, step = (figures.get(key) for key in ("checkpoint", "ema", "step"))
    checkpoint = checkpoint or "last"
    words |= dict(zip(EVALUATED, (checkpoint, average, step if checkpoint == "last" else None), strict=True))
    commands: tuple[Command, ...] = () if training is None else (_trained_by(training),)
    overrides = () if training is None else training.overrides
    if training is not job:
        commands += (command("evaluate.py", job.overrides, ("run",)),)
        overrides += job.overrides
        figures = (_of_the_weights(training.folder, figures) if training else {}) | figures
    return Row(
        job.folder,
        training.folder if training else None,
        words,
        tuple(dict.fromkeys(map(key_of, overrides))),
        str(training.choices.get("experiment", "")) if training else "",
        training.config.get("seed") if training else None,
        figures,
        commands,
        (job.folder / "metrics.json").stat().st_mtime,
    )


def _trained_by(training: Job) -> Command:
    return command("train.py", training.overrides, (), ("hydra.mode=RUN",) if training.sweeps_by_itself else ())


def _training(folder: Path, figures: Mapping[str, Any]) -> Job | None:
    """The training of an evaluation: the one whose folder contains it, or the one it names."""
    named = [Path(str(figures["run"]))] if "run" in figures else []
    above = (_job(path.resolve()) for path in (*folder.parents, *named))
    return next((job for job in above if job is not None and job.command == "train"), None)


def _of_the_weights(run: Path, figures: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics of the training that apply to the evaluated weights."""
    try:
        own = _figures(run)
    except _NoFiguresError:
        return {}
    same = all(own.get(key) == figures.get(key) for key in ("step", "ema"))
    return {key: value for key, value in own.items() if same and _OF_THE_WEIGHTS.match(key)}


def _figures(folder: Path) -> dict[str, Any]:
    """Load the metrics. Raises _NoFiguresError if there are none, with the reason from the job's own files."""
    path = folder / "metrics.json"
    if not path.exists():
        raise _NoFiguresError(_why(folder))
    try:
        figures = json.loads(path.read_text())
    except ValueError as error:
        raise _NoFiguresError(f"metrics.json is damaged ({error})") from error
    headline = figures.get("headline") if isinstance(figures, dict) else None
    if headline is None or not isinstance(figures.get(headline), int | float):
        raise _NoFiguresError(_SILENT)
    if not math.isfinite(figures[headline]):
        raise _NoFiguresError(f"its {headline} is {figures[headline]}")
    return figures


def _why(folder: Path) -> str:
    if (folder / "error.txt").exists():
        return "failed: " + next(iter((folder / "error.txt").read_text().splitlines()), "")
    try:
        state = json.loads((folder / "run.json").read_text())
    except (OSError, ValueError):
        return "it has no metrics.json: it never ended"
    if "gone_on_in" in state:
        return _WENT_ON
    if state.get("status") == "running":
        return "it has no metrics.json yet: it is running, or was killed"
    return f"{state.get('status')}: {state.get('error') or 'it has no metrics.json'}"


def _said(job: Job) -> str:
    return " ".join(command("", job.overrides, ("run",)).words)
