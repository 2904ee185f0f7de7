"""Which average of a run's weights is meant: ema.decay=... or ema.sigma_rel=... of sample.py and evaluate.py."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from denoiselab.ema import Snapshot, Weights, reconstruct
from denoiselab.errors import RunError


def chosen(state: dict[str, Any], folder: Path, asked: Mapping[str, float | None] | None) -> tuple[str, Weights]:
    """(name, weights) of a checkpoint; with nothing asked, those that the run was judged by. Raises RunError."""
    wanted = {key: value for key, value in (asked or {}).items() if value is not None}
    if len(wanted) > 1:
        raise RunError("ema.decay and ema.sigma_rel are two averages, and there can be one; take one of them")
    averages: dict[str, Weights] = {state["profile"]: state["weights"], **state["others"]}
    if not wanted:
        return state["profile"], state["weights"]
    ((key, value),) = wanted.items()
    name = f"{key}={value:g}"
    if name in averages:
        return name, averages[name]
    if key == "decay":
        raise RunError(f"ema.{name} is not among the averages of this run; there is {', '.join(averages)}")
    snapshots = _stored(folder / "ema", state["updates"])
    if not snapshots:
        raise RunError(
            f"ema.{name} is made of snapshots, and this run kept none; train with ema=power. "
            f"There is {', '.join(averages)}"
        )
    return name, reconstruct(snapshots, state["updates"], value)


def _stored(folder: Path, step: int) -> list[Snapshot]:
    """The snapshots of a run up to a step."""
    found: list[Snapshot] = []
    for path in sorted(folder.glob("*.pt"), key=lambda path: int(path.stem)):
        found += [Snapshot(*values) for values in torch.load(path, map_location="cpu", weights_only=True)]
    return [snapshot for snapshot in found if snapshot.step <= step]
