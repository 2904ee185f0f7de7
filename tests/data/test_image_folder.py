import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from denoiselab.data import ImageFolder, InMemory
from denoiselab.data.decode import decode, is_grey
from denoiselab.data.image_folder import OnDisk
from denoiselab.errors import DataError, InvalidValue

RED, WHITE = (255, 0, 0), (255, 255, 255)


def save(path: Path, image: Image.Image, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def noise(seed: int = 0, size: tuple[int, int] = (8, 8), mode: str = "RGB") -> Image.Image:
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    return Image.fromarray(np.random.Generator(np.random.PCG64(seed)).integers(0, 256, shape, dtype=np.uint8))


def pixels(image: Image.Image) -> np.ndarray:
    """uint8 (C, H, W)."""
    array = np.asarray(image)
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def contents(source: ImageFolder) -> dict[bytes, str]:
    """The split that each image is in, by its pixels."""
    splits = {"train": source.train, "test": source.test}
    return {
        image.numpy().tobytes(): name
        for name, split in splits.items()
        for image in split.__getitems__(range(len(split)))["image"]
    }


def message_of(read) -> str:
    with pytest.raises(DataError) as caught:
        read()
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def classes(tmp_path):
    """Twenty cats and ten dogs, 8x8 RGB."""
    for i in range(20):
        save(tmp_path / "cat" / f"{i}.png", noise(i))
    for i in range(10):
        save(tmp_path / "dog" / "more" / f"{i}.png", noise(100 + i))
    return tmp_path


class TestDecoding:
    @pytest.mark.parametrize("mode", ["L", "RGB"])
    @pytest.mark.parametrize("suffix", ["png", "webp"])
    def test_a_lossless_file_of_the_asked_size_is_read_as_written(self, tmp_path, mode, suffix):
        options = {"lossless": True} if suffix == "webp" else {}
        path = save(tmp_path / f"a.{suffix}", noise(mode=mode), **options)
        expected = pixels(noise(mode=mode))
        assert np.array_equal(decode(path, 8, len(expected)), expected)

    def test_a_flat_jpeg_keeps_its_colour(self, tmp_path):
        path = save(tmp_path / "a.jpg", Image.new("RGB", (16, 16), (200, 100, 50)), quality=95, subsampling=0)
        # JPEG's YCbCr is rounded to whole levels, which moves each colour by at most 2.
        assert np.abs(decode(path, 8, 3).astype(int) - np.array([200, 100, 50])[:, None, None]).max() <= 2

    def test_a_cmyk_jpeg_becomes_rgb(self, tmp_path):
        path = save(tmp_path / "a.jpg", Image.new("RGB", (16, 16), RED).convert("CMYK"), quality=100)
        assert np.abs(decode(path, 8, 3).astype(int) - np.array(RED)[:, None, None]).max() <= 2
        assert not is_grey(path)

    def test_16_bit_grey_is_scaled_to_8_bits_and_rounded(self, tmp_path):
        deep = np.array([[0, 128, 129, 257], [25700, 32767, 65406, 65535]] * 2, dtype=np.uint16)
        path = save(tmp_path / "a.png", Image.fromarray(deep))
        assert np.array_equal(decode(path, 4, 1)[0], np.array([[0, 0, 1, 1], [100, 127, 254, 255]] * 2))
        assert is_grey(path)

    def test_alpha_is_composited_on_white(self, tmp_path):
        image = Image.new("RGBA", (4, 4), (*RED, 255))
        image.putpixel((0, 0), (*RED, 0))
        image.putpixel((1, 0), (*RED, 51))  # a fifth: 255 - 51 = 204 of white's green and blue stay
        path = save(tmp_path / "a.png", image)
        square = decode(path, 4, 3)
        assert tuple(square[:, 0, 0]) == WHITE
        assert tuple(square[:, 0, 1]) == (255, 204, 204)
        assert tuple(square[:, 3, 3]) == RED
        assert not is_grey(path)

    def test_grey_with_alpha_is_grey_on_white(self, tmp_path):
        image = Image.new("LA", (4, 4), (100, 255))
        image.putpixel((0, 0), (100, 0))
        path = save(tmp_path / "a.png", image)
        assert is_grey(path)
        assert decode(path, 4, 1)[0, 0].tolist() == [255, 100, 100, 100]

    def test_a_palette_becomes_its_colours(self, tmp_path):
        image = Image.new("P", (4, 4), 1)
        image.putpalette([0, 0, 0, *RED])
        path = save(tmp_path / "a.png", image)
        assert not is_grey(path)
        assert (decode(path, 4, 3) == np.array(RED)[:, None, None]).all()

    def test_a_transparent_palette_entry_is_white(self, tmp_path):
        image = Image.new("P", (4, 4), 1)
        image.putpalette([0, 0, 0, *RED])
        path = save(tmp_path / "a.png", image, transparency=1)
        assert (decode(path, 4, 3) == 255).all()

    def test_a_palette_of_greys_is_grey(self, tmp_path):
        image = Image.new("P", (4, 4), 1)
        image.putpalette([0, 0, 0, 7, 7, 7])
        path = save(tmp_path / "a.png", image)
        assert is_grey(path)
        assert (decode(path, 4, 1) == 7).all()

    def test_black_and_white_is_grey(self, tmp_path):
        path = save(tmp_path / "a.png", Image.new("1", (4, 4), 1))
        assert is_grey(path)
        assert (decode(path, 4, 1) == 255).all()

    def test_grey_as_rgb_repeats_the_channel_and_back_gives_the_grey(self, tmp_path):
        grey = noise(mode="L")
        as_rgb = decode(save(tmp_path / "a.png", grey), 8, 3)
        assert np.array_equal(as_rgb, pixels(grey).repeat(3, axis=0))
        assert np.array_equal(decode(save(tmp_path / "b.png", grey.convert("RGB")), 8, 1), pixels(grey))

    @pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
    def test_an_image_that_its_exif_says_lies_on_its_side_is_put_upright(self, tmp_path, suffix):
        lying = Image.new("L", (16, 16), 0)
        lying.paste(255, (0, 0, 16, 8))  # the upper half is white
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned clockwise by a quarter, which puts the upper half to the right
        upright = decode(save(tmp_path / f"a.{suffix}", lying, exif=exif), 16, 1)[0]
        assert (upright[:, 8:] > 250).all()
        assert (upright[:, :8] < 5).all()

    @pytest.mark.parametrize(("size", "kept"), [((14, 8), np.s_[:, :, 3:11]), ((8, 13), np.s_[:, 2:10, :])])
    def test_the_centre_is_kept(self, tmp_path, size, kept):
        image = noise(size=size)
        assert np.array_equal(decode(save(tmp_path / "a.png", image), 8, 3), pixels(image)[kept])

    def test_a_fine_chequerboard_shrinks_to_grey_and_not_to_an_alias(self, tmp_path):
        board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
        small = decode(save(tmp_path / "a.png", Image.fromarray(board)), 8, 1).astype(int)
        # 127.5 is no level, and Lanczos leaves a little of the finest pattern at the borders.
        assert np.abs(small - 127.5).max() < 4

    def test_a_small_image_is_enlarged(self, tmp_path):
        path = save(tmp_path / "a.png", Image.new("RGB", (3, 5), RED))
        assert (decode(path, 8, 3) == np.array(RED)[:, None, None]).all()

    @pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
    @pytest.mark.parametrize("kept", [0.0, 0.1, 0.6])
    def test_a_truncated_file_is_named(self, tmp_path, suffix, kept):
        path = save(tmp_path / f"a.{suffix}", noise(size=(64, 64)))
        whole = path.read_bytes()
        path.write_bytes(whole[: int(kept * len(whole))])
        message = message_of(lambda: decode(path, 8, 3))
        assert str(path) in message
        assert "remove or repair" in message

    def test_another_format_under_an_images_suffix_is_named(self, tmp_path):
        (tmp_path / "a.png").write_text("not\nan image")
        assert str(tmp_path / "a.png") in message_of(lambda: decode(tmp_path / "a.png", 8, 3))


class TestListing:
    def test_classes_are_the_sorted_first_level_folders(self, classes):
        (classes / "ant").mkdir()  # a class folder without images is no class
        (classes / "ant" / "notes.txt").write_text("none yet")
        source = ImageFolder(classes, size=8)
        assert source.class_names == ("cat", "dog")
        assert source.num_classes == 2
        labels = torch.cat([source.train.labels, source.test.labels])
        assert labels.bincount().tolist() == [20, 10]

    def test_each_image_has_the_label_of_its_folder(self, classes):
        source = ImageFolder(classes, size=8, test_fraction=0.5)
        cats = {pixels(noise(i)).tobytes() for i in range(20)}
        for split in (source.train, source.test):
            batch = split.__getitems__(range(len(split)))
            for image, label in zip(batch["image"], batch["label"], strict=True):
                assert (image.numpy().tobytes() in cats) == (label == 0)

    def test_images_directly_in_the_folder_are_unlabelled(self, tmp_path):
        for i in range(5):
            save(tmp_path / f"{i}.png", noise(i))
        source = ImageFolder(tmp_path, size=8)
        assert source.class_names == ()
        assert set(source.train.labels.tolist() + source.test.labels.tolist()) == {0}

    def test_suffixes_count_in_any_case_and_hidden_and_other_files_do_not(self, tmp_path):
        for name in ("a.PNG", "b.JPG", "c.jpeg", "d.WebP"):
            save(tmp_path / name, noise())
        save(tmp_path / ".hidden.png", noise())
        save(tmp_path / ".thumbnails" / "a.png", noise())
        (tmp_path / "labels.csv").write_text("a,b")
        source = ImageFolder(tmp_path, size=8)
        assert len(source.train) + len(source.test) == 4

    def test_links_to_folders_are_followed_but_not_in_circles(self, classes, tmp_path_factory):
        root = tmp_path_factory.mktemp("linked")
        (root / "tiger").symlink_to(classes / "cat")
        shutil.copytree(classes / "dog", root / "dog")
        (root / "dog" / "again").symlink_to(root)
        source = ImageFolder(root, size=8)
        assert source.class_names == ("dog", "tiger")
        assert len(source.train) + len(source.test) == 30

    def test_an_image_beside_class_folders_is_named(self, classes):
        save(classes / "stray.png", noise())
        assert str(classes / "stray.png") in message_of(lambda: ImageFolder(classes, size=8))

    def test_a_folder_without_images_says_what_is_there_and_what_is_read(self, tmp_path):
        for name in ("a.gif", "b.txt", ".hidden"):
            (tmp_path / name).write_text("")
        message = message_of(lambda: ImageFolder(tmp_path, size=8))
        assert str(tmp_path) in message
        assert "3 other files" in message
        for suffix in (".png", ".jpg", ".jpeg", ".webp"):
            assert suffix in message

    def test_a_single_image_cannot_be_split(self, tmp_path):
        path = save(tmp_path / "a.png", noise())
        assert str(path) in message_of(lambda: ImageFolder(tmp_path, size=8))


class TestSplit:
    def test_every_image_is_in_exactly_one_split(self, classes):
        source = ImageFolder(classes, size=8, test_fraction=0.3)
        assert len(source.train) + len(source.test) == 30
        assert set(contents(source)) == {pixels(noise(i)).tobytes() for i in [*range(20), *range(100, 110)]}

    def test_added_and_removed_images_move_no_other(self, classes):
        before = contents(ImageFolder(classes, size=8, test_fraction=0.4))
        for i in range(200, 220):
            save(classes / "cat" / f"{i}.png", noise(i))
        (classes / "cat" / "0.png").unlink()
        after = contents(ImageFolder(classes, size=8, test_fraction=0.4))
        shared = before.keys() & after.keys()
        assert len(shared) == 29
        assert all(before[image] == after[image] for image in shared)

    def test_the_split_does_not_depend_on_where_the_folder_lies(self, classes, tmp_path_factory):
        copy = tmp_path_factory.mktemp("elsewhere") / "copy"
        shutil.copytree(classes, copy)
        assert ImageFolder(copy, size=8).fingerprint == ImageFolder(classes, size=8).fingerprint

    @pytest.mark.parametrize("test_fraction", [1e-9, 0.1, 1 - 1e-9])
    def test_two_images_are_one_to_train_and_one_to_test(self, tmp_path, test_fraction):
        for i in range(2):
            save(tmp_path / f"{i}.png", noise(i))
        source = ImageFolder(tmp_path, size=8, test_fraction=test_fraction)
        assert (len(source.train), len(source.test)) == (1, 1)

    def test_the_share_of_test_images_is_near_the_asked(self, tmp_path):
        blank = save(tmp_path / "0.png", Image.new("L", (1, 1)))
        for i in range(1, 1000):
            (tmp_path / f"{i}.png").hardlink_to(blank)
        source = ImageFolder(tmp_path, size=1, channels=1, test_fraction=0.2)
        # The standard deviation of a binomial share is sqrt(0.2 * 0.8 / 1000) = 0.0126; four of them.
        assert len(source.test) / 1000 == pytest.approx(0.2, abs=0.05)


class TestStorage:
    def test_a_small_set_is_in_memory_and_a_large_one_is_read_from_disk(self, classes):
        assert isinstance(ImageFolder(classes, size=8).train, InMemory)
        # 30 images of 3 x 108 x 108 are 1.0012 MiB, of 3 x 107 x 107 0.98 MiB.
        assert isinstance(ImageFolder(classes, size=107, memory_mb=1).test, InMemory)
        assert isinstance(ImageFolder(classes, size=108, memory_mb=1).test, OnDisk)

    def test_where_images_are_held_changes_nothing(self, classes):
        held, read = (ImageFolder(classes, size=5, memory_mb=memory_mb) for memory_mb in (1, 0))
        indices = [3, 0, 3, 1]
        for key in ("image", "label"):
            assert torch.equal(held.train.__getitems__(indices)[key], read.train.__getitems__(indices)[key])
        assert held.fingerprint == read.fingerprint

    def test_nothing_is_decoded_before_a_split_is_used(self, classes):
        broken = classes / "cat" / "3.png"
        broken.write_bytes(broken.read_bytes()[:60])
        source = ImageFolder(classes, size=8)
        assert source.shape == (3, 8, 8)
        assert str(broken) in message_of(lambda: (source.train, source.test))


class TestArguments:
    def test_the_facts_are_those_of_the_folder(self, classes):
        source = ImageFolder(str(classes), size=6)
        assert source.shape == tuple(source.train.__getitems__([0])["image"].shape[1:]) == (3, 6, 6)
        assert source.name == classes.name
        assert source.flip
        assert not ImageFolder(classes, size=6, flip=False).flip

    def test_grey_files_have_one_channel_unless_three_are_asked_for(self, tmp_path):
        for i in range(3):
            save(tmp_path / f"{i}.png", noise(i, mode="L"))
        assert ImageFolder(tmp_path, size=8).shape == (1, 8, 8)
        assert ImageFolder(tmp_path, size=8, channels=3).shape == (3, 8, 8)

    def test_a_mixture_of_grey_and_colour_names_one_of_each(self, classes):
        grey = save(classes / "dog" / "grey.png", noise(mode="L"))
        message = message_of(lambda: ImageFolder(classes, size=8).shape)
        assert str(grey) in message
        assert str(classes / "cat" / "0.png") in message
        assert "data.channels=1" in message
        assert "data.channels=3" in message
        assert ImageFolder(classes, size=8, channels=1).shape == (1, 8, 8)

    def test_no_root_says_how_to_give_one(self):
        assert "data.root=" in message_of(lambda: ImageFolder(None, size=8))

    def test_a_missing_root_is_named(self, tmp_path):
        message = message_of(lambda: ImageFolder(tmp_path / "nowhere", size=8))
        assert str(tmp_path / "nowhere") in message
        assert "does not exist" in message

    def test_a_file_as_root_is_named(self, tmp_path):
        path = save(tmp_path / "a.png", noise())
        message = message_of(lambda: ImageFolder(path, size=8))
        assert str(path) in message
        assert "is a file" in message

    @pytest.mark.parametrize(
        ("key", "value"),
        [
            ("size", 0),
            ("size", -3),
            ("channels", 2),
            ("channels", 0),
            ("test_fraction", 0.0),
            ("test_fraction", 1),
            ("test_fraction", -0.5),
            ("test_fraction", float("nan")),
        ],
    )
    def test_an_invalid_value_is_refused_with_its_key(self, classes, key, value):
        with pytest.raises(InvalidValue, match=rf"^{key} must be .* \(got {value}\)$"):
            ImageFolder(classes, **{"size": 8, key: value})
