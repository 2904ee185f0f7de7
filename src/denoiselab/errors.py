"""Errors that a user can mend. The command line shows these as one line and no stack trace.

Each message says what is wrong, the value given, what is allowed and what to try.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class UserError(Exception):
    """An error that a user can mend, of one line."""

    status = 2  # of the command that it ends


class Interrupted(KeyboardInterrupt):
    """A signal has stopped the run, which can go on; `status` is the exit status. A sweep ends with it."""

    def __init__(self, message: str, status: int = 130) -> None:
        super().__init__(message)
        self.status = status


class ConfigError(UserError, ValueError):
    """An unknown key, a wrong type or an invalid value in the configuration."""


def shown(value: Any) -> str:
    """A value as it is written on the command line."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(shown, value))}]"
    return {"None": "null", "True": "true", "False": "false"}.get(str(value), str(value))


class InvalidValue(ConfigError):
    """A value outside of what its parameter allows: "steps must be at least 1 (got 0)"."""

    def __init__(self, name: str, value: Any, allowed: str, hint: str = "") -> None:
        self.name, self.value, self.allowed, self.hint = name, value, allowed, hint
        super().__init__(f"{name} must be {allowed} (got {shown(value)})" + (f"; {hint}" if hint else ""))

    def at(self, path: str) -> "InvalidValue":
        """The same error for whoever knows where in the configuration the part stands: "sampler.steps must be ..."."""
        return InvalidValue(f"{path}.{self.name}" if path else self.name, self.value, self.allowed, self.hint)

    def __reduce__(self) -> tuple[Any, ...]:  # to and from other processes
        return type(self), (self.name, self.value, self.allowed, self.hint)


@contextmanager
def located(path: str) -> Iterator[None]:
    """Inside, an InvalidValue of a part that is made from the options under `path` names the option.

    Hydra's instantiate wraps it in an error of its own, which names the part within `path` that it was making.
    """
    try:
        yield
    except Exception as error:
        cause = error if isinstance(error, InvalidValue) else error.__cause__
        if not isinstance(cause, InvalidValue):
            raise
        inner = "" if cause is error else "".join(re.findall(r"^full_key: (\S+)$", str(error), re.MULTILINE)[-1:])
        within = inner == path or inner.startswith(f"{path}.")  # a part of a whole configuration, or one by itself
        raise cause.at(inner if within else ".".join(filter(None, (path, inner)))) from error


class IncompatibleError(ConfigError):
    """Parts that have no meaning together; the message gives the reason and the nearest pair that works."""


class DataError(UserError, ValueError):
    """A data set that cannot be used; the message names the file or folder."""


class RunError(UserError, ValueError):
    """A run folder that cannot be used: missing, without a checkpoint, or of another kind."""


class BrokenRunError(UserError):
    """A training that broke off for no slip of the user's: a process that died, a loss that is NaN, no memory left."""

    status = 1
