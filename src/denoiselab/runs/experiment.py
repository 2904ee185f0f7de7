"""Identity of an experiment, and the options that may change when a run is resumed."""

import csv
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from denoiselab.axes import Role, role
from denoiselab.errors import ConfigError
from denoiselab.files import replacing
from denoiselab.nested import leaves

SWEEP = "multirun.yaml"  # the configuration of a sweep, in its folder
ASIDE = "metrics.csv.kept"  # while Lightning's logger is created, which would delete it
_FREE = (Role.SAMPLING, Role.JUDGING, Role.RUNNING, Role.NAMING)


def free(key: str) -> bool:
    """Whether this option may change when a run is resumed, as the experiment stays the same."""
    return role(key) in _FREE or key == "trainer.max_steps"


def identity(config: dict[str, Any]) -> str:
    """Hash the options of a resolved configuration that define the experiment: 12 hexadecimal digits."""
    found = sorted((key, repr(value)) for key, value in leaves(config) if role(key) not in _FREE)
    return hashlib.blake2b(json.dumps(found).encode(), digest_size=6).hexdigest()


def changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """Return the changes, one line each: key: before -> now. Raises ConfigError if one makes another experiment."""
    old, new = dict(leaves(before)), dict(leaves(now))
    changed = [key for key in {**old, **new} if old.get(key) != new.get(key) and role(key) is not Role.NAMING]
    lines = {key: f"{key}: {old.get(key, 'nothing')} -> {new.get(key, 'nothing')}" for key in changed}
    others = [lines[key] for key in changed if not free(key)]
    if others:
        raise ConfigError(
            f"resume=true continues the same experiment, and this would be another one ({'; '.join(others[:3])}"
            f"{'; ...' if len(others) > 3 else ''}); leave that as it was, or start a new run"
        )
    decay = now.get("optimizer", {}).get("decay")
    if "trainer.max_steps" in lines and decay != "constant":
        lines["trainer.max_steps"] += (
            f" (optimizer.decay={decay} spans all steps: from here on the learning rate is that of "
            f"{now['trainer']['max_steps']} steps, and before it was not; optimizer.decay=constant has no end)"
        )
    return list(lines.values())


def validated(saved: dict[str, Any]) -> bool:
    """Whether a checkpoint follows its step's validation; if not, a resumed run validates first."""
    batches = saved["loops"]["fit_loop"]["epoch_loop.batch_progress"]["total"]
    return bool(batches["completed"] == batches["processed"])


def cut(table: Path, step: int, validated: bool = True) -> None:
    """Truncate metrics.csv to its state at the checkpoint of this step; later rows will be logged again."""
    aside = table.with_name(ASIDE)
    if aside.exists():
        os.replace(aside, table)
    if not table.exists():
        return
    with table.open(newline="") as file:
        reader = csv.DictReader(file)
        rows, names = list(reader), reader.fieldnames or []
    whole = [row for row in rows if row["step"]]  # a killed process may leave half a row
    kept = [row for row in whole if int(row["step"]) <= step]
    if not validated:
        kept = [row for row in kept if int(row["step"]) < step or not row.get("val/loss")]
    with replacing(table) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(kept)
