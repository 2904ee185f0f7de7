"""Statistics of a set of images that metrics need, gathered batch by batch in bounded memory.

All statistics are sums: float64 sums over all n samples, which depend on batch sizes and processes only by rounding,
and rows of the first `keep` samples, for metrics that cannot be streamed, in an array that is 0 elsewhere. Adding the
sums of all ranks thus gives those of one process, with bitwise equal rows.

Samples are identified by index: generated ones by their index in the seed, real ones by the order of `spread`, since a
data set may be stored in any order.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from denoiselab import distributed
from denoiselab.data.source import ImageSet
from denoiselab.metrics.extractor import Looked
from denoiselab.metrics.moments import Moments
from denoiselab.metrics.nearest import in_pixels, nearest_two

FEW = 5  # samples per class
MOST = 4096  # spatial features; the covariance of more would take gigabytes


class Needs(NamedTuple):
    """Statistics that are costly to gather, as required by a metric."""

    spatial: bool = False  # moments of the spatial features
    distances: bool = False  # pixel distances to the two nearest training images
    splits: int = 1  # parts over which the class scores are summed

    def __or__(self, other: "Needs") -> "Needs":
        """Combine both; sums over more parts can be merged into those over fewer."""
        splits = math.lcm(self.splits, other.splits)
        return Needs(self.spatial or other.spatial, self.distances or other.distances, splits)


class Statistics:
    """Statistics of samples 0 ... n - 1."""

    def __init__(self, n: int, keep: int = 10_000, needs: Needs = Needs()) -> None:
        self.n, self.needs = n, needs
        self.keep = min(n, keep)
        self.sums: dict[str, Tensor] = {}

    def update(
        self, indices: Sequence[int], looked: Looked, images: Tensor, labels: Tensor, judged: bool = False
    ) -> None:
        """Add samples `indices`: extractor outputs, images: uint8 (B, C, H, W) and their classes, labels: (B,).

        judged: whether the extractor's classes are those of the labels and are to be compared with them.
        """
        index = torch.tensor(indices)
        first = index < self.keep
        self._add_moments("features", looked.features)
        features = looked.features[first].detach().cpu()
        self._put("kept", index[first], features.to(torch.promote_types(features.dtype, torch.float32)))
        self._put("labels", index[first], labels[first].cpu())
        if self.needs.spatial and looked.spatial is not None and looked.spatial.shape[1] <= MOST:
            self._add_moments("spatial", looked.spatial)
        if looked.logits is not None:
            p = looked.logits.detach().cpu().double().softmax(1)
            parts = (index * self.needs.splits).div(self.n, rounding_mode="floor")
            zeros = torch.zeros(self.needs.splits, p.shape[1] + 1, dtype=torch.float64)
            self._add("scores", zeros.index_add(0, parts, torch.cat([p, -torch.special.entr(p).sum(1, True)], 1)))
        if self.needs.distances and first.any():
            self._put("pixels", index[first], in_pixels(images[first].cpu()))
            self._put("placed", index[first], torch.ones(len(index[first]), dtype=torch.uint8))
        if judged and looked.logits is not None:
            self._add("right", (looked.logits.argmax(1).cpu() == labels.cpu()).sum())

    def judge(self, figures: Mapping[str, Tensor]) -> None:
        """Add condition metrics of images, float (B,) each."""
        for name, values in figures.items():
            values = values.detach().cpu().double()
            self._add(f"told.{name}", torch.stack([values.sum(), torch.tensor(float(len(values)))]))

    def reduced(self, train: ImageSet | None = None) -> "Statistics":
        """Sum the statistics over all ranks; if distances are needed, compute them to the images of `train`."""
        whole, sums = Statistics(self.n, self.keep, self.needs), dict(self.sums)
        pixels, placed = sums.pop("pixels", None), sums.pop("placed", None)
        if train is not None and pixels is not None and placed is not None:
            (index,) = placed.nonzero(as_tuple=True)
            sums["distances"] = torch.zeros(self.keep, 2, dtype=torch.float64)
            sums["distances"][index] = nearest_two(pixels[index], train)
        forms = distributed.gather({name: (tuple(value.shape), value.dtype) for name, value in sums.items()})
        for name, (shape, dtype) in next((form for form in forms if form), {}).items():  # a rank may have no samples
            mine = sums[name] if name in sums else torch.zeros(shape, dtype=dtype)
            whole.sums[name] = distributed.all_sum(mine)
        return whole

    @property
    def features(self) -> Moments:
        return self._moments("features")

    @property
    def spatial(self) -> Moments | None:
        """Moments of the spatial features; None if there are none or more than 4,096, or no metric needs them."""
        return self._moments("spatial") if "spatial.sum" in self.sums else None

    @property
    def kept(self) -> Tensor:
        """Features of the first samples, (keep, D)."""
        return self.sums["kept"]

    @property
    def labels(self) -> Tensor:
        """Classes of the first samples, (keep,)."""
        return self.sums["labels"]

    @property
    def strata(self) -> Tensor:
        """Groups of fixed size in which the first samples were drawn, (keep,).

        The classes, or a single group if a class has too few samples to estimate its variance.
        """
        sizes = self.labels.bincount()
        return self.labels if sizes[sizes > 0].min() >= FEW else torch.zeros_like(self.labels)

    @property
    def scores(self) -> Tensor | None:
        """Sums of the class probabilities p and, last, of sum p log p over the samples of each part: (splits, K + 1).

        Sample i is in part floor(i splits / n). None if the extractor has no classes.
        """
        return self.sums.get("scores")

    @property
    def right(self) -> int | None:
        """Number of samples with the requested class; None if unknown."""
        return int(self.sums["right"]) if "right" in self.sums else None

    @property
    def told(self) -> dict[str, float]:
        """Mean of each condition metric."""
        sums = {name.removeprefix("told."): value for name, value in self.sums.items() if name.startswith("told.")}
        return {name: float(total / count) for name, (total, count) in sums.items() if count}

    @property
    def distances(self) -> Tensor | None:
        """Distances in grey levels of the first samples to the two nearest training images: (keep, 2)."""
        return self.sums.get("distances")

    def state_dict(self) -> dict[str, Any]:
        return self.sums

    def load_state_dict(self, state: dict[str, Any]) -> "Statistics":
        """Resume from the state of statistics with the same n, keep and needs."""
        self.sums = state
        return self

    def _moments(self, name: str) -> Moments:
        count, total, outer = (self.sums[f"{name}.{part}"] for part in ("count", "sum", "outer"))
        return Moments(int(count), total, outer)

    def _add_moments(self, name: str, features: Tensor) -> None:
        more = Moments.of(features)
        self._add(f"{name}.count", torch.tensor(more.count))
        self._add(f"{name}.sum", more.sum)
        self._add(f"{name}.outer", more.outer)

    def _add(self, name: str, value: Tensor) -> None:
        if name in self.sums:
            self.sums[name] += value
        else:
            self.sums[name] = value

    def _put(self, name: str, index: Tensor, rows: Tensor) -> None:
        if name not in self.sums:
            self.sums[name] = torch.zeros(self.keep, *rows.shape[1:], dtype=rows.dtype)
        self.sums[name][index] = rows
