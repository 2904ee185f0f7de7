"""FID: the Fréchet distance of Gaussians fitted to features (Heusel 2017, eq. 6), its error, and its limit n -> inf.

The FID of n samples is biased upwards by about c/n, with c depending on the model (Binkowski 2018), because the
covariance of few samples is too uneven. FID_inf is the intercept of FID as a line in 1/n (Chong & Forsyth 2020); it can
be slightly below 0.
"""

from typing import final

import torch
from torch import Tensor

from denoiselab.limits import AtLeastTwo, checked
from denoiselab.metrics.figures.figure import Figure, Reference
from denoiselab.metrics.moments import DistanceTo, frechet_distance
from denoiselab.metrics.statistics import Needs, Statistics
from denoiselab.randomness import generator

NORMAL = 1.959964  # 95% of a normal distribution lie within this many standard deviations
PARTS = (1, 2, 3)  # numbers of parts for FID_inf


@final
class FID(Figure):
    """fid, its 95% interval fid_low to fid_high, and fid_infinity if a third of the samples exceeds the feature count.

    The interval is for other samples of the same model at the same n: fid +- 1.96 standard deviations of FID over
    `resamples` bootstrap samples (Efron 1979). Quantiles are not used: a resample has only 63% distinct samples, so its
    FID is larger than that of the samples. Resampling is stratified by class, as equally many samples are requested per
    class. For a model as good as real images and n at most ten times the number of features, the standard deviation is
    about twice too large; the interval is not too narrow.

    FID_inf is the intercept of the least-squares line through the FID of all samples and the mean FIDs of halves and of
    thirds, each stratified by class.

    resamples None: 100, reduced down to 12 for more than 256 features, where each takes seconds.
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
        """Standard deviation of FID over resamples of rows (n, D), sorted by stratum; sizes: size of each stratum."""
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
    """Mean FID of k parts of rows (sorted by class), by mean part size."""
    place = torch.arange(len(rows))
    return {len(rows) / k: sum(to.of_rows(rows, seen, place % k == i) for i in range(k)) / k for k in PARTS}


def _intercept(n: int, fid: float, by_size: dict[float, float]) -> float:
    """Intercept at 1/n = 0 of the least-squares line through FIDs by number of samples."""
    by_size = by_size | {n: fid}
    inverse = 1 / torch.tensor(list(by_size), dtype=torch.float64)
    values = torch.tensor(list(by_size.values()), dtype=torch.float64)
    line = torch.stack([torch.ones_like(inverse), inverse], 1)
    return float(torch.linalg.lstsq(line, values[:, None]).solution[0])


@final
class SpatialFID(Figure):
    """sfid: FID of middle-layer features at each position, sensitive to spatial layout (sFID, Nash 2021).

    Omitted above 4,096 spatial features, as for the classifier on images larger than 88 pixels a side.
    """

    headline = "sfid"
    needs = Needs(spatial=True)

    def __call__(self, generated: Statistics, reference: Reference) -> dict[str, float]:
        a, b = generated.spatial, reference.train.spatial
        return {} if a is None or b is None else {"sfid": frechet_distance(a, b)}
