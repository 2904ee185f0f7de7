"""Settings and their ranking: rows with equal options form one setting, repeated over training seeds.

An axis is an option that differs between rows. An option that was not given and is determined by another one
(sampler=heun selects spacing=karras) is not an axis but follows that one. Lower metrics are better.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from denoiselab.axes import within
from denoiselab.report.reading import Row
from denoiselab.report.statistics import Estimate, student
from denoiselab.report.words import EVALUATED, SAMPLING, Word, Words, short, shown


class Axis(NamedTuple):
    """An option that differs, its values in order, and the options that follow it."""

    key: str
    values: tuple[Word, ...]
    follows: tuple[str, ...] = ()

    @property
    def samples(self) -> bool:
        """Whether it concerns sampling rather than training."""
        return within(self.key, (*SAMPLING, *EVALUATED))


@dataclass(frozen=True)
class Setting:
    """All rows of one setting."""

    words: Words  # of the axes
    rows: tuple[Row, ...]

    def by_seed(self, key: str | None = None) -> dict[int | None, float]:
        """A metric (the headline by default) by training seed, averaged over evaluations of the same seed."""
        found: dict[int | None, list[float]] = {}
        for row in self.rows:
            value = row.headline if key is None else row.figures.get(key)
            if isinstance(value, int | float) and np.isfinite(value):
                found.setdefault(row.seed, []).append(float(value))
        return {seed: float(np.mean(values)) for seed, values in found.items()}

    @cached_property
    def estimate(self) -> Estimate:
        """The headline over seeds; for one seed, with the bootstrap interval of its samples."""
        values = list(self.by_seed().values())
        if len(values) > 1:
            return student(values, f"{len(values)} seeds")
        row, name = self.rows[0], self.rows[0].figures["headline"]
        low, high = (row.figures.get(f"{name}_{end}") for end in ("low", "high"))
        if len(self.rows) > 1 or not (isinstance(low, int | float) and isinstance(high, int | float)):
            return Estimate(values[0])
        return Estimate(values[0], float(low), float(high), "bootstrap")

    def mean(self, key: str) -> float | None:
        values = list(self.by_seed(key).values())
        return float(np.mean(values)) if values else None

    def label(self, axes: Iterable[Axis]) -> str:
        """Legend label: its options on these axes."""
        return " · ".join(word for axis in axes if (word := short(axis.key, self.words[axis.key])))


@dataclass(frozen=True)
class Placed:
    """A setting in the ranking, with its difference to the best."""

    rank: int
    setting: Setting
    behind: Estimate | None  # mean paired difference to the best, over at least two common seeds
    alike: bool | None  # indistinguishable from the best; None if unknown


class Study:
    """Comparable rows, grouped into settings."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = list(rows)
        self.axes = axes(rows)
        grouped: dict[Any, list[Row]] = {}
        for row in rows:
            grouped.setdefault(tuple(sorted(row.words.items())), []).append(row)
        keys = [axis.key for axis in self.axes]
        self.settings = [
            Setting(
                {key: _word(group[0], key) for key in keys},
                tuple(sorted(group, key=lambda row: (row.seed is not None, row.seed or 0))),
            )
            for group in grouped.values()
        ]

    @cached_property
    def ranking(self) -> list[Placed]:
        ordered = sorted(self.settings, key=lambda setting: setting.estimate.mean)
        placed = []
        for rank, setting in enumerate(ordered, 1):
            behind = paired(setting, ordered[0])
            alike = setting is ordered[0] or setting.estimate.overlaps(ordered[0].estimate)
            if behind is not None and behind.low is not None and behind.high is not None:
                alike = behind.low <= 0 <= behind.high
            placed.append(Placed(rank, setting, behind, alike))
        return placed

    @property
    def headline(self) -> str:
        return str(self.rows[0].figures["headline"])

    @property
    def floor(self) -> float | None:
        """The mean of the floors."""
        floors = [row.figures["floor"] for row in self.rows if isinstance(row.figures.get("floor"), int | float)]
        return float(np.mean(floors)) if floors else None

    @property
    def unlike(self) -> tuple[int, int] | None:
        """(n of the metrics, n of the floor) if they differ and are thus not comparable."""
        pairs = ((row.figures.get("n"), row.figures.get("floor_n")) for row in self.rows if "floor" in row.figures)
        return next(((n, of) for n, of in pairs if n is not None and of is not None and n != of), None)

    @property
    def drawn_floor(self) -> float | None:
        """The floor to draw next to the metrics, if comparable."""
        return None if self.unlike else self.floor

    @property
    def training_axes(self) -> list[Axis]:
        return [axis for axis in self.axes if not axis.samples]

    @property
    def sampling_axes(self) -> list[Axis]:
        return [axis for axis in self.axes if axis.samples]

    @property
    def seeds(self) -> list[int | None]:
        return sorted({row.seed for row in self.rows}, key=lambda seed: (seed is not None, seed or 0))

    def trainings(self) -> dict[tuple[Word, ...], list[Setting]]:
        """Settings of each trained model, by its options on the training axes; best first."""
        found: dict[tuple[Word, ...], list[Setting]] = {}
        for placed in self.ranking:
            found.setdefault(tuple(placed.setting.words[axis.key] for axis in self.training_axes), []).append(
                placed.setting
            )
        return found

    def fixed(self) -> dict[str, str]:
        """Options common to all rows."""
        typed = {key for row in self.rows for key in row.typed}
        return {
            key: shown(word)
            for key, word in self.rows[0].words.items()
            if key not in EVALUATED and all(row.words.get(key) == word for row in self.rows)
            if key in typed or ("." not in key and isinstance(word, str))
        }


def paired(setting: Setting, best: Setting) -> Estimate | None:
    """Mean difference to the best over common seeds, if there are at least two."""
    if setting is best:
        return None
    mine, its = setting.by_seed(), best.by_seed()
    common = [seed for seed in mine if seed in its]
    if len(common) < 2:
        return None
    return student([mine[seed] - its[seed] for seed in common], f"{len(common)} seeds, paired")


def axes(rows: Sequence[Row]) -> list[Axis]:
    """Find the options that differ between rows: training before sampling, and given ones first."""
    typed = list(dict.fromkeys(key for row in rows for key in row.typed))
    keys = [*typed, *dict.fromkeys(key for row in rows for key in row.words if key not in typed)]
    values = {key: tuple(_word(row, key) for row in rows) for key in keys if key != "experiment"}
    moving = {key: column for key, column in values.items() if len(set(column)) > 1}
    chosen = [key for key in moving if key in typed]
    if len({row.experiment for row in rows}) > 1:
        values["experiment"] = tuple(row.experiment for row in rows)
        chosen.append("experiment")
    following: dict[str, list[str]] = {}
    free = []
    for key, column in moving.items():
        part = key.partition(".")[0]
        if part != key and part in values and _tells(values[part], column):
            continue  # a value determined by its group's option
        leader = next((k for k in chosen if _tells(values[k], column)), None) if key not in chosen else None
        if leader is None:
            free.append(key)
        else:
            following.setdefault(leader, []).append(key)
    if "experiment" in following:
        free.append("experiment")
    return [Axis(key, _ordered(values[key]), tuple(following.get(key, ()))) for key in sorted(free, key=_place)]


def _place(key: str) -> int:
    """Order training options first, then sampling options."""
    parts = (*SAMPLING, *EVALUATED)
    return next((i for i, part in enumerate(parts) if within(key, (part,))), -1)


def _tells(column: Sequence[Any], other: Sequence[Any]) -> bool:
    """Whether the values of one column determine those of another."""
    return len(set(column)) == len(set(zip(column, other, strict=True)))


def _word(row: Row, key: str) -> Word:
    return row.experiment if key == "experiment" else row.words.get(key)


def _ordered(column: Sequence[Word]) -> tuple[Word, ...]:
    """Sort numbers by value; keep other values in order of appearance."""
    found = list(dict.fromkeys(column))
    numbers = [word for word in found if isinstance(word, int | float)]
    return tuple(sorted(numbers)) if len(numbers) == len(found) else tuple(found)
