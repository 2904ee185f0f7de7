"""KID: MMD^2 in the kernel (<a, b>/D + 1)^3 of D features (Binkowski 2018, eq. 4), over all pairs.

The paper, and torchmetrics after it, draw subsets of 1,000 and take their mean, for want of memory; in tiles all pairs
fit, and nothing is drawn. A mean over subsets has the same expectation, and more noise. Of images that are drawn class
by class theirs is off by some 1/n, and ours (mmd.py) is not; without classes they are the same.
"""

from typing import final

from torch import Tensor

from denoiselab.metrics.figures.figure import Figure, Reference
from denoiselab.metrics.figures.mmd import mmd
from denoiselab.metrics.statistics import Statistics


def cubic(a: Tensor, b: Tensor) -> Tensor:
    """(n, D), (m, D) -> (n, m)."""
    return (a @ b.T / a.shape[1] + 1) ** 3


@final
class KID(Figure):
    """kid and kid_error, its standard error."""

    headline = "kid"

    def __call__(self, generated: Statistics, reference: Reference) -> dict[str, float]:
        if min(generated.keep, reference.train.keep) < 3:
            return {}
        value, error = mmd(generated, reference.train, cubic)
        return {"kid": value, "kid_error": error}
