"""Runs that run=... of evaluate.py selects: a run folder or exported file, a list of them, a sweep's folder for all its
finished jobs, or wildcards. Each is evaluated with the same overrides.
"""

import glob
import shlex
import sys
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, QuotedString
from omegaconf import OmegaConf

from denoiselab.cli.sweeps import place
from denoiselab.errors import ConfigError, RunError
from denoiselab.overrides import key_of
from denoiselab.runs import export as exports
from denoiselab.runs import state
from denoiselab.runs.experiment import SWEEP


def turns(overrides: list[str], multirun: bool) -> list[list[str]]:
    """Return the overrides for each selected run; the given ones for a single folder or none.

    Raises ConfigError if run is given twice, RunError if it matches no run.
    """
    parsed = OverridesParser.create().parse_overrides(overrides)
    given = [override for override in parsed if override.key_or_group == "run"]
    if len(given) > 1:
        words = " and ".join(str(override.input_line) for override in given)
        raise ConfigError(f"{words} are given both; for several runs write run=[<folder>,<folder>]")
    if not given or given[0].value() in (None, ""):
        return [overrides]
    value = given[0].value()
    if isinstance(value, ChoiceSweep) and not multirun:
        raise ConfigError(
            f"{given[0].input_line} gives several values; add -m to evaluate each, or write run=[<folder>,<folder>]"
        )
    if given[0].is_sweep_override() and not isinstance(value, ChoiceSweep):
        raise ConfigError(f"{given[0].input_line} names no runs; write run=[<folder>,<folder>], or run='<folder>/*'")
    several = value.list if isinstance(value, ChoiceSweep) else value if isinstance(value, list) else [value]
    if not several:
        raise ConfigError(f"{given[0].input_line} names no run; write run=[<folder>,<folder>]")
    names = [name for given_name in several for name in _meant(_text(given_name))]
    places = [Path(name).resolve() for name in names]
    if twice := [name for name, place in zip(names, places, strict=True) if places.count(place) > 1]:
        raise ConfigError(f"run={twice[0]} is named twice; name it once")
    if names == [_text(value)]:
        return [overrides]
    folders = [word for word in overrides if key_of(word) in ("hydra.run.dir", "hydra.sweep.dir")]
    if folders and len(names) > 1:
        raise ConfigError(
            f"{folders[0]} is one folder, and these are {len(names)} runs; leave it out: what is found of a run lies "
            "in its own evaluate/"
        )
    rest = [word for word in overrides if word != given[0].input_line]
    return [[*rest, f"run={_quoted(name)}"] for name in names]


def _text(value: Any) -> str:
    return value.text if isinstance(value, QuotedString) else str(value)


def _quoted(name: str) -> str:
    return "'" + name.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _meant(name: str) -> list[str]:
    """Return the runs that a folder or pattern selects. Raises RunError."""
    if exports.is_export(name) and "*" not in name:
        return [name]
    if Path(name).is_dir():
        return _jobs(Path(name)) if (Path(name) / SWEEP).exists() else [name]
    if not set(name) & set("*?["):
        return [name]  # later checks report the error
    matching = sorted(map(Path, glob.glob(name)), key=place)
    runs = [path for path in matching if (path / ".hydra").is_dir() and not (path / SWEEP).exists()]
    several = [path for path in matching if (path / SWEEP).exists()]
    if not runs and not several:
        raise RunError(f"run={name} matches no run's folder; give a pattern of them, such as run='outputs/default/*'")
    found = _finished(runs, name) if runs else []
    return [*found, *(job for sweep in several for job in _jobs(sweep))]


def _jobs(sweep: Path) -> list[str]:
    """Return the finished jobs of a sweep. Raises RunError if there are none."""
    command = str(OmegaConf.load(sweep / SWEEP).hydra.job.config_name)
    if command != "train":
        raise RunError(f"run={sweep} is a sweep of {command}.py; give the folder of a training sweep")
    jobs = sorted((path.parent for path in sweep.glob("*/.hydra")), key=place)
    return _finished(jobs, str(sweep))


def _finished(runs: list[Path], name: str) -> list[str]:
    found = [str(run) for run in runs if state.read(run).get("status") == "finished"]
    if not found:
        raise RunError(
            f"run={name} has no finished run, of {len(runs)}; name one that has a checkpoint by itself, or go on with "
            f"it first: python train.py -m run={shlex.quote(name)} resume=true"
        )
    if len(found) < len(runs):
        told = f"{len(runs) - len(found)} of {len(runs)} runs are not finished and are left out"
        print(f"run={name}: {told}", file=sys.stderr)
    return found
