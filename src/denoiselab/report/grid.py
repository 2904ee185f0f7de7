"""Summary of a finished sweep as a table and a picture in the sweep's folder.

Reads only the jobs' folders (.hydra, metrics.json and samples/), and imports torch only then.
"""

import csv
import json
import os
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, NamedTuple

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

Figures = dict[str, Any]


class Job(NamedTuple):
    folder: Path
    row: str
    column: str
    figures: Figures


class SweepTable(Callback, ABC):
    """Write table.md, table.csv and table.png with a cell per value of the keys `rows` and `columns`, such as data.dim.

    table.csv has one line per job. For several jobs in a cell, such as seeds, table.md shows the mean metrics and
    table.png the first job.
    """

    names: tuple[str, ...]  # of the metrics; jobs without the first one are skipped

    def __init__(self, rows: str, columns: str) -> None:
        self.rows, self.columns = rows, columns

    @abstractmethod
    def cell(self, figures: Figures) -> str:
        """Format the text of a cell."""

    @abstractmethod
    def explanation(self, floor: str) -> str:
        """Explain the cells; `floor` is the same metric for real data."""

    @abstractmethod
    def draw(self, cells: list[tuple[str, Job | None]], columns: int, path: Path) -> None:
        """Draw the picture from the titles and jobs of the cells, row by row."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        jobs = self.jobs(folder)
        if not jobs:
            return
        lines = self.markdown(jobs)
        (folder / "table.md").write_text("\n".join(lines) + "\n")
        with (folder / "table.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([self.rows, self.columns, *self.names, "run"])
            for job in jobs:
                figures = [job.figures.get(name, "") for name in self.names]
                writer.writerow([job.row, job.column, *figures, job.folder.name])
        rows, columns = _axes(jobs)
        cells = [(self._title(jobs, r, c), next(iter(_at(jobs, r, c)), None)) for r in rows for c in columns]
        self.draw(cells, len(columns), folder / "table.png")
        print("\n".join([*lines, *(os.path.relpath(folder / f"table.{kind}") for kind in ("md", "csv", "png"))]))

    def jobs(self, folder: Path) -> list[Job]:
        """The jobs with metrics, in the sweep's order."""
        found = []
        for path in folder.glob("*/metrics.json"):
            figures = json.loads(path.read_text())
            if self.names[0] in figures:
                config = OmegaConf.load(path.parent / ".hydra" / "config.yaml")
                hydra = OmegaConf.load(path.parent / ".hydra" / "hydra.yaml").hydra
                row, column = (
                    str(hydra.runtime.choices.get(key) or OmegaConf.select(config, key))
                    for key in (self.rows, self.columns)
                )
                found.append((hydra.job.num, Job(path.parent, row, column, figures)))
        return [job for _, job in sorted(found, key=lambda pair: pair[0])]

    def markdown(self, jobs: list[Job]) -> list[str]:
        rows, columns = _axes(jobs)
        head = f"| {self.rows} | " + " | ".join(f"{self.columns}={column}" for column in columns) + " |"
        lines = [head, "|---" * (len(columns) + 1) + "|"]
        for row in rows:
            lines.append(f"| {row} | " + " | ".join(self._mean(_at(jobs, row, column)) for column in columns) + " |")
        floor = ", ".join(sorted({f"{job.figures['floor']:.4f}" for job in jobs}))
        return [*lines, "", self.explanation(floor)]

    def _mean(self, jobs: list[Job]) -> str:
        shared = [name for name in self.names if jobs and all(name in job.figures for job in jobs)]
        mean = {name: sum(job.figures[name] for job in jobs) / len(jobs) for name in shared}
        return self.cell(mean) if jobs else ""

    def _title(self, jobs: list[Job], row: str, column: str) -> str:
        said = self._mean(_at(jobs, row, column)[:1])
        return f"{row}, {self.columns.rpartition('.')[2]} = {column}" + (f": {said}" if said else "")


class PointTable(SweepTable):
    """Sliced Wasserstein distance and, if present, the share of the squared norm off the plane.

    The picture shows the samples projected to the plane.
    """

    names = ("sliced_wasserstein", "floor", "off_plane", "n", "nfe", "step", "seed", "train_seconds")

    def cell(self, figures: Figures) -> str:
        off = f" ({figures['off_plane']:.1%})" if "off_plane" in figures else ""
        return f"{figures['sliced_wasserstein']:.3f}{off}"

    def explanation(self, floor: str) -> str:
        return (
            "Sliced Wasserstein distance of samples from test points, in the plane "
            f"(training points: {floor}); in brackets the share of squared norm off the plane."
        )

    def draw(self, cells: list[tuple[str, Job | None]], columns: int, path: Path) -> None:
        import numpy as np
        import torch

        from denoiselab.pictures import write_png
        from denoiselab.point_pictures import Panel, colours, panels

        made = []
        for title, job in cells:
            points = torch.empty(0, 2)
            if job is not None:
                points = torch.from_numpy(np.load(job.folder / "samples" / f"step_{job.figures['step']}.npy"))
            made.append(Panel(title, points, colours(points, None)))
        write_png(panels(made, 2.6, columns), path)  # half-width of the axes, enough for data of standard deviation 1


class ImageTable(SweepTable):
    """FID and, if present, class accuracy.

    The picture combines the jobs' own sample grids from callbacks.samples, at their last step.
    """

    names = ("fid", "floor", "class_accuracy", "n", "nfe", "step", "seed", "train_seconds")

    def cell(self, figures: Figures) -> str:
        named = f" ({figures['class_accuracy']:.0%})" if "class_accuracy" in figures else ""
        return f"{figures['fid']:.3g}{named}"

    def explanation(self, floor: str) -> str:
        return (
            f"FID of samples (real test images: {floor}); in brackets the share of them that a classifier names as the "
            "class asked for."
        )

    def draw(self, cells: list[tuple[str, Job | None]], columns: int, path: Path) -> None:
        import numpy as np
        from PIL import Image

        from denoiselab.pictures import side_by_side, write_png

        made = []
        for title, job in cells:
            file = None if job is None else job.folder / "samples" / f"step_{job.figures['step']}.png"
            there = file is not None and file.exists()  # a run may not save samples
            made.append((title, np.array(Image.open(file)) if there else None))  # type: ignore[arg-type]
        write_png(side_by_side(made, columns), path)


def _axes(jobs: list[Job]) -> tuple[list[str], list[str]]:
    """Row and column values, ordered by first job."""
    return list(dict.fromkeys(job.row for job in jobs)), list(dict.fromkeys(job.column for job in jobs))


def _at(jobs: list[Job], row: str, column: str) -> list[Job]:
    return [job for job in jobs if (job.row, job.column) == (row, column)]
