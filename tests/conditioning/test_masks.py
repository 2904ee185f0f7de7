import numpy as np
import pytest
import torch
from PIL import Image

from denoiselab.conditioning.masks import KINDS, Box, Brush, FromFile, Half, Mixed, RandomPixels, masks
from denoiselab.errors import ConfigError, DataError, IncompatibleError

WORDS = [*KINDS, "mixed"]


def drawn(word, height, width, n=400):
    made = masks(word, height, width)
    return made(torch.rand(n, made.draws), height, width)


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("size", [(2, 2), (2, 9), (8, 8), (16, 5)])
def test_every_mask_knows_a_part_and_never_all(word, size):
    known = drawn(word, *size)
    assert known.shape == (400, 1, *size)
    assert known.dtype == torch.bool
    share = known.flatten(1).float().mean(1)
    assert (share > 0).all()
    assert (share < 1).all()


@pytest.mark.parametrize("word", WORDS)
@pytest.mark.parametrize("u", [0.0, 1 - 2**-24])
def test_numbers_at_the_ends_of_their_range_make_masks_too(word, u):
    made = masks(word, 8, 6)
    known = made(torch.full((1, made.draws), u), 8, 6)
    assert 0 < known.sum() < 48


@pytest.mark.parametrize("word", WORDS)
def test_a_mask_is_a_function_of_its_own_numbers_alone(word):
    made = masks(word, 8, 8)
    u = torch.rand(50, made.draws)
    whole = made(u, 8, 8)
    torch.rand(3)
    assert torch.equal(made(u[[7, 3]], 8, 8), whole[[7, 3]])
    assert len(torch.unique(whole.flatten(1), dim=0)) > (3 if word == "half" else 15)


def test_the_unknown_of_a_box_is_a_rectangle_of_the_sides_that_were_asked_for():
    unknown = ~Box(0.25, 0.5)(torch.rand(500, 4), 12, 8)[:, 0]
    rows, columns = unknown.any(2), unknown.any(1)
    assert torch.equal(unknown, rows[:, :, None] & columns[:, None])
    for span, low, high in ((rows, 3, 6), (columns, 2, 4)):
        assert set(span.sum(1).tolist()) == set(range(low, high + 1))
        edges = (span.int().diff(dim=1) != 0).sum(1) + span[:, 0].int() + span[:, -1].int()
        assert (edges == 2).all(), "one stretch without a gap"
    assert unknown.any(0).all(), "and it may lie anywhere"


def test_the_height_and_width_of_a_box_and_its_two_places_are_drawn_each_by_itself():
    """The first two of its numbers say which rows, the last two which columns; in each pair size comes first."""
    u = torch.full((5, 4), 0.4)
    u[range(1, 5), range(4)] = 0.9
    unknown = ~Box(0.2, 0.6)(u, 20, 20)[:, 0]
    rows, columns = unknown.any(2), unknown.any(1)
    for k, (span, other) in enumerate([(rows, columns), (rows, columns), (columns, rows), (columns, rows)], start=1):
        assert torch.equal(other[k], other[0])
        assert not torch.equal(span[k], span[0])
        assert (int(span[k].sum()) != int(span[0].sum())) == (k % 2 == 1), "its size, or its place alone"


def test_halves_are_halves_and_each_is_drawn_as_often():
    known = Half()(torch.rand(4000, 1), 8, 8)[:, 0]
    places, counts = torch.unique(known.flatten(1), dim=0, return_counts=True)
    assert len(places) == 4
    assert (places.sum(1) == 32).all()
    assert (counts - 1000).abs().max() < 4 * (4000 * 3 / 16) ** 0.5
    top = Half("top")(torch.rand(2, 1), 5, 4)[0, 0]
    assert top.all(1).tolist() == [True, True, True, False, False]
    assert not Half("right")(torch.rand(1, 1), 4, 4)[0, 0, :, :2].any()


def test_random_pixels_are_a_share_within_the_limits_and_all_as_likely():
    made = RandomPixels(8, 8, 0.25, 0.5)
    known = made(torch.rand(5000, made.draws), 8, 8).flatten(1)
    counts = known.sum(1)
    assert (counts.min(), counts.max()) == (16, 32)
    # Each pixel is known with chance 0.375: four and a half standard errors, as 64 pixels are looked at.
    assert (known.float().mean(0) - 0.375).abs().max() < 4.5 * (0.375 * 0.625 / 5000) ** 0.5


def test_strokes_hang_together_and_have_the_width_of_the_brush():
    made = Brush(strokes=1, turns=1, length=0.5, thin=0.1, thick=0.1)
    # From the middle straight to the right: sin 0 = 0, cos 0 = 1. Half the side long, a tenth of it is the radius.
    u = torch.tensor([[0.5, 0.5, 0.0, 0.0, 1.0]])
    unknown = ~made(u, 20, 20)[0, 0]
    rows, columns = unknown.any(1).nonzero()[:, 0], unknown.any(0).nonzero()[:, 0]
    assert rows.tolist() == [8, 9, 10, 11]  # middles 8.5 ... 11.5 are within 2 of 10
    assert columns.tolist() == list(range(8, 20))
    assert unknown[8:12, 10:20].all()


def test_a_mixture_draws_each_of_its_kinds_as_often():
    made = Mixed({"left": Half("left"), "top": Half("top"), "box": Box(0.4, 0.4)})
    known = made(torch.rand(3000, made.draws), 10, 10)[:, 0]
    assert made.draws == 5
    for word in ("left", "top"):
        half = Half(word)(torch.zeros(1, 1), 10, 10)[0, 0]
        same = (known == half).flatten(1).all(1).sum()
        assert abs(int(same) - 1000) < 4 * (3000 * 2 / 9) ** 0.5


def test_white_of_a_file_is_known_and_black_is_not(tmp_path):
    picture = np.zeros((4, 6), dtype=np.uint8)
    picture[:, :2], picture[0, 3], picture[1, 3] = 255, 128, 127
    Image.fromarray(picture).save(tmp_path / "mask.png")
    known = masks(str(tmp_path / "mask.png"), 4, 6)(torch.zeros(3, 0), 4, 6)
    assert known.shape == (3, 1, 4, 6)
    assert torch.equal(known[2, 0], torch.from_numpy(picture >= 128))


def test_a_file_of_another_size_is_refused_with_both_sizes(tmp_path):
    Image.fromarray(np.eye(6, 4, dtype=np.uint8) * 255).save(tmp_path / "mask.png")
    with pytest.raises(IncompatibleError, match=r"is 6 x 4 pixels .* the images are 8 x 8; give"):
        masks(str(tmp_path / "mask.png"), 8, 8)


@pytest.mark.parametrize("level", [0, 255])
def test_a_file_that_leaves_nothing_to_do_or_nothing_to_go_by_is_refused(tmp_path, level):
    Image.fromarray(np.full((8, 8), level, dtype=np.uint8)).save(tmp_path / "mask.png")
    with pytest.raises(DataError, match=r"is all (black|white)"):
        FromFile(tmp_path / "mask.png")


def test_what_is_no_picture_no_file_and_no_word_is_told_in_one_line(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    for told in (str(tmp_path / "text.png"), str(tmp_path / "none.png"), str(tmp_path)):
        with pytest.raises(DataError, match="cannot be read as a mask") as slip:
            masks(told, 8, 8)
        assert "\n" not in str(slip.value)
    with pytest.raises(ConfigError, match="mask=boxes is no kind of mask and no file; allowed: box, brush, half"):
        masks("boxes", 8, 8)


def test_senseless_numbers_and_images_without_parts_are_refused():
    for make in (
        lambda: Box(0.7, 0.3),
        lambda: Box(0, 0.5),
        lambda: Half("middle"),
        lambda: RandomPixels(8, 8, 0.5, 1.5),
        lambda: Brush(strokes=0),
        lambda: Brush(thin=0.3, thick=0.1),
        lambda: Mixed({}),
    ):
        with pytest.raises(ConfigError, match=r"allowed|give it"):
            make()
    with pytest.raises(IncompatibleError, match="1 x 8 pixels have no parts"):
        masks("half", 1, 8)
