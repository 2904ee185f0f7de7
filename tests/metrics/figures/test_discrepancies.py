"""KID, MMD and CMMD: 0 on average for one distribution, and known for a shift."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as nnf
from torchmetrics.image.kid import KernelInceptionDistance

from denoiselab.metrics import CMMD, KID, MMD
from denoiselab.metrics.figures.kid import cubic
from denoiselab.metrics.figures.mmd import Gaussian, mmd
from gathered import against, normal, statistics


class Passed(nn.Module):
    """Features are given as images."""

    num_features = 6

    def forward(self, x: Tensor) -> Tensor:
        return x


def kid_of_torchmetrics(x: Tensor, y: Tensor, size: int, subsets: int = 1) -> float:
    theirs = KernelInceptionDistance(feature=Passed(), subsets=subsets, subset_size=size)
    theirs.update(x, real=False)
    theirs.update(y, real=True)
    return float(theirs.compute()[0])


def straightforward(x: Tensor, y: Tensor, kernel: Callable[[Tensor, Tensor], Tensor]) -> float:
    """By the definition, all pairs at once."""
    n, m = len(x), len(y)
    xx, yy = (k.sum() - k.trace() for k in (kernel(x, x), kernel(y, y)))
    return float(xx / (n * (n - 1)) + yy / (m * (m - 1)) - 2 * kernel(x, y).mean())


def test_kid_is_torchmetrics_where_its_subset_is_all():
    x, y = normal(100, 6) * 0.8 + 0.3, normal(100, 6, 1)
    ours = KID()(statistics(x), against(y))["kid"]
    assert ours == pytest.approx(kid_of_torchmetrics(x, y, 100), rel=1e-6)


def test_torchmetrics_draws_subsets_and_says_something_else_each_time_where_ours_is_the_same():
    x, y = normal(100, 6) * 0.8 + 0.3, normal(100, 6, 1)
    drawn = torch.tensor([kid_of_torchmetrics(x, y, 50, subsets=2) for _ in range(40)])
    ours = KID()(statistics(x), against(y))
    assert len(set(drawn.tolist())) == 40
    assert ours == KID()(statistics(x), against(y))
    assert abs(float(drawn.mean()) - ours["kid"]) < 3 * float(drawn.std()) / math.sqrt(40), "theirs is ours on average"


@pytest.mark.parametrize(("n", "m"), [(3, 5), (40, 40), (1003, 12), (20, 2001)])
@pytest.mark.parametrize("kernel", [cubic, Gaussian(1.5)], ids=["cubic", "gaussian"])
def test_in_blocks_it_is_what_the_definition_says(n, m, kernel):
    x, y = normal(n, 4) + 0.5, normal(m, 4, 1)
    assert mmd(statistics(x), statistics(y), kernel).value == pytest.approx(straightforward(x, y, kernel), abs=1e-12)


@pytest.mark.parametrize(("n", "shift"), [(100, 0.0), (100, 0.7)])
@pytest.mark.parametrize("kernel", [cubic, Gaussian(2.0)], ids=["cubic", "gaussian"])
def test_the_error_is_that_of_many_draws(n, shift, kernel):
    """Up to sqrt 2 too large where the distributions are the same, and then the mean is 0."""
    drawn = [mmd(statistics(normal(n, 4, i) + shift), statistics(normal(n, 4, 1000 + i)), kernel) for i in range(200)]
    values, errors = torch.tensor(drawn, dtype=torch.float64).T
    ratio = float(errors.square().mean().sqrt() / values.std())
    assert (1.2 < ratio < 1.7) if shift == 0 else (0.85 < ratio < 1.15)
    if shift == 0:
        assert abs(float(values.mean())) < 3 * float(values.std()) / math.sqrt(200)


@pytest.mark.parametrize("shift", [0.0, 0.5, 2.0])
def test_mmd_of_a_shifted_gaussian_is_the_closed_form(shift):
    """E k(a, b) of a - b ~ N(d, 2 I): (s/(s + 2))^{D/2} exp(-|d|^2/(2 (s + 2))), s = sigma^2 (Gretton 2012)."""
    sigma, dim, n = 1.7, 3, 3000
    x, y = normal(n, dim), normal(n, dim, 1) + shift
    s = sigma**2

    def mean(d: float) -> float:
        return (s / (s + 2)) ** (dim / 2) * math.exp(-dim * d * d / (2 * (s + 2)))

    found = MMD(sigma)(statistics(x), against(y))
    assert abs(found["mmd"] - 2 * (mean(0) - mean(shift))) < 3 * found["mmd_error"] < 0.05


def test_kid_of_a_shifted_gaussian_is_the_closed_form():
    """E (1 + <a, b>/D)^3 of N(m, I) and N(m', I), u = m m'/D ...: by moments of <a, b>, taken in one dimension."""
    n, shift = 4000, 0.6
    x, y = normal(n, 1), normal(n, 1, 1) + shift

    def mean(m: float, other: float) -> float:
        """1 + 3 E ab + 3 E a^2 E b^2 + E a^3 E b^3."""
        a, b = ((k, k * k + 1, k**3 + 3 * k) for k in (m, other))
        return 1 + sum(c * p * q for c, p, q in zip((3, 3, 1), a, b, strict=True))

    found = KID()(statistics(x), against(y))
    truth = mean(0, 0) + mean(shift, shift) - 2 * mean(0, shift)
    assert abs(found["kid"] - truth) < 3 * found["kid_error"] < 0.5 * truth


def test_the_halves_of_a_set_are_no_further_apart_than_the_error_says():
    x = normal(1000, 8)
    found = KID()(statistics(x[::2]), against(x[1::2])) | MMD()(statistics(x[::2]), against(x[1::2]))
    assert abs(found["kid"]) < 3 * found["kid_error"]
    assert abs(found["mmd"]) < 3 * found["mmd_error"]


def test_the_bandwidth_is_the_median_distance_of_real_images_and_does_not_depend_on_the_generated():
    y = normal(400, 5)
    known = float(torch.pdist(y).median())
    for x in (normal(50, 5, 1), 100 * normal(50, 5, 2)):
        assert MMD()(statistics(x), against(y))["mmd_sigma"] == pytest.approx(known, rel=1e-12)


def test_cmmd_is_that_of_the_published_program_less_what_it_adds_for_each_image_with_itself():
    x, y = (nnf.normalize(normal(n, 16, n)) for n in (60, 80))
    found = CMMD()(statistics(x), against(y))["cmmd"]
    k_xx, k_yy, k_xy = (torch.exp(-torch.cdist(a, b).square() / (2 * 10**2)) for a, b in ((x, x), (y, y), (x, y)))
    published = 1000 * float(k_xx.mean() + k_yy.mean() - 2 * k_xy.mean())
    own = sum((1 - (float(k.sum()) - len(k)) / (len(k) * (len(k) - 1))) / len(k) for k in (k_xx, k_yy))
    assert found == pytest.approx(published - 1000 * own, rel=1e-9)


def test_features_of_other_lengths_have_no_cmmd():
    assert CMMD()(statistics(normal(10, 4)), against(normal(10, 4, 1))) == {}


@pytest.mark.parametrize("classes", [list(range(10)), [0, 0, 0, 0, 0, 1, 1, 1, 2, 2]], ids=["equal", "unequal"])
@pytest.mark.parametrize("kernel", [cubic, Gaussian(3.0)], ids=["cubic", "gaussian"])
def test_samples_of_one_distribution_drawn_class_by_class_are_0_apart_on_average(kernel, classes):
    """And by the formula of free draws far less than 0."""
    centres, a, b = 3 * normal(10, 4, 7), torch.tensor(classes).repeat(6), torch.tensor(classes).repeat(20)
    drawn, as_free = [], []
    for i in range(150):
        x, y = normal(len(a), 4, i) + centres[a], normal(len(b), 4, 1000 + i) + centres[b]
        drawn.append(mmd(statistics(x, labels=a), statistics(y, labels=b), kernel))
        as_free.append(straightforward(x, y, kernel))
    values, errors = torch.tensor(drawn, dtype=torch.float64).T
    error = float(values.std()) / math.sqrt(len(values))
    assert abs(float(values.mean())) < 3 * error
    assert float(torch.tensor(as_free).mean()) < -10 * error
    assert 1.2 < float(errors.square().mean().sqrt() / values.std()) < 1.7


def test_errors_of_samples_drawn_in_equal_numbers_of_each_class_are_those_of_such_draws():
    centres, classes = 3 * normal(5, 3, 7), torch.arange(100) % 5
    drawn = []
    for i in range(100):
        x, y = normal(100, 3, i) + centres[classes], normal(100, 3, 1000 + i) + centres[classes] + 0.5
        drawn.append(mmd(statistics(x, labels=classes), statistics(y, labels=classes), Gaussian(3.0)))
    values, errors = torch.tensor(drawn, dtype=torch.float64).T
    assert 0.8 < float(errors.mean() / values.std()) < 1.25
