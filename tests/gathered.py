"""Statistics of given features, and figures that are compared, for the tests of metrics."""

from typing import Any

import pytest
import torch
from torch import Tensor

from denoiselab.metrics import Looked, Needs, Reference, Statistics


def statistics(
    features: Tensor,
    logits: Tensor | None = None,
    spatial: Tensor | None = None,
    labels: Tensor | None = None,
    keep: int = 10_000,
    splits: int = 1,
) -> Statistics:
    """Of samples 0 ... n - 1, whose images are blank."""
    n = len(features)
    made = Statistics(n, keep, Needs(spatial=spatial is not None, splits=splits))
    blank, classes = torch.zeros(n, 1, 2, 2, dtype=torch.uint8), torch.zeros(n, dtype=torch.int64)
    made.update(range(n), Looked(features, spatial, logits), blank, classes if labels is None else labels, True)
    return made


def against(features: Tensor, **more: Tensor) -> Reference:
    """Real images of these features, train and test the same."""
    made = statistics(features, **more)
    return Reference(made, made)


def normal(n: int, dim: int, seed: int = 0) -> Tensor:
    """Standard normal, float64 (n, dim)."""
    return torch.randn(n, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def without_times(figures: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in figures.items() if not name.endswith("seconds")}


def same(one: dict[str, Any], other: dict[str, Any], rel: float) -> bool:
    """Figures and their provenance, but for the time that they took; numbers are compared to a relative error."""
    one, other = without_times(one), without_times(other)
    return one.keys() == other.keys() and all(
        value == (pytest.approx(other[name], rel=rel) if isinstance(value, float) else other[name])
        for name, value in one.items()
    )
