"""The options of conf/metrics: every figure that is listed is made, and any of them can be left out."""

import pytest
from omegaconf import DictConfig

from conftest import Projection, Specks, tiny_pipeline, tiny_recipe
from denoiselab.assembly.configuration import Loader, composed
from denoiselab.assembly.evaluation import evaluation as evaluation_of
from denoiselab.cli import checks
from denoiselab.errors import ConfigError
from denoiselab.metrics import Evaluation, figures
from denoiselab.training.parts import parts as assembled


def evaluation(*words: str) -> Evaluation:
    cfg = composed("train", ["data=digits", *words])
    made = evaluation_of(with_projection(cfg), Specks())
    assert isinstance(made, Evaluation)
    return made


def with_projection(cfg: DictConfig) -> DictConfig:
    """The same, seen through a projection, which need not be trained."""
    cfg.metrics.extractor = {"_target_": "test_metrics_options.projection", "_partial_": True}
    return cfg


def projection(source: Specks) -> Projection:
    return Projection()


def test_all_is_every_figure_that_there_is():
    chosen = {type(figure).__name__ for figure in evaluation("metrics=all").figures.values()}
    assert chosen == set(figures.__all__) - {"Figure", "Reference"}


def test_while_training_there_are_the_cheap_ones():
    assert list(evaluation().figures) == ["fid", "class_accuracy", "as_told"]
    assert evaluation().needs == figures.FID.needs


@pytest.mark.parametrize("left_out", ["kid", "memorisation", "sfid", "inception_score"])
def test_any_of_them_can_be_left_out(left_out, tmp_path):
    made = evaluation("metrics=all", f"metrics.figures.{left_out}=null", f"cache={tmp_path}")
    assert left_out not in made.figures
    found = made(tiny_pipeline(), tiny_recipe(), 20)
    assert {"memorisation": "memorised"}.get(left_out, left_out) not in found
    assert {"fid", "mmd", "precision", "coverage"} <= set(found)


def test_numbers_on_the_command_line_reach_the_figures():
    words = ["metrics.figures.precision_recall.k=7", "metrics.figures.fid.resamples=9", "metrics.keep=50"]
    made = evaluation("metrics=all", *words)
    assert (made.figures["precision_recall"].k, made.figures["fid"].resamples, made.keep) == (7, 9, 50)


def test_each_number_has_its_limits():
    cfg = composed("train", ["metrics=all"])
    limited = {key for key, _, _ in checks.limits(cfg)}
    for name, part in cfg.metrics.figures.items():
        for key in set(part) - {"_target_"}:
            assert f"metrics.figures.{name}.{key}" in limited


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("metrics=all metrics.figures.precision_recall.k=0", "k must be at least 1 (got 0)"),
        ("metrics.figures.fid.resamples=1", "resamples must be at least 2, or null (got 1)"),
        ("metrics=all metrics.figures.mmd.sigma=-1", "must be above 0, or null (got -1)"),
        ("metrics=all metrics.figures.memorisation.ratio=2", "must be above 0 and at most 1 (got 2)"),
        ("metrics=all metrics.figures.kidd=null", "metrics.figures.kidd is not an option here"),
        ("metrics.figures.kid=null", "metrics.figures.kid is not an option here"),
        ("metrics.keep=1", "metrics.keep must be at least 10 (got 1)"),
        ("metrics.n=0", "metrics.n must be at least 2, or null (got 0)"),
        ("metrics=fidd", "did you mean fid?"),
    ],
)
def test_an_error_is_one_line(words, told):
    with pytest.raises(ConfigError) as error:
        checks.check_job(Loader("train"), words.split())
    assert told in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("more", ["", "metrics.figures.class_accuracy=null"])
def test_figures_that_judge_nothing_are_refused_before_anything_is_trained(more):
    with pytest.raises(ConfigError, match=r"metrics\.figures leaves nothing to judge a model by; keep fid, sfid, kid"):
        assembled(composed("train", ["metrics.figures.fid=null", *more.split()]))
