import importlib.machinery

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from denoiselab.assembly.configuration import Loader
from denoiselab.cli.checks import check_job
from denoiselab.data import Digits, digits
from denoiselab.errors import ConfigError


@pytest.fixture(scope="module")
def source():
    return Digits()


def rows(images: torch.Tensor, labels: torch.Tensor) -> list[tuple[int, ...]]:
    """Each image with its label, as a multiset in a canonical order."""
    return sorted(map(tuple, torch.cat([images.flatten(1), labels[:, None]], 1).tolist()))


def test_the_facts_are_those_of_the_files(source):
    assert (len(source.train), len(source.test)) == (1437, 360)
    assert source.shape == tuple(source.train.images.shape[1:]) == (1, 8, 8)
    assert source.class_names == tuple("0123456789")
    assert not source.flip


def test_train_and_test_together_are_exactly_sklearns_digits(source):
    images, labels = load_digits(return_X_y=True)
    expected = torch.from_numpy(np.round(images * 255 / 16).astype(np.int64))
    found = torch.cat([source.train.images, source.test.images]).long()
    assert rows(found, torch.cat([source.train.labels, source.test.labels])) == rows(expected, torch.tensor(labels))


def test_black_is_0_and_white_is_255(source):
    assert source.train.images.min() == 0
    assert source.train.images.max() == 255
    assert len(source.train.images.unique()) == 17


def test_each_class_is_split_4_to_1_to_within_one_image(source):
    test = source.test.labels.bincount(minlength=10)
    total = test + source.train.labels.bincount(minlength=10)
    assert ((test - total / 5).abs() < 1).all()


def test_the_split_never_changes(source):
    # A figure computed on another split is not comparable: this number may only change with a new name for the data.
    assert source.fingerprint == "0023daf805a83b1a214588ac1fa14c24c1f2a1b4aac8b057783113d3d2adf5c7"


def test_at_the_size_of_the_files_they_are_as_they_are(source):
    assert Digits(8).fingerprint == source.fingerprint


@pytest.mark.parametrize("size", [16, 24, 32, 40])
def test_enlarged_digits_are_those_of_bilinear_interpolation(source, size):
    large = Digits(size)
    assert large.shape == tuple(large.train.images.shape[1:]) == (1, size, size)
    for own, other in ((large.train, source.train), (large.test, source.test)):
        assert torch.equal(own.labels, other.labels)
        known = nn.functional.interpolate(other.images.double(), size, mode="bilinear", align_corners=False)
        assert float((own.images - known).abs().max()) <= 0.5 + 1e-9  # rounded to the nearest


def test_enlarged_digits_keep_their_content():
    # The mean over the k x k pixels that a pixel became gives 8 x 8 images again, smoothed; those tell all apart that
    # were apart, and 64 dimensions hold all but what rounding to levels adds, at the most 1/12 a pixel.
    large = Digits(32).train.images.flatten(1).double()
    spectrum = torch.linalg.svdvals(large)
    assert float(spectrum[64:].square().sum()) / large.numel() < 1 / 11
    assert float(spectrum[40]) ** 2 / len(large) > 100


def test_another_size_is_another_data_set_with_another_classifier(source, tmp_path):
    sizes = [Digits(size) for size in (8, 16, 32)]
    assert len({made.fingerprint for made in sizes}) == 3
    assert {made.name for made in sizes} == {"digits"}


def test_the_enlarged_digits_never_change():
    assert Digits(32).fingerprint == ENLARGED


ENLARGED = "56f36e371c7edb06e7d2b49fcab046587454fa3d41db4568486c18776f63a1d2"


@pytest.mark.parametrize("size", [0, -8, 4, 12, 28, 264])
def test_a_size_that_is_no_multiple_of_8_is_refused_in_one_line(size):
    with pytest.raises(ConfigError, match=rf"^size must be a multiple of 8, from 8 to 256 \(got {size}\)$"):
        Digits(size)


@pytest.mark.slow
def test_on_the_command_line_too_before_anything_is_built():
    def words(size: int) -> None:
        check_job(Loader("train"), ["data=digits", f"data.size={size}"])

    words(24)
    with pytest.raises(ConfigError, match=r"^data\.size must be a multiple of 8, from 8 to 256 \(got 28\)$"):
        words(28)
    with pytest.raises(ConfigError, match=r"size must be a multiple of 8"):
        words(0)


def test_without_the_file_sklearn_reads_the_same(source, monkeypatch, tmp_path):
    spec = importlib.machinery.ModuleSpec("sklearn", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(digits, "find_spec", lambda name: spec)
    assert Digits().fingerprint == source.fingerprint
