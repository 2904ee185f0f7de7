"""CMMD: MMD^2 of CLIP's embeddings (Jayasumana 2024), of unit length, in a Gaussian kernel of sigma 10, times 1,000.

Their eq. 3 is the unbiased estimate, which is taken here; the program that they published counts each image with
itself, too, and so says more by 1000 (1/n + 1/m) (1 - mean k of two of a class), some .01 at n = 1,000.
"""

from typing import final

from torch import Tensor

from denoiselab.limits import Positive, checked
from denoiselab.metrics.figures.figure import Figure, Reference
from denoiselab.metrics.figures.mmd import Gaussian, mmd
from denoiselab.metrics.statistics import Statistics


@final
class CMMD(Figure):
    """cmmd and cmmd_error, of an extractor whose features are of unit length, as CLIP's are, and not of others."""

    headline = "cmmd"

    @checked
    def __init__(self, sigma: Positive = 10.0, scale: Positive = 1000.0) -> None:
        self.sigma, self.scale = sigma, scale

    def __call__(self, generated: Statistics, reference: Reference) -> dict[str, float]:
        if min(generated.keep, reference.train.keep) < 3 or not _on_sphere(reference.train.kept):
            return {}
        value, error = mmd(generated, reference.train, Gaussian(self.sigma))
        return {"cmmd": self.scale * value, "cmmd_error": self.scale * error}


def _on_sphere(features: Tensor) -> bool:
    return bool(((features.double().norm(dim=1) - 1).abs() < 1e-4).all())
