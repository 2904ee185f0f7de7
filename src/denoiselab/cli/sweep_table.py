"""What a sweep of points comes to: a table and one picture, in the sweep's folder, when its last job has ended.

Reads the jobs' folders alone (.hydra, metrics.json, samples/step_<N>.npy), and imports torch only then.
"""

import csv
import json
import os
from pathlib import Path
from typing import Any, NamedTuple

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

FIGURES = ("sliced_wasserstein", "floor", "off_plane", "n", "nfe", "step", "seed", "train_seconds")


class Job(NamedTuple):
    folder: Path
    row: str
    column: str
    figures: dict[str, Any]


class PointTable(Callback):
    """table.md, table.csv and table.png: a cell for each value of the keys `rows` and `columns`, such as data.dim.

    A cell says the sliced Wasserstein distance, and the share of squared norm off the plane where there is one; the
    picture shows the samples, brought back to the plane. table.csv has a line for each job; where several fall into one
    cell, as those of several seeds do, table.md has their mean and table.png the first of them.
    """

    def __init__(self, rows: str, columns: str) -> None:
        self.rows, self.columns = rows, columns

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        jobs = self.jobs(folder)
        if not jobs:
            return
        lines = self.markdown(jobs)
        (folder / "table.md").write_text("\n".join(lines) + "\n")
        with (folder / "table.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([self.rows, self.columns, *FIGURES, "run"])
            for job in jobs:
                figures = [job.figures.get(name, "") for name in FIGURES]
                writer.writerow([job.row, job.column, *figures, job.folder.name])
        self.draw(jobs, folder / "table.png")
        print("\n".join([*lines, *(os.path.relpath(folder / f"table.{kind}") for kind in ("md", "csv", "png"))]))

    def jobs(self, folder: Path) -> list[Job]:
        """The jobs that have come to figures, in the sweep's order."""
        found = []
        for path in folder.glob("*/metrics.json"):
            figures = json.loads(path.read_text())
            if "sliced_wasserstein" in figures:
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
            lines.append(f"| {row} | " + " | ".join(_cell(_at(jobs, row, column)) for column in columns) + " |")
        floor = ", ".join(sorted({f"{job.figures['floor']:.4f}" for job in jobs}))
        lines += [
            "",
            "Sliced Wasserstein distance of samples from test points, in the plane "
            f"(training points: {floor}); in brackets the share of squared norm off the plane.",
        ]
        return lines

    def draw(self, jobs: list[Job], path: Path) -> None:
        import numpy as np
        import torch

        from denoiselab.pictures import write_png
        from denoiselab.point_pictures import Panel, colours, panels

        made, (rows, columns) = [], _axes(jobs)
        for row in rows:
            for column in columns:
                title, points = f"{row}, {self.columns.rpartition('.')[2]} = {column}", torch.empty(0, 2)
                for job in _at(jobs, row, column)[:1]:
                    points = torch.from_numpy(np.load(job.folder / "samples" / f"step_{job.figures['step']}.npy"))
                    title += f": {_cell([job])}"
                made.append(Panel(title, points, colours(points, None)))
        write_png(panels(made, 2.6, len(columns)), path)  # what data of standard deviation 1 may need


def _axes(jobs: list[Job]) -> tuple[list[str], list[str]]:
    """The values of rows and columns in the order of their first jobs."""
    return list(dict.fromkeys(job.row for job in jobs)), list(dict.fromkeys(job.column for job in jobs))


def _at(jobs: list[Job], row: str, column: str) -> list[Job]:
    return [job for job in jobs if (job.row, job.column) == (row, column)]


def _cell(jobs: list[Job]) -> str:
    if not jobs:
        return ""
    mean = {
        name: sum(job.figures[name] for job in jobs) / len(jobs)
        for name in ("sliced_wasserstein", "off_plane")
        if all(name in job.figures for job in jobs)
    }
    off = f" ({mean['off_plane']:.1%})" if "off_plane" in mean else ""
    return f"{mean['sliced_wasserstein']:.3f}{off}"
