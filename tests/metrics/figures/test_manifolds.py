"""Precision, recall, density and coverage: of the same set, of sets far apart, and of a set that is part of another."""

import pytest
import torch
from torch import Tensor

from denoiselab.metrics import DensityCoverage, PrecisionRecall
from denoiselab.metrics.pairs import radii, squared_distances
from gathered import against, normal, statistics

NAMES = ("precision", "recall", "density", "coverage")


def figures(x: Tensor, y: Tensor) -> dict[str, float]:
    """x generated, y real."""
    one, other = statistics(x), against(y)
    return PrecisionRecall()(one, other) | DensityCoverage()(one, other)


@pytest.mark.parametrize("n", [10, 100, 1500])
def test_of_the_same_set_all_are_one(n):
    x = normal(n, 8)
    assert figures(x, x) == dict.fromkeys(NAMES, 1.0)


def test_of_sets_far_apart_all_are_nothing():
    assert figures(normal(100, 8) + 50, normal(100, 8, 1)) == dict.fromkeys(NAMES, 0.0)


def test_they_are_what_their_definitions_say():
    """Written out, with distances one by one."""
    x, y = 1.2 * normal(60, 3) + 0.4, normal(60, 3, 1)
    d = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")

    def reach(points: Tensor, k: int) -> Tensor:
        own = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")
        return own.sort(1).values[:, k]  # the 0th is itself

    found = figures(x, y)
    assert found["precision"] == float((d <= reach(y, 3)).any(1).double().mean())
    assert found["recall"] == float((d <= reach(x, 3)[:, None]).any(0).double().mean())
    inside = d < reach(y, 5)
    assert found["density"] == pytest.approx(float(inside.sum()) / (5 * 60), rel=1e-12)
    assert found["coverage"] == float(inside.any(0).double().mean())
    assert all(0.05 < found[name] < 0.99 for name in ("precision", "recall", "coverage")), "none is at its end"


def test_a_model_of_one_of_two_modes_is_precise_and_recalls_half():
    y = torch.cat([normal(200, 4), normal(200, 4, 1) + 30])[torch.randperm(400)]
    found = figures(normal(400, 4, 2), y)
    assert found["precision"] > 0.9
    assert found["recall"] == pytest.approx(0.5, abs=0.06)
    assert found["coverage"] == pytest.approx(0.5, abs=0.06)
    assert found["density"] == pytest.approx(1, abs=0.2), "each sample lies in as many balls as a real one"


def test_a_real_image_far_out_makes_precision_large_and_density_not():
    """Naeem 2020, figure 2: samples about the outlier lie in its one large ball."""
    y = torch.cat([normal(199, 4), torch.full((1, 4), 20.0, dtype=torch.float64)])
    found = figures(normal(200, 4, 1) + 18, y)
    assert found["precision"] == 1
    assert found["density"] < 0.25


def test_as_many_of_both_are_compared():
    x, y = normal(50, 4), normal(300, 4, 1)
    assert figures(x, y) == figures(x, y[:50])
    assert figures(y, x) == figures(y[:50], x)


def test_a_collapsed_model_is_within_reach_of_its_copies():
    """Rounding leaves copies at no distance, also far from 0."""
    same = (normal(1, 64) + 1000).repeat(20, 1)
    assert radii(same, 3).tolist() == [0] * 20
    assert PrecisionRecall()(statistics(same), against(same)) == {"precision": 1.0, "recall": 1.0}


def test_distances_lose_no_digits_to_a_common_shift():
    x, y = normal(30, 5), normal(40, 5, 1)
    known = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist").square()
    torch.testing.assert_close(squared_distances(x + 1e5, y + 1e5), known, rtol=1e-8, atol=0)


@pytest.mark.parametrize(("n", "names"), [(3, set()), (4, {"precision", "recall"}), (6, set(NAMES))])
def test_a_ball_needs_a_kth_neighbour(n, names):
    assert set(figures(normal(n, 2), normal(100, 2, 1))) == names
