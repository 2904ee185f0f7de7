"""Going on with a run: python train.py run=<folder> resume=true, and -m run=<the sweep's folder> resume=true.

The words of its command line are read back from the folder, later words are added, and the configuration that they make
is compared with the one in the checkpoint: what would make it another experiment is refused.
"""

import csv
import hashlib
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from denoiselab.cli import state
from denoiselab.errors import ConfigError, RunError
from denoiselab.files import replacing
from denoiselab.nested import leaves

# What may be another when a run goes on: where and how it runs, what is looked at and what is kept.
_TRAINER = (
    *("max_steps", "accelerator", "devices", "strategy", "num_nodes", "val_check_interval", "log_every_n_steps"),
    *("gradient_checkpointing", "deterministic"),
)
_LOOKED_AT = (
    *("sampler", "spacing", "threshold", "guidance", "float64"),
    *("metrics", "extractor", "likelihood", "callbacks", "logger"),
)
FREE = (
    *(f"trainer.{key}" for key in _TRAINER),
    *_LOOKED_AT,
    "num_workers",
    "cache",
    "data.root",
    "codec.cached",
)
SWEEP = "multirun.yaml"  # in a sweep's folder: what it was started with
ASIDE = "metrics.csv.kept"  # while Lightning's logger is made, which would delete it
SILENT = ("run", "resume", "checkpoint")  # how the command line names the run is no part of it


def pair(word: str) -> tuple[str, str]:
    """An override's key and value."""
    key, _, value = word.partition("=")
    return key.lstrip("+~"), value.strip("'\"")


def words(given: Sequence[str], multirun: bool) -> list[str]:
    """The overrides of the run that run=<folder> names, with those given; `given` itself where it names none.

    Raises RunError for a folder that is none, ConfigError for run without resume=true or the other way round.
    """
    run, resume = dict(map(pair, given)).get("run", "null"), asked(given)
    folders = [word for word in given if pair(word)[0] in ("hydra.run.dir", "hydra.sweep.dir")]
    if run == "null":
        if resume and not folders:
            raise ConfigError("resume=true goes on with a run: name its folder, run=<folder>")
        return list(given)
    if not resume:
        raise ConfigError(f"run={run} is a run to go on with: add resume=true, or leave it out to start another")
    if folders:
        raise ConfigError(f"run={run} and {folders[0]} are two folders; leave {folders[0]} out")
    folder = Path(run)
    later = [word for word in given if pair(word)[0] != "run"]
    saved, key = (_of_sweep(folder, later), "hydra.sweep.dir") if multirun else (_of_run(folder), "hydra.run.dir")
    own = {*SILENT, *(pair(w)[0] for w in later), *(() if multirun else ("hparams_search", "hydra.mode"))}
    kept = [word for word in saved if pair(word)[0] not in own]
    single = [] if multirun else ["hydra.mode=RUN"]  # a trial, or a job of an experiment that is a sweep
    return [*kept, *later, *single, f"{key}='{folder}'"]


def asked(given: Sequence[str]) -> bool:
    """Whether resume=true is among the words."""
    return dict(map(pair, given)).get("resume", "false").lower() in ("true", "yes", "on", "1")


def _of_run(folder: Path) -> list[str]:
    if folder.suffix == ".safetensors":
        raise RunError(f"run={folder} has the averaged weights alone; to train on, take the folder of its run")
    if (folder / SWEEP).exists():
        raise RunError(f"run={folder} is a sweep's folder; add -m to go on with its jobs")
    path = folder / ".hydra" / "overrides.yaml"
    if not path.exists():
        raise RunError(f"run={folder} is no run's folder: it has no .hydra/overrides.yaml")
    return [str(word) for word in OmegaConf.load(path)]


def _of_sweep(folder: Path, later: Sequence[str]) -> list[str]:
    """The words of a sweep, and those that say how it was launched and searched, unless another way is now."""
    path = folder / SWEEP
    if not path.exists():
        raise RunError(f"run={folder} is no sweep's folder: it has no multirun.yaml; leave out -m to go on with a run")
    hydra = OmegaConf.load(path).hydra
    overrides, several = hydra.overrides, swept(folder)
    for word in later:
        key = pair(word)[0]
        fixed = not (key in (*SILENT, *several, "trainer") or key.startswith("hydra") or free(key) or _several(word))
        if fixed and word not in overrides.task:
            raise ConfigError(
                f"{word} would make other experiments of the jobs of run={folder}; leave it out, or start a new sweep"
            )
    ways = [way for way in ("launcher", "sweeper") if f"hydra/{way}" not in {pair(word)[0] for word in later}]
    kept = tuple(f"hydra{mark}{way}" for way in ways for mark in "/.")
    return [*map(str, overrides.task), *(str(word) for word in overrides.hydra if str(word).startswith(kept))]


def swept(folder: Path) -> set[str]:
    """The keys of which a sweep, by its folder, has several values; none where that is no sweep's."""
    if not (folder / SWEEP).exists():
        return set()
    hydra = OmegaConf.load(folder / SWEEP).hydra
    searched = OmegaConf.select(hydra, "sweeper.params") or {}
    return {pair(word)[0] for word in map(str, hydra.overrides.task) if _several(word)} | set(searched)


def _several(word: str) -> bool:
    return OverridesParser.create().parse_override(word).is_sweep_override()


def identity(config: dict[str, Any]) -> str:
    """A hash of all in a resolved configuration that makes it this experiment: 12 hexadecimal digits."""
    told = sorted((key, repr(value)) for key, value in leaves(config) if not _in(key, (*FREE, *SILENT)))
    told += [("trainer.max_steps", repr(config["trainer"].get("max_steps")))]
    return hashlib.blake2b(json.dumps(told).encode(), digest_size=6).hexdigest()


def compare(given: Sequence[str], now: Callable[[], DictConfig]) -> None:
    """What the words given would make of the run that they name, if they do, before anything is written into it.

    Raises ConfigError if it would be another experiment, RunError if it is going on just now.
    """
    own = dict(map(pair, given))
    named = own.get("run", "null") != "null"
    folder = Path(own["run"] if named else own.get("hydra.run.dir", os.devnull))
    if not named and not any((folder / "checkpoints").glob("*.ckpt")):
        return
    state.check_idle(folder)
    if not asked(given):
        raise ConfigError(f"{folder} has a run in it already; add resume=true to go on with it, or give another")
    changes(_plain(OmegaConf.load(folder / ".hydra" / "config.yaml")), _plain(now()))


def _plain(cfg: Any) -> dict[str, Any]:
    return cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=True))


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What has changed, a line each: key: before -> now. Raises ConfigError for what makes it another experiment."""
    old, new = dict(leaves(before)), dict(leaves(now))
    changed = [key for key in {**old, **new} if old.get(key) != new.get(key) and not _in(key, SILENT)]
    lines = {key: f"{key}: {old.get(key, 'nothing')} -> {new.get(key, 'nothing')}" for key in changed}
    others = [lines[key] for key in changed if not _in(key, FREE)]
    if others:
        raise ConfigError(
            f"resume=true goes on with the same experiment, and this would be another one ({'; '.join(others[:3])}"
            f"{'; ...' if len(others) > 3 else ''}); leave that as it was, or start a new run"
        )
    decay = now.get("optimizer", {}).get("decay")
    if "trainer.max_steps" in lines and decay != "constant":
        lines["trainer.max_steps"] += (
            f" (optimizer.decay={decay} is drawn out over all steps: from here on the learning rate is that of "
            f"{now['trainer']['max_steps']} steps, and before it was not; optimizer.decay=constant knows no end)"
        )
    return list(lines.values())


def free(key: str) -> bool:
    """Whether a run that goes on may have another value of it."""
    return _in(key, (*FREE, *SILENT))


def _in(key: str, parts: Sequence[str]) -> bool:
    return any(key == part or key.startswith(f"{part}.") for part in parts)


def validated(saved: dict[str, Any]) -> bool:
    """Whether a checkpoint was written after the validation of its step; else that is done first when it goes on."""
    batches = saved["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]
    return bool(batches["completed"] == batches["processed"])


def cut(table: Path, step: int, validated: bool = True) -> None:
    """metrics.csv as it was when the checkpoint of this step was written: what followed will be logged again."""
    aside = table.with_name(ASIDE)
    if aside.exists():
        os.replace(aside, table)
    if not table.exists():
        return
    with table.open(newline="") as file:
        reader = csv.DictReader(file)
        rows, names = list(reader), reader.fieldnames or []
    whole = [row for row in rows if row["step"]]  # a process that is killed may leave half a row behind
    kept = [row for row in whole if int(row["step"]) <= step]
    if not validated:
        kept = [row for row in kept if int(row["step"]) < step or not row.get("val/loss")]
    with replacing(table) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(kept)
