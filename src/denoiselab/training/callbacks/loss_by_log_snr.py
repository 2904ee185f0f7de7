r"""Error of a model by noise level, and the contribution of each level to its loss.

With $p(\lambda)$ the density of the sampled times in log-SNR, the training loss is
$\int \mathbb{E}[\mathrm{loss} \mid \lambda]\, p(\lambda)\, d\lambda$; a bin's contribution is its part of the integral.
It is estimated at evenly spread log-SNR, whatever the run's own schedule and times, so that runs are compared on the
same draws.
"""

import csv
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

from denoiselab import distributed
from denoiselab.data.source import Source
from denoiselab.limits import Count, checked
from denoiselab.objectives import Denoising
from denoiselab.pictures import stairs
from denoiselab.randomness import SampleNoise
from denoiselab.training.callbacks.logging import log_picture, run_folder
from denoiselab.training.system import DiffusionSystem

EDGES = torch.linspace(-12, 12, 25, dtype=torch.float64)  # beyond these, x_t is pure noise, or data to within uint8


@dataclass(frozen=True)
class Row:
    """A bin between two log-SNR."""

    log_snr_from: float
    log_snr_to: float
    eps_mse: float  # mean of |eps_hat - eps|^2 per dimension
    loss: float  # contribution to the run's own loss
    count: int  # number of errors averaged


class LossByLogSNR(pl.Callback):
    """Callback that writes loss_by_log_snr.csv and .png of the averaged weights at the end of training.

    Uses the first n test images (None: all, at most 1,000) at `levels` log-SNR each. Noise and levels depend on an
    image's number alone, so runs can be compared in pairs. All ranks take part, and the result is the same bit for bit
    on any number of them. Bins outside the schedule's range are left out; only denoising losses are measured.
    """

    @checked
    def __init__(self, n: Count | None = None, levels: Count = 8, batch_size: Count = 100) -> None:
        self.n, self.levels, self.batch_size = n, levels, batch_size

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not isinstance(pl_module, DiffusionSystem) or not isinstance(pl_module.objective, Denoising):
            return
        rows = self.measured(pl_module, trainer.datamodule.source)  # type: ignore[attr-defined]
        if not trainer.is_global_zero:
            return
        title = f"errors on the test set by log-SNR, {sum(row.count for row in rows):,} in all"
        picture = written(rows, title, run_folder(trainer))
        log_picture(trainer, "loss_by_log_snr", picture, f"step {trainer.global_step}, {title}")

    @torch.no_grad()
    def measured(self, system: DiffusionSystem, source: Source) -> list[Row]:
        n = min(1000 if self.n is None else self.n, len(source.test))
        schedule, mine = system.pipeline.denoiser.schedule, distributed.share(n, self.batch_size)
        log_snr = spread(n, self.levels)
        t = schedule.time(log_snr.flatten()).clamp(1e-9, schedule.t_end)
        inside = (schedule.log_snr(t) - log_snr.flatten()).abs() < 1e-6
        density = system.objective.time_sampler.density(t, schedule) / schedule.log_snr_slope(t).abs()
        found = [torch.zeros(0, self.levels, 2, dtype=torch.float64)]
        with system.ema.swapped(), system.pipeline.evaluating():
            for start in range(0, len(mine), self.batch_size):
                found.append(self._errors(system, source, mine[start : start + self.batch_size], t.view(n, -1)))
        eps_mse, loss = distributed.collect(torch.cat(found), mine, n).flatten(0, 1).unbind(1)
        return _binned(log_snr.flatten(), inside.cpu(), eps_mse, loss * density.cpu())

    def _errors(self, system: DiffusionSystem, source: Source, indices: Sequence[int], t: Tensor) -> Tensor:
        """Return (eps_mse, loss) of the images at each of their times, float64 (B, levels, 2). t: (n, levels)."""
        batch = {key: value.to(system.device) for key, value in source.test.__getitems__(indices).items()}
        (x0, cond), made = system.encode(batch, indices), []
        for level, times in enumerate(t[list(indices)].T):
            eps = SampleNoise(0, indices, f"log-SNR {level}")(x0)
            figures = system.objective.figures(system.pipeline.denoiser, x0, cond, times, eps)
            made.append(torch.stack([figures["eps_mse"], figures["loss"]], 1).double().cpu())
        return torch.stack(made, 1)


def written(rows: list[Row], title: str, folder: Path) -> np.ndarray:
    """Write loss_by_log_snr.csv and .png; returns the image."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "loss_by_log_snr.csv").open("w", newline="") as file:
        csv.writer(file).writerows([[field.name for field in fields(Row)], *map(astuple, rows)])
    edges = [(row.log_snr_from, row.log_snr_to) for row in rows]
    drawn = {"eps_mse": [row.eps_mse for row in rows], "part of the loss": [row.loss for row in rows]}
    return stairs(edges, drawn, "log-SNR", title, folder / "loss_by_log_snr.png", logarithmic=["eps_mse"])


def spread(n: int, levels: int) -> Tensor:
    """Return the log-SNR of each image, float64 (n, levels): one in each of `levels` equal parts of the range.

    Golden-ratio steps spread any number of images evenly over a part.
    """
    u = (torch.arange(n, dtype=torch.float64) + 0.5) * (5**0.5 - 1) / 2 % 1
    return EDGES[0] + (EDGES[-1] - EDGES[0]) * (u[:, None] + torch.arange(levels)) / levels


def _binned(log_snr: Tensor, inside: Tensor, eps_mse: Tensor, density_times_loss: Tensor) -> list[Row]:
    """Bin values of shape (N,). Those outside the schedule's range have no error and add nothing to the loss."""
    place, rows = torch.bucketize(log_snr, EDGES, right=True) - 1, []
    for index, (low, high) in enumerate(pairwise(EDGES.tolist())):
        here = place == index
        if not (known := here & inside).any():
            continue
        part = density_times_loss[known].sum() / here.sum() * (high - low)
        rows.append(Row(low, high, float(eps_mse[known].mean()), float(part), int(known.sum())))
    return rows
