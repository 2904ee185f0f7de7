"""A run's options, {"schedule": "cosine", "sampler.steps": 20, ...}: all that may affect its metrics.

They are the choice of each group and its values. Sampling options are those of the evaluation, the others those of the
training. Paths, logging, callbacks and evaluation settings are left out.
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from denoiselab import axes
from denoiselab.axes import Role, role, within
from denoiselab.nested import leaves
from denoiselab.overrides import key_of

Word = str | int | float | bool | None
Words = dict[str, Word]

SAMPLING = (*axes.of(Role.SAMPLING), *(key for key, its in axes.VALUES.items() if its is Role.SAMPLING))
EVALUATED = ("checkpoint", "average", "step")  # which weights of a run were evaluated
_ASIDE = (Role.JUDGING, Role.RUNNING, Role.NAMING, Role.PRESET)
# The words of a command line that say where it works and not what it does.
_PLACES = ("run", "resume", "hparams_search", "cache", "hydra")
_QUOTED = re.compile(r"^([^=]*)='([\w./:-]*)'$")  # a value that needs no quotes


class Command(NamedTuple):
    """A command line that reproduces the metrics."""

    program: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return shlex.join(["python", self.program, *self.words])


def told(config: Mapping[str, Any], choices: Mapping[str, Any]) -> Words:
    """Return the options of a configuration as saved by Hydra (unresolved), with the choice of each group.

    Values that only refer to another option are left out.
    """
    whole = {"inpainting": "none", **dict(leaves(config)), **choices}  # which a training does not have
    own = {key: value for key, value in whole.items() if not str(value).startswith("${")}
    return {key: _plain(value) for key, value in own.items() if role(key) not in _ASIDE and key != "seed"}


def _plain(value: Any) -> Word:
    return value if isinstance(value, str | int | float | None) else str(value).replace(" ", "")


def command(program: str, overrides: Sequence[str], kept: Sequence[str] = (), more: Sequence[str] = ()) -> Command:
    """Command line of overrides and `more`, without path keys except those in `kept`."""
    places = tuple(key for key in _PLACES if key not in kept)
    plain = (_QUOTED.sub(r"\1=\2", word) for word in overrides)
    once = dict.fromkeys(word for word in plain if not within(key_of(word), places))
    return Command(program, (*once, *more))


def shown(value: Word) -> str:
    """Format a value as on the command line; numbers to six digits."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))


def short(key: str, value: Word) -> str:
    """Format an option for a legend: cosine, no guidance, steps 20; empty for None."""
    if value is None:
        return ""
    if isinstance(value, str) and "." not in key:
        return f"no {key}" if value == "none" else value
    return f"{key.rpartition('.')[2]} {shown(value)}"
