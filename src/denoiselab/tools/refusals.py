"""python -m denoiselab.tools.refusals: print the table of refused options and their reasons for the README.

Checks each option in the default configuration, and each pair of options of two groups, against rules/. An option
refused by itself is listed once, not with every other option.
"""

import copy
import itertools
from collections.abc import Iterator

from omegaconf import DictConfig

from denoiselab import axes
from denoiselab.assembly import rules
from denoiselab.assembly.configuration import Loader, composed
from denoiselab.axes import Role
from denoiselab.errors import ConfigError

Choice = tuple[str, str]  # axis, option


def options(axis: str) -> list[str]:
    return Loader("train").options(axis)


def refusal(base: DictConfig, parts: dict[Choice, DictConfig], *chosen: Choice) -> str | None:
    """Reason why the default configuration with these options is refused; None if it is valid."""
    cfg = copy.copy(base)
    for axis, option in chosen:
        cfg[axis] = parts[axis, option]
    try:
        rules.check_rules(cfg)
    except ConfigError as error:
        return str(error)
    return None


def refused() -> Iterator[tuple[tuple[Choice, ...], str]]:
    """Yield (options, reason): single options first, then pairs."""
    base = composed("train", [])
    judged = [axis for axis in axes.of(Role.MODEL, Role.TRAINING, Role.SAMPLING, Role.JUDGING) if axis in base]
    parts = {(axis, o): composed("train", [f"{axis}={o}"])[axis] for axis in judged for o in options(axis)}
    alone = {choice: refusal(base, parts, choice) for choice in parts}
    yield from (((choice,), reason) for choice, reason in alone.items() if reason)
    fine = [choice for choice, reason in alone.items() if reason is None]
    for one, other in itertools.combinations(fine, 2):
        if one[0] != other[0]:
            reason = refusal(base, parts, one, other)
            if reason:
                yield (one, other), reason


def table() -> str:
    """Markdown table with a row per reason and its options."""
    rows: dict[str, list[dict[str, list[str]]]] = {}
    for chosen, reason in refused():
        for group in rows.setdefault(reason, []):
            if set(group) == {axis for axis, _ in chosen}:
                break
        else:
            group = {axis: [] for axis, _ in chosen}
            rows[reason].append(group)
        for axis, option in chosen:
            if option not in group[axis]:
                group[axis].append(option)
    lines = ["| refused | why, and what to take |", "|---|---|"]
    for reason, groups in rows.items():
        told = "; ".join(" with ".join(f"`{a}={','.join(o)}`" for a, o in group.items()) for group in groups)
        lines.append(f"| {told} | {reason} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
