"""Sample grids for the page, as data: of each setting those of one seed, so that pictures stand for the same noise."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from denoiselab.report.reading import Row
from denoiselab.report.study import Placed, Study
from denoiselab.report.tables import figure, name_of

MOST = 12


class Picture(NamedTuple):
    """A grid, with its caption."""

    data: str  # base64 of a PNG
    rank: int
    caption: str
    seed: str


def pictures(study: Study, most: int = MOST) -> list[Picture]:
    """At most so many by rank, evenly, the best and the worst among them; of the settings that have one."""
    there = [(placed, found) for placed in study.ranking if (found := _of(placed, study)) is not None]
    if len(there) > most:
        there = [there[round(i * (len(there) - 1) / (most - 1))] for i in range(most)]
    return [_picture(placed, row, path, study) for placed, (row, path) in there]


def _of(placed: Placed, study: Study) -> tuple[Row, Path] | None:
    """The picture of the first of all seeds that this setting has one of."""
    rows = sorted(placed.setting.rows, key=lambda row: study.seeds.index(row.seed))
    return next(((row, path) for row in rows if (path := _grid(row)) is not None), None)


def _grid(row: Row) -> Path | None:
    """grid.png of an evaluation; the samples of the last step of a training."""
    grids: Sequence[Path] = [row.folder / "grid.png"]
    if row.folder == row.run:
        steps = [(path.stem.rpartition("_")[2], path) for path in row.folder.glob("samples/step_*.png")]
        grids = [*grids, *(path for step, path in sorted(steps, key=_last) if step.isdigit())]
    return next((path for path in grids if path.exists()), None)


def _last(pair: tuple[str, Path]) -> int:
    return -int(pair[0]) if pair[0].isdigit() else 0


def _picture(placed: Placed, row: Row, path: Path, study: Study) -> Picture:
    words = placed.setting.label(study.axes) or "all runs"
    caption = f"{words}: {name_of(study)}\u00a0{figure(row.headline)}"
    return Picture(
        base64.b64encode(path.read_bytes()).decode(), placed.rank, caption, str(row.figures.get("sample_seed"))
    )
