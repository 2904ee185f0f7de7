import numpy as np
import pytest
import torch
from PIL import Image

from conftest import Specks, tiny_pipeline, tiny_recipe
from denoiselab.analytic import Gaussian
from denoiselab.cli.inversions import COLUMNS, invert_images
from denoiselab.data.source import to_float, to_uint8
from denoiselab.errors import ConfigError, IncompatibleError
from denoiselab.guidance import Unguided
from denoiselab.samplers import DDPM, ODE
from denoiselab.schedules import cosine
from denoiselab.spacings import Trailing


def test_images_go_to_noise_and_back_and_are_drawn_in_three_rows(tmp_path):
    pipeline, recipe = tiny_pipeline(), tiny_recipe(ODE(2, Trailing(), 1e-6, 1e-6), Unguided(), clip=False)
    pipeline.denoiser = Gaussian(cosine(), 0.0, 0.3)
    figures = invert_images(pipeline, recipe, Specks(), n=5, batch_size=2, folder=tmp_path)
    assert figures["error"] < 1e-4
    # The exact flow from N(0, 0.3^2) to N(0, 1) multiplies by 1/0.3.
    data = to_float(Specks().test.__getitems__(range(5))["image"])
    assert figures["noise_std"] == pytest.approx(float(data.flatten(1).std(1).mean()) / 0.3, rel=1e-3)
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.size == (10 * (5 * 5 - 1), 10 * (3 * 5 - 1))  # 5 images of 4 pixels, tenfold
        pixels = torch.from_numpy(np.array(picture)).int()[5::10, 5::10]
    images, noise, again = pixels[:4], pixels[5:9], pixels[10:]
    assert (images - again).abs().max() <= 1
    first = data[0, 0]
    assert torch.equal(images[:, :4], to_uint8(first).int())
    assert (noise[:, :4] - to_uint8(first / 0.3 / 3).int()).abs().max() <= 1  # black to white is -3 to 3


def test_the_figures_do_not_depend_on_the_batch_size(tmp_path):
    recipe = tiny_recipe(clip=False)
    made = [invert_images(tiny_pipeline(), recipe, Specks(), 6, size, tmp_path) for size in (6, 4)]
    assert made[0] == pytest.approx(made[1], rel=1e-4)


def test_more_images_than_a_line_holds_go_on_in_three_rows_below(tmp_path):
    invert_images(tiny_pipeline(), tiny_recipe(clip=False), Specks(), 21, 30, tmp_path)
    with Image.open(tmp_path / "grid.png") as picture:
        assert picture.size == (10 * (COLUMNS * 5 - 1), 10 * (6 * 5 - 1))


def test_what_cannot_be_inverted_is_told_in_one_line(tmp_path):
    with pytest.raises(IncompatibleError, match="adds noise"):
        invert_images(tiny_pipeline(), tiny_recipe(DDPM(3, Trailing())), Specks(), 2, 2, tmp_path)
    with pytest.raises(ConfigError, match="n=22 is more than the 21 test images"):
        invert_images(tiny_pipeline(), tiny_recipe(), Specks(), 22, 2, tmp_path)
    assert not (tmp_path / "grid.png").exists()
