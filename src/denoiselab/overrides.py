"""Overrides as they are typed: key=value, +key=value, ~key."""

from collections.abc import Iterable


def pair(override: str) -> tuple[str, str]:
    """An override's key and value, without the marks of Hydra's grammar."""
    key, _, value = override.partition("=")
    return key.lstrip("+~"), value.strip("'\"")


def pairs(overrides: Iterable[str]) -> dict[str, str]:
    """The values by their keys; of a key that is given twice, the last."""
    return dict(map(pair, overrides))


def key_of(override: str) -> str:
    return pair(override)[0]
