"""Pictures, pixel by pixel."""

import numpy as np
import pytest
import torch
from PIL import Image

from denoiselab.pictures import captioned, grid, groups, loss_curve, write_png


def images(n: int, channels: int = 1, height: int = 50, width: int = 60) -> torch.Tensor:
    rng = torch.Generator().manual_seed(n)
    return torch.randint(0, 255, (n, channels, height, width), generator=rng).to(torch.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("n", "columns"), [(6, 3), (7, 3), (1, 1), (2, 5)])
def test_image_k_stands_in_row_k_over_columns_with_white_between(n, columns, channels, tmp_path):
    made = images(n, channels)
    write_png(grid(made, columns), tmp_path / "new" / "grid.png")
    picture = np.asarray(Image.open(tmp_path / "new" / "grid.png"))
    covered = np.zeros(picture.shape[:2], dtype=bool)
    for k in range(n):
        row, column = divmod(k, columns)
        place = slice(51 * row, 51 * row + 50), slice(61 * column, 61 * column + 60)
        known = made[k].permute(1, 2, 0).numpy()
        assert (picture[place] == (known if channels == 3 else known[..., 0])).all()
        covered[place] = True
    assert (picture[~covered] == 255).all()
    rows = -(-n // columns)
    assert picture.shape[:2] == (51 * rows - 1, 61 * columns - 1), "and no white at the borders"


@pytest.mark.parametrize(("side", "zoom"), [(8, 5), (28, 1), (40, 1), (20, 2), (100, 1)])
def test_small_images_are_enlarged_by_whole_numbers_so_that_a_pixel_stays_a_square(side, zoom):
    made = images(4, height=side, width=side)
    picture = grid(made, 2)
    assert picture.shape == ((2 * side + 1) * zoom,) * 2
    assert (picture[::zoom, ::zoom][:side, :side] == made[0, 0].numpy()).all()
    assert (picture == picture[::zoom, ::zoom].repeat(zoom, 0).repeat(zoom, 1)).all()


def test_pictures_keep_their_pixels_below_their_captions():
    grey, red = np.full((30, 400), 90, np.uint8), np.zeros((20, 50, 3), np.uint8)
    red[..., 0] = 255
    picture = captioned([("$100 for a_seven", grey), ("of two lines " * 6, red)])
    assert picture.shape == (16 + 6 + 30 + 6 + 2 * 16 + 6 + 20 + 6, 400, 3)
    below = 16 + 6 + 30 + 6 + 2 * 16 + 6
    assert (picture[22:52] == 90).all()
    assert (picture[below : below + 20, :50] == red).all()
    assert (picture[below : below + 20, 50:] == 255).all()
    for strip in (picture[:22], picture[58:below]):
        assert 0.005 < (strip < 128).mean() < 0.2, "letters"
    assert not np.array_equal(picture[:22], captioned([("another text", grey)])[:22])


def test_a_loss_curve_is_a_picture_with_a_line_for_each_name(tmp_path):
    def colours(curves) -> set[tuple[int, ...]]:
        loss_curve(curves, tmp_path / "new" / "loss.png")
        picture = Image.open(tmp_path / "new" / "loss.png").convert("RGB")
        return {tuple(colour) for count, colour in picture.getcolors(maxcolors=10**6) if count > 100}

    one = {"train/loss": ([0.0, 1, 2, 3], [1.0, 0.1, 0.01, 0.001])}
    two = one | {"val/loss": ([0.0, 1, 2, 3], [1.0, 0.5, 0.2, 0.1])}
    blue, orange = (31, 119, 180), (255, 127, 14)  # the first two of matplotlib
    assert blue in colours(one)
    assert orange not in colours(one)
    assert {blue, orange} <= colours(two)


def test_groups_keep_together_what_belongs_together():
    images = torch.arange(6, dtype=torch.uint8).view(3, 2, 1, 1, 1).expand(3, 2, 1, 20, 20)
    picture = groups(images, 3)  # two groups a row, enlarged twofold
    white = picture == 255
    assert picture.shape == (2 * 41, 2 * 87)
    assert [int(v) for v in np.unique(picture[:40])] == [0, 1, 2, 3, 255]
    assert [int(v) for v in np.unique(picture[42:])] == [4, 5, 255]
    gaps = np.flatnonzero(np.diff(white[0].astype(int)))
    assert np.diff(gaps).tolist()[:3] == [2, 40, 6]  # an image's gap, an image, the gap between groups
    assert np.array_equal(groups(images[:, :1], 3, "alone"), grid(images[:, 0], 3))
    told = groups(images, 3, "one, other")
    height = len(told) - 6 - len(picture)
    assert 10 < height < 40 and (told[:height] < 128).any(), "a line of writing"
    assert np.array_equal(told[height:-6, : picture.shape[1], 0], picture)
