"""Command-line overrides: key=value, +key=value, ~key."""

from collections.abc import Iterable


def pair(override: str) -> tuple[str, str]:
    """Returns an override's key and value, without the marks of Hydra's grammar."""
    key, _, value = override.partition("=")
    return key.lstrip("+~"), value.strip("'\"")


def pairs(overrides: Iterable[str]) -> dict[str, str]:
    """Returns the values by key; of a repeated key, the last."""
    return dict(map(pair, overrides))


def key_of(override: str) -> str:
    return pair(override)[0]
