"""What a run is, in words: {"schedule": "cosine", "sampler.steps": 20, ...}, all that can bear on its figures.

A word is the option of a part, or one of its numbers. The words of sampling are those of the evaluation, the others
those of the training. Where a run lies, how it is logged and what is looked at beside it are no words.
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
    """A command line that makes the figures again."""

    program: str
    words: tuple[str, ...]

    def __str__(self) -> str:
        return shlex.join(["python", self.program, *self.words])


def told(config: Mapping[str, Any], choices: Mapping[str, Any]) -> Words:
    """All words of a configuration, as Hydra has saved it: unresolved, with the option chosen of each part.

    What only refers to another word is told by that one.
    """
    whole = {"inpainting": "none", **dict(leaves(config)), **choices}  # which a training does not have
    own = {key: value for key, value in whole.items() if not str(value).startswith("${")}
    return {key: _plain(value) for key, value in own.items() if role(key) not in _ASIDE and key != "seed"}


def _plain(value: Any) -> Word:
    return value if isinstance(value, str | int | float | None) else str(value).replace(" ", "")


def command(program: str, overrides: Sequence[str], kept: Sequence[str] = (), more: Sequence[str] = ()) -> Command:
    """The command line of overrides with `more`, without those that say where it worked but for the keys `kept`."""
    places = tuple(key for key in _PLACES if key not in kept)
    plain = (_QUOTED.sub(r"\1=\2", word) for word in overrides)
    once = dict.fromkeys(word for word in plain if not within(key_of(word), places))
    return Command(program, (*once, *more))


def shown(value: Word) -> str:
    """A word as it is written on the command line; numbers to six digits."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))


def short(key: str, value: Word) -> str:
    """A word for a legend: cosine, no guidance, steps 20; nothing where there is none."""
    if value is None:
        return ""
    if isinstance(value, str) and "." not in key:
        return f"no {key}" if value == "none" else value
    return f"{key.rpartition('.')[2]} {shown(value)}"
