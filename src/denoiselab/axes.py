"""The axes: every command-line option and its role, in one table.

Resuming, run and evaluation identities, studies, reports, trust, comparisons and checks use `role` to find out whether
an option changes the model, the experiment, the samples, the metrics, or only where a run happens. A new axis takes one
line here, a folder in conf/ and its code.
"""

from collections.abc import Sequence
from enum import Enum


class Role(Enum):
    """The effect of an option."""

    MODEL = "the network and what it is given: part of a checkpoint"
    TRAINING = "how the weights come about"
    SAMPLING = "how images are made of a trained model"
    JUDGING = "which metrics and pictures are made"
    RUNNING = "where, how fast and how loudly a run happens; its results stay the same"
    NAMING = "which run, and which of its weights, a command works on"
    PRESET = "several other options at once, which have roles of their own"


# The config groups, conf/<axis>/.
AXES: dict[str, Role] = {
    "schedule": Role.MODEL,
    "parameterization": Role.MODEL,
    "loss": Role.TRAINING,
    "norm": Role.TRAINING,
    "time_sampling": Role.TRAINING,
    "backbone": Role.MODEL,
    "conditioning": Role.MODEL,
    "codec": Role.MODEL,
    "data": Role.MODEL,
    "analytic": Role.MODEL,
    "optimizer": Role.TRAINING,
    "ema": Role.TRAINING,
    "sampler": Role.SAMPLING,
    "spacing": Role.SAMPLING,
    "guidance": Role.SAMPLING,
    "threshold": Role.SAMPLING,
    "inpainting": Role.SAMPLING,
    "metrics": Role.JUDGING,
    "extractor": Role.JUDGING,
    "likelihood": Role.JUDGING,
    "callbacks": Role.JUDGING,
    "trainer": Role.RUNNING,
    "logger": Role.RUNNING,
    "experiment": Role.PRESET,
    "hparams_search": Role.PRESET,
    "hydra": Role.RUNNING,
}

# Options outside any group, and those whose role differs from their group's.
VALUES: dict[str, Role] = {
    "seed": Role.TRAINING,
    "batch_size": Role.TRAINING,
    "float64": Role.SAMPLING,
    "classes": Role.SAMPLING,
    "prompt": Role.SAMPLING,
    "negative": Role.SAMPLING,
    "invert": Role.SAMPLING,
    "n": Role.JUDGING,
    "device": Role.RUNNING,
    "num_workers": Role.RUNNING,
    "cache": Role.RUNNING,
    "again": Role.RUNNING,
    "run": Role.NAMING,
    "resume": Role.NAMING,
    "checkpoint": Role.NAMING,
    "data.root": Role.RUNNING,
    "data.memory_mb": Role.RUNNING,
    "codec.cached": Role.RUNNING,
    "metrics.every": Role.RUNNING,
    "metrics.max_seconds": Role.RUNNING,
    "trainer.max_steps": Role.TRAINING,
    "trainer.precision": Role.TRAINING,
    "trainer.accumulate_grad_batches": Role.TRAINING,
    "trainer.gradient_clip_val": Role.TRAINING,
    "trainer.compile": Role.TRAINING,
    "trainer.channels_last": Role.TRAINING,
}

WEIGHTS = ("run", "checkpoint", "ema")  # the options of sample, evaluate and export that select a run's weights


def role(key: str) -> Role:
    """Returns the role of an option, such as "sampler" or "sampler.steps": that of its longest prefix in the tables.

    Options in neither table are TRAINING, the safe choice: they make another experiment.
    """
    parts = key.partition("@")[0].replace("/", ".").split(".")
    for end in range(len(parts), 0, -1):
        prefix = ".".join(parts[:end])
        if (found := VALUES.get(prefix) or AXES.get(prefix)) is not None:
            return found
    return Role.TRAINING


def of(*roles: Role) -> tuple[str, ...]:
    """Returns the axes with these roles, in table order."""
    return tuple(axis for axis, its in AXES.items() if its in roles)


def within(key: str, parents: Sequence[str]) -> bool:
    """Returns whether an option is one of `parents` or inside one: "sampler.steps" is within ("sampler",)."""
    return any(key == parent or key.startswith((f"{parent}.", f"{parent}/")) for parent in parents)
