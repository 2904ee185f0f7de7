"""Tables for HTML, Markdown and CSV: the ranking of settings, and the means of each axis."""

import csv
import math
from collections.abc import Iterable, Sequence
from io import StringIO
from typing import Any, NamedTuple

from denoiselab.report.effects import Effect
from denoiselab.report.statistics import Estimate
from denoiselab.report.study import Placed, Study
from denoiselab.report.words import shown

NAMES = {
    "fid": "FID",
    "sliced_wasserstein": "sliced Wasserstein",
    "bits_per_dim": "bits/dim",
    "nats_per_dim": "nats/dim",
}
# Columns next to the headline, if present: key, name, and whether it is a fraction.
BESIDE = {
    "floor": ("floor", False),
    "fid_infinity": ("FID∞", False),
    "floor.fid_infinity": ("floor of FID∞", False),
    "sfid": ("sFID", False),
    "kid": ("KID", False),
    "mmd": ("MMD", False),
    "cmmd": ("CMMD", False),
    "inception_score": ("IS", False),
    "precision": ("precision", True),
    "recall": ("recall", True),
    "density": ("density", False),
    "coverage": ("coverage", True),
    "memorised": ("memorised", True),
    "class_accuracy": ("class accuracy", True),
    "off_plane": ("off the plane", True),
    "bits_per_dim": ("bits/dim", False),
    "nats_per_dim": ("nats/dim", False),
    "nfe": ("NFE", False),
    "seconds": ("seconds", False),
    "sampling_seconds": ("sampling seconds", False),
    "train_seconds": ("training seconds", False),
}


class Cell(NamedTuple):
    """Text of a cell and its sort key."""

    text: str
    key: float | str


class Table(NamedTuple):
    """Columns, the first `words` of which hold text and the others numbers, and rows of cells."""

    columns: list[tuple[str, str]]  # key, name
    words: int
    rows: list[list[Cell]]


def figure(value: float | None, share: bool = False) -> str:
    """Format to three digits: 35.0, 4.66, 0.306; fractions in percent."""
    if value is None or not math.isfinite(value):
        return "–"
    if share:
        return f"{value:.1%}"
    if value == int(value) and abs(value) < 1e6:
        return f"{value:.0f}"
    digits = 2 - math.floor(math.log10(abs(value)))
    return (f"{value:.{min(max(digits, 0), 6)}f}" if digits < 7 else f"{value:.2g}").replace("-", "−")


def to(value: float, width: float) -> str:
    """Format a value to two digits of its uncertainty."""
    if width <= 0 or not math.isfinite(width):
        return figure(value)
    return f"{value:.{min(max(1 - math.floor(math.log10(width)), 0), 6)}f}".replace("-", "−")


def interval(estimate: Estimate) -> str:
    """Format the ends of an interval, to two digits of its half-width."""
    if estimate.low is None or estimate.high is None:
        return "–"
    half = (estimate.high - estimate.low) / 2
    return f"{to(estimate.low, half)} to {to(estimate.high, half)}"


def name_of(study: Study) -> str:
    named = {key: name for key, (name, _) in BESIDE.items()} | NAMES
    return named.get(study.headline, study.headline)


def ranking(study: Study) -> Table:
    """One row per setting, best first."""
    beside = [key for key in BESIDE if key != study.headline and any(s.mean(key) is not None for s in study.settings)]
    bounded = any(setting.estimate.over for setting in study.settings)
    compared = bounded and len(study.settings) > 1
    columns = [("rank", "rank"), *((axis.key, axis.key) for axis in study.axes), (study.headline, name_of(study))]
    columns += [("interval", "95% interval"), ("over", "over")] if bounded else []
    columns += [("behind", "behind the best")] if compared else []
    names = {key: BESIDE[key][0] for key in beside} | ({"floor": f"floor, n {study.unlike[1]}"} if study.unlike else {})
    columns += [(key, names[key]) for key in beside]
    rows = []
    for placed in study.ranking:
        setting, estimate = placed.setting, placed.setting.estimate
        row = [Cell(str(placed.rank), placed.rank), *(_word(setting.words[axis.key]) for axis in study.axes)]
        row += [Cell(figure(estimate.mean), estimate.mean)]
        row += [Cell(interval(estimate), _size(estimate)), Cell(estimate.over or "–", estimate.over)] if bounded else []
        row += [behind(placed)] if compared else []
        rows.append([*row, *(_figure(setting.mean(key), BESIDE[key][1]) for key in beside)])
    return Table(columns, 1 + len(study.axes), rows)


def behind(placed: Placed) -> Cell:
    """Paired difference to the best, marked ≈ if indistinguishable."""
    mark = {True: "≈ ", False: "", None: ""}[placed.alike]
    if placed.behind is None:
        said = "best" if placed.rank == 1 else "≈" if placed.alike else "–"
        return Cell(said, placed.setting.estimate.mean)
    return Cell(f"{mark}{figure(placed.behind.mean)} ({interval(placed.behind)})", placed.behind.mean)


def levels(effect: Effect) -> list[tuple[str, str, str]]:
    """Name, mean and interval half-width of each value."""
    return [
        (shown(level.value), figure(level.mean), "–" if level.half is None else f"± {to(level.half, level.half)}")
        for level in effect.levels
    ]


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def long_form(study: Study) -> str:
    """CSV with one line per row: rank of the setting, run, seed, command, all options and all metrics."""
    ranks = {id(row): placed.rank for placed in study.ranking for row in placed.setting.rows}
    axes = [axis.key for axis in study.axes]
    there = dict.fromkeys(key for row in study.rows for key in row.words if not key.endswith("_"))
    words = [*(key for key in axes if key in there), *(key for key in there if key not in axes)]
    head = ["rank", "folder", "seed", "command"]
    figures = list(dict.fromkeys(key for row in study.rows for key in row.figures if key not in head))
    written = StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow([*head, *(f"word:{key}" for key in words), *figures])
    for row in sorted(study.rows, key=lambda row: ranks[id(row)]):
        own = [ranks[id(row)], row.name, "" if row.seed is None else row.seed, " && ".join(map(str, row.commands))]
        told = [shown(row.words[key]) if key in row.words else "" for key in words]
        writer.writerow([*own, *told, *(_plain(row.figures.get(key)) for key in figures)])
    return written.getvalue()


def _plain(value: Any) -> Any:
    return "" if value is None else value


def _word(value: Any) -> Cell:
    return Cell("–" if value is None else shown(value), value if isinstance(value, int | float) else str(value))


def _figure(value: float | None, share: bool) -> Cell:
    return Cell(figure(value, share), math.inf if value is None else value)


def _size(estimate: Estimate) -> float:
    return math.inf if estimate.low is None or estimate.high is None else estimate.high - estimate.low
