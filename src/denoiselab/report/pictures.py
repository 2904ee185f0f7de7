"""Sample grids embedded in the page, of one seed where possible, so that positions show the same noise."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from denoiselab.report.reading import Row
from denoiselab.report.study import Placed, Study
from denoiselab.report.tables import figure, name_of

MOST = 12


class Picture(NamedTuple):
    """A sample grid and its caption."""

    data: str  # base64 of a PNG
    rank: int
    caption: str
    seed: str


def pictures(study: Study, most: int = MOST) -> list[Picture]:
    """Select at most `most` settings with a grid, evenly by rank, including best and worst."""
    there = [(placed, found) for placed in study.ranking if (found := _of(placed, study)) is not None]
    if len(there) > most:
        there = [there[round(i * (len(there) - 1) / (most - 1))] for i in range(most)]
    return [_picture(placed, row, path, study) for placed, (row, path) in there]


def _of(placed: Placed, study: Study) -> tuple[Row, Path] | None:
    """The grid of the setting's first seed that has one."""
    rows = sorted(placed.setting.rows, key=lambda row: study.seeds.index(row.seed))
    return next(((row, path) for row in rows if (path := _grid(row)) is not None), None)


def _grid(row: Row) -> Path | None:
    """grid.png of an evaluation, or the samples of a training's last step."""
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
