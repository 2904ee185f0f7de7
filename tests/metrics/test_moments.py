"""Moments against NumPy, and the Fréchet distance against its closed form and torchmetrics."""

from functools import reduce
from operator import add

import numpy as np
import pytest
import torch
from torch import Tensor
from torchmetrics.image.fid import FrechetInceptionDistance

from conftest import Projection, Specks
from denoiselab.metrics import Moments, frechet_distance
from denoiselab.metrics.moments import DistanceTo


def features(n: int, dim: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """Correlated, with means of about 1: rows (n, dim)."""
    rng = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dim, dim, generator=rng, dtype=dtype)
    return torch.randn(n, dim, generator=rng, dtype=dtype) @ mixing + torch.randn(dim, generator=rng, dtype=dtype)


def moments(rows: Tensor, batch_size: int = 10_000) -> Moments:
    return reduce(add, map(Moments.of, rows.split(batch_size)))


def gaussian(mean: Tensor, covariance: Tensor, count: int = 100) -> Moments:
    """Moments of just this mean and covariance."""
    return Moments(count, count * mean, (count - 1) * covariance + count * torch.outer(mean, mean))


def rotation(dim: int, seed: int) -> Tensor:
    rng = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(dim, dim, generator=rng, dtype=torch.float64))[0]


@pytest.mark.parametrize("batch_size", [1, 7, 128, 1000])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_mean_and_covariance_are_those_of_numpy_in_float64_whatever_the_batches(batch_size, dtype):
    rows = features(500, 8, seed=0, dtype=dtype)
    made, known = moments(rows, batch_size), rows.double().numpy()
    assert made.count == 500
    np.testing.assert_allclose(made.mean, known.mean(0), rtol=0, atol=1e-12)
    np.testing.assert_allclose(made.covariance, np.cov(known, rowvar=False), rtol=0, atol=1e-12)


def test_two_images_are_enough_for_a_covariance():
    rows = features(2, 3, seed=1)
    np.testing.assert_allclose(moments(rows).covariance, np.cov(rows.numpy(), rowvar=False), rtol=0, atol=1e-13)


def test_the_distance_of_gaussians_whose_covariances_commute_is_the_closed_form():
    """|m_a - m_b|^2 + sum (sqrt a_i - sqrt b_i)^2 for eigenvalues a_i, b_i in a common basis."""
    rng, Q = torch.Generator().manual_seed(3), rotation(12, seed=4)
    a, b = 3 * torch.rand(2, 12, generator=rng, dtype=torch.float64)
    m_a, m_b = torch.randn(2, 12, generator=rng, dtype=torch.float64)
    distance = frechet_distance(gaussian(m_a, Q * a @ Q.T), gaussian(m_b, Q * b @ Q.T))
    assert distance == pytest.approx(
        float((m_a - m_b).square().sum() + (a.sqrt() - b.sqrt()).square().sum()), rel=1e-12
    )


def test_the_distance_is_the_closed_form_when_covariances_are_of_deficient_and_different_rank():
    """An eigenvalue that is 0 comes out as some 1e-16, whose root is 1e-8: hence the tolerance."""
    Q = rotation(6, seed=5)
    a = torch.tensor([4.0, 1, 0, 0, 0, 2], dtype=torch.float64)
    b = torch.tensor([1.0, 0, 9, 0, 0, 2], dtype=torch.float64)
    zero = torch.zeros(6, dtype=torch.float64)
    for x, y in ((a, b), (b, a)):
        distance = frechet_distance(gaussian(zero, Q * x @ Q.T), gaussian(zero, Q * y @ Q.T))
        assert distance == pytest.approx(1 + 1 + 9, abs=1e-6)


@pytest.mark.parametrize("n", [1000, 20], ids=["full rank", "fewer images than features"])
def test_the_distance_is_symmetric_and_nothing_to_itself(n):
    """To 1e-6 of the trace, since roots of eigenvalues that are 0 are off by 1e-8 of the largest."""
    a, b = moments(features(n, 64, seed=6)), moments(features(n, 64, seed=7))
    scale = float(a.covariance.trace() + b.covariance.trace())
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6 * scale)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), abs=1e-6 * scale)
    assert frechet_distance(a, b) > 0.1 * scale


@pytest.mark.parametrize(("n", "m"), [(300, 200), (5, 40)], ids=["full rank", "fewer images than features"])
def test_the_distance_is_torchmetrics_fid_on_the_same_features(n, m):
    extractor, source = Projection(dim=10), Specks(train=n, test=m)
    theirs = FrechetInceptionDistance(feature=extractor)
    theirs.update(source.train.images, real=True)
    theirs.update(source.test.images, real=False)
    ours = frechet_distance(*(moments(extractor.features(s.images), 30) for s in (source.test, source.train)))
    assert ours == pytest.approx(float(theirs.compute()), rel=1e-6)


@pytest.mark.parametrize("n", [300, 9, 5], ids=["more rows than features", "one less", "fewer"])
def test_the_distance_of_rows_is_that_of_their_moments(n):
    """By a problem of the size of the smaller of the two."""
    rows, to = features(n, 10, seed=8), DistanceTo(moments(features(50, 10, seed=9)))
    times = torch.arange(n) % 3
    drawn = rows.repeat_interleave(times, 0)
    assert to.of_rows(rows, rows @ to.root, times) == pytest.approx(to.of(moments(drawn)), rel=1e-7)
