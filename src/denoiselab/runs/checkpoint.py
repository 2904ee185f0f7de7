"""A run's checkpoints, and the average of the weights that ema.decay=... or ema.sigma_rel=... selects."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from denoiselab.assembly.aliases import renamed
from denoiselab.ema import Snapshot, Weights, reconstruct
from denoiselab.errors import RunError
from denoiselab.files import read_json, short, step_of


def checkpoint_of(folder: Path, name: str) -> Path:
    return folder / "checkpoints" / f"{name}.ckpt"


def read(path: Path) -> dict[str, Any]:
    """Return a checkpoint's contents. Raises RunError, listing the readable checkpoints, if it cannot be read."""
    if not path.exists():
        hint = others(path) or "; it was stopped before it saved one"
        raise RunError(f"{path.parent.parent} has no checkpoint {path.name}{hint}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise RunError(f"{path} is damaged or no checkpoint ({short(error)}){others(path)}") from error
    if not isinstance(state, dict) or not {"denoiselab", "ema", "global_step"} <= set(state):
        raise RunError(f"{path} is not a checkpoint of denoiselab{others(path)}")
    state["denoiselab"]["config"] = renamed(state["denoiselab"]["config"])
    return state


def others(path: Path) -> str:
    """List the readable checkpoints beside `path`, newest first, to end a message; empty if there are none."""
    beside = set(path.parent.glob("*.ckpt")) - {path}
    found = [(step, other.stem) for other in beside if (step := step_of(other)) is not None]
    listed = " and ".join(f"checkpoint={name} of step {step}" for step, name in sorted(found)[::-1])
    return f"; there is {listed}" if found else ""


def check_trained(folder: Path) -> None:
    """Raise RunError for an evaluation's folder, with the name of the evaluated run."""
    metrics = folder / "metrics.json"
    run = read_json(metrics).get("run") if metrics.is_file() and not (folder / "checkpoints").is_dir() else None
    if run is not None:
        raise RunError(f"run={folder} is an evaluation, which has no weights; its run is run={run}")


def frozen_weights(state: dict[str, Any]) -> Weights:
    """Return the weights of a checkpoint's pipeline that are not trained and have no averages."""
    prefix = "pipeline."
    every = {k.removeprefix(prefix): v for k, v in state.get("state_dict", {}).items() if k.startswith(prefix)}
    return {name: values for name, values in every.items() if name not in state["ema"]["weights"]}


def averaged(state: dict[str, Any], folder: Path, average: Mapping[str, float | None] | None) -> tuple[str, Weights]:
    """Return (name, weights) of a checkpoint's average, by default the one used in the run's evaluations.

    average: {"decay": d} or {"sigma_rel": s}. Raises RunError for one that the run did not keep.
    """
    ema = state["ema"]
    wanted = {key: value for key, value in (average or {}).items() if value is not None}
    if len(wanted) > 1:
        raise RunError("ema.decay and ema.sigma_rel name two averages; give one of them")
    averages: dict[str, Weights] = {ema["profile"]: ema["weights"], **ema["others"]}
    if not wanted:
        return ema["profile"], ema["weights"]
    ((key, value),) = wanted.items()
    name = f"{key}={value:g}"
    if name in averages:
        return name, averages[name]
    if key == "decay":
        raise RunError(f"ema.{name} is not among the averages of this run; there is {', '.join(averages)}")
    snapshots = _snapshots(folder / "ema", ema["updates"])
    if not snapshots:
        raise RunError(
            f"ema.{name} is made of snapshots, and this run kept none; train with ema=power. "
            f"There is {', '.join(averages)}"
        )
    return name, reconstruct(snapshots, ema["updates"], value)


def _snapshots(folder: Path, step: int) -> list[Snapshot]:
    found: list[Snapshot] = []
    for path in sorted(folder.glob("*.pt"), key=lambda path: int(path.stem)):
        found += [Snapshot(*values) for values in torch.load(path, map_location="cpu", weights_only=True)]
    return [snapshot for snapshot in found if snapshot.step <= step]
