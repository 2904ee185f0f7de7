"""Names that have changed: configurations of earlier versions go on working through this one table."""

from typing import Any

# Where a part was defined before, and where it is now; the longest prefix counts.
TARGETS = {
    "denoiselab.callbacks": "denoiselab.training.callbacks",
    "denoiselab.trainer": "denoiselab.training.trainer",
    "denoiselab.cli.guides": "denoiselab.runs.guides",
    "denoiselab.cli.few_steps": "denoiselab.training.callbacks.few_steps",
    "denoiselab.cli.sweep_table": "denoiselab.report.grid",
}


def target(name: str) -> str:
    """The present name of a `_target_`."""
    for old, new in TARGETS.items():
        if name == old or name.startswith(f"{old}."):
            return new + name[len(old) :]
    return name


def renamed(node: Any) -> Any:
    """A configuration in plain containers with each `_target_` by its present name."""
    if isinstance(node, dict):
        return {
            key: target(value) if key == "_target_" and isinstance(value, str) else renamed(value)
            for key, value in node.items()
        }
    return [renamed(item) for item in node] if isinstance(node, list) else node
