"""Points in the plane have the shapes that the formulas say, and more dimensions change nothing in the plane."""

import math
from functools import partial

import pytest
import torch

from denoiselab.data import Points, points
from denoiselab.data.source import to_float
from denoiselab.errors import ConfigError
from denoiselab.randomness import generator

CLASSES = {"swiss_roll": 0, "moons": 2, "mixture": 8, "checkerboard": 0, "pinwheel": 5}
DISTRIBUTIONS = {name: getattr(points, name) for name in CLASSES}
over_all = pytest.mark.parametrize("name", CLASSES)


def drawn(name: str, n: int = 500, **numbers: float) -> tuple[torch.Tensor, torch.Tensor]:
    return DISTRIBUTIONS[name](n, generator("test"), **numbers)


@over_all
def test_points_follow_from_the_seed_alone(name):
    def fingerprint(seed: int = 0, **changes: int) -> str:
        torch.randn(3)  # torch's own random numbers are another matter
        return Points(name, DISTRIBUTIONS[name], train=64, test=32, seed=seed, **changes).fingerprint

    assert fingerprint() == fingerprint()
    assert len({fingerprint(), fingerprint(1), fingerprint(dim=3)}) == 3


def test_the_draws_never_change():
    # Figures of other points are not comparable: these numbers may only change with a new name for the data.
    first = Points("moons", points.moons).train.images[:2]
    torch.testing.assert_close(first, torch.tensor([[0.3982312, 0.0351793], [0.0706702, 1.0689570]]), rtol=0, atol=1e-5)


@over_all
def test_a_coordinate_has_mean_0_and_standard_deviation_1(name):
    z = Points(name, DISTRIBUTIONS[name], train=20_000).train.images.double()
    # Standard errors are at the most 1/sqrt(n) = .0071 for the mean and, with kurtosis below 5, twice that for the
    # deviation; the moments that the points are brought to have half of these errors. Five of them.
    assert (z.mean(0).abs() < 5 * 0.008).all()
    assert ((z.std(0) - 1).abs() < 5 * 0.008).all()


@over_all
def test_classes_are_equally_frequent_where_there_are_any(name):
    source = Points(name, DISTRIBUTIONS[name], train=10_000)
    k = source.num_classes
    assert k == CLASSES[name]
    if k == 0:
        assert not source.train.labels.any()
    else:
        counts = source.train.labels.bincount(minlength=k).double()
        assert ((counts - 10_000 / k).abs() < 5 * math.sqrt(10_000 / k)).all(), "five standard deviations of a count"


def test_train_and_test_share_no_point():
    source = Points("moons", points.moons, train=500, test=500)
    assert torch.cdist(source.train.images, source.test.images).min() > 0


@pytest.mark.parametrize("dim", [3, 8, 512])
def test_the_embedding_keeps_lengths_and_angles_and_is_undone_by_the_projection(dim):
    flat, deep = (Points("moons", points.moons, train=50, test=2, dim=d) for d in (2, dim))
    unity = torch.eye(2, dtype=torch.float64)
    torch.testing.assert_close(deep.projection.T @ deep.projection, unity, rtol=0, atol=1e-14)
    z = torch.randn(20, 2, dtype=torch.float64)
    torch.testing.assert_close(deep.in_plane(deep.embedded(z)), z, rtol=0, atol=1e-13)
    torch.testing.assert_close(deep.embedded(z) @ deep.embedded(z).T, z @ z.T, rtol=0, atol=1e-13)
    assert deep.shape == (dim,)
    assert deep.train.images.shape == (50, dim)
    # Rounding to float32 in each of the dimensions.
    torch.testing.assert_close(deep.in_plane(deep.train.images), flat.train.images.double(), rtol=0, atol=1e-6)
    assert torch.equal(deep.train.labels, flat.train.labels)


def test_in_the_plane_itself_nothing_is_turned():
    assert torch.equal(Points("moons", points.moons).projection, torch.eye(2, dtype=torch.float64))


def test_the_plane_lies_in_no_special_direction():
    # Of a random unit vector in D dimensions each coordinate has variance 1/D: here 512 of them, within 5 deviations.
    columns = Points("moons", points.moons, dim=512).projection
    assert columns.abs().max() < 5 / math.sqrt(512)
    assert (columns.sum(0).abs() < 5).all()


def test_points_of_a_swiss_roll_have_their_angle_as_radius():
    z, _ = drawn("swiss_roll", noise=0)
    radius = z.norm(dim=1)
    assert 1.5 * math.pi <= radius.min() < radius.max() <= 4.5 * math.pi
    torch.testing.assert_close(z, radius[:, None] * torch.stack([radius.cos(), radius.sin()], 1), rtol=0, atol=1e-12)


def test_moons_are_two_half_circles():
    z, labels = drawn("moons", noise=0)
    centre = torch.tensor([[0, 0], [1, 0.5]], dtype=torch.float64)[labels]
    torch.testing.assert_close((z - centre).norm(dim=1), torch.ones(500).double(), rtol=0, atol=1e-12)
    assert (((z - centre)[:, 1] >= -1e-12) == (labels == 0)).all(), "the first moon is above, the second below"


def test_a_mixture_has_its_modes_evenly_on_the_unit_circle():
    z, labels = drawn("mixture", std=0, modes=6)
    turned = torch.atan2(z[:, 1], z[:, 0]) - 2 * math.pi * labels.double() / 6
    assert torch.sin(turned / 2).abs().max() < 1e-12
    torch.testing.assert_close(z.norm(dim=1), torch.ones(500).double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("squares", [2, 3, 4])
def test_a_checkerboard_is_uniform_on_its_dark_squares(squares):
    z, _ = drawn("checkerboard", 5000, squares=squares)
    column, row = z.floor().long().T
    assert ((column + row) % 2 == 0).all()
    assert 0 <= z.min() < z.max() < squares
    dark = (squares**2 + 1) // 2
    counts = (column * squares + row).bincount()
    counts = counts[counts > 0]
    assert len(counts) == dark
    assert ((counts - 5000 / dark).abs() < 5 * math.sqrt(5000 / dark)).all()


def test_the_arms_of_a_pinwheel_are_one_arm_turned():
    z, labels = drawn("pinwheel", tangential=0, twist=0.25)
    turn = -2 * math.pi * labels.double() / 5
    x, y = z[:, 0] * turn.cos() - z[:, 1] * turn.sin(), z[:, 0] * turn.sin() + z[:, 1] * turn.cos()
    radius = z.norm(dim=1)
    # The arm's own equation: the angle is twist exp(radius), wherever the radius is positive.
    torch.testing.assert_close(x, radius * (0.25 * radius.exp()).cos(), rtol=0, atol=1e-9)
    torch.testing.assert_close(y, radius * (0.25 * radius.exp()).sin(), rtol=0, atol=1e-9)


def test_a_distribution_s_numbers_can_be_chosen():
    wide, narrow = (Points("mixture", partial(points.mixture, std=std), test=500) for std in (0.3, 0.01))
    assert len(wide.class_names) == 8
    spread = [float(s.test.images[s.test.labels == 0].std(0).mean()) for s in (wide, narrow)]
    assert spread[0] > 10 * spread[1]


def test_networks_see_points_as_they_are():
    z = torch.tensor([[-3.0, 2.5]])
    assert to_float(z) is z


@pytest.mark.parametrize("changes", [{"dim": 1}, {"train": 1}, {"test": 0}])
def test_too_few_points_or_dimensions_are_refused(changes):
    (key,) = changes
    with pytest.raises(ConfigError, match=rf"{key} must be at least 2 \(got {changes[key]}\)"):
        Points("moons", points.moons, **changes)
