"""Overrides of a resumed run or sweep: those saved in its folder, and the new ones.

python train.py run=<folder> resume=true, and -m run=<a sweep's folder> resume=true.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from denoiselab.assembly.aliases import renamed
from denoiselab.assembly.configuration import plain
from denoiselab.axes import Role, role
from denoiselab.errors import ConfigError, RunError
from denoiselab.overrides import key_of, pairs
from denoiselab.runs import state
from denoiselab.runs.experiment import SWEEP, changes, free


def resumed_overrides(given: Sequence[str], multirun: bool) -> list[str]:
    """Return the saved overrides of run=<folder>, then the given ones; only the given ones without run.

    Raises RunError for a folder that holds no run, ConfigError for run without resume=true or vice versa.
    """
    run, resume = pairs(given).get("run", "null"), requested(given)
    folders = [override for override in given if key_of(override) in ("hydra.run.dir", "hydra.sweep.dir")]
    if run == "null":
        if resume and not folders:
            raise ConfigError("resume=true continues a run; name its folder, run=<folder>")
        return list(given)
    if not resume:
        raise ConfigError(f"run={run} is a run to continue; add resume=true, or leave run out to start another")
    if folders:
        raise ConfigError(f"run={run} and {folders[0]} are two folders; leave {folders[0]} out")
    folder = Path(run)
    later = [override for override in given if key_of(override) != "run"]
    saved, key = (_of_sweep(folder, later), "hydra.sweep.dir") if multirun else (_of_run(folder), "hydra.run.dir")
    replaced = {key_of(override) for override in later} | (set() if multirun else {"hparams_search", "hydra.mode"})
    kept = [o for o in saved if key_of(o) not in replaced and role(key_of(o)) is not Role.NAMING]
    single = [] if multirun else ["hydra.mode=RUN"]  # a trial, or a job of a sweep experiment
    return [*kept, *later, *single, f"{key}='{folder}'"]


def requested(given: Sequence[str]) -> bool:
    """Whether resume=true is among the overrides."""
    return pairs(given).get("resume", "false").lower() in ("true", "yes", "on", "1")


def _of_run(folder: Path) -> list[str]:
    if folder.suffix == ".safetensors":
        raise RunError(f"run={folder} holds only averaged weights; to train on, give the folder of its run")
    if (folder / SWEEP).exists():
        raise RunError(f"run={folder} is a sweep's folder; add -m to continue its jobs")
    path = folder / ".hydra" / "overrides.yaml"
    if not path.exists():
        raise RunError(f"run={folder} is no run's folder: it has no .hydra/overrides.yaml")
    return [str(override) for override in OmegaConf.load(path)]


def _of_sweep(folder: Path, later: Sequence[str]) -> list[str]:
    """Return a sweep's overrides, with its launcher and sweeper unless `later` replaces them."""
    path = folder / SWEEP
    if not path.exists():
        raise RunError(f"run={folder} is no sweep's folder: it has no multirun.yaml; leave out -m to continue a run")
    hydra = OmegaConf.load(path).hydra
    before, several = hydra.overrides, swept(folder)
    for override in later:
        key = key_of(override)
        may_change = key in several or free(key) or _several(override)
        if not may_change and override not in before.task:
            raise ConfigError(
                f"{override} would make other experiments of the jobs of run={folder}; leave it out, or start a new "
                "sweep"
            )
    ways = [way for way in ("launcher", "sweeper") if f"hydra/{way}" not in set(map(key_of, later))]
    kept = tuple(f"hydra{mark}{way}" for way in ways for mark in "/.")
    return [*map(str, before.task), *(str(o) for o in before.hydra if str(o).startswith(kept))]


def swept(folder: Path) -> set[str]:
    """Return the swept keys of a sweep's folder; empty if it holds no sweep."""
    if not (folder / SWEEP).exists():
        return set()
    hydra = OmegaConf.load(folder / SWEEP).hydra
    searched = OmegaConf.select(hydra, "sweeper.params") or {}
    return {key_of(override) for override in map(str, hydra.overrides.task) if _several(override)} | set(searched)


def _several(override: str) -> bool:
    return OverridesParser.create().parse_override(override).is_sweep_override()


def compare(given: Sequence[str], cfg: DictConfig) -> None:
    """Compare a run with its resumed configuration, before anything is written to its folder.

    Raises ConfigError if it would be another experiment, RunError if it is running.
    """
    own = pairs(given)
    named = own.get("run", "null") != "null"
    folder = Path(own["run"] if named else own.get("hydra.run.dir", os.devnull))
    if not named and not any((folder / "checkpoints").glob("*.ckpt")):
        return
    state.check_idle(folder)
    if not requested(given):
        raise ConfigError(f"{folder} already holds a run; add resume=true to continue it, or give another folder")
    before = OmegaConf.to_container(OmegaConf.load(folder / ".hydra" / "config.yaml"), resolve=True)
    changes(cast(dict[str, Any], renamed(before)), plain(cfg))
