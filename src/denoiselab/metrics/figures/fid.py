"""FID: the Fréchet distance of Gaussians fitted to features (Heusel 2017, eq. 6), how sure it is, and what it would be
of ever more images.

FID of n samples is too large by about c/n, c depending on the model (Binkowski 2018): the covariance of few samples is
too uneven. Chong & Forsyth 2020 take the intercept of FID as a line in 1/n: FID_inf. It may fall a little below 0.
"""

from typing import final

import torch
from torch import Tensor

from denoiselab.limits import AtLeastTwo, checked
from denoiselab.metrics.figures.figure import Figure, Reference
from denoiselab.metrics.moments import DistanceTo, frechet_distance
from denoiselab.metrics.statistics import Needs, Statistics
from denoiselab.randomness import generator

NORMAL = 1.959964  # 95% of a normal distribution lie within that many standard deviations
PARTS = (1, 2, 3)  # into which the samples fall, for FID_inf


@final
class FID(Figure):
    """fid of all samples; fid_low and fid_high, a 95% interval; fid_infinity, where a third of the samples still are
    more than the features.

    The interval is that of other samples of the same model at the same n. It is fid +- 1.96 standard deviations of FID
    over `resamples` bootstrap samples (Efron 1979), and not their quantiles: a resample has but 63% different samples,
    so all of them have a larger FID than the samples themselves. It is drawn class by class, since as many samples are
    asked for of each class. Where a model is as good as real images and n no larger than ten times the features, the
    standard deviation is too large by a factor of about two; the interval is not too narrow.

    FID_inf is the intercept of the least squares line through FID of all samples and mean FIDs of halves and of thirds,
    which share each class evenly.

    resamples None: 100, or fewer, down to 12, where features are more than 256 and each costs seconds.
    """

    headline = "fid"

    @checked
    def __init__(self, resamples: AtLeastTwo | None = None) -> None:
        self.resamples = resamples

    def __call__(self, generated: Statistics, reference: Reference) -> dict[str, float]:
        to = DistanceTo(reference.train.features)
        by_class = generated.labels.argsort(stable=True)
        fid, rows, sizes = to.of(generated.features), generated.kept[by_class].double(), generated.strata.bincount()
        seen = rows @ to.root
        error = self._bootstrap(to, rows, seen, sizes) * (len(rows) / generated.n) ** 0.5
        figures = {"fid": fid, "fid_low": max(0.0, fid - NORMAL * error), "fid_high": fid + NORMAL * error}
        if len(rows) // max(PARTS) > rows.shape[1]:
            figures["fid_infinity"] = _intercept(generated.n, fid, _in_parts(to, rows, seen))
        return figures

    def _bootstrap(self, to: DistanceTo, rows: Tensor, seen: Tensor, sizes: Tensor) -> float:
        """The standard deviation of FID over resamples of rows: (n, D), sorted by stratum, of which these are sizes."""
        n, dim = rows.shape
        rng = generator("bootstrap", n, dim)
        first, size = (sizes.cumsum(0) - sizes).repeat_interleave(sizes), sizes.repeat_interleave(sizes)
        count = self.resamples or min(100, max(12, 25_600 // dim))
        found = []
        for _ in range(count):
            drawn = first + (torch.rand(n, generator=rng, dtype=torch.float64) * size).long()
            found.append(to.of_rows(rows, seen, drawn.bincount(minlength=n)))
        return float(torch.tensor(found, dtype=torch.float64).std())


def _in_parts(to: DistanceTo, rows: Tensor, seen: Tensor) -> dict[float, float]:
    """The mean FID of rows, sorted by class, in k parts, by the mean size of a part."""
    place = torch.arange(len(rows))
    return {len(rows) / k: sum(to.of_rows(rows, seen, place % k == i) for i in range(k)) / k for k in PARTS}


def _intercept(n: int, fid: float, by_size: dict[float, float]) -> float:
    """At 1/n = 0, of the least squares line through FIDs by the number of samples."""
    by_size = by_size | {n: fid}
    inverse = 1 / torch.tensor(list(by_size), dtype=torch.float64)
    values = torch.tensor(list(by_size.values()), dtype=torch.float64)
    line = torch.stack([torch.ones_like(inverse), inverse], 1)
    return float(torch.linalg.lstsq(line, values[:, None]).solution[0])


@final
class SpatialFID(Figure):
    """sfid: FID in features of a middle layer at each place, which see where things are (sFID, Nash 2021).

    None where they are more than 4,096, as the classifier's are of images of more than 88 pixels a side.
    """

    headline = "sfid"
    needs = Needs(spatial=True)

    def __call__(self, generated: Statistics, reference: Reference) -> dict[str, float]:
        a, b = generated.spatial, reference.train.spatial
        return {} if a is None or b is None else {"sfid": frechet_distance(a, b)}
