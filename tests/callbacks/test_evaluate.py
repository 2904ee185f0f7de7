"""Evaluations while training: their budget, their one n, what is logged of them, and the last one, of all samples."""

import csv
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning.loggers import CSVLogger

from conftest import Projection, Specks, fit, tiny_recipe, tiny_system, tiny_trainer, weights
from denoiselab import distributed
from denoiselab.data import ImageDataModule
from denoiselab.metrics import Evaluation
from denoiselab.samplers import DDIM
from denoiselab.spacings import Trailing
from denoiselab.training.callbacks import Checkpoint, Evaluate
from denoiselab.training.callbacks.evaluate import logged_as

BATCH, N = 4, 19


class Clock:
    """A clock that sampling a batch moves on by the next of `seconds`, and nothing else does; the last one stays."""

    def __init__(self, seconds: list[float]) -> None:
        self.seconds, self.now, self.batches = seconds, 0.0, 0
        self.sampler = DDIM(5, Trailing())

    def monotonic(self) -> float:
        return self.now

    def __call__(self, *args):
        self.now += self.seconds[min(self.batches, len(self.seconds) - 1)]
        self.batches += 1
        return self.sampler(*args)


@pytest.fixture
def clocked(monkeypatch):
    def of(*seconds: float):
        clock = Clock(list(seconds))
        monkeypatch.setattr("denoiselab.training.callbacks.evaluate.time", SimpleNamespace(monotonic=clock.monotonic))
        return clock, tiny_system(recipe=tiny_recipe(sampler=clock))

    return of


def evaluate(folder, **options) -> Evaluate:
    return Evaluate(
        lambda: Evaluation(Specks(), Projection(), folder / "cache"),
        **{"n": N, "every": 1, "batch_size": BATCH} | options,
    )


def table(folder, name: str) -> dict[int, float]:
    with (folder / "metrics.csv").open() as file:
        return {int(row["step"]): float(row[name]) for row in csv.DictReader(file) if row.get(name)}


def known(system, folder, n: int) -> dict:
    with system.ema.swapped():
        return Evaluation(Specks(), Projection(), folder / "cache")(system.pipeline, system.recipe, n, 0, BATCH)


@pytest.mark.parametrize(
    ("seconds", "budget", "n"),
    [
        ([1.0], 3.5, 12),  # three batches of 4
        ([1.0], 3.0, 12),
        ([1.0], 4.9, 16),
        ([1.0], 5.0, 19),  # all five batches
        ([1.0], 0.2, 4),  # at least one batch
        ([1.0], None, 19),
        ([9.0, 1.0], 3.5, 12),  # the first sampling may compile something
        ([1.0, 9.0], 3.5, 12),
        ([9.0, 5.0], 3.5, 4),
    ],
)
def test_evaluations_while_training_are_of_as_many_whole_batches_as_fit_into_the_budget(
    seconds, budget, n, clocked, tmp_path
):
    _, system = clocked(*seconds)
    callback = evaluate(tmp_path, max_seconds=budget)
    fit(system, tmp_path, steps=2, callbacks=[callback])
    assert callback.n_while_training == n


def test_what_takes_one_batch_is_not_timed(clocked, tmp_path):
    clock, system = clocked(1.0)
    callback = evaluate(tmp_path, n=BATCH, max_seconds=0.1)
    fit(system, tmp_path, steps=2, callbacks=[callback])
    assert callback.n_while_training == BATCH
    assert clock.batches == 2, "one an evaluation"


def test_n_is_decided_once_the_curve_is_of_it_and_the_last_figures_are_of_all(clocked, tmp_path, capsys):
    clock, system = clocked(1.0)
    logger, checkpoint = CSVLogger(tmp_path, name="", version=""), Checkpoint()
    callback = evaluate(tmp_path, max_seconds=2.5)
    fit(system, tmp_path, steps=3, callbacks=[callback, checkpoint], logger=logger)
    logger.save()
    assert table(tmp_path, "fid/n") == {1: 8, 2: 8, 3: 8}
    last, small = known(system, tmp_path, N), known(system, tmp_path, 8)
    assert (system.figures["fid"], system.figures["n"]) == (last["fid"], N)
    assert table(tmp_path, "fid")[3] == pytest.approx(small["fid"], rel=1e-12)
    assert system.judged["fid"] == (small["fid"], 3, 8)
    assert checkpoint.best is not None
    assert checkpoint.best["n"] == 8
    assert checkpoint.best["value"] == pytest.approx(min(table(tmp_path, "fid").values()), rel=1e-12)
    said = "figures while training are of 8 of 19 samples, which take about 2 s (metrics.max_seconds=2.5); those at "
    assert capsys.readouterr().err.count(said) == 1
    # Two to decide (the first could have been slow to start), two for each step of three, and all five at the end.
    assert clock.batches - 7 == 2 + 3 * 2 + 5, "less those of `known`"
    assert system.figures["metrics_seconds"] == callback.seconds == 13.0


def test_where_n_is_not_lowered_nothing_is_judged_twice_and_nothing_said(clocked, tmp_path, capsys):
    clock, system = clocked(1.0)
    fit(system, tmp_path, steps=2, callbacks=[evaluate(tmp_path, max_seconds=60)])
    assert clock.batches == 1 + 2 * 5
    assert system.judged["fid"].value == system.figures["fid"]
    assert "figures while training" not in capsys.readouterr().err


def test_at_the_end_alone_there_is_no_budget(clocked, tmp_path):
    clock, system = clocked(1.0)
    callback = evaluate(tmp_path, every=None, max_seconds=0.1)
    fit(system, tmp_path, steps=2, callbacks=[callback])
    assert (callback.n_while_training, system.figures["n"], clock.batches) == (None, N, 5)


def test_a_run_that_goes_on_keeps_to_its_n_on_a_machine_of_another_speed(clocked, tmp_path):
    _, system = clocked(1.0)
    fit(system, tmp_path, steps=2, callbacks=[evaluate(tmp_path, max_seconds=2.5), Checkpoint()])
    _, system = clocked(0.001)
    callback = evaluate(tmp_path, max_seconds=2.5)
    trainer = tiny_trainer(tmp_path, max_steps=4, val_check_interval=1000, callbacks=[callback])
    last = tmp_path / "checkpoints" / "last.ckpt"
    trainer.fit(system, datamodule=ImageDataModule(Specks(), 8, seed=0), ckpt_path=last)
    assert callback.n_while_training == system.judged["fid"].n == 8
    assert system.figures["n"] == N
    assert callback.seconds == pytest.approx(2 + 2 * 2 + 5 + (2 * 2 + 5) * 0.001), "those of before are counted too"


def test_the_slowest_rank_decides_for_all_and_their_batches_are_sampled_side_by_side(clocked, tmp_path, monkeypatch):
    """That there is another process, which takes 2 s, is feigned; tests/test_distributed.py has real ones."""
    _, system = clocked(1.0)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    monkeypatch.setattr(distributed, "all_max", lambda value: max(value, 2_000_000))
    assert evaluate(tmp_path, max_seconds=5).affordable(system, 100) == 2 * 2 * BATCH


def test_timing_does_not_change_a_single_bit_of_training(tmp_path):
    quiet, busy = tiny_system(seed=3), tiny_system(seed=3)
    fit(quiet, tmp_path / "quiet", steps=4)
    fit(busy, tmp_path / "busy", steps=4, callbacks=[evaluate(tmp_path, every=2, max_seconds=1e-9)])
    assert torch.equal(weights(quiet.pipeline), weights(busy.pipeline))


def test_every_figure_is_logged_under_its_name_and_its_provenance_is_not(tmp_path):
    class All:
        """As an evaluation that finds more."""

        def size(self, n):
            return n

        def __call__(self, *_):
            found = {"fid": 1.0, "kid": 2.0, "precision": 0.5, "floor": 0.3, "floor.kid": 0.2, "seconds": 4.0}
            found |= {"mmd_sigma": 9.0, "floor.mmd_sigma": 9.0, "classifier_test_accuracy": 1.0}
            return {"headline": "fid", "n": N, "extractor": "x", "sampler.eta": 0.0, "nfe": 5, "split": "test", **found}

    recipe = tiny_recipe()
    recipe.words["sampler.eta"] = 0.0
    logger = CSVLogger(tmp_path, name="", version="")
    fit(tiny_system(recipe=recipe), tmp_path, steps=1, callbacks=[Evaluate(All, N)], logger=logger)
    logger.save()
    with (tmp_path / "metrics.csv").open() as file:
        (row,) = [row for row in csv.DictReader(file) if row["fid"]]
    logged = {name: float(value) for name, value in row.items() if value and not name.startswith(("train/", "val/"))}
    beside = {"fid/n": N, "fid/floor": 0.3, "kid/floor": 0.2, "fid/seconds": 4.0}
    assert logged == {"step": 1, "fid": 1.0, "kid": 2.0, "precision": 0.5} | beside


def test_what_each_figure_may_have_stands_behind_the_figure():
    assert logged_as("floor", "sliced_wasserstein") == "sliced_wasserstein/floor"
    assert logged_as("floor.kid", "fid") == "kid/floor"
    assert logged_as("fid_low", "fid") == "fid_low"
