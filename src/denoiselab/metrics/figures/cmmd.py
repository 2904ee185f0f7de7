"""CMMD: MMD^2 of CLIP's unit-length embeddings (Jayasumana 2024), Gaussian kernel with sigma 10, times 1,000.

Uses the unbiased estimate of their eq. 3. Their published code also pairs each image with itself and is larger by 1000
(1/n + 1/m) (1 - mean k of two of a class), about 0.01 at n = 1,000.
"""

from typing import final

from torch import Tensor

from denoiselab.limits import Positive, checked
from denoiselab.metrics.figures.figure import Figure, Reference
from denoiselab.metrics.figures.mmd import Gaussian, mmd
from denoiselab.metrics.statistics import Statistics


@final
class CMMD(Figure):
    """cmmd and cmmd_error, for extractors with unit-length features such as CLIP; empty for others."""

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
