"""Means with confidence intervals, and the analysis of variance of a balanced design.

Intervals are 95% CI: for k values with mean m and standard deviation s, m ± t_{0.975, k-1} s/√k (Student 1908).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import fdtr, stdtrit


class Estimate(NamedTuple):
    """A mean and its interval, if any; `over` names the interval's source: "3 seeds", "bootstrap"."""

    mean: float
    low: float | None = None
    high: float | None = None
    over: str = ""

    def overlaps(self, other: "Estimate") -> bool | None:
        """Whether the intervals overlap; None if one is missing."""
        if self.low is None or self.high is None or other.low is None or other.high is None:
            return None
        return self.low <= other.high and other.low <= self.high


def student(values: Sequence[float] | np.ndarray, over: str = "") -> Estimate:
    """The mean with its t-interval; no interval for a single value."""
    mean, half = float(np.mean(values)), half_width(values)
    return Estimate(mean) if half is None else Estimate(mean, mean - half, mean + half, over)


def half_width(values: Sequence[float] | np.ndarray) -> float | None:
    k = len(values)
    return float(stdtrit(k - 1, 0.975) * np.std(values, ddof=1) / np.sqrt(k)) if k > 1 else None


def interaction(cells: np.ndarray) -> tuple[float, float, float, float]:
    """Effect sizes (A, B, A x B) and p of metrics (A, B, K), for two axes and K shared repetitions.

    Sizes are root mean squares of m_a - m, m_b - m and m_ab - m_a - m_b + m. p is that of the interaction in the F-test
    of a design with K blocks; with a single repetition it is nan.
    """
    a, b, k = cells.shape
    of_a, of_b = (cells.mean(axis, keepdims=True) - cells.mean() for axis in ((1, 2), (0, 2)))
    both = cells.mean(2, keepdims=True) - of_a - of_b - cells.mean()
    sizes = [float(np.sqrt(np.mean(part**2))) for part in (of_a, of_b, both)]
    if k < 2 or min(a, b) < 2:
        return (*sizes, float("nan"))  # type: ignore[return-value]
    rest = cells - cells.mean(2, keepdims=True) - cells.mean((0, 1), keepdims=True) + cells.mean()
    freedom, left = (a - 1) * (b - 1), (a * b - 1) * (k - 1)
    noise = np.sum(rest**2) / left
    if noise <= 1e-20 * np.sum(cells**2):  # repetitions differ only by the block's level
        return (*sizes, 0.0 if sizes[2] > 1e-9 * np.abs(cells).max() else 1.0)  # type: ignore[return-value]
    return (*sizes, float(1 - fdtr(freedom, left, k * np.sum(both**2) / freedom / noise)))  # type: ignore[return-value]
