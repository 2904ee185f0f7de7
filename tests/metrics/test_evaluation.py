"""Figures of a pipeline: the floor is the figure of real images, and no figure depends on the batches."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn
from torchmetrics.image.fid import FrechetInceptionDistance

from conftest import Projection, Specks, tiny_pipeline, tiny_recipe
from denoiselab.codecs import Identity
from denoiselab.conditioning import ClassLabel
from denoiselab.conditioning.wishes import balanced_labels
from denoiselab.data.source import InMemory, spread
from denoiselab.errors import ConfigError
from denoiselab.metrics import (
    CMMD,
    FID,
    KID,
    MMD,
    ClassAccuracy,
    DensityCoverage,
    Evaluation,
    Extractor,
    Figure,
    InceptionScore,
    Looked,
    Memorisation,
    PrecisionRecall,
    SpatialFID,
    generation,
    trained_classifier,
)
from denoiselab.pipeline import Generated, Pipeline
from denoiselab.samplers import Heun
from denoiselab.spacings import LogSNR
from gathered import same, without_times

ALL: dict[str, Figure] = {
    "fid": FID(),
    "class_accuracy": ClassAccuracy(),
    "sfid": SpatialFID(),
    "kid": KID(),
    "mmd": MMD(),
    "cmmd": CMMD(),
    "inception_score": InceptionScore(4),
    "precision_recall": PrecisionRecall(),
    "density_coverage": DensityCoverage(),
    "memorisation": Memorisation(),
}


class PerfectPipeline(nn.Module):
    """Stand-in for a perfect model: "generates" the real test images, with their own labels, in the floor's order."""

    def __init__(self, source: Specks) -> None:
        super().__init__()
        self.conditioner, self.codec = ClassLabel(3), Identity()
        order = spread(source.test.labels)
        self.images, self.labels = source.test.images[order], source.test.labels[order]
        self.device = torch.device("cpu")

    def generate(self, recipe, indices, asked, seed, batch_size):
        for part in torch.tensor(list(indices)).split(batch_size):
            yield Generated(self.images[part], {"label": self.labels[part]}, part.tolist(), 1)


class Counting(Projection):
    """Counts the images that it has looked at."""

    seen = 0

    def look(self, images):
        self.seen += len(images)
        return super().look(images)


class Seeing(Projection):
    """With spatial features and classes of its own, those of the data."""

    knows_classes = True

    def look(self, images):
        features = images.flatten(1).double() / 255 @ self.weight
        return Looked(features, images.flatten(1)[:, ::3].double(), features[:, :3])


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
    assert figures["floor"] == evaluation.floor(21)["fid"]


def test_fid_is_torchmetrics_fid_of_the_generated_against_the_training_images(evaluation):
    pipeline, recipe, n = tiny_pipeline(), tiny_recipe(), 40
    (made,) = pipeline.generate(recipe, range(n), balanced_labels(range(n), 3), 3, n)
    theirs = FrechetInceptionDistance(feature=Projection())
    theirs.update(evaluation.source.train.images, real=True)
    theirs.update(made.images, real=False)
    figures = evaluation(pipeline, recipe, n, seed=3, batch_size=n)
    assert figures["fid"] == pytest.approx(float(theirs.compute()), rel=1e-9)


def test_no_figure_depends_on_the_batch_size(tmp_path, float64):
    """In float64, where the images are the same bit by bit; what is left is the order of summation."""
    pipeline, recipe, evaluation = tiny_pipeline(), tiny_recipe(), Evaluation(Specks(), Seeing(), tmp_path, ALL)
    one, other, whole = (evaluation(pipeline, recipe, 33, batch_size=size) for size in (1, 7, 100))
    assert {"sfid", "kid", "mmd", "inception_score", "precision", "coverage", "memorised", "class_accuracy"} <= set(one)
    for figures in (one, other):
        assert same(figures, whole, rel=1e-9)


def test_the_floor_and_the_reference_are_looked_at_once(tmp_path):
    extractor, source = Counting(), Specks()
    evaluation, pipeline = Evaluation(source, extractor, tmp_path), tiny_pipeline()
    for _ in range(2):
        evaluation(pipeline, tiny_recipe(), 5)
    assert extractor.seen == len(source.train) + 2 * 5 + 5


def test_the_reference_is_read_from_the_cache_by_the_next_run(tmp_path):
    source, extractor = Specks(), Counting()
    first = Evaluation(source, Projection(), tmp_path, ALL).reference(10)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = Evaluation(Specks(), extractor, tmp_path, ALL).reference(10)
    assert extractor.seen == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == written
    for one, other in zip(first, again, strict=True):
        assert one.sums.keys() == other.sums.keys()
        assert all(torch.equal(one.sums[name], other.sums[name]) for name in one.sums)


def test_the_floor_is_read_from_the_cache_by_the_next_run_and_nothing_else_then(tmp_path):
    first, extractor = Evaluation(Specks(), Projection(), tmp_path, ALL).floor(10), Counting()
    for path in tmp_path.iterdir():
        if "-floor-" not in path.name:
            path.unlink()
    assert Evaluation(Specks(), extractor, tmp_path, ALL).floor(10) == first
    assert extractor.seen == 0


def test_another_figure_is_found_of_what_has_been_seen(tmp_path):
    extractor = Counting()
    Evaluation(Specks(), Projection(), tmp_path).floor(10)
    floor = Evaluation(Specks(), extractor, tmp_path, {"kid": KID(), "mmd": MMD(sigma=1.0)}).floor(10)
    other = Evaluation(Specks(), extractor, tmp_path, {"kid": KID(), "mmd": MMD(sigma=2.0)}).floor(10)
    assert extractor.seen == 0
    assert floor["kid"] == other["kid"]
    assert floor["mmd"] != other["mmd"]


def test_other_data_and_other_extractors_have_references_of_their_own(tmp_path):
    class Renamed(Projection):
        name = "another"

    class Retrained(Projection):
        digest = "1" * 16

    class Resized(Projection):
        resize = "299 x 299"

    known = [Projection(), Renamed(), Retrained(), Resized()]
    for source, extractor in [(Specks(), extractor) for extractor in known] + [(Specks(train=50), Projection())]:
        Evaluation(source, extractor, tmp_path).reference(5)
    Evaluation(Specks(), Projection(), tmp_path, keep=20).reference(5)
    assert len(list(tmp_path.glob("*-train-*"))) == len(list(tmp_path.glob("*-test-*"))) == 6


def test_a_floor_of_fewer_images_than_the_test_set_is_of_images_spread_evenly_over_it(tmp_path):
    """Of a test set sorted by class, as a folder of images is."""

    source = Specks(test=300)
    order = source.test.labels.argsort()
    by_class = InMemory(source.test.images[order], source.test.labels[order])
    source.__dict__["test"] = by_class
    real = Evaluation(source, Seeing(), tmp_path, ALL).reference(30).test
    assert (real.labels.bincount() - by_class.labels.bincount() / 10).abs().max() <= 2


@pytest.mark.parametrize("n", [1, 0])
def test_fewer_than_two_images_are_refused(evaluation, n):
    with pytest.raises(ConfigError, match=f"metrics.n={n}"):
        evaluation(tiny_pipeline(), tiny_recipe(), n)


def test_figures_say_what_they_are_figures_of(evaluation):
    recipe = tiny_recipe(Heun(5, LogSNR()))
    figures = evaluation(tiny_pipeline(), recipe, 6, seed=4)
    known = {
        "n": 6,
        "floor": evaluation.floor(6)["fid"],
        "floor_n": 6,
        "extractor": "projection",
        "extractor_weights": "0" * 16,
        "resize": "none",
        "keep": evaluation.keep,
        "figures.fid": "resamples null",
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


@pytest.mark.slow
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
    assert floor["fid"] == pytest.approx(float((extractor.weight.sum(0) / 255).square().sum()), rel=1e-6)


class Interrupted(nn.Module):
    """A pipeline that is stopped after so many batches; it counts those that it has made."""

    def __init__(self, pipeline: Pipeline, after: int) -> None:
        super().__init__()
        self.pipeline, self.after, self.made = pipeline, after, 0
        self.conditioner, self.denoiser, self.device = pipeline.conditioner, pipeline.denoiser, pipeline.device
        self.codec = pipeline.codec

    def generate(self, *what):
        for batch in self.pipeline.generate(*what):
            if self.made == self.after:
                raise KeyboardInterrupt
            self.made += 1
            yield batch


@pytest.mark.parametrize("after", [1, 3])
def test_an_interrupted_evaluation_is_gone_on_with_and_says_what_it_would_have_said(after, tmp_path, monkeypatch):
    monkeypatch.setattr(generation, "EVERY", 0)
    evaluation, saved, recipe = (
        Evaluation(Specks(), Seeing(), tmp_path / "cache", ALL),
        tmp_path / "a" / "s",
        tiny_recipe(),
    )
    whole = evaluation(Interrupted(tiny_pipeline(unet=True), 99), recipe, 33, batch_size=8)
    with pytest.raises(KeyboardInterrupt):
        evaluation(Interrupted(tiny_pipeline(unet=True), after), recipe, 33, batch_size=8, saved=saved)
    assert [path.name for path in saved.parent.iterdir()] == ["s"]
    spent = torch.load(saved, weights_only=True)["seconds"]
    rest = Interrupted(tiny_pipeline(unet=True), 99)
    figures = evaluation(rest, recipe, 33, batch_size=8, saved=saved)
    assert rest.made == 5 - after
    assert without_times(figures) == without_times(whole)
    assert figures["seconds"] >= round(spent, 2) > 0
    assert figures["seconds"] >= figures["sampling_seconds"] > 0


def changed(pipeline: Pipeline) -> Pipeline:
    with torch.no_grad():
        next(pipeline.parameters()).add_(1e-3)
    return pipeline


OTHERS: dict[str, Callable[[], tuple]] = {
    "other weights": lambda: (changed(tiny_pipeline()), tiny_recipe(), 20, 0, 8),
    "another sampler": lambda: (tiny_pipeline(), replace(tiny_recipe(), words={"sampler": "Heun"}), 20, 0, 8),
    "another number": lambda: (tiny_pipeline(), tiny_recipe(), 21, 0, 8),
    "another seed": lambda: (tiny_pipeline(), tiny_recipe(), 20, 1, 8),
    "other batches": lambda: (tiny_pipeline(), tiny_recipe(), 20, 0, 4),
}


@pytest.mark.parametrize("other", OTHERS)
def test_what_is_saved_of_other_samples_is_not_gone_on_with(other, evaluation, tmp_path, monkeypatch):
    monkeypatch.setattr(generation, "EVERY", 0)
    saved = tmp_path / "saved"
    evaluation(tiny_pipeline(), tiny_recipe(), 20, 0, 8, saved=saved)
    found = evaluation(*OTHERS[other](), saved=saved)
    assert without_times(found) == without_times(evaluation(*OTHERS[other]()))


def test_a_saved_file_that_cannot_be_read_is_begun_anew(evaluation, tmp_path):
    saved = tmp_path / "saved"
    saved.write_bytes(b"half of a file")
    with pytest.warns(UserWarning, match="cannot be read"):
        figures = evaluation(tiny_pipeline(), tiny_recipe(), 20, saved=saved)
    assert without_times(figures) == without_times(evaluation(tiny_pipeline(), tiny_recipe(), 20))


def test_every_figure_has_a_floor_which_real_images_get_exactly(tmp_path):
    source = Specks()
    figures = Evaluation(source, Seeing(), tmp_path, ALL)(PerfectPipeline(source), tiny_recipe())
    floors = {name.removeprefix("floor."): value for name, value in figures.items() if name.startswith("floor.")}
    floors["fid"] = figures["floor"]
    known = "fid fid_low fid_high fid_infinity sfid kid kid_error mmd mmd_error mmd_sigma inception_score"
    known += " inception_score_std precision recall density coverage memorised nearest_train class_accuracy"
    assert set(floors) == set(known.split()), "and no cmmd, since its features are not of unit length"
    assert {name: figures[name] for name in floors} == floors
    assert floors["nearest_train"] == 0.5


def test_what_an_extractor_does_not_see_is_left_out(tmp_path):
    figures = Evaluation(Specks(), Projection(), tmp_path, ALL)(tiny_pipeline(), tiny_recipe(), 20)
    assert not {"sfid", "inception_score", "class_accuracy", "cmmd"} & set(figures)
    assert {"fid", "kid", "mmd", "precision", "density", "memorised", "floor.kid"} <= set(figures)


def test_without_fid_the_next_distance_judges_the_model(tmp_path):
    given = {"class_accuracy": ClassAccuracy(), "sfid": SpatialFID(), "kid": KID(), "mmd": MMD()}
    figures = Evaluation(Specks(), Projection(), tmp_path, given)(tiny_pipeline(), tiny_recipe(), 20)
    assert figures["headline"] == "kid"
    assert figures["floor"] == Evaluation(Specks(), Projection(), tmp_path, given).floor(20)["kid"]


def test_figures_that_judge_nothing_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"metrics.figures leaves nothing to judge a model by; keep fid"):
        Evaluation(Specks(), Projection(), tmp_path, {"class_accuracy": ClassAccuracy()})
    blind = Evaluation(Specks(), Projection(), tmp_path, {"sfid": SpatialFID()})
    with pytest.raises(ConfigError, match="that projection can see"):
        blind(tiny_pipeline(), tiny_recipe(), 20)


def test_too_few_images_for_the_features_are_warned_about_once(evaluation, capsys):
    for _ in range(2):
        evaluation(tiny_pipeline(), tiny_recipe(), 6)
        evaluation(tiny_pipeline(), tiny_recipe(), 7)
    told = capsys.readouterr().err
    assert told.count("6 images are too few for 6 features") == 1
    assert told.count("\n") == 1
