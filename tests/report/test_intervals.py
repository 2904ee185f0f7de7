"""Intervals and the analysis of variance, against tables and against least squares."""

import math

import numpy as np
import pytest
from scipy import stats

from denoiselab.report.statistics import Estimate, half_width, interaction, student


def test_the_interval_of_three_values_is_that_of_students_table():
    found = student([1.0, 2.0, 3.0], "3 seeds")
    half = 4.302652729911275 / math.sqrt(3)  # t of 2 degrees of freedom at .975, and a standard deviation of 1
    assert found == pytest.approx(Estimate(2.0, 2 - half, 2 + half, "3 seeds"))  # type: ignore[arg-type]


def test_one_value_has_no_interval():
    assert student([5.0]) == Estimate(5.0)
    assert half_width([5.0]) is None


def test_intervals_of_equal_values_have_no_width():
    assert half_width([2.0, 2.0, 2.0]) == 0


@pytest.mark.parametrize(("low", "high", "overlap"), [(0, 1, False), (0, 2, True), (2.5, 2.6, True), (3.1, 4, False)])
def test_intervals_overlap_where_they_have_a_point_in_common(low, high, overlap):
    assert Estimate(0, low, high, "x").overlaps(Estimate(2.5, 2, 3, "x")) is overlap
    assert Estimate(0).overlaps(Estimate(2.5, 2, 3)) is None


def least_squares(cells: np.ndarray) -> float:
    """p of the interaction by comparing two fits: blocks and both axes, with and without their products."""
    a, b, k = cells.shape
    index = np.array([(i, j, s) for i in range(a) for j in range(b) for s in range(k)])
    one = [(index[:, 0] == i) * 1.0 for i in range(1, a)]
    two = [(index[:, 1] == j) * 1.0 for j in range(1, b)]
    blocks = [(index[:, 2] == s) * 1.0 for s in range(k)]
    products = [x * y for x in one for y in two]
    y = cells.reshape(-1)

    def left(columns: list[np.ndarray]) -> float:
        design = np.stack(columns, 1)
        return float(np.sum((y - design @ np.linalg.lstsq(design, y, rcond=None)[0]) ** 2))

    without, full = left([*blocks, *one, *two]), left([*blocks, *one, *two, *products])
    of, rest = len(products), len(y) - len(blocks) - len(one) - len(two) - len(products)
    return float(stats.f.sf((without - full) / of / (full / rest), of, rest))


@pytest.mark.parametrize("shape", [(2, 2, 2), (3, 4, 3), (2, 5, 6)])
def test_the_interaction_is_tested_as_two_least_squares_fits_are_compared(shape):
    cells = np.random.default_rng(0).normal(size=shape)
    assert interaction(cells)[3] == pytest.approx(least_squares(cells), rel=1e-9)


def test_an_additive_table_has_no_interaction_whatever_the_blocks():
    a, b, s = np.array([1.0, 3.0, 8.0]), np.array([0.0, 5.0]), np.array([0.0, 2.0, -1.0])
    of_a, of_b, both, p = interaction(a[:, None, None] + b[:, None] + s)
    assert of_a == pytest.approx(np.std(a))
    assert of_b == pytest.approx(2.5)
    assert both == pytest.approx(0, abs=1e-12)
    assert p == 1


def test_one_repetition_leaves_nothing_to_test_with():
    assert math.isnan(interaction(np.ones((2, 2, 1)))[3])
