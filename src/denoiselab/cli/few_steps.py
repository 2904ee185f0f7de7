"""experiment=few_steps: the figure of one trained model against the number of network evaluations, by sampler."""

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytorch_lightning as pl
import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from denoiselab.callbacks.logging import log_picture, run_folder
from denoiselab.cli import build
from denoiselab.cli.entry import composed
from denoiselab.denoiser import Prediction
from denoiselab.pictures import Curves, lines
from denoiselab.progress import console
from denoiselab.samplers import Sampler
from denoiselab.schedules import Schedule
from denoiselab.system import DiffusionSystem


class Row(NamedTuple):
    sampler: str
    spacing: str
    steps: int
    evaluations: int
    figure: float


class FewSteps(pl.Callback):
    """When training has ended: few_steps.csv, few_steps.md and few_steps.png in the run's folder.

    evaluations: budgets of network evaluations; each sampler takes as many steps as a budget allows, on the grid that
    its option chooses. n, seed, batch_size: of the samples, the same noise for all. All ranks take part.
    """

    def __init__(
        self, evaluations: Sequence[int], samplers: Sequence[str], n: int, seed: int = 0, batch_size: int = 100
    ) -> None:
        self.budgets, self.samplers = list(evaluations), list(samplers)
        self.n, self.seed, self.batch_size = n, seed, batch_size

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, DiffusionSystem)
        system, cfg = pl_module, OmegaConf.create(pl_module.description["config"])
        evaluation = build.evaluation(cfg, instantiate(cfg.data))
        rows, about = [], {}
        with system.ema.swapped():
            for name in self.samplers:
                chosen = composed("train", [f"sampler={name}"])
                cfg.sampler, cfg.spacing = chosen.sampler, chosen.spacing
                for steps in self.steps(cfg, system.pipeline.denoiser.schedule):
                    cfg.sampler.steps = steps
                    about = evaluation(system.pipeline, build.recipe(cfg), self.n, self.seed, self.batch_size)
                    spacing = str(cfg.spacing["_target_"]).rpartition(".")[2]
                    rows.append(Row(name, spacing, steps, about["nfe"], about[about["headline"]]))
        if trainer.is_global_zero:
            self.report(trainer, rows, about)

    def steps(self, cfg: DictConfig, schedule: Schedule) -> list[int]:
        """The largest number of steps within each budget."""
        found = []
        for budget in self.budgets:
            for steps in range(budget, 0, -1):
                cfg.sampler.steps = steps
                if evaluations_of(instantiate(cfg.sampler), schedule) <= budget:
                    found.append(steps)
                    break
        return sorted(set(found))

    def report(self, trainer: pl.Trainer, rows: list[Row], about: dict[str, Any]) -> None:
        folder, headline = run_folder(trainer), about["headline"]
        with (folder / "few_steps.csv").open("w", newline="") as file:
            csv.writer(file).writerows([[*Row._fields[:-1], headline], *rows])
        table = as_table(rows)
        told = f"{headline} of {about['n']} samples; floor {about['floor']:.4g} (n {about['floor_n']})"
        (folder / "few_steps.md").write_text(f"{told}\n\n{table}\n")
        curves: Curves = {}
        for row in rows:
            counts, figures = curves.setdefault(row.sampler, ([], []))
            counts.append(float(row.evaluations))
            figures.append(row.figure)
        curves["floor"] = ([float(min(self.budgets)), float(max(self.budgets))], [about["floor"]] * 2)
        picture = lines(curves, "network evaluations", headline, told, Path(folder / "few_steps.png"))
        log_picture(trainer, "few_steps", picture, told)
        console.print(f"{told}\n{table}", highlight=False, soft_wrap=True)


@torch.no_grad()
def evaluations_of(sampler: Sampler, schedule: Schedule) -> int:
    """How often a sampler asks its denoiser, seen with one that answers that all is noise."""
    count = 0

    def denoise(x_t: Tensor, t: Tensor) -> Prediction:
        nonlocal count
        count += 1
        return Prediction(torch.zeros_like(x_t), x_t / schedule.prior_std)

    sampler(denoise, schedule, schedule.prior_std * torch.ones(1, 1, dtype=torch.float64))
    return count


def as_table(rows: list[Row]) -> str:
    """Markdown: a row a sampler, a column a number of evaluations."""
    counts = sorted({row.evaluations for row in rows})
    found = {(row.sampler, row.evaluations): row.figure for row in rows}
    head = f"| sampler | {' | '.join(map(str, counts))} |\n|---|{'---|' * len(counts)}"
    body = (
        f"| {name} | {' | '.join(f'{found[name, c]:.3g}' if (name, c) in found else '' for c in counts)} |"
        for name in dict.fromkeys(row.sampler for row in rows)
    )
    return "\n".join([head, *body])
