import importlib.machinery

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from denoiselab.data import Digits, digits


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


def test_without_the_file_sklearn_reads_the_same(source, monkeypatch, tmp_path):
    spec = importlib.machinery.ModuleSpec("sklearn", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path)]
    monkeypatch.setattr(digits, "find_spec", lambda name: spec)
    assert Digits().fingerprint == source.fingerprint
