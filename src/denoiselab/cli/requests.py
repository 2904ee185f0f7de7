"""The model that sample, evaluate and export use: run=<folder or exported file>, or analytic=<option>."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from denoiselab import axes
from denoiselab.assembly.configuration import OF_A_RUN
from denoiselab.axes import Role, role
from denoiselab.errors import ConfigError
from denoiselab.overrides import key_of, pairs
from denoiselab.runs import export
from denoiselab.runs.configuration import saved_config


def named(overrides: Iterable[str], key: str = "run") -> str | None:
    """Return the last value given for a key; None for null."""
    value = pairs(overrides).get(key, "null")
    return None if value == "null" else value


def with_metrics(overrides: list[str]) -> list[str]:
    """Return the overrides of evaluate, with metrics=points for a run of points if no metrics are given."""
    run = named(overrides)
    if run is None or named(overrides, "metrics") or "distribution" not in saved_config(run).data:
        return overrides
    return [*overrides, "metrics=points"]


def check_trained(overrides: Sequence[str]) -> None:
    """Raise ConfigError for an option of the model or its training with run=<folder>, whose weights fix it."""
    run = named(overrides)
    for override in overrides:
        key = key_of(override)
        axis = key.partition(".")[0].partition("@")[0]
        if run is None or axis not in axes.AXES or axis in ("ema", "analytic"):
            continue
        if role(key) not in (Role.MODEL, Role.TRAINING):
            continue
        if axis in OF_A_RUN:
            raise ConfigError(
                f"{override} cannot be changed with run={run}, whose network was trained with its own {axis}; "
                f"use analytic=empirical in place of run to choose the {axis}"
            )
        raise ConfigError(f"{override} cannot be changed with run={run}, which was trained with its own; leave it out")


def check_checkpoints(overrides: Iterable[str], names: Iterable[str]) -> None:
    """Raise RunError if the run lacks one of these checkpoints."""
    run = named(overrides)
    if run is None or export.is_export(run):
        return
    saved_config(run)  # for what it raises, of a folder that holds no run
    for name in names:
        if not (Path(run) / "checkpoints" / f"{name}.ckpt").exists():
            from denoiselab.runs import checkpoint  # imports torch, to read the others' steps

            checkpoint.check_trained(Path(run))
            checkpoint.read(checkpoint.checkpoint_of(Path(run), name))
