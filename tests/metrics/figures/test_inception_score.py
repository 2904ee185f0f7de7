"""The Inception score's ends are known."""

import math

import pytest
import torch
from torch import Tensor, nn
from torchmetrics.image.inception import InceptionScore as TheirScore

from denoiselab.metrics import InceptionScore
from gathered import against, normal, statistics

NONE = against(normal(5, 2))


class Passed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x


def score(logits: Tensor, splits: int = 1, gathered: int | None = None) -> dict[str, float]:
    made = statistics(normal(len(logits), 2), logits=logits, splits=gathered or splits)
    return InceptionScore(splits)(made, NONE)


@pytest.mark.parametrize("splits", [1, 4])
def test_sure_of_each_and_each_as_frequent_it_is_the_number_of_classes(splits):
    logits = 1e4 * nn.functional.one_hot(torch.arange(80) % 10).double()
    found = score(logits, splits)
    assert found["inception_score"] == pytest.approx(10, rel=1e-12)
    if splits > 1:
        assert found["inception_score_std"] == pytest.approx(0, abs=1e-12)


def test_impossible_classes_cost_nothing():
    logits = torch.where(nn.functional.one_hot(torch.arange(9) % 3) > 0, 0.0, -math.inf)
    assert score(logits)["inception_score"] == pytest.approx(3, rel=1e-12)


@pytest.mark.parametrize("logits", [torch.zeros(30, 7), torch.randn(7).repeat(30, 1)], ids=["uniform", "the same"])
def test_where_all_images_look_alike_it_is_one(logits):
    assert score(logits)["inception_score"] == pytest.approx(1, rel=1e-12)


def test_it_is_torchmetrics_of_one_part():
    logits = 3 * normal(200, 5)
    theirs = TheirScore(feature=Passed(), splits=1)
    theirs.update(logits)
    assert score(logits)["inception_score"] == pytest.approx(float(theirs.compute()[0]), rel=1e-9)


def test_torchmetrics_shuffles_before_it_parts_and_ours_parts_by_index():
    logits = 3 * normal(60, 5)

    def theirs() -> float:
        metric = TheirScore(feature=Passed(), splits=10)
        metric.update(logits)
        return float(metric.compute()[0])

    assert len({theirs() for _ in range(5)}) == 5
    parts = [score(part)["inception_score"] for part in logits.split(6)]
    found = score(logits, 10)
    assert found["inception_score"] == pytest.approx(sum(parts) / 10, rel=1e-12)
    assert found["inception_score_std"] == pytest.approx(float(torch.tensor(parts).std()), rel=1e-6)


@pytest.mark.parametrize("n", [12, 31, 47])
def test_parts_that_another_figure_parted_further_are_put_together(n):
    logits = 3 * normal(n, 5)
    assert score(logits, 4, gathered=12) == pytest.approx(score(logits, 4), rel=1e-12)


def test_without_classes_or_with_fewer_images_than_parts_there_is_none():
    assert InceptionScore()(statistics(normal(20, 2), splits=10), NONE) == {}
    assert score(normal(9, 3), 10) == {}
