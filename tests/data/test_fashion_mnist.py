import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from denoiselab.data import FashionMNIST
from denoiselab.errors import DataError

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
NAMES = [f"{stem}-{kind}-ubyte" for stem in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS = NAMES

installed = pytest.mark.skipif(not DEBIAN.is_dir(), reason="Debian's package dataset-fashion-mnist is not installed")


def idx(array: np.ndarray) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes() + array.tobytes()


def images(n: int, side: int = 28) -> np.ndarray:
    return np.random.Generator(np.random.PCG64(n)).integers(0, 256, (n, side, side), dtype=np.uint8)


@pytest.fixture
def root(tmp_path):
    """Five training and three test images; the test files are gzipped."""
    (tmp_path / TRAIN_IMAGES).write_bytes(idx(images(5)))
    (tmp_path / TRAIN_LABELS).write_bytes(idx(np.arange(5, dtype=np.uint8)))
    (tmp_path / f"{TEST_IMAGES}.gz").write_bytes(gzip.compress(idx(images(3))))
    (tmp_path / f"{TEST_LABELS}.gz").write_bytes(gzip.compress(idx(np.array([9, 0, 9], dtype=np.uint8))))
    return tmp_path


def message_of(read) -> str:
    with pytest.raises(DataError) as caught:
        read()
    message = str(caught.value)
    assert "\n" not in message
    assert "dataset-fashion-mnist" in message
    return message


def test_plain_and_gzipped_files_are_read_as_written(root):
    source = FashionMNIST(root)
    assert np.array_equal(source.train.images.numpy(), images(5)[:, None])
    assert source.train.labels.tolist() == [0, 1, 2, 3, 4]
    assert np.array_equal(source.test.images.numpy(), images(3)[:, None])
    assert source.test.labels.tolist() == [9, 0, 9]
    assert source.test.labels.dtype == torch.int64


def test_flips_are_off_unless_asked_for(root):
    assert not FashionMNIST(str(root)).flip
    assert FashionMNIST(root, flip=True).flip


def test_flips_are_no_part_of_the_fingerprint(root):
    assert FashionMNIST(root).fingerprint == FashionMNIST(root, flip=True).fingerprint


def test_no_root_says_where_debian_puts_the_files():
    message = message_of(lambda: FashionMNIST(None))
    assert "/usr/share/datasets/fashion-mnist" in message
    assert "data.root=" in message


def test_a_missing_folder_is_named(tmp_path):
    message = message_of(lambda: FashionMNIST(tmp_path / "nowhere"))
    assert str(tmp_path / "nowhere") in message
    assert "does not exist" in message


def test_a_file_as_root_is_named(root):
    message = message_of(lambda: FashionMNIST(root / TRAIN_IMAGES))
    assert str(root / TRAIN_IMAGES) in message
    assert "not a folder" in message


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_file_is_named_when_the_source_is_made(root, name):
    for path in root.glob(f"{name}*"):
        path.unlink()
    assert str(root / name) in message_of(lambda: FashionMNIST(root))


def test_labels_in_the_place_of_images_are_told_by_their_magic_number(root):
    (root / TRAIN_IMAGES).write_bytes(idx(np.zeros(50, dtype=np.uint8)))
    message = message_of(lambda: FashionMNIST(root).train)
    assert str(root / TRAIN_IMAGES) in message
    assert "0x0801" in message
    assert "0x0803" in message


@pytest.mark.parametrize("change", [-1, 1])
def test_a_file_of_another_length_than_its_header_says_is_named(root, change):
    path = root / TRAIN_IMAGES
    whole = path.read_bytes()
    path.write_bytes(whole[:change] if change < 0 else whole + bytes(change))
    message = message_of(lambda: FashionMNIST(root).train)
    assert str(path) in message
    assert f"{len(whole) + change} bytes" in message
    assert f"expected {len(whole)}" in message


@pytest.mark.parametrize("length", [0, 3, 15])
def test_a_file_that_ends_in_its_header_is_named(root, length):
    path = root / TRAIN_IMAGES
    path.write_bytes(path.read_bytes()[:length])
    message = message_of(lambda: FashionMNIST(root).train)
    assert str(path) in message
    assert f"{length} bytes long, expected at least 16" in message


@pytest.mark.parametrize("kept", [5, 40, 200])
def test_a_truncated_gzip_is_named(root, kept):
    path = root / f"{TEST_IMAGES}.gz"
    path.write_bytes(path.read_bytes()[:kept])
    assert str(path) in message_of(lambda: FashionMNIST(root).test)


def test_a_damaged_gzip_is_named(root):
    path = root / f"{TEST_IMAGES}.gz"
    damaged = bytearray(path.read_bytes())
    damaged[100:120] = bytes(20)
    path.write_bytes(damaged)
    assert str(path) in message_of(lambda: FashionMNIST(root).test)


def test_one_label_too_few_is_told_with_both_counts(root):
    (root / TRAIN_LABELS).write_bytes(idx(np.zeros(4, dtype=np.uint8)))
    message = message_of(lambda: FashionMNIST(root).train)
    assert str(root / TRAIN_LABELS) in message
    assert "4 labels, expected 5" in message


def test_an_eleventh_class_is_told(root):
    (root / TRAIN_LABELS).write_bytes(idx(np.full(5, 10, dtype=np.uint8)))
    assert "label 10, expected 0 to 9" in message_of(lambda: FashionMNIST(root).train)


@pytest.mark.parametrize("array", [images(5, side=32), images(0)])
def test_images_of_another_size_or_none_are_told(root, array):
    (root / TRAIN_IMAGES).write_bytes(idx(array))
    message = message_of(lambda: FashionMNIST(root).train)
    assert " x ".join(map(str, array.shape)) in message
    assert "expected N x 28 x 28" in message


@installed
def test_debians_files_are_the_published_data_set():
    source = FashionMNIST(DEBIAN)
    assert source.train.images.shape == (60_000, 1, 28, 28)
    assert source.test.images.shape == (10_000, 1, 28, 28)
    assert source.train.labels.bincount().tolist() == [6_000] * 10
    assert source.test.labels.bincount().tolist() == [1_000] * 10
    # The first training image is an ankle boot, and 0.2860 is the mean that everyone normalises with.
    assert source.class_names[source.train.labels[0]] == "Ankle boot"
    assert source.train.images.double().mean().item() / 255 == pytest.approx(0.2860, abs=5e-5)
