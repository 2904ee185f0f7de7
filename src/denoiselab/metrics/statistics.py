"""What figures need of a set of images, gathered batch by batch in memory that no number of images exceeds.

All of it is sums: float64 sums over all n samples, whose rounding is all that batch sizes and processes can change, and
rows of the first `keep` samples, for what cannot be streamed, in their places of an array that is 0 elsewhere. So the
ranks' sums, added once, are those of one process, and the rows are the same bit by bit.

A sample is known by its index. Samples of a seed go by their own; real images, which a data set may hold in any order,
in the one that `spread` gives.
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

FEW = 5  # samples of a class
MOST = 4096  # spatial features: the covariance of more would take gigabytes


class Needs(NamedTuple):
    """What a figure needs that costs something to gather."""

    spatial: bool = False  # moments of the spatial features
    distances: bool = False  # in pixels, to the nearest two training images
    splits: int = 1  # parts in which the class scores are summed

    def __or__(self, other: "Needs") -> "Needs":
        """What serves both: sums over more parts can be added to those over fewer."""
        splits = math.lcm(self.splits, other.splits)
        return Needs(self.spatial or other.spatial, self.distances or other.distances, splits)


class Statistics:
    """Of samples 0 ... n - 1."""

    def __init__(self, n: int, keep: int = 10_000, needs: Needs = Needs()) -> None:
        self.n, self.needs = n, needs
        self.keep = min(n, keep)
        self.sums: dict[str, Tensor] = {}

    def update(
        self, indices: Sequence[int], looked: Looked, images: Tensor, labels: Tensor, judged: bool = False
    ) -> None:
        """Adds samples `indices`: what an extractor has seen in them, images: uint8 (B, C, H, W), of which labels: (B,)
        are the classes; judged: whether the extractor's classes are the same, and should be found in the images."""
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
        """Adds how well images do as they are told, float (B,) each."""
        for name, values in figures.items():
            values = values.detach().cpu().double()
            self._add(f"told.{name}", torch.stack([values.sum(), torch.tensor(float(len(values)))]))

    def reduced(self, train: ImageSet | None = None) -> "Statistics":
        """The statistics of all ranks together; where distances are needed, to the images of `train`."""
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
        """None where the extractor has none or more than 4,096, or no figure needs them."""
        return self._moments("spatial") if "spatial.sum" in self.sums else None

    @property
    def kept(self) -> Tensor:
        """The features of the first samples, (keep, D)."""
        return self.sums["kept"]

    @property
    def labels(self) -> Tensor:
        """The classes of the first samples, (keep,)."""
        return self.sums["labels"]

    @property
    def strata(self) -> Tensor:
        """The groups in which the first samples were drawn, as many of each: (keep,).

        Their classes, or one group of all where a class has too few to say how much they scatter.
        """
        sizes = self.labels.bincount()
        return self.labels if sizes[sizes > 0].min() >= FEW else torch.zeros_like(self.labels)

    @property
    def scores(self) -> Tensor | None:
        """Sums over each part of the samples of the classes' probabilities p and, last, of sum p log p: a row a part.

        (splits, K + 1). Sample i is in part floor(i splits / n). None where the extractor knows no classes.
        """
        return self.sums.get("scores")

    @property
    def right(self) -> int | None:
        """How many are of the class that they should be; None where nobody can say."""
        return int(self.sums["right"]) if "right" in self.sums else None

    @property
    def told(self) -> dict[str, float]:
        """The mean of each figure of how well images do as they are told."""
        sums = {name.removeprefix("told."): value for name, value in self.sums.items() if name.startswith("told.")}
        return {name: float(total / count) for name, (total, count) in sums.items() if count}

    @property
    def distances(self) -> Tensor | None:
        """Of the first samples to the nearest and second nearest training image, in grey levels: (keep, 2)."""
        return self.sums.get("distances")

    def state_dict(self) -> dict[str, Any]:
        return self.sums

    def load_state_dict(self, state: dict[str, Any]) -> "Statistics":
        """Goes on from the state of statistics of the same n, keep and needs."""
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
