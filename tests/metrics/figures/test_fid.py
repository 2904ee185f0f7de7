"""FID has closed forms of Gaussians, its interval covers, and its extrapolation takes the bias away."""

import math

import pytest
import torch
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance

from denoiselab.metrics import FID, Reference, SpatialFID, Statistics, frechet_distance
from denoiselab.metrics.moments import Moments
from gathered import against, normal, statistics


class Passed(nn.Module):
    """Features are given as images."""

    num_features = 6

    def forward(self, x: Tensor) -> Tensor:
        return x


def exactly(mean: Tensor, std: Tensor) -> Reference:
    """Training images of just these moments, of independent features."""
    n, made = 10**6, Statistics(10**6)
    moments = Moments(n, n * mean, (n - 1) * torch.diag(std**2) + n * torch.outer(mean, mean))
    made.sums |= {
        "features.count": torch.tensor(n),
        "features.sum": moments.sum,
        "features.outer": moments.outer,
    }
    return Reference(made, made)


def test_it_is_torchmetrics_fid_of_the_same_features():
    x, y = normal(300, 6, 0) * 0.7 + 0.3, normal(400, 6, 1)
    theirs = FrechetInceptionDistance(feature=Passed())
    theirs.update(x, real=False)
    theirs.update(y, real=True)
    assert FID()(statistics(x), against(y))["fid"] == pytest.approx(float(theirs.compute()), rel=1e-9)


def test_asking_twice_gives_the_same_and_torchmetrics_counts_what_it_is_given_twice():
    x, y, drift = normal(50, 6, 0), normal(60, 6, 1), normal(40, 6, 2) + 1
    ours, samples, reference = FID(), statistics(x), against(y)
    assert ours(samples, reference) == ours(samples, reference)
    theirs = FrechetInceptionDistance(feature=Passed(), reset_real_features=False)
    for real in (y, drift):
        theirs.update(real, real=True)
    theirs.update(x, real=False)
    once = float(theirs.compute())
    theirs.reset()
    theirs.update(y, real=True)
    theirs.update(x, real=False)
    assert float(theirs.compute()) != pytest.approx(once, rel=1e-3), "the same images again, now counted twice"


def test_it_sees_all_samples_though_features_of_few_are_kept():
    x, reference = normal(500, 6, 0) + 1, against(normal(400, 6, 1))
    few, whole = FID()(statistics(x, keep=100), reference), FID()(statistics(x), reference)
    assert few["fid"] == pytest.approx(whole["fid"], rel=1e-12)
    assert few["fid_high"] - few["fid"] == pytest.approx(whole["fid_high"] - whole["fid"], rel=0.5)


@pytest.mark.slow
@pytest.mark.parametrize(("dim", "shift"), [(4, 0.5), (8, 1.0)])
def test_the_interval_covers_the_mean_of_many_draws_in_about_95_percent_of_them(dim, shift):
    """The mean of FID at this n, whose bias is not the interval's concern. 186 of 200 or fewer have a chance of 8%, 198
    or more one of 1%, were it 95%."""
    reference, n, found = against(normal(20_000, dim, 9)), 400, []
    for seed in range(200):
        found.append(FID(resamples=40)(statistics(normal(n, dim, 100 + seed) + shift / math.sqrt(dim)), reference))
    truth = sum(f["fid"] for f in found) / len(found)
    covered = sum(f["fid_low"] <= truth <= f["fid_high"] for f in found)
    assert 180 <= covered <= 199


@pytest.mark.slow
def test_samples_drawn_in_equal_numbers_of_each_class_scatter_less_than_free_draws_and_the_interval_says_so():
    """Ten classes far apart: nearly all of the scatter of free draws is in how many there are of each."""
    centres, classes, found = 10 * normal(10, 4, 5), torch.arange(400) % 10, []
    reference = against(normal(20_000, 4, 9) + centres.repeat(2000, 1))
    for seed in range(40):
        x = normal(400, 4, 100 + seed) + centres[classes]
        found.append([FID(50)(statistics(x, labels=labels), reference) for labels in (classes, None)])
    fid = torch.tensor([by_class["fid"] for by_class, _ in found])
    widths = torch.tensor([[f["fid_high"] - f["fid"] for f in both] for both in found]).mean(0) / 1.96
    assert fid.std() < widths[0] < 4 * fid.std()
    assert widths[1] > 10 * widths[0]


def test_as_many_classes_as_samples_are_no_strata():
    """Of one sample a class nothing can be said of how they scatter."""
    x, reference = normal(60, 3, 0), against(normal(500, 3, 1))
    single = FID()(statistics(x, labels=torch.arange(60)), reference)
    assert single["fid_high"] > single["fid"] * 1.01


@pytest.mark.parametrize("decay", [0.0, -1.5], ids=["white", "decaying"])
def test_at_infinity_the_bias_of_few_samples_is_gone(decay):
    """64 independent features, samples of the very distribution that they are compared with: FID should be 0."""
    std = torch.logspace(0, decay, 64, dtype=torch.float64)
    reference = exactly(torch.zeros(64, dtype=torch.float64), std)
    found = [FID(2)(statistics(normal(500, 64, seed) * std), reference) for seed in range(10)]
    fid, infinity = (sum(f[name] for f in found) / 10 for name in ("fid", "fid_infinity"))
    assert abs(infinity) < fid / 12


def test_at_infinity_it_is_the_distance_of_the_distributions():
    std = torch.linspace(0.5, 2, 16, dtype=torch.float64)
    reference = exactly(torch.zeros(16, dtype=torch.float64), std)
    truth = 16 * 0.1**2 + float((std - 1).square().sum())
    found = [FID(2)(statistics(normal(400, 16, seed) + 0.1), reference) for seed in range(20)]
    fid, infinity = (torch.tensor([f[name] for f in found], dtype=torch.float64) for name in ("fid", "fid_infinity"))
    assert abs(float(infinity.mean()) - truth) < 3 * float(infinity.std()) / math.sqrt(20)
    assert float(fid.mean()) - truth > 3 * float(fid.std()) / math.sqrt(20)


def test_there_is_no_line_where_a_third_of_the_samples_has_a_singular_covariance():
    reference = against(normal(500, 20, 1))
    assert "fid_infinity" in FID(2)(statistics(normal(63, 20)), reference)
    assert "fid_infinity" not in FID(2)(statistics(normal(62, 20)), reference)


def test_what_it_says_of_the_same_samples_is_the_same():
    x, reference = normal(100, 5), against(normal(200, 5, 1))
    again = FID()(statistics(x), reference)  # BLAS rounds by where an array lies in memory
    assert FID()(statistics(x), reference) == pytest.approx(again, rel=1e-12, abs=0)


def test_spatial_fid_is_the_distance_of_the_spatial_features():
    x, y = normal(100, 9, 2) + 0.2, normal(150, 9, 3)
    one, other = statistics(normal(100, 4), spatial=x), against(normal(150, 4, 1), spatial=y)
    assert SpatialFID()(one, other)["sfid"] == pytest.approx(frechet_distance(Moments.of(x), Moments.of(y)), rel=1e-12)


def test_spatial_fid_sees_what_is_moved_and_fid_does_not():
    """Features are the means over places: moving all to another place leaves them as they are."""
    places = normal(200, 12) * torch.linspace(0.1, 2, 12)
    moved = places.roll(4, 1)
    one, other = (statistics(x.mean(1, keepdim=True), spatial=x) for x in (places, moved))
    reference = Reference(one, one)
    assert FID(2)(other, reference)["fid"] == pytest.approx(0, abs=1e-12)
    assert SpatialFID()(other, reference)["sfid"] > 1


def test_without_spatial_features_there_is_no_spatial_fid():
    assert SpatialFID()(statistics(normal(10, 3)), against(normal(10, 3))) == {}
