"""Errors that the user can fix. The command line shows them as one line, without a stack trace.

Each message says what is wrong, the value given, what is allowed and what to try.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class UserError(Exception):
    """An error that the user can fix, with a one-line message."""

    status = 2  # the exit status of the command


class Interrupted(KeyboardInterrupt):
    """A signal stopped the run, which can be resumed; `status` is the exit status. It also ends a sweep."""

    def __init__(self, message: str, status: int = 130) -> None:
        super().__init__(message)
        self.status = status


class ConfigError(UserError, ValueError):
    """An unknown key, a wrong type or an invalid value in the configuration."""


def shown(value: Any) -> str:
    """Returns a value as the command line writes it."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(shown, value))}]"
    return {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))


class InvalidValue(ConfigError):
    """A value that its parameter does not allow: "steps must be at least 1 (got 0)"."""

    def __init__(self, name: str, value: Any, allowed: str, hint: str = "") -> None:
        self.name, self.value, self.allowed, self.hint = name, value, allowed, hint
        super().__init__(f"{name} must be {allowed} (got {shown(value)})" + (f"; {hint}" if hint else ""))

    def at(self, path: str) -> "InvalidValue":
        """Returns the same error with the part's place in the configuration: "sampler.steps must be ..."."""
        return InvalidValue(f"{path}.{self.name}" if path else self.name, self.value, self.allowed, self.hint)

    def __reduce__(self) -> tuple[Any, ...]:  # pickles it between processes
        return type(self), (self.name, self.value, self.allowed, self.hint)


@contextmanager
def located(path: str) -> Iterator[None]:
    """Adds the option's path to an InvalidValue raised inside, where a part is built from the options under `path`.

    Hydra's instantiate wraps it in its own error, which names the part within `path` that it was building.
    """
    try:
        yield
    except Exception as error:
        cause = error if isinstance(error, InvalidValue) else error.__cause__
        if not isinstance(cause, InvalidValue):
            raise
        inner = "" if cause is error else "".join(re.findall(r"^full_key: (\S+)$", str(error), re.MULTILINE)[-1:])
        within = inner == path or inner.startswith(f"{path}.")  # part of a whole configuration, or built by itself
        raise cause.at(inner if within else ".".join(filter(None, (path, inner)))) from error


class IncompatibleError(ConfigError):
    """Parts that do not work together; the message gives the reason and the nearest pair that does."""


class DataError(UserError, ValueError):
    """An unusable data set; the message names the file or folder."""


class RunError(UserError, ValueError):
    """An unusable run folder: missing, without a checkpoint, or of another kind."""


class BrokenRunError(UserError):
    """A training run that failed through no fault of the user: a dead process, a NaN loss, out of memory."""

    status = 1
