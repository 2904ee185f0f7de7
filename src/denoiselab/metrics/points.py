"""Evaluation of generated points: the sliced Wasserstein-1 distance in the plane, and the share off the plane.

SW(a, b) = mean over directions d_k of W1(<a, d_k>, <b, d_k>) (Rabin 2011), d_k = (cos, sin)(pi (k + 1/2)/K), k = 0 ...
K - 1. In one dimension W1 = integral |F_a - F_b|, with F the empirical distribution functions; sorting gives it exactly
for any two numbers of points. Points of D > 2 dimensions are first projected to the plane, so that metrics of different
D are comparable; `off_plane` is the share of their squared norm that the projection discards.
"""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from denoiselab import distributed
from denoiselab.conditioning import Wishes
from denoiselab.data.points import Points
from denoiselab.errors import ConfigError
from denoiselab.limits import Count, checked
from denoiselab.metrics.generation import Generation
from denoiselab.pipeline import Pipeline, Recipe


def wasserstein(a: Tensor, b: Tensor) -> Tensor:
    """Exact W1 of the columns of a: (n, K) and b: (m, K), with equal weight for each row: (K,)."""
    a, b = a.T.sort(1).values, b.T.sort(1).values
    values = torch.cat([a, b], 1).sort(1).values
    left = values[:, :-1].contiguous()
    F_a, F_b = (torch.searchsorted(x.contiguous(), left, right=True).to(x) / x.shape[1] for x in (a, b))
    return ((F_a - F_b).abs() * values.diff(dim=1)).sum(1)


def sliced_wasserstein(a: Tensor, b: Tensor, directions: int = 64) -> float:
    """SW of points in the plane, a: (n, 2) and b: (m, 2)."""
    angle = math.pi * (torch.arange(directions, dtype=torch.float64) + 0.5) / directions
    d = torch.stack([angle.cos(), angle.sin()])
    return float(wasserstein(a.double() @ d, b.double() @ d).mean())


class Gathered:
    """Rows concatenated over batches."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.rows = torch.empty(0, *shape)

    def update(self, rows: Tensor) -> None:
        self.rows = torch.cat([self.rows, rows])

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows = state["rows"]


class PointEvaluation:
    """Compute metrics of generated points against a data set's test points.

    The floor is the distance of the first n training points from the test points, the expected value of a perfect
    model. All ranks must call it; the results are the same on all of them.
    """

    @checked
    def __init__(self, source: Points, directions: Count = 64) -> None:
        self.source, self.directions = source, directions
        self.reference = source.in_plane(source.test.images)

    def size(self, n: int | None) -> int:
        """n, or by default the number of test points."""
        return len(self.source.test) if n is None else n

    def floor(self, n: int) -> float:
        """Distance of the first n training points from the test points."""
        return self._distance(self.source.in_plane(self.source.train.images[:n]))

    def _distance(self, plane: Tensor) -> float:
        return sliced_wasserstein(plane, self.reference, self.directions)

    def __call__(
        self,
        pipeline: Pipeline,
        recipe: Recipe,
        n: int | None = None,
        seed: int = 0,
        batch_size: int = 2048,
        saved: Path | None = None,
    ) -> dict[str, Any]:
        """Compute the metrics of samples 0 ... n - 1 of a seed, as plain values; n None: as many as test points.

        saved: a file for the points, written every 20 s; an interrupted evaluation resumes from it. The caller removes
        it.
        """
        n = self.size(n)
        if n < 2:
            raise ConfigError(f"metrics.n={n}: a distance of distributions needs at least 2 points, and some hundreds")
        about, wishes = self.source.fingerprint, Wishes(pipeline.conditioner, self.source.num_classes)
        generation = Generation(pipeline, recipe, n, wishes, seed, batch_size, saved, about)
        gathered = Gathered(self.source.shape)
        for batch in generation.into(gathered, f"generating {n} points"):
            gathered.update(batch.images)
        points = distributed.collect(gathered.rows, generation.indices, n)
        plane, floor_n = self.source.in_plane(points), min(n, len(self.source.train))
        figures: dict[str, Any] = {
            "headline": "sliced_wasserstein",
            "sliced_wasserstein": self._distance(plane),
            "floor": self.floor(floor_n),
            "n": n,
            "floor_n": floor_n,
            "directions": self.directions,
        }
        if len(self.source.projection) > 2:
            figures["off_plane"] = off_plane(points, plane)
        return figures | {
            "data": self.source.name,
            "dim": len(self.source.projection),
            "split": f"train {len(self.source.train)}, test {len(self.source.test)}",
            "data_fingerprint": self.source.fingerprint[:16],
            "sample_seed": seed,
            "nfe": generation.evaluations,
            **recipe.words,
            "seconds": round(generation.seconds, 2),
            "sampling_seconds": round(generation.sampling_seconds, 2),
        }


def off_plane(points: Tensor, plane: Tensor) -> float:
    """sum |x - P P^T x|^2 / sum |x|^2, for x: (n, D) and P^T x: (n, 2)."""
    whole = points.double().square().sum()
    return float((1 - plane.square().sum() / whole).clamp(min=0))
