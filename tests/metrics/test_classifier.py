"""The classifier that FID looks through: good, trained once, named by its weights."""

import hashlib

import pytest
import torch

from conftest import Specks
from denoiselab.data.digits import Digits
from denoiselab.data.source import InMemory
from denoiselab.errors import ConfigError
from denoiselab.metrics import Classifier, trained_classifier
from denoiselab.metrics.classifier import accuracy


class Unlabelled(Specks):
    class_names = ()


class OneClass(Specks):
    class_names = ("a",)


def files(folder) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def source():
    return Specks(train=128)


@pytest.fixture(scope="module")
def trained(source, cache) -> Classifier:
    return trained_classifier(source, cache)


@pytest.mark.slow
def test_it_names_98_of_100_digits_that_it_has_not_seen(digits_cache):
    digits = Digits()
    classifier = trained_classifier(digits, digits_cache)
    share = accuracy(classifier, digits.test.images, digits.test.labels)
    assert share >= 0.98
    assert classifier.test_accuracy == share


def test_it_is_trained_once_and_then_read_from_the_cache(source, trained, cache):
    before = files(cache)
    assert len(before) == 1, "one whole file, and no temporary one beside it"
    again = trained_classifier(source, cache)
    assert files(cache) == before
    assert again.name == trained.name
    assert again.test_accuracy == trained.test_accuracy
    assert torch.equal(again.features(source.test.images), trained.features(source.test.images))


@pytest.mark.slow
def test_another_data_set_gets_another_file(source, trained, cache):
    other = trained_classifier(Specks(train=192), cache)
    assert len(files(cache)) == 2
    assert other.name != trained.name


def test_its_name_carries_the_hash_of_its_weights(trained):
    digest = hashlib.sha256(b"".join(v.numpy().tobytes() for v in trained.state_dict().values())).hexdigest()
    assert trained.name == f"specks-classifier-{digest[:8]}"


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_training_it_anew_gives_the_same_weights_whatever_was_drawn_before(source, trained, tmp_path, threads):
    before = torch.get_num_threads()
    torch.manual_seed(12345)
    torch.set_num_threads(threads)
    try:
        assert trained_classifier(source, tmp_path).name == trained.name
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.parametrize("known", [False, True], ids=["trained", "read from the cache"])
def test_getting_it_leaves_torchs_random_numbers_alone(source, trained, cache, tmp_path, known):
    before = torch.get_rng_state()
    trained_classifier(source, cache if known else tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def test_it_is_frozen_and_judges_each_image_by_itself(source, trained):
    assert not trained.training
    assert not any(p.requires_grad for p in trained.parameters())
    images = source.test.images
    alone = torch.cat([trained.features(image[None]) for image in images])
    torch.testing.assert_close(alone, trained.features(images), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_it_can_be_trained_inside_validation_where_no_gradients_are_kept(source, trained, tmp_path):
    with torch.inference_mode():
        assert trained_classifier(source, tmp_path).name == trained.name


@pytest.mark.parametrize("source", [Unlabelled(), OneClass()], ids=["no labels", "one class"])
def test_data_without_classes_to_tell_apart_are_refused_in_one_line(source, tmp_path):
    with pytest.raises(ConfigError, match="metrics=none") as refusal:
        trained_classifier(source, tmp_path)
    assert "\n" not in str(refusal.value)
    assert "specks" in str(refusal.value)
    assert not files(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("n", [10, 63, 64])
def test_a_data_set_smaller_than_a_batch_has_a_classifier_too(n, tmp_path):
    assert isinstance(trained_classifier(Specks(train=n), tmp_path), Classifier)


@pytest.mark.slow
def test_images_of_odd_sides_and_three_colours_are_judged_too(tmp_path):
    class Odd(Specks):
        shape = (3, 7, 5)

        def _random(self, split: int) -> InMemory:
            images = torch.randint(256, (70, 3, 7, 5), generator=torch.Generator().manual_seed(split))
            return InMemory(images.to(torch.uint8), torch.arange(70) % 3)

    assert trained_classifier(Odd(), tmp_path).features(Odd().test.images).shape == (70, 64)
