"""Means with intervals, paired over what is shared, and the analysis of variance of a balanced design.

All intervals are of 95%. Of k values with mean m and standard deviation s it is m ± t_{.975, k-1} s/√k (Student 1908).
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import fdtr, stdtrit


class Estimate(NamedTuple):
    """A mean and its interval, where there is one, and what that is over: "3 seeds", "bootstrap"."""

    mean: float
    low: float | None = None
    high: float | None = None
    over: str = ""

    def overlaps(self, other: "Estimate") -> bool | None:
        """None where one of them has no interval."""
        if self.low is None or self.high is None or other.low is None or other.high is None:
            return None
        return self.low <= other.high and other.low <= self.high


def student(values: Sequence[float] | np.ndarray, over: str = "") -> Estimate:
    """The mean with its t-interval; none of one value."""
    mean, half = float(np.mean(values)), half_width(values)
    return Estimate(mean) if half is None else Estimate(mean, mean - half, mean + half, over)


def half_width(values: Sequence[float] | np.ndarray) -> float | None:
    k = len(values)
    return float(stdtrit(k - 1, 0.975) * np.std(values, ddof=1) / np.sqrt(k)) if k > 1 else None


def interaction(cells: np.ndarray) -> tuple[float, float, float, float]:
    """Of figures (A, B, K), two axes and K repetitions that they share: (effect of A, of B, of both, p).

    Effects are root mean squares of m_a - m, m_b - m and m_ab - m_a - m_b + m. p is that of an interaction as strong as
    this by chance, by the F-test of a design in K blocks; 1 repetition leaves nothing to test with, and p is nan.
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
    if noise <= 1e-20 * np.sum(cells**2):  # repetitions that differ in nothing but the block's own level
        return (*sizes, 0.0 if sizes[2] > 1e-9 * np.abs(cells).max() else 1.0)  # type: ignore[return-value]
    return (*sizes, float(1 - fdtr(freedom, left, k * np.sum(both**2) / freedom / noise)))  # type: ignore[return-value]
