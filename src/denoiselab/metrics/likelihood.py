"""Evaluation of the test images' likelihood: bits/dim with errors, split into parts and by log-SNR.

bits/dim = nats/(D ln 2) for images, whose nats are of probabilities. Points have a density, reported as nats/D.
"""

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from denoiselab import distributed
from denoiselab.backbones import Encoder
from denoiselab.codecs import Identity
from denoiselab.conditioning.wishes import numbered
from denoiselab.data.source import Source, to_float
from denoiselab.errors import ConfigError, IncompatibleError, RunError
from denoiselab.likelihood import Likelihood, Nats
from denoiselab.pictures import Bar, bars
from denoiselab.pipeline import Pipeline
from denoiselab.progress import track


class Row(NamedTuple):
    """A summand of the mean over images: a whole part, or its share between two log-SNR."""

    part: str
    log_snr_from: float | None
    log_snr_to: float | None
    value: float  # bits or nats per dimension; the rows sum to the total
    error: float  # standard error over images
    evaluations: int | None  # of the denoiser, over all images


@dataclass(frozen=True)
class Judged:
    """Result of a likelihood evaluation: metrics as plain values, the subset logged during training, and the table."""

    name: str  # bits_per_dim or nats_per_dim
    figures: dict[str, Any]
    logged: dict[str, float]
    table: list[Row]

    @property
    def caption(self) -> str:
        words = {key: word for key, word in self.figures.items() if key.startswith("likelihood")}
        return ", ".join(f"{key.removeprefix('likelihood.')} {word}" for key, word in words.items())

    def write(self, folder: Path) -> np.ndarray | None:
        """Write likelihood.csv and, if there are values by log-SNR, likelihood.png; return the picture."""
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "likelihood.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([*Row._fields[:3], self.name, *Row._fields[4:]])
            writer.writerows(self.table)
        binned = [row for row in self.table if row.log_snr_from is not None]
        if not binned:
            return None
        whole = [f"{row.part} {row.value:.3g}" for row in self.table if row.log_snr_from is None]
        title = f"{self.name} {self.figures[self.name]:.4g}: {', '.join(whole)}, and by log-SNR"
        drawn = [Bar(row.log_snr_from or 0.0, row.log_snr_to or 0.0, row.value, row.error) for row in binned]
        return bars(drawn, "log-SNR", self.name, title, folder / "likelihood.png")


class LikelihoodEvaluation:
    """Compute the likelihood of the first n test images under a pipeline's denoiser; n None: of all, up to 1,000.

    The denoiser gets its training inputs and condition, without guidance or threshold. All ranks must call it; the
    metrics are the same on all of them. Raises ConfigError for fewer than 2 test images.
    """

    def __init__(self, source: Source, method: Likelihood, n: int | None = None, batch_size: int = 100) -> None:
        there = len(source.test)
        self.source, self.method, self.batch_size = source, method, batch_size
        self.n = min(1000 if n is None else n, there)
        if self.n < 2:
            raise ConfigError(
                f"a likelihood and its error need at least 2 test images; data={source.name} has {there}, "
                f"and likelihood.n={n}; take likelihood=none"
            )

    @torch.no_grad()
    def __call__(self, pipeline: Pipeline) -> Judged:
        """Evaluate the pipeline. Raises IncompatibleError as `check` does, and RunError if the model returns NaN."""
        check(pipeline)
        mine = distributed.share(self.n, self.batch_size)
        batches = []
        with (
            track(f"likelihood of {self.n} test images", self.n, quiet=distributed.rank() > 0) as advance,
            pipeline.evaluating(),
        ):
            taken = mine or [0]  # a rank without images needs one for the structure of the results
            for start in range(0, len(taken), self.batch_size):
                batches.append(self._nats(pipeline, taken[start : start + self.batch_size]))
                advance(len(taken[start : start + self.batch_size]) * self.n // len(taken))
        nats = _gathered(batches, mine, self.n)
        if nats.total.isnan().any():
            raise RunError("the model gives NaN for an image: training has diverged; take a smaller optimizer.lr")
        return self._judged(nats)

    @property
    def quantised(self) -> bool:
        return not self.source.test.__getitems__([0])["image"].is_floating_point()

    def _nats(self, pipeline: Pipeline, indices: Sequence[int]) -> Nats:
        batch = {key: value.to(pipeline.device) for key, value in self.source.test.__getitems__(indices).items()}
        batch = numbered(pipeline.conditioner, batch, indices)
        x0, cond = pipeline.codec.encode(to_float(batch["image"])), pipeline.conditioner(batch)
        denoiser = pipeline.denoiser
        return self.method(lambda x_t, t: denoiser(x_t, t, cond), denoiser.schedule, x0, indices, self.quantised)

    def _judged(self, nats: Nats) -> Judged:
        quantised, D = self.quantised, math.prod(self.source.shape)
        name, unit = ("bits_per_dim", 1 / (D * math.log(2))) if quantised else ("nats_per_dim", 1 / D)

        def row(part: str, values: Tensor, *bin: Any) -> Row:
            error = float(values.std() / math.sqrt(len(values)))
            low, high, made = bin or (None, None, None)
            return Row(part, low, high, float(values.mean()) * unit, error * unit, made)

        binned = nats.by_log_snr
        table = [row(part, values) for part, values in nats.parts.items() if binned is None or part != binned.part]
        if binned is not None:
            bins = zip(binned.nats.T, binned.evaluations.T, pairwise(binned.edges.tolist()), strict=True)
            table += [row(binned.part, values, *edges, int(made.sum())) for values, made, edges in bins]
        whole = row("all", nats.total)
        logged = {name: whole.value, f"{name}_error": whole.error}
        logged |= {f"{name}/{part}": float(values.mean()) * unit for part, values in nats.parts.items()}
        logged |= {f"{name}_error/{key}": float(values.mean()) * unit for key, values in nats.biases.items()}
        for key, values in nats.variances.items():
            logged[f"{name}_error/{key}"] = math.sqrt(float(values.mean()) / self.n) * unit
        words = {"n": self.n, **self.method.words, **nats.words}
        told = {"likelihood": type(self.method).__name__} | {f"likelihood.{key}": word for key, word in words.items()}
        return Judged(name, logged | told, logged, table)


def check(pipeline: Pipeline) -> None:
    """Raise IncompatibleError for latents and for a classifier of noisy images."""
    if not isinstance(pipeline.codec, Identity):
        raise IncompatibleError(
            f"bits/dim of latents are not those of images, and codec={type(pipeline.codec).__name__} makes latents; "
            "take likelihood=none or codec=identity"
        )
    if isinstance(getattr(pipeline.denoiser, "backbone", None), Encoder):
        raise IncompatibleError(
            "backbone=encoder names classes, and images have no likelihood under it; take likelihood=none"
        )


def _gathered(batches: list[Nats], mine: Sequence[int], n: int) -> Nats:
    """Collect the nats of images 0 ... n - 1 in order on every rank, so that sums do not depend on the sharding."""

    def whole(rows: list[Tensor]) -> Tensor:
        return distributed.collect(torch.cat(rows)[: len(mine)], mine, n)

    def named(parts: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        return {key: whole([part[key] for part in parts]) for key in parts[0]}

    binned = batches[0].by_log_snr
    if binned is not None:
        every = [b.by_log_snr for b in batches if b.by_log_snr is not None]
        binned = binned._replace(
            nats=whole([part.nats for part in every]), evaluations=whole([part.evaluations for part in every])
        )
    return Nats(
        named([b.parts for b in batches]),
        named([b.biases for b in batches]),
        named([b.variances for b in batches]),
        binned,
        batches[0].words,
    )
