"""Figures of a pipeline: the floor is the figure of real images, and no figure depends on the batches."""

import pytest
import torch
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance

from conftest import Projection, Specks, tiny_pipeline, tiny_recipe
from denoiselab.conditioning import ClassLabel
from denoiselab.data.source import InMemory
from denoiselab.errors import ConfigError
from denoiselab.metrics import Evaluation, Extractor, trained_classifier
from denoiselab.pipeline import Generated, balanced_labels
from denoiselab.samplers import Heun
from denoiselab.spacings import LogSNR


class PerfectPipeline(nn.Module):
    """Stand-in for a perfect model: "generates" the real test images, with their own labels."""

    def __init__(self, source: Specks) -> None:
        super().__init__()
        self.conditioner = ClassLabel(3)
        self.images, self.labels = source.test.images, source.test.labels
        self.device = torch.device("cpu")

    def generate(self, recipe, indices, labels, seed, batch_size):
        for part in torch.tensor(list(indices)).split(batch_size):
            yield Generated(self.images[part], self.labels[part], part.tolist(), 1)


class Counting(Projection):
    """Counts the images that it has looked at."""

    seen = 0

    def look(self, images):
        self.seen += len(images)
        return super().look(images)


@pytest.fixture
def evaluation(tmp_path) -> Evaluation:
    return Evaluation(Specks(), Projection(), tmp_path)


@pytest.mark.parametrize("n", [None, 21, 10])
def test_real_test_images_get_exactly_the_floor(evaluation, n):
    figures = evaluation(PerfectPipeline(evaluation.source), tiny_recipe(), n)
    assert figures["fid"] == figures["floor"] > 0
    assert figures["n"] == figures["floor_n"] == (n or 21)


def test_the_floor_is_of_all_test_images_where_more_are_generated(evaluation):
    figures = evaluation(tiny_pipeline(), tiny_recipe(), n=30)
    assert (figures["n"], figures["floor_n"]) == (30, 21)
    assert figures["floor"] == evaluation.floor(21)


def test_fid_is_torchmetrics_fid_of_the_generated_against_the_training_images(evaluation):
    pipeline, recipe, n = tiny_pipeline(), tiny_recipe(), 40
    (made,) = pipeline.generate(recipe, range(n), balanced_labels(range(n), 3), 3, n)
    theirs = FrechetInceptionDistance(feature=Projection())
    theirs.update(evaluation.source.train.images, real=True)
    theirs.update(made.images, real=False)
    figures = evaluation(pipeline, recipe, n, seed=3, batch_size=n)
    assert figures["fid"] == pytest.approx(float(theirs.compute()), rel=1e-9)


def test_no_figure_depends_on_the_batch_size(evaluation, float64):
    """In float64, where the images are the same bit by bit; what is left is the order of summation."""
    pipeline, recipe = tiny_pipeline(), tiny_recipe()
    one, other, whole = (evaluation(pipeline, recipe, 33, batch_size=size) for size in (1, 7, 100))
    assert one["fid"] == pytest.approx(whole["fid"], rel=1e-9)
    assert other["fid"] == pytest.approx(whole["fid"], rel=1e-9)
    assert {k: v for k, v in one.items() if k not in ("fid", "seconds")} == {
        k: v for k, v in other.items() if k not in ("fid", "seconds")
    }


def test_the_floor_and_the_reference_are_looked_at_once(tmp_path):
    extractor, source = Counting(), Specks()
    evaluation, pipeline = Evaluation(source, extractor, tmp_path), tiny_pipeline()
    for _ in range(2):
        evaluation(pipeline, tiny_recipe(), 5)
    assert extractor.seen == len(source.train) + 2 * 5 + 5


def test_the_reference_is_read_from_the_cache_by_the_next_run(tmp_path):
    source, extractor = Specks(), Counting()
    first = Evaluation(source, Projection(), tmp_path).reference
    (path,) = tmp_path.iterdir()
    written = path.stat().st_mtime_ns
    again = Evaluation(Specks(), extractor, tmp_path).reference
    assert extractor.seen == 0
    assert path.stat().st_mtime_ns == written
    assert torch.equal(again.mean, first.mean)
    assert torch.equal(again.covariance, first.covariance)


def test_other_data_and_other_extractors_have_references_of_their_own(tmp_path):
    class Renamed(Projection):
        name = "another"

    for source, extractor in ((Specks(), Projection()), (Specks(train=50), Projection()), (Specks(), Renamed())):
        _ = Evaluation(source, extractor, tmp_path).reference
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("n", [1, 0])
def test_fewer_than_two_images_are_refused(evaluation, n):
    with pytest.raises(ConfigError, match=f"metrics.n={n}"):
        evaluation(tiny_pipeline(), tiny_recipe(), n)


def test_figures_say_what_they_are_figures_of(evaluation):
    recipe = tiny_recipe(Heun(5, LogSNR()))
    figures = evaluation(tiny_pipeline(), recipe, 6, seed=4)
    known = {
        "n": 6,
        "floor": evaluation.floor(6),
        "extractor": "projection",
        "sample_seed": 4,
        "nfe": 9,
        "data": "specks",
        "split": "train 48, test 21",
        "data_fingerprint": evaluation.source.fingerprint[:16],
        **recipe.words,
    }
    assert {key: figures[key] for key in known} == known
    assert "class_accuracy" not in figures, "a projection names no classes"
    assert all(type(value) in (int, float, str, bool) for value in figures.values()), "so that a file can hold them"


def test_another_seed_is_another_sample_and_the_same_seed_the_same_figure(evaluation):
    pipeline, recipe = tiny_pipeline(), tiny_recipe()
    fid = [evaluation(pipeline, recipe, 20, seed)["fid"] for seed in (0, 0, 1)]
    assert fid[0] == fid[1] != fid[2]


def test_class_accuracy_is_the_share_of_images_named_as_the_class_asked_for(tmp_path):
    source = Specks(train=128, test=60)
    classifier = trained_classifier(source, tmp_path)
    figures = Evaluation(source, classifier, tmp_path)(PerfectPipeline(source), tiny_recipe())
    assert figures["class_accuracy"] == classifier.test_accuracy == figures["classifier_test_accuracy"]
    assert figures["extractor"] == classifier.name


def test_evaluating_leaves_the_network_and_torchs_random_numbers_alone(evaluation):
    pipeline = tiny_pipeline(unet=True, dropout=0.5).train()
    before = torch.get_rng_state(), [p.clone() for p in pipeline.parameters()]
    evaluation(pipeline, tiny_recipe(), 4)
    assert pipeline.training
    assert torch.equal(torch.get_rng_state(), before[0])
    assert all(torch.equal(a, b) for a, b in zip(pipeline.parameters(), before[1], strict=True))


def test_a_set_of_identical_images_has_a_distance(tmp_path):
    """Its covariance is 0; so is that of a model that has collapsed."""

    class Blank(Specks):
        def _random(self, split: int) -> InMemory:
            n = self.sizes[split]
            return InMemory(torch.full((n, 1, 4, 4), 100 + split, dtype=torch.uint8), torch.zeros(n, dtype=torch.int64))

    extractor: Extractor = Projection()
    floor = Evaluation(Blank(), extractor, tmp_path).floor(10)
    assert floor == pytest.approx(float((extractor.weight.sum(0) / 255).square().sum()), rel=1e-6)
