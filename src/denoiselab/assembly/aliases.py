"""Renamed targets, so that configurations of earlier versions keep working."""

from typing import Any

# Old to new location of each part; the first matching prefix counts.
TARGETS = {
    "denoiselab.callbacks": "denoiselab.training.callbacks",
    "denoiselab.trainer": "denoiselab.training.trainer",
    "denoiselab.cli.guides": "denoiselab.runs.guides",
    "denoiselab.cli.few_steps": "denoiselab.training.callbacks.few_steps",
    "denoiselab.cli.sweep_table": "denoiselab.report.grid",
}


def target(name: str) -> str:
    """Return the current name of a `_target_`."""
    for old, new in TARGETS.items():
        if name == old or name.startswith(f"{old}."):
            return new + name[len(old) :]
    return name


def renamed(node: Any) -> Any:
    """Replace each `_target_` of a configuration in plain containers by its current name."""
    if isinstance(node, dict):
        return {
            key: target(value) if key == "_target_" and isinstance(value, str) else renamed(value)
            for key, value in node.items()
        }
    return [renamed(item) for item in node] if isinstance(node, list) else node
