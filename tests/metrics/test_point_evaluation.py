"""The sliced Wasserstein distance has closed forms; the floor is the figure of real points."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import wasserstein_distance
from torch import Tensor, nn

from conftest import point_pipeline, tiny_recipe
from denoiselab.conditioning import Unconditional
from denoiselab.data.points import Points, mixture, moons
from denoiselab.errors import ConfigError
from denoiselab.metrics import PointEvaluation, generation, sliced_wasserstein
from denoiselab.metrics.points import off_plane, wasserstein
from denoiselab.pipeline import Generated
from denoiselab.samplers import DDIM
from denoiselab.spacings import Trailing
from gathered import without_times

RECIPE = tiny_recipe(clip=False)


class Given(nn.Module):
    """Stand-in for a model: "generates" these points."""

    def __init__(self, points: Tensor) -> None:
        super().__init__()
        self.conditioner, self.points = Unconditional(), points

    def generate(self, recipe, indices, asked, seed, batch_size):
        for part in torch.tensor(list(indices)).split(batch_size):
            yield Generated(self.points[part], asked(part.tolist()), part.tolist(), 1)


def cloud(n: int, seed: int = 0) -> Tensor:
    return torch.randn(n, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def source() -> Points:
    return Points("moons", moons, train=300, test=200)


def evaluated(source: Points, points: Tensor, n: int | None = None) -> dict:
    return PointEvaluation(source)(Given(points), RECIPE, n)


@pytest.mark.parametrize(("n", "m"), [(50, 50), (50, 31), (1, 20)])
def test_in_one_dimension_it_is_the_exact_distance_for_any_two_numbers_of_points(n, m):
    a, b = cloud(n), cloud(m, 1) * 1.5 + 0.3
    known = [wasserstein_distance(a[:, k], b[:, k]) for k in range(2)]
    np.testing.assert_allclose(wasserstein(a, b), known, rtol=1e-12)


@pytest.mark.parametrize("directions", [1, 4, 64])
def test_a_shift_s_distance_is_the_mean_length_of_its_shadow_on_the_directions(directions):
    a, s = cloud(100), torch.tensor([0.7, -1.9], dtype=torch.float64)
    angle = math.pi * (np.arange(directions) + 0.5) / directions
    known = np.abs(0.7 * np.cos(angle) - 1.9 * np.sin(angle)).mean()
    assert sliced_wasserstein(a, a + s, directions) == pytest.approx(known, rel=1e-12)


def test_with_many_directions_a_shift_s_distance_is_two_over_pi_of_its_length():
    a, s = cloud(30), torch.tensor([0.7, -1.9], dtype=torch.float64)
    # The midpoint rule on |cos|, which has kinks: its error falls as 1/K^2.
    assert sliced_wasserstein(a, a + s, 1000) == pytest.approx(2 / math.pi * float(s.norm()), rel=1e-5)


def test_scaling_about_the_centre_by_a_factor_costs_the_mean_absolute_shadow_times_the_change():
    # Each sorted shadow x goes to 1.5 x: W1 = 0.5 mean |x|.
    a = cloud(100)
    angle = math.pi * (torch.arange(64, dtype=torch.float64) + 0.5) / 64
    shadows = a @ torch.stack([angle.cos(), angle.sin()])
    assert sliced_wasserstein(a, 1.5 * a) == pytest.approx(0.5 * float(shadows.abs().mean()), rel=1e-12)


def test_it_is_a_distance_of_sets():
    a, b, c = cloud(40), cloud(40, 1) + 1, cloud(40, 2) - 1
    assert sliced_wasserstein(a, a.flip(0)) == 0
    assert sliced_wasserstein(a, b) == pytest.approx(sliced_wasserstein(b, a), rel=1e-12)
    assert sliced_wasserstein(a, b.repeat(3, 1)) == pytest.approx(sliced_wasserstein(a, b), rel=1e-12)
    assert sliced_wasserstein(b, c) <= sliced_wasserstein(b, a) + sliced_wasserstein(a, c)


def test_the_test_points_themselves_have_distance_0(source):
    figures = evaluated(source, source.test.images)
    assert figures["sliced_wasserstein"] == 0
    assert figures["n"] == 200


@pytest.mark.parametrize("n", [200, 50])
def test_real_training_points_get_exactly_the_floor(source, n):
    figures = evaluated(source, source.train.images, n)
    assert figures["sliced_wasserstein"] == figures["floor"] > 0
    assert (figures["n"], figures["floor_n"]) == (n, n)


def test_the_floor_is_of_all_training_points_where_more_are_generated(source):
    figures = evaluated(source, torch.randn(400, 2), 400)
    assert (figures["n"], figures["floor_n"]) == (400, 300)


def test_a_figure_in_the_plane_does_not_depend_on_how_many_dimensions_it_lies_in(source):
    deep = Points("moons", moons, train=300, test=200, dim=100)
    points = cloud(200)
    flat = evaluated(source, points.float())["sliced_wasserstein"]
    # The embedded points and the test points are rounded to float32 in each dimension.
    assert evaluated(deep, deep.embedded(points).float())["sliced_wasserstein"] == pytest.approx(flat, rel=1e-6)


def test_what_lies_off_the_plane_is_its_share_of_the_squared_norm(source):
    deep = Points("moons", moons, train=10, test=10, dim=20)
    z, noise = cloud(50), torch.randn(50, 20, dtype=torch.float64)
    beside = noise - deep.embedded(deep.in_plane(noise))
    known = float(beside.square().sum() / (beside.square().sum() + z.square().sum()))
    points = deep.embedded(z) + beside
    assert off_plane(points, deep.in_plane(points)) == pytest.approx(known, rel=1e-12)
    assert off_plane(deep.embedded(z), z) == pytest.approx(0, abs=1e-14)
    assert "off_plane" in evaluated(deep, points.float(), 50)
    assert "off_plane" not in evaluated(source, cloud(200).float()), "there is nothing off a plane in the plane"


def test_no_figure_depends_on_the_batch_size(float64):
    """In float64, where other batches round the points differently by 1e-15."""
    source = Points("mixture", mixture, train=60, test=40, dim=3)
    pipeline = point_pipeline(source, cond_dim=4)
    recipe, evaluation = tiny_recipe(DDIM(4, Trailing(), eta=0.5), clip=False), PointEvaluation(source)
    whole, *others = (evaluation(pipeline, recipe, 33, batch_size=size) for size in (33, 1, 7))
    for other in others:
        for name in ("sliced_wasserstein", "off_plane"):
            assert other[name] == pytest.approx(whole[name], rel=1e-12)


def test_figures_say_what_they_are_figures_of_and_which_judges_the_model(source):
    figures = PointEvaluation(source, directions=16)(point_pipeline(source), RECIPE, 6, seed=4)
    known = {
        "headline": "sliced_wasserstein",
        "n": 6,
        "directions": 16,
        "sample_seed": 4,
        "nfe": 5,
        "data": "moons",
        "dim": 2,
        "split": "train 300, test 200",
        "data_fingerprint": source.fingerprint[:16],
        **RECIPE.words,
    }
    assert {key: figures[key] for key in known} == known
    assert all(type(value) in (int, float, str, bool) for value in figures.values()), "so that a file can hold them"


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_points_are_refused(source, n):
    with pytest.raises(ConfigError, match=f"metrics.n={n}"):
        evaluated(source, cloud(5), n)


def test_an_interrupted_evaluation_is_gone_on_with_and_says_what_it_would_have_said(source, tmp_path, monkeypatch):
    monkeypatch.setattr(generation, "EVERY", 0)

    class Stopped(nn.Module):
        """Stopped before its third batch."""

        def __init__(self) -> None:
            super().__init__()
            self.pipeline = point_pipeline(source)
            self.denoiser, self.conditioner = self.pipeline.denoiser, self.pipeline.conditioner
            self.made, self.last = 0, 3

        def generate(self, *what):
            for batch in self.pipeline.generate(*what):
                self.made += 1
                if self.made == self.last:
                    raise KeyboardInterrupt
                yield batch

    evaluation, saved, stopped = PointEvaluation(source), tmp_path / "saved", Stopped()
    with pytest.raises(KeyboardInterrupt):
        evaluation(stopped, RECIPE, 50, 1, 8, saved)
    stopped.made, stopped.last = 0, 99
    figures = evaluation(stopped, RECIPE, 50, 1, 8, saved)
    assert stopped.made == 5, "of seven"
    assert without_times(figures) == without_times(evaluation(point_pipeline(source), RECIPE, 50, 1, 8))
    assert figures["seconds"] >= figures["sampling_seconds"] > 0
