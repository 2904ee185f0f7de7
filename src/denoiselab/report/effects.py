"""Main effects of axes: means over the complete part of the design, paired over the other axes and seeds.

For an axis with values a, let r range over combinations of the other axes and s over seeds for which all y(a, r, s)
exist. The mean of a is that of y(a, r, s) over r and s. Effects of seeds and cells common to all a cancel in the
deviations d(a, r, s) = y(a, r, s) - mean_a y(a, r, s), which give the interval: over seeds, of their means over r,
since seeds are the random factor; with a single seed over the cells r, which shows how consistent the effect is.
"""

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from denoiselab.report.statistics import half_width, interaction
from denoiselab.report.study import Axis, Setting
from denoiselab.report.words import Word

SIGNIFICANT = 0.05
MOST = 12  # values per axis in a two-way table
PAIRS = 4  # two-way tables


class Level(NamedTuple):
    """Mean of one value of an axis, with the half-width of its interval."""

    value: Word
    mean: float
    half: float | None


class Effect(NamedTuple):
    """Means of an axis's values over the same cells."""

    axis: Axis
    levels: list[Level]
    cells: int  # combinations of the other axes
    of: int  # all combinations
    seeds: int
    over: str  # "3 seeds", for example; empty without intervals
    left_out: tuple[Word, ...]  # values without common cells

    @property
    def balanced(self) -> bool:
        return self.cells == self.of and not self.left_out

    @property
    def span(self) -> float:
        means = [level.mean for level in self.levels]
        return max(means) - min(means)


class Interaction(NamedTuple):
    """Two axes whose joint effect exceeds one of their own: means (A, B) over the same cells, and its size."""

    first: Axis
    second: Axis
    means: np.ndarray
    sizes: tuple[float, float, float]  # root mean squares: first, second, interaction
    p: float  # nan with one seed
    cells: int
    seeds: int


class _Complete(NamedTuple):
    """A complete design: values of each axis, and metrics (values of the first, [of the second,] cells, seeds)."""

    values: tuple[tuple[Word, ...], ...]
    figures: np.ndarray


def effects(settings: Sequence[Setting], axes: Sequence[Axis]) -> list[Effect]:
    """Return the effect of each axis with two values that share a cell, in the order of the axes."""
    found = []
    for axis in axes:
        design = _complete(settings, (axis,), axes)
        if design is not None:
            found.append(_effect(axis, design, _rests(settings, (axis,), axes)))
    return found


def _effect(axis: Axis, design: _Complete, rests: int) -> Effect:
    figures = design.figures
    seeds, cells = figures.shape[2], figures.shape[1]
    deviations = figures - figures.mean(0, keepdims=True)
    over_seeds = seeds > 1
    drawn = deviations.mean(1 if over_seeds else 2)  # (values, seeds) or (values, cells)
    levels = [Level(value, float(figures[i].mean()), half_width(drawn[i])) for i, value in enumerate(design.values[0])]
    over = f"{seeds} seeds" if over_seeds else f"{cells} cells of one seed" if cells > 1 else ""
    left_out = tuple(value for value in axis.values if value not in design.values[0])
    return Effect(axis, levels, cells, rests, seeds, over, left_out)


def interactions(settings: Sequence[Setting], axes: Sequence[Axis]) -> list[Interaction]:
    """Find pairs of axes whose significant interaction exceeds the smaller main effect; the strongest few."""
    found = []
    for first, second in itertools.combinations([axis for axis in axes if len(axis.values) <= MOST], 2):
        design = _complete(settings, (first, second), axes)
        if design is None or min(map(len, design.values)) < 2:
            continue
        by_seed = design.figures.mean(2)  # mean over the other axes' cells
        *sizes, p = interaction(by_seed)
        if sizes[2] > min(sizes[:2]) and not p > SIGNIFICANT:
            kept = (first._replace(values=design.values[0]), second._replace(values=design.values[1]))
            cells, seeds = design.figures.shape[2:]
            found.append(Interaction(*kept, by_seed.mean(2), tuple(sizes), p, cells, seeds))  # type: ignore[arg-type]
    return sorted(found, key=lambda one: -one.sizes[2])[:PAIRS]


def _complete(settings: Sequence[Setting], chosen: tuple[Axis, ...], axes: Sequence[Axis]) -> _Complete | None:
    """Find the complete part with the most comparisons, leaving out the rarest seeds and values (or all but 2 values).

    Comparisons are pairs of values x cells x seeds. None if no two values share a cell.
    """
    figures = {
        (tuple(s.words[axis.key] for axis in chosen), _rest(s, chosen, axes), seed): value
        for s in settings
        for seed, value in s.by_seed().items()
    }
    best: tuple[int, _Complete | None] = (0, None)
    orders = [_rarest_last([key[0][i] for key in figures], axis.values) for i, axis in enumerate(chosen)]
    seeds = _rarest_last([key[2] for key in figures], sorted({key[2] for key in figures}, key=str))
    rests = list(dict.fromkeys(key[1] for key in figures))
    kept = [[order[:count] for count in range(len(order), 1, -1)] for order in orders]
    if len(chosen) == 1 and 2 < len(orders[0]) <= MOST:
        kept[0] += [list(pair) for pair in itertools.combinations(orders[0], 2)]
    for parts, count in itertools.product(itertools.product(*kept), range(len(seeds), 0, -1)):
        values = tuple(tuple(v for v in axis.values if v in part) for axis, part in zip(chosen, parts, strict=True))
        drawn, corners = seeds[:count], list(itertools.product(*values))
        whole = [r for r in rests if all((corner, r, seed) in figures for corner in corners for seed in drawn)]
        score = len(corners) * (len(corners) - 1) * len(whole) * len(drawn)
        if score > best[0]:
            made = np.array([[[figures[corner, r, seed] for seed in drawn] for r in whole] for corner in corners])
            best = score, _Complete(values, made.reshape(*map(len, values), len(whole), len(drawn)))
    return best[1]


def _rest(setting: Setting, chosen: Sequence[Axis], axes: Sequence[Axis]) -> tuple[Word, ...]:
    return tuple(setting.words[axis.key] for axis in axes if axis not in chosen)


def _rests(settings: Sequence[Setting], chosen: Sequence[Axis], axes: Sequence[Axis]) -> int:
    return len({_rest(setting, chosen, axes) for setting in settings})


def _rarest_last(seen: Sequence[Any], order: Sequence[Any]) -> list[Any]:
    return sorted(order, key=lambda value: -seen.count(value))
