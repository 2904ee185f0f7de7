"""Sample grids and denoising strips: the files, read back, are the images that the averaged weights make."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from conftest import fit, tiny_pipeline, tiny_recipe, tiny_system, weights
from denoiselab.conditioning.wishes import balanced_labels
from denoiselab.data.source import to_uint8
from denoiselab.optimizers import adamw
from denoiselab.samplers import DDIM, DDPM, Heun
from denoiselab.spacings import LogSNR, Trailing
from denoiselab.training.callbacks import DenoisingStrip, SampleGrid
from denoiselab.training.system import DiffusionSystem

ZOOM, PAD, SIDE = 10, 1, 4  # 4 x 4 images are enlarged tenfold; between them is one pixel of white


def tile(path: Path, row: int, column: int) -> Tensor:
    """The image at a place of a picture, uint8 (1, 4, 4). Every pixel must be a square of one grey."""
    picture = np.asarray(Image.open(path))
    corner = slice(row * (SIDE + PAD) * ZOOM, None), slice(column * (SIDE + PAD) * ZOOM, None)
    enlarged = picture[corner][: SIDE * ZOOM, : SIDE * ZOOM].reshape(SIDE, ZOOM, SIDE, ZOOM)
    assert (enlarged == enlarged[:, :1, :, :1]).all()
    return torch.from_numpy(enlarged[:, 0, :, 0].copy())[None]


def samples(system: DiffusionSystem, n: int, seed: int = 0) -> Tensor:
    with system.ema.swapped():
        (made,) = system.pipeline.generate(system.recipe, range(n), balanced_labels(range(n), 3), seed, n)
    return made.images


def names(folder: Path) -> set[str]:
    return {path.name for path in (folder / "samples").iterdir()}


@pytest.mark.parametrize(("every", "steps"), [(2, {2, 4, 5}), (5, {5}), (None, {5}), (1, {1, 2, 3, 4, 5})])
def test_a_grid_is_written_at_each_period_and_once_at_the_end(every, steps, tmp_path):
    fit(tiny_system(), tmp_path, steps=5, callbacks=[SampleGrid(n=4, columns=2, every=every)])
    assert names(tmp_path) == {f"step_{step}.png" for step in steps}


def test_a_period_is_counted_in_optimizer_steps(tmp_path):
    class Counting(SampleGrid):
        worked = 0

        def work(self, trainer, system):
            self.worked += 1
            super().work(trainer, system)

    grid = Counting(n=2, columns=2, every=2)
    fit(tiny_system(), tmp_path, steps=5, callbacks=[grid], accumulate_grad_batches=3)
    assert names(tmp_path) == {f"step_{step}.png" for step in (2, 4, 5)}
    assert grid.worked == 3


def test_image_k_stands_in_row_k_over_columns_and_is_sample_k_of_the_averaged_weights(tmp_path):
    system = tiny_system()
    fit(system, tmp_path, steps=3, callbacks=[SampleGrid(n=7, columns=3, seed=6, batch_size=100)])
    known, path = samples(system, 7, seed=6), tmp_path / "samples" / "step_3.png"
    for k in range(7):
        assert torch.equal(tile(path, *divmod(k, 3)), known[k])
    for k in (7, 8):
        assert (tile(path, *divmod(k, 3)) == 255).all(), "what is left of the last row is white"
    width, height = Image.open(path).size
    assert (width, height) == ((3 * 5 - 1) * ZOOM, (3 * 5 - 1) * ZOOM)


def test_pictures_change_with_the_weights_and_with_nothing_else(tmp_path):
    def pictures(lr: float, folder: Path) -> list[bytes]:
        system = tiny_system(optimizer=partial(adamw, lr=lr), recipe=tiny_recipe(DDPM(4, Trailing())))
        fit(system, folder, steps=3, callbacks=[SampleGrid(n=4, columns=2, every=1)])
        return [(folder / "samples" / f"step_{step}.png").read_bytes() for step in (1, 2, 3)]

    assert len(set(pictures(1e-20, tmp_path / "still"))) == 1
    assert len(set(pictures(0.05, tmp_path / "moving"))) == 3


def test_the_network_trains_on_with_its_own_weights_and_dropout_after_a_picture(tmp_path):
    system = tiny_system(tiny_pipeline(unet=True, dropout=0.5))
    before = weights(system.pipeline)
    for callback in (SampleGrid(n=2, columns=2), DenoisingStrip(n=1, moments=2)):
        system.pipeline.train()
        fit(system, tmp_path, steps=2, callbacks=[callback])
        assert system.pipeline.training
    shadow = torch.cat([s.flatten() for s in system.ema.shadow])
    assert not torch.equal(weights(system.pipeline), shadow)
    assert not torch.equal(weights(system.pipeline), before)


@pytest.mark.parametrize(
    "sampler", [DDIM(6, Trailing()), DDPM(6, Trailing()), Heun(6, LogSNR())], ids=["ddim", "ddpm", "heun"]
)
def test_a_strip_goes_from_noise_to_the_final_sample_which_is_also_the_last_x0(sampler, tmp_path):
    system = tiny_system(recipe=tiny_recipe(sampler))
    fit(system, tmp_path, steps=2, callbacks=[DenoisingStrip(n=3, moments=4, seed=2)])
    assert names(tmp_path) == {"denoising_2.png"}
    path, known = tmp_path / "samples" / "denoising_2.png", samples(system, 3, seed=2)
    assert Image.open(path).size == ((4 * 5 - 1) * ZOOM, (6 * 5 - 1) * ZOOM), "4 moments; 3 samples of 2 rows each"
    for k in range(3):
        assert torch.equal(tile(path, 2 * k, 3), known[k]), "the last state"
        assert torch.equal(tile(path, 2 * k + 1, 3), known[k]), "the last predicted x0"
        assert not torch.equal(tile(path, 2 * k, 0), known[k]), "the first state is noise still"


def test_a_strip_shows_the_moments_asked_for_evenly_from_the_first_step_to_the_last(tmp_path):
    system = tiny_system(recipe=tiny_recipe(DDIM(7, Trailing())))
    fit(system, tmp_path, steps=1, callbacks=[DenoisingStrip(n=2, moments=3)])
    states = []
    with system.ema.swapped():
        system.pipeline.eval().sample(
            system.recipe, range(2), balanced_labels(range(2), 3), 0, lambda step, _: states.append(step.x)
        )
    for column, index in enumerate((0, 3, 6)):
        assert torch.equal(tile(tmp_path / "samples" / "denoising_1.png", 2, column), to_uint8(states[index])[1])


def test_a_strip_has_no_more_moments_than_the_sampler_has_steps(tmp_path):
    fit(tiny_system(), tmp_path, steps=1, callbacks=[DenoisingStrip(n=1, moments=10)])  # DDIM of 5 steps
    assert Image.open(tmp_path / "samples" / "denoising_1.png").size == ((5 * 5 - 1) * ZOOM, (2 * 5 - 1) * ZOOM)


def test_a_part_in_eval_mode_is_in_eval_mode_after_a_strip(tmp_path):
    class Frozen(DenoisingStrip):
        def work(self, trainer, system):
            system.pipeline.codec.eval()  # as a frozen autoencoder is
            super().work(trainer, system)
            self.mode = system.pipeline.codec.training

    strip = Frozen(n=1, moments=2)
    fit(tiny_system(), tmp_path, steps=1, callbacks=[strip])
    assert not strip.mode
