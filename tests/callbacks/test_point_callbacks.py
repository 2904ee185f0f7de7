"""Pictures of points: the files are there and are what they say, and what is drawn is the process itself."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from cases import SCHEDULES, over
from conftest import fit, point_pipeline, tiny_recipe, tiny_system
from denoiselab.analytic import Gaussian
from denoiselab.conditioning.wishes import balanced_labels
from denoiselab.data.points import Points, mixture, moons, swiss_roll
from denoiselab.point_pictures import angle, colours, nearest, saturated, times, unit
from denoiselab.samplers import DDIM
from denoiselab.schedules import VE
from denoiselab.spacings import Karras, Leading, Trailing
from denoiselab.training.callbacks import PointProcess, PointScatter
from denoiselab.training.system import DiffusionSystem


def trained(source: Points, folder: Path, *callbacks, cond_dim: int = 0, steps: int = 2) -> DiffusionSystem:
    about = {"image_shape": list(source.shape), "num_classes": source.num_classes}
    recipe = tiny_recipe(DDIM(6, Trailing()), clip=False)
    system = tiny_system(point_pipeline(source, cond_dim=cond_dim), recipe=recipe, description=about)
    fit(system, folder, steps=steps, callbacks=callbacks, source=source)
    return system


def samples(system: DiffusionSystem, n: int, seed: int, classes: int) -> Tensor:
    with system.ema.swapped():
        return system.pipeline.sample(system.recipe, range(n), balanced_labels(range(n), classes), seed).images


def few(name: str = "moons", dim: int = 2) -> Points:
    drawn = {"moons": moons, "mixture": mixture, "swiss_roll": swiss_roll}[name]
    return Points(name, drawn, train=64, test=40, dim=dim)


@pytest.mark.parametrize(("name", "dim", "cond_dim"), [("moons", 2, 4), ("mixture", 7, 0), ("swiss_roll", 3, 0)])
def test_a_run_leaves_its_pictures_the_animation_and_the_samples_as_numbers(name, dim, cond_dim, tmp_path):
    source = few(name, dim)
    process = PointProcess(n=30, moments=4, paths=5, frames=5, seed=3)
    system = trained(source, tmp_path, PointScatter(n=50, seed=3), process, cond_dim=cond_dim)
    folder = tmp_path / "samples"
    made = {"step_2.png", "step_2.npy", "forward_2.png", "reverse_2.png", "reverse_2.gif", "score_2.png"}
    assert {path.name for path in folder.iterdir()} == made
    for picture, columns in (("step", 2), ("forward", 4), ("reverse", 4), ("score", 4)):
        with Image.open(folder / f"{picture}_2.png") as image:
            assert image.width == round(columns * 2.4 * 110)
            assert len(image.convert("RGB").getcolors(maxcolors=10**6)) > 10
    with Image.open(folder / "reverse_2.gif") as film:
        assert (film.n_frames, film.info["loop"]) == (5, 0)
        durations, frames = [], []
        for i in range(5):
            film.seek(i)
            durations.append(film.info["duration"])
            frames.append(np.asarray(film.convert("RGB")))
        assert durations == [800] * 4 + [1500]
        assert all((a != b).any() for a, b in pairwise(frames)), "it moves"
    known = source.in_plane(samples(system, 50, 3, source.num_classes))
    assert np.array_equal(np.load(folder / "step_2.npy"), known.float().numpy())


@pytest.mark.slow
def test_the_animation_of_the_shipped_configuration_stays_small(tmp_path):
    trained(few("mixture"), tmp_path, PointProcess(), steps=1)
    assert (tmp_path / "samples" / "reverse_1.gif").stat().st_size < 1_500_000


def test_the_forward_process_goes_from_the_test_points_to_noise():
    source, process = few(dim=5), PointProcess(n=40)
    at = torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    pipeline = point_pipeline(source)
    first, middle, last = (panel.points for panel in process.forward(pipeline, source, at))
    assert torch.equal(first, source.in_plane(source.test.images))
    alpha, sigma = pipeline.denoiser.schedule(0.3)
    # x_t = alpha x_0 + sigma eps with the same eps at every t; at the end alpha is e^-7.5 of sigma.
    torch.testing.assert_close(middle, alpha * first + sigma * last, rtol=0, atol=5e-3)
    assert abs(float(last.std()) - 1) < 5 / (2 * 80) ** 0.5, "five standard errors of the deviation of 80 numbers"


def test_the_film_of_the_reverse_process_begins_with_the_noise_and_ends_with_the_samples(tmp_path):
    source, process = few(dim=4), PointProcess(n=12, seed=5)
    system = trained(source, tmp_path)
    generated, film = process.reverse(system, source)
    assert [round(float(t), 9) for t, _ in film] == [round(1 - i / 6, 9) for i in range(7)]
    torch.testing.assert_close(film[-1][1], source.in_plane(generated.images), rtol=0, atol=1e-6)
    schedule, seen = system.pipeline.denoiser.schedule, []

    class Looking(DDIM):
        def __call__(self, denoise, schedule, x_T, *args):
            seen.append(x_T)
            return super().__call__(denoise, schedule, x_T, *args)

    recipe = tiny_recipe(Looking(6, Trailing()), clip=False)
    system.pipeline.sample(recipe, range(12), torch.zeros(12, dtype=torch.int64), 5)
    torch.testing.assert_close(film[0][1], source.in_plane(seen[0]) * unit(schedule, torch.tensor(1.0)))


@pytest.mark.parametrize("spacing", [Trailing(), Leading(), Karras(sigma_max=20)])
def test_the_film_begins_with_what_the_denoiser_is_first_asked_wherever_the_grid_begins(spacing, tmp_path):
    source, seen = few(), []
    system = trained(source, tmp_path)
    system.pipeline.denoiser.schedule = schedule = VE()
    system.recipe = tiny_recipe(DDIM(6, spacing), clip=False)
    system.pipeline.denoiser.register_forward_pre_hook(lambda _, given: seen.append(given[:2]))
    _, film = PointProcess(n=12, seed=5).reverse(system, source)
    x, t = seen[0]
    torch.testing.assert_close(film[0][1], source.in_plane(x[:12]) * unit(schedule, t[0]))


@pytest.mark.parametrize("dim", [2, 6])
def test_the_arrows_of_normal_data_point_to_the_centre_with_the_length_of_the_exact_score(dim):
    """For N(0, I) in D dimensions eps_hat = sigma x/(alpha^2 + sigma^2), whatever the noise off the plane."""
    source = few(dim=dim)
    pipeline = point_pipeline(source).double()

    class Exact(nn.Module):
        schedule = pipeline.denoiser.schedule

        def forward(self, x, t, cond):
            return Gaussian(self.schedule)(x, t)

    exact = Exact()
    exact.weight = nn.Parameter(torch.zeros((), dtype=torch.float64))
    pipeline.denoiser = exact
    for panel in PointProcess(n=10).score(pipeline, source):
        t = torch.tensor(float(panel.title.removeprefix("t = ")), dtype=torch.float64)
        places, arrows = panel.arrows
        known = -exact.schedule(t).sigma * places  # a VP schedule: alpha^2 + sigma^2 = 1
        assert torch.cosine_similarity(arrows, known)[places.norm(dim=1) > 0].min() > 1 - 1e-9
        spacing = float(places[:, 1].unique().diff()[0])
        # The title rounds t to three digits.
        torch.testing.assert_close(arrows, saturated(known, spacing), rtol=0, atol=2e-3)


def test_the_score_drawn_of_a_model_of_classes_is_the_one_without_a_class():
    source = few()
    pipeline = point_pipeline(source, cond_dim=4)
    before = PointProcess(n=5).score(pipeline, source)
    with torch.no_grad():
        pipeline.conditioner.embedding.weight[:2] += 1
    after = PointProcess(n=5).score(pipeline, source)
    assert all(torch.equal(a.arrows[1], b.arrows[1]) for a, b in zip(before, after, strict=True))


@over("schedule", SCHEDULES)
def test_the_times_shown_are_even_in_the_share_of_noise_from_data_to_the_end(schedule):
    known = SCHEDULES[schedule]
    at = times(known, [i / 8 for i in range(9)])
    assert (at[0], at[-1]) == (0, 1)
    even = torch.linspace(0, 1, 9, dtype=torch.float64) * angle(known, 1.0)
    # Schedules that begin at a sigma above 0 cannot show less than that.
    least = angle(known, torch.tensor(1e-9, dtype=torch.float64))
    torch.testing.assert_close(angle(known, at)[1:], even[1:].clamp(min=float(least)), rtol=0, atol=1e-6)


@over("schedule", SCHEDULES)
def test_in_their_unit_points_of_unit_variance_keep_it(schedule):
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    alpha, sigma = SCHEDULES[schedule](t)
    variance = unit(SCHEDULES[schedule], t) ** 2 * (alpha**2 + sigma**2)
    torch.testing.assert_close(variance, torch.ones(11, dtype=torch.float64), rtol=0, atol=1e-12)


def test_the_moments_chosen_of_a_film_are_the_first_the_last_and_even_ones_between():
    schedule, t = SCHEDULES["cosine"], [1 - i / 100 for i in range(101)]
    chosen = nearest(schedule, t, 5)
    assert (chosen[0], chosen[-1], len(chosen)) == (0, 100, 5)
    assert all(abs(step - 25) <= 1 for step in np.diff(chosen)), "cosine's angle is even in t, to its offset of .008"
    assert nearest(schedule, [1.0, 0.0], 30) == [0, 1]


def test_a_class_has_one_colour_and_points_without_classes_one_by_their_distance():
    z = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, 2.0]])
    by_class = colours(z, torch.tensor([0, 1, 0]))
    assert (by_class[0] == by_class[2]).all()
    assert (by_class[0] != by_class[1]).any()
    by_distance = colours(z, None)
    assert (by_distance[0] == by_distance[1]).all()
    assert (by_distance[0] != by_distance[2]).any()
    assert colours(z[:0], None).shape == (0, 4)
