"""experiment=few_steps: the headline metric of a trained model against network evaluations, by sampler."""

import csv
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from denoiselab.assembly.configuration import composed
from denoiselab.assembly.evaluation import evaluation as assembled
from denoiselab.assembly.make import make
from denoiselab.assembly.sampling import recipe
from denoiselab.denoiser import Prediction
from denoiselab.errors import IncompatibleError
from denoiselab.limits import AtLeastTwo, Count, Natural, checked
from denoiselab.pictures import Curves, lines
from denoiselab.progress import console
from denoiselab.samplers import ODE, Sampler
from denoiselab.schedules import Schedule
from denoiselab.training.callbacks.logging import log_picture, run_folder
from denoiselab.training.system import System


class Row(NamedTuple):
    sampler: str
    spacing: str
    steps: int
    evaluations: int
    figure: float


class FewSteps(pl.Callback):
    """Callback that writes few_steps.csv, few_steps.md and few_steps.png to the run folder at the end of training.

    evaluations: budgets of network evaluations; each sampler takes as many steps as a budget allows, on its option's
    grid. An adaptive sampler follows its tolerances and ignores the budgets; one that is incompatible with the schedule
    is left out. n, seed, batch_size: of the samples, with the same noise for all. All ranks take part.
    """

    @checked
    def __init__(
        self,
        evaluations: Sequence[Count],
        samplers: Sequence[str],
        n: AtLeastTwo,
        seed: Natural = 0,
        batch_size: Count = 100,
    ) -> None:
        self.budgets, self.samplers = list(evaluations), list(samplers)
        self.n, self.seed, self.batch_size = n, seed, batch_size

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, System)
        system, cfg = pl_module, OmegaConf.create(pl_module.description["config"])
        evaluation = assembled(cfg, make(cfg, "data"))
        rows, about = [], {}
        with system.ema.swapped():
            for name in self.samplers:
                chosen = composed("train", [f"sampler={name}"])
                cfg.sampler, cfg.spacing = chosen.sampler, chosen.spacing
                try:
                    counts = self.steps(cfg, system.pipeline.denoiser.schedule)
                except IncompatibleError as reason:
                    if trainer.is_global_zero:
                        console.print(f"few_steps leaves out {name}: {reason}", highlight=False, soft_wrap=True)
                    continue
                for steps in counts:
                    cfg.sampler.steps = steps
                    about = evaluation(system.pipeline, recipe(cfg), self.n, self.seed, self.batch_size)
                    spacing = str(cfg.spacing["_target_"]).rpartition(".")[2]
                    rows.append(Row(name, spacing, steps, about["nfe"], about[about["headline"]]))
        if trainer.is_global_zero and rows:
            self.report(trainer, rows, about)

    def steps(self, cfg: DictConfig, schedule: Schedule) -> list[int]:
        """Return the largest number of steps within each budget, or an adaptive sampler's own setting."""
        if isinstance(make(cfg, "sampler"), ODE):
            return [cfg.sampler.steps]
        found = []
        for budget in self.budgets:
            for steps in range(budget, 0, -1):
                cfg.sampler.steps = steps
                if evaluations_of(make(cfg, "sampler"), schedule) <= budget:
                    found.append(steps)
                    break
        return sorted(set(found))

    def report(self, trainer: pl.Trainer, rows: list[Row], about: dict[str, Any]) -> None:
        folder, headline = run_folder(trainer), about["headline"]
        with (folder / "few_steps.csv").open("w", newline="") as file:
            csv.writer(file).writerows([[*Row._fields[:-1], headline], *rows])
        table = as_table(rows, self.budgets)
        told = f"{headline} of {about['n']} samples; floor {about['floor']:.4g} (n {about['floor_n']})"
        (folder / "few_steps.md").write_text(f"{told}\n\n{table}\n")
        curves: Curves = {}
        for row in rows:
            counts, figures = curves.setdefault(row.sampler, ([], []))
            counts.append(float(row.evaluations))
            figures.append(row.figure)
        ends = [*self.budgets, *(row.evaluations for row in rows)]
        curves["floor"] = ([float(min(ends)), float(max(ends))], [about["floor"]] * 2)
        picture = lines(curves, "network evaluations", headline, told, Path(folder / "few_steps.png"))
        log_picture(trainer, "few_steps", picture, told)
        console.print(f"{told}\n{table}", highlight=False, soft_wrap=True)


@torch.no_grad()
def evaluations_of(sampler: Sampler, schedule: Schedule) -> int:
    """Count a sampler's network evaluations, with a denoiser that predicts pure noise."""
    count = 0

    def denoise(x_t: Tensor, t: Tensor) -> Prediction:
        nonlocal count
        count += 1
        return Prediction(torch.zeros_like(x_t), x_t / schedule.prior_std)

    sampler(denoise, schedule, schedule.prior_std * torch.ones(1, 1, dtype=torch.float64))
    return count


def as_table(rows: list[Row], budgets: Sequence[int]) -> str:
    """Return a Markdown table with one row per sampler and one column per budget.

    A metric goes to the smallest budget that covers its evaluations; beyond all budgets it gets a column of its own.
    """
    columns = sorted({*budgets, *(row.evaluations for row in rows if row.evaluations > max(budgets))})
    found = {(row.sampler, columns[bisect_left(columns, row.evaluations)]): f"{row.figure:.3g}" for row in rows}
    table = [
        ["sampler", "grid", *map(str, columns)],
        ["---"] * (len(columns) + 2),
        *(
            [name, spacing, *(found.get((name, column), "–") for column in columns)]
            for name, spacing in dict.fromkeys((row.sampler, row.spacing) for row in rows)
        ),
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in table)
