"""The denoising error by log-SNR: known for Gaussian data, the same question to every run, and no part in training."""

import csv
from functools import cached_property
from itertools import pairwise

import pytest
import torch
from PIL import Image
from torch import nn

from conftest import Specks, fit, tiny_pipeline, tiny_system, tiny_trainer, weights
from denoiselab import schedules
from denoiselab.codecs import Identity
from denoiselab.conditioning import Unconditional
from denoiselab.data.source import InMemory, Source
from denoiselab.denoiser import Denoiser
from denoiselab.objectives import CrossEntropy, Hybrid, LearnedUncertainty, VariationalBound, WeightedMSE
from denoiselab.parameterizations import Eps, V
from denoiselab.pipeline import Pipeline
from denoiselab.schedules import like
from denoiselab.time_sampling import Discrete, LogitNormal, LogNormal, LossSecondMoment, Uniform
from denoiselab.training.callbacks import LossByLogSNR
from denoiselab.training.callbacks.loss_by_log_snr import EDGES, spread
from denoiselab.weightings import MinSNR, Simple

STD, D, N = 0.7, 64, 600


class Normal(Source):
    """Points of N(0, STD^2) in D dimensions."""

    name, class_names, shape, flip = "normal", (), (D,), False

    @cached_property
    def test(self) -> InMemory:
        points = STD * torch.randn(N, D, generator=torch.Generator().manual_seed(0))
        return InMemory(points, torch.zeros(N, dtype=torch.int64))

    @property
    def train(self) -> InMemory:
        return self.test


class ExactForGaussian(nn.Module):
    """E[eps|x_t] = sigma x_t/(alpha^2 s^2 + sigma^2); it is told t as its label."""

    def __init__(self, schedule) -> None:
        super().__init__()
        self.schedule = schedule

    def forward(self, x_t, t, cond):
        alpha, sigma = (like(part, x_t) for part in self.schedule(t))
        return sigma * x_t / (alpha**2 * STD**2 + sigma**2)


class Silent(nn.Module):
    """Sees no noise anywhere: its error is the noise itself."""

    def forward(self, x_t, t, cond):
        return torch.zeros_like(x_t)


def system_of(backbone, schedule, objective):
    pipeline = Pipeline(Denoiser(backbone, schedule, Eps()), Unconditional(), Identity(), Normal.shape)
    return tiny_system(pipeline, objective=objective)


def measured(schedule, objective, backbone=None, **options):
    made = system_of(ExactForGaussian(schedule) if backbone is None else backbone, schedule, objective)
    return LossByLogSNR(**options).measured(made, Normal())


def floor(log_snr):
    """alpha^2 s^2/(alpha^2 s^2 + sigma^2): what no denoiser of Gaussian data beats."""
    return STD**2 / (STD**2 + torch.exp(-log_snr))


def test_the_exact_denoiser_of_gaussian_data_has_the_known_floor():
    """Each error is the floor times chi^2/D, so a bin's mean scatters by sqrt(2/(D count)): within 4.5 of these."""
    rows = measured(schedules.cosine(), WeightedMSE(Simple(), Uniform()))
    assert [(row.log_snr_from, row.log_snr_to) for row in rows] == list(pairwise(EDGES.tolist()))
    assert sum(row.count for row in rows) == 8 * N
    for row in rows:
        known = floor(torch.linspace(row.log_snr_from, row.log_snr_to, 1001)).mean()
        assert row.eps_mse == pytest.approx(float(known), rel=4.5 * (2 / (D * row.count)) ** 0.5 + 0.003), row


LOSSES = {
    "simple": WeightedMSE(Simple(), Uniform()),
    "discrete": WeightedMSE(Simple(), Discrete(1000)),
    "min_snr": WeightedMSE(MinSNR(), LogitNormal()),
    "log_normal": WeightedMSE(Simple(), LogNormal(mean=-0.5, std=1.0)),
    "uncertainty": LearnedUncertainty(Simple(), Uniform()),
    "hard times": WeightedMSE(Simple(), LossSecondMoment()),
    "bound": VariationalBound(Uniform(), T=1000, variance="large"),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_the_parts_of_the_loss_add_up_to_the_loss(loss):
    """To the mean over even quantiles of the drawn times, less those beyond the range, up to sampling error."""
    objective, schedule = LOSSES[loss], schedules.cosine()
    system = system_of(ExactForGaussian(schedule), schedule, objective)
    rows = LossByLogSNR().measured(system, Normal())
    x0 = Normal().test.images
    u = (torch.arange(N * 20, dtype=torch.float64) + 0.5) / (N * 20)
    t = objective.time_sampler.quantile(u[torch.randperm(len(u))], schedule)
    with torch.no_grad():
        losses = objective.figures(system.pipeline.denoiser, x0.repeat(20, 1), None, t, torch.randn(20 * N, D))["loss"]
    reached = schedule.log_snr(t).abs() < 12
    assert sum(row.loss for row in rows) == pytest.approx(float((losses * reached).mean()), rel=0.02)


def test_all_runs_are_asked_the_same_whatever_their_schedule_and_loss():
    one = measured(schedules.cosine(log_snr_min=-15), LOSSES["simple"], Silent())
    other = measured(schedules.VE(), WeightedMSE(MinSNR(), LogNormal()), Silent())
    shared = {row.log_snr_from: row for row in one}
    assert len(shared) == 24
    whole = [row for row in other if row.count == shared[row.log_snr_from].count]
    assert len(whole) > 15
    for row in whole:
        assert row.eps_mse == shared[row.log_snr_from].eps_mse, "the mean square of the same noise"


def test_what_a_schedule_does_not_reach_is_left_out_and_counted_so():
    low, high = -5.5, 2 * 3.5
    rows = measured(
        schedules.VE(sigma_min=float(torch.exp(torch.tensor(-high / 2))), sigma_max=15.6426), LOSSES["simple"]
    )
    assert rows[0].log_snr_from == -6
    assert rows[-1].log_snr_to == 7
    asked = spread(N, 8).flatten()
    assert sum(row.count for row in rows) == int(((asked > low) & (asked < high)).sum())
    assert rows[0].count < rows[1].count


def test_levels_are_spread_evenly_and_each_image_has_one_in_each_part_of_the_range():
    log_snr = spread(1000, 8)
    for level, (low, high) in enumerate(pairwise(torch.linspace(-12, 12, 9).tolist())):
        assert ((log_snr[:, level] >= low) & (log_snr[:, level] < high)).all()
    counts = torch.histc(log_snr.flatten(), 24, -12, 12)
    assert counts.min() >= 330
    assert counts.max() <= 337
    assert torch.equal(spread(10, 8), log_snr[:10]), "an image's levels do not depend on how many there are"


@pytest.mark.parametrize("batch_size", [1, 7, 600])
def test_the_figures_do_not_depend_on_the_batches(batch_size):
    schedule, loss = schedules.cosine(), LOSSES["simple"]
    whole, parted = measured(schedule, loss, n=30), measured(schedule, loss, n=30, batch_size=batch_size)
    for a, b in zip(whole, parted, strict=True):
        assert (a.count, a.eps_mse) == (b.count, pytest.approx(b.eps_mse, rel=1e-6))


def test_the_table_and_the_picture_are_of_the_averaged_weights_and_training_is_as_it_was(tmp_path):
    busy, quiet = tiny_system(seed=3), tiny_system(seed=3)
    fit(busy, tmp_path / "busy", steps=3, callbacks=[LossByLogSNR(levels=4)])
    fit(quiet, tmp_path / "quiet", steps=3)
    assert torch.equal(weights(busy.pipeline), weights(quiet.pipeline))
    with (tmp_path / "busy" / "loss_by_log_snr.csv").open() as file:
        table = list(csv.DictReader(file))
    assert list(table[0]) == ["log_snr_from", "log_snr_to", "eps_mse", "loss", "count"]
    assert sum(int(row["count"]) for row in table) == 4 * len(Specks().test)
    system = tiny_system(tiny_pipeline())
    with busy.ema.swapped():
        system.pipeline.load_state_dict(busy.pipeline.state_dict())
    system.ema.bind(system.pipeline)
    known = LossByLogSNR(levels=4).measured(system, Specks())
    assert [float(row["eps_mse"]) for row in table] == [row.eps_mse for row in known]
    with Image.open(tmp_path / "busy" / "loss_by_log_snr.png") as picture:
        assert picture.size == (770, 528)


def test_a_hybrid_loss_that_learns_the_variance_has_one_too():
    pipeline = tiny_pipeline()
    network = nn.Sequential()
    network.forward = lambda x, t, cond: torch.cat([x, x], 1).tanh()
    denoiser = Denoiser(network, pipeline.denoiser.schedule, V(), learns_variance=True)
    system = tiny_system(Pipeline(denoiser, pipeline.conditioner, Identity(), Specks.shape))
    system.objective = Hybrid(Simple(), Uniform())
    assert all(row.eps_mse > 0 for row in LossByLogSNR(n=10).measured(system, Specks()))


def test_a_loss_that_is_no_denoising_has_none(tmp_path):
    system = tiny_system()
    system.objective = CrossEntropy(Uniform())
    LossByLogSNR().on_train_end(tiny_trainer(tmp_path), system)
    assert not list(tmp_path.iterdir())
