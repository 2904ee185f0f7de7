"""What a user's slip raises. The command line shows these as one line and no stack trace.

Each message says what was given, what is allowed and what to try.
"""

from typing import Any


class UserError(Exception):
    """A slip of the user, told in one line."""

    status = 2  # of the command that it ends


class Interrupted(KeyboardInterrupt):
    """A signal has stopped the run, which can go on; `status` is the exit status. A sweep ends with it."""

    def __init__(self, message: str, status: int = 130) -> None:
        super().__init__(message)
        self.status = status


class ConfigError(UserError, ValueError):
    """An unknown key, a wrong type or a senseless value in the configuration."""


class InvalidValue(ConfigError):
    """A parameter's value that is not allowed: InvalidValue("steps", 0, "at least 1")."""

    def __init__(self, name: str, value: Any, allowed: str, hint: str = "") -> None:
        self.name, self.value, self.allowed, self.hint = name, value, allowed, hint
        super().__init__(f"{name} must be {allowed} (got {value}){'; ' if hint else ''}{hint}")

    def at(self, path: str) -> "InvalidValue":
        """The same error for a parameter of the part at this path of the configuration."""
        return InvalidValue(f"{path}.{self.name}", self.value, self.allowed, self.hint)


class IncompatibleError(ConfigError):
    """Parts that have no meaning together; the message gives the reason and the nearest pair that works."""


class DataError(UserError, ValueError):
    """A data set that cannot be used; the message names the file or folder."""


class RunError(UserError, ValueError):
    """A run folder that cannot be used: missing, without a checkpoint, or of another kind."""


class BrokenRunError(UserError):
    """A training that broke off for no slip of the user's: a process that died, a loss that is NaN, no memory left."""

    status = 1
