"""From nats of images to figures: units, errors, and their independence of how the work was shared."""

import csv
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from conftest import Specks, tiny_pipeline
from denoiselab.codecs import Codec
from denoiselab.data.source import InMemory, Source, to_float
from denoiselab.errors import ConfigError, IncompatibleError, RunError
from denoiselab.likelihood import FlowODE, Likelihood, Nats, VariationalBound
from denoiselab.metrics import LikelihoodEvaluation

D = 16


class Known(Likelihood):
    """Of image i: two parts, i nats and 3 nats, a draw of variance 4 and a solver that may be off by 0.5."""

    def __init__(self, offset: float = 0.0) -> None:
        self.words, self.offset, self.seen = {"how": "known", "variance": "small"}, offset, []

    def __call__(self, denoise, schedule, x0, indices, quantised) -> Nats:
        self.seen.append((x0, quantised))
        i = torch.tensor(list(indices), dtype=torch.float64) + self.offset
        ones = torch.ones_like(i)
        return Nats(
            {"one": i, "three": 3 * ones}, {"solver": 0.5 * ones}, {"probes": 4 * ones}, words={"variance": "learned"}
        )


class Dots(Source):
    """Points of three dimensions."""

    name, class_names, flip, shape = "dots", ("a", "b", "c"), False, (3,)
    train = test = InMemory(torch.linspace(-3, 3, 12).reshape(4, 3), torch.arange(4) % 3)


class Halved(Codec):
    def encode(self, images: Tensor) -> Tensor:
        return images / 2

    decode = encode

    def latent_shape(self, image_shape):
        return image_shape


def test_bits_are_nats_over_dimensions_and_log_two_and_errors_are_of_the_mean_over_images():
    judged = LikelihoodEvaluation(Specks(), Known(), n=10)(tiny_pipeline())
    unit, figures = D * math.log(2), judged.figures
    assert figures["bits_per_dim"] == pytest.approx((4.5 + 3) / unit, rel=1e-14)
    assert figures["bits_per_dim/one"] == pytest.approx(4.5 / unit, rel=1e-14)
    assert figures["bits_per_dim_error"] == pytest.approx(np.std(range(10), ddof=1) / math.sqrt(10) / unit, rel=1e-14)
    assert figures["bits_per_dim_error/solver"] == pytest.approx(0.5 / unit, rel=1e-14)
    assert figures["bits_per_dim_error/probes"] == pytest.approx(2 / math.sqrt(10) / unit, rel=1e-14)
    told = {"likelihood": "Known", "likelihood.n": 10, "likelihood.how": "known", "likelihood.variance": "learned"}
    assert {key: figures[key] for key in told} == told
    assert judged.logged == {key: value for key, value in figures.items() if key not in told}


def test_images_reach_the_method_as_levels_and_points_as_densities_of_nats():
    images, dots = Known(), Known()
    LikelihoodEvaluation(Specks(), images, n=4)(tiny_pipeline())
    ((x0, quantised),) = images.seen
    assert quantised
    assert torch.equal(x0, to_float(Specks().test.__getitems__(range(4))["image"]))
    judged = LikelihoodEvaluation(Dots(), dots)(tiny_pipeline())
    ((x0, quantised),) = dots.seen
    assert not quantised
    assert torch.equal(x0, Dots.test.images)
    assert judged.figures["nats_per_dim"] == pytest.approx((1.5 + 3) / 3, rel=1e-14)
    assert "bits_per_dim" not in judged.figures


@pytest.mark.slow
@pytest.mark.parametrize("method", [VariationalBound(20, 4), FlowODE(4, 2)])
def test_figures_do_not_depend_on_the_batch_size(method, float64):
    """To 1e-12, of networks whose matrix products add up in another order."""
    pipeline = tiny_pipeline()
    one, other = (LikelihoodEvaluation(Specks(), method, 9, batch)(pipeline) for batch in (9, 2))
    assert one.logged == pytest.approx(other.logged, rel=1e-11)
    assert len(one.table) == len(other.table)
    again = LikelihoodEvaluation(Specks(), method, 9, 9)(pipeline)
    assert again.figures == one.figures


def test_the_denoiser_is_told_the_class_and_dropout_is_off(float64):
    pipeline = tiny_pipeline(unet=True, dropout=0.5)
    pipeline.train()
    one, other = (LikelihoodEvaluation(Specks(), VariationalBound(20, 4), 5)(pipeline).figures for _ in range(2))
    assert one == other
    assert pipeline.training
    with torch.no_grad():
        pipeline.conditioner.embedding.weight.add_(1.0)
    assert LikelihoodEvaluation(Specks(), VariationalBound(20, 4), 5)(pipeline).figures != one


@pytest.mark.slow
def test_the_table_adds_up_to_the_figure_and_the_picture_shows_it(tmp_path):
    judged = LikelihoodEvaluation(Specks(), VariationalBound(50, 8, bins=5), 6)(tiny_pipeline())
    picture = judged.write(tmp_path / "new")
    with (tmp_path / "new" / "likelihood.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["part"] for row in rows] == ["prior", "decoder", *["diffusion"] * 5]
    assert sum(float(row["bits_per_dim"]) for row in rows) == pytest.approx(judged.figures["bits_per_dim"], rel=1e-12)
    assert sum(int(row["evaluations"] or 0) for row in rows) == 6 * 7
    for one, other in pairwise(rows[2:]):
        assert float(one["log_snr_from"]) < float(one["log_snr_to"]) == float(other["log_snr_from"])
    assert (np.asarray(Image.open(tmp_path / "new" / "likelihood.png")) == picture).all()
    assert picture.std() > 10, "something is drawn"


def test_a_likelihood_that_is_not_told_by_log_snr_has_a_table_of_its_parts_and_no_picture(tmp_path):
    judged = LikelihoodEvaluation(Specks(), Known(), 6)(tiny_pipeline())
    assert judged.write(tmp_path) is None
    assert [path.name for path in tmp_path.iterdir()] == ["likelihood.csv"]
    assert [row.part for row in judged.table] == ["one", "three"]


def test_as_many_images_are_taken_as_there_are():
    assert LikelihoodEvaluation(Specks(), Known()).n == LikelihoodEvaluation(Specks(), Known(), 50).n == 21
    assert LikelihoodEvaluation(Specks(test=1200), Known()).n == 1000


def test_what_has_no_meaning_is_refused_in_one_line():
    with pytest.raises(ConfigError, match=r"at least 2 test images.*take likelihood=none"):
        LikelihoodEvaluation(Specks(test=1), Known())
    with pytest.raises(IncompatibleError, match=r"latents.*Halved.*take likelihood=none"):
        LikelihoodEvaluation(Specks(), Known())(tiny_pipeline(codec=Halved()))
    with pytest.raises(RunError, match="diverged"):
        LikelihoodEvaluation(Specks(), Known(math.nan))(tiny_pipeline())
