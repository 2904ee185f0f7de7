"""What sample, evaluate and export start from: run=<folder or exported file>, or analytic=<option>."""

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
    """The last value given for a key; null is none."""
    value = pairs(overrides).get(key, "null")
    return None if value == "null" else value


def with_metrics(overrides: list[str]) -> list[str]:
    """The overrides of evaluate, with metrics=points for a run of points where no metrics are given."""
    run = named(overrides)
    if run is None or named(overrides, "metrics") or "distribution" not in saved_config(run).data:
        return overrides
    return [*overrides, "metrics=points"]


def check_trained(overrides: Sequence[str]) -> None:
    """Raises ConfigError for an option of the model or of its training beside run=<folder>, whose weights have it."""
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
    """Raises RunError for a run that has no such checkpoint."""
    run = named(overrides)
    if run is None or export.is_export(run):
        return
    for name in names:
        if not (Path(run) / "checkpoints" / f"{name}.ckpt").exists():
            from denoiselab.runs import checkpoint  # with torch, which reads the steps of the others

            checkpoint.check_trained(Path(run))
            checkpoint.read(checkpoint.checkpoint_of(Path(run), name))
