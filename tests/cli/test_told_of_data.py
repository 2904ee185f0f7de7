"""Conditions that the data cannot tell are refused before anything is trained."""

import pytest
from hydra.utils import instantiate

from denoiselab.assembly import rules
from denoiselab.assembly.configuration import Loader, composed
from denoiselab.cli import checks
from denoiselab.data import Composition
from denoiselab.errors import ConfigError, IncompatibleError
from denoiselab.training.parts import parts as assembled

NEEDS = [("segmentation", "segmentation"), ("layout", "boxes"), ("layout_channels", "boxes")]


@pytest.mark.slow
@pytest.mark.parametrize(("option", "key"), NEEDS)
def test_images_without_boxes_or_masks_are_refused_by_the_words_alone(option, key):
    for words in ([f"conditioning={option}"], ["conditioning=several", f"conditioning@conditioning.second={option}"]):
        with pytest.raises(ConfigError, match=f"needs {key}, and .* take data=composition") as error:
            checks.check_job(Loader("train"), words)
        assert "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize(("option", "key"), NEEDS)
def test_any_other_data_without_them_are_refused_when_the_parts_are_built(option, key, monkeypatch):
    cfg = composed("train", [f"conditioning={option}", "metrics=none", "likelihood=none"])
    monkeypatch.setattr(rules, "check_rules", lambda *_: None)  # they know this data set, but not each
    with pytest.raises(IncompatibleError, match=f"needs {key}, and data=digits has none; take data=composition"):
        assembled(cfg)


@pytest.mark.slow
@pytest.mark.parametrize(("option", "key"), NEEDS)
def test_images_that_are_mirrored_without_what_is_told_of_them_are_refused(option, key, monkeypatch):
    monkeypatch.setattr(Composition, "flip", True)
    words = ["data=composition", "data.train=4", "data.test=4", f"conditioning={option}"]
    cfg = composed("train", [*words, "metrics=none", "likelihood=none"])
    with pytest.raises(IncompatibleError, match=f"but not their {key}; use data.flip=false"):
        assembled(cfg)


@pytest.mark.slow
def test_scenes_have_what_is_told():
    source = instantiate(composed("train", ["data=composition", "data.test=2"]).data)
    keys = set(source.test.__getitems__([0]))
    assert {key for _, key in NEEDS} <= keys


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data.objects=fashion_mnist"], r"data\.root must be given"),
        (["data.objects=faces"], r"data\.objects.*digits or fashion_mnist"),
        (["data.most=0"], r"data\.most.*at least 1"),
        (["data.channels=2"], r"data\.channels.*1 or 3"),
    ],
)
def test_scenes_of_nothing_are_refused_by_the_words_alone(words, said):
    with pytest.raises(ConfigError, match=said):
        checks.check_job(Loader("train"), ["data=composition", *words])


@pytest.mark.slow
@pytest.mark.parametrize("words", [[], ["data=composition", "conditioning=segmentation"]])
def test_fewer_classes_than_the_data_have_are_refused_when_the_parts_are_built(words):
    cfg = composed("train", [*words, "conditioning.num_classes=5", "metrics=none", "likelihood=none"])
    with pytest.raises(ConfigError, match=r"conditioning\.num_classes=5 leaves out .* 10 classes .* leave it null"):
        assembled(cfg)
