"""last.ckpt at each period and at the end, best.ckpt at each improvement, and never half a file."""

import csv
import math
import os
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger

from conftest import Projection, Specks, fit, tiny_system, tiny_trainer, weights
from denoiselab.data import ImageDataModule
from denoiselab.errors import BrokenRunError
from denoiselab.likelihood import VariationalBound
from denoiselab.metrics import Evaluation, LikelihoodEvaluation
from denoiselab.training.callbacks import BitsPerDim, Checkpoint, Evaluate
from denoiselab.training.system import Figure


class Scripted(pl.Callback):
    """Stand-in for an evaluation: the figures of each step as they are given, of n samples."""

    def __init__(self, fids: dict[int, float], n: int = 10) -> None:
        self.fids, self.n = fids, n

    def on_train_batch_end(self, trainer, system, *_) -> None:
        if trainer.global_step in self.fids:
            system.figures = {"headline": "fid"}
            system.judged["fid"] = Figure(self.fids[trainer.global_step], trainer.global_step, self.n)


class Watching(pl.Callback):
    """Keeps, after each batch, the step at which last.ckpt and best.ckpt were written."""

    def __init__(self, folder) -> None:
        self.folder, self.last, self.best = folder / "checkpoints", [], []

    def on_train_batch_end(self, trainer, system, *_) -> None:
        for name, seen in (("last", self.last), ("best", self.best)):
            path = self.folder / f"{name}.ckpt"
            seen.append(torch.load(path, weights_only=True)["global_step"] if path.exists() else None)


class Saves(pl.Callback):
    """Counts how often the trainer makes a checkpoint."""

    def __init__(self) -> None:
        self.at: list[int] = []

    def on_save_checkpoint(self, trainer, system, checkpoint) -> None:
        self.at.append(trainer.global_step)


def steps(folder) -> dict[str, int]:
    return {
        path.name: torch.load(path, weights_only=True)["global_step"] for path in (folder / "checkpoints").iterdir()
    }


def test_last_is_written_at_each_period_and_at_the_end_and_nothing_is_left_beside_it(tmp_path):
    watching = Watching(tmp_path)
    fit(tiny_system(), tmp_path, steps=5, callbacks=[Checkpoint(every_n_train_steps=2), watching])
    assert watching.last == [None, 2, 2, 4, 5]
    assert steps(tmp_path) == {"last.ckpt": 5, "previous.ckpt": 4}


def test_without_a_period_there_is_one_at_the_end_before_it_is_judged_and_after(tmp_path):
    saves = Saves()
    fit(tiny_system(), tmp_path, steps=3, callbacks=[Checkpoint(), saves])
    assert saves.at == [3, 3]


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_period_is_counted_in_optimizer_steps(accumulate, tmp_path):
    """A checkpoint between two batches of one optimizer step would be of half a step."""
    saves = Saves()
    callbacks = [Checkpoint(every_n_train_steps=2), saves]
    fit(tiny_system(), tmp_path, steps=5, callbacks=callbacks, accumulate_grad_batches=accumulate)
    assert saves.at == [2, 4, 5, 5]


def test_best_is_written_only_when_the_figure_has_improved(tmp_path):
    watching, checkpoint = Watching(tmp_path), Checkpoint()
    script = Scripted({1: 3.0, 2: 5.0, 3: 2.0, 4: 2.0, 6: 1.5})
    fit(tiny_system(), tmp_path, steps=7, callbacks=[script, checkpoint, watching])
    assert watching.best == [1, 1, 3, 3, 3, 6, 6]
    assert steps(tmp_path) == {"last.ckpt": 7, "best.ckpt": 6}
    assert checkpoint.best == {"monitor": "fid", "value": 1.5, "step": 6, "n": 10}


def described(folder, name: str) -> dict | None:
    return torch.load(folder / "checkpoints" / name, weights_only=True)["denoiselab"].get("best")


def test_a_checkpoint_says_which_step_is_the_best_until_then_and_by_what(tmp_path):
    script = Scripted({2: 3.0, 3: 4.0})
    fit(tiny_system(), tmp_path, steps=4, callbacks=[script, Checkpoint(every_n_train_steps=1)])
    told = {"monitor": "fid", "value": 3.0, "step": 2, "n": 10}
    assert described(tmp_path, "best.ckpt") == described(tmp_path, "last.ckpt") == told


def test_a_figure_that_is_nan_is_worse_than_any_other(tmp_path):
    checkpoint = Checkpoint()
    script = Scripted({1: math.nan, 2: 5.0, 3: math.nan})
    fit(tiny_system(), tmp_path, steps=4, callbacks=[script, checkpoint])
    assert steps(tmp_path)["best.ckpt"] == 2


def test_without_figures_there_is_no_best_one(tmp_path):
    fit(tiny_system(), tmp_path, steps=2, callbacks=[Checkpoint()])
    assert steps(tmp_path) == {"last.ckpt": 2}


@pytest.mark.slow
def test_the_best_by_bits_a_dimension_is_the_step_whose_bound_was_lowest(tmp_path):
    checkpoint, logger = Checkpoint(monitor="bits_per_dim"), CSVLogger(tmp_path, name="", version="")
    likelihood = BitsPerDim(LikelihoodEvaluation(Specks(), VariationalBound(20, 3), 9), every=1)
    fit(tiny_system(), tmp_path, steps=4, callbacks=[likelihood, checkpoint], logger=logger)
    logger.save()
    with (tmp_path / "metrics.csv").open() as file:
        found = {float(row["val/bits_per_dim"]): int(row["step"]) for row in csv.DictReader(file) if row["step"]}
    lowest = min(found)
    assert checkpoint.best == {"monitor": "bits_per_dim", "value": pytest.approx(lowest), "step": found[lowest], "n": 9}
    assert steps(tmp_path)["best.ckpt"] == found[lowest]


def test_the_best_by_validation_is_of_the_weights_that_were_validated(tmp_path):
    """A step is validated after all else that is done at it; what goes on from there ends as the run did."""
    checkpoint, system = Checkpoint(monitor="val/loss"), tiny_system()
    fit(system, tmp_path, steps=5, callbacks=[checkpoint], validate_every=2)
    assert checkpoint.best is not None
    assert steps(tmp_path)["best.ckpt"] == checkpoint.best["step"] in (2, 4)
    assert checkpoint.best["n"] == len(Specks().test)
    again = tiny_system()
    trainer = tiny_trainer(tmp_path / "again", max_steps=5, val_check_interval=2)
    best, data = tmp_path / "checkpoints" / "best.ckpt", ImageDataModule(Specks(), 8, 0)
    trainer.validate(again, datamodule=data, ckpt_path=best, verbose=False)
    assert again.losses["val/loss"] == checkpoint.best["value"]
    trainer.fit(again, datamodule=data, ckpt_path=best)
    assert torch.equal(weights(system.pipeline), weights(again.pipeline))
    assert [torch.equal(a, b) for a, b in zip(system.ema.shadow, again.ema.shadow, strict=True)].count(False) == 0


def test_a_figure_of_another_n_or_name_is_not_compared_with_the_best_until_then(tmp_path):
    fit(tiny_system(), tmp_path, steps=2, callbacks=[Scripted({1: 2.0}, n=10), Checkpoint()])
    for n, steps_done, kept in ((10, 3, 1), (20, 4, 4)):
        trainer = tiny_trainer(
            tmp_path,
            max_steps=steps_done,
            val_check_interval=1000,
            callbacks=[Scripted({3: 2.5, 4: 2.5}, n), Checkpoint()],
        )
        data, last = ImageDataModule(Specks(), 8, 0), tmp_path / "checkpoints" / "last.ckpt"
        trainer.fit(tiny_system(), datamodule=data, ckpt_path=last)
        assert steps(tmp_path)["best.ckpt"] == kept, n


def test_best_is_judged_by_the_evaluation_of_the_last_step_too(tmp_path):
    system, checkpoint = tiny_system(), Checkpoint()
    evaluate = Evaluate(lambda: Evaluation(Specks(), Projection(), tmp_path / "cache"), n=20)
    fit(system, tmp_path, steps=3, callbacks=[evaluate, checkpoint])
    assert steps(tmp_path) == {"last.ckpt": 3, "best.ckpt": 3}
    assert checkpoint.best == {"monitor": "fid", "value": system.figures["fid"], "step": 3, "n": 20}


def test_the_last_steps_weights_are_kept_before_they_are_judged(tmp_path):
    def killed(*_) -> None:
        raise SystemExit

    with pytest.raises(SystemExit):
        fit(tiny_system(), tmp_path, steps=3, callbacks=[Evaluate(killed), Checkpoint()])
    assert steps(tmp_path) == {"last.ckpt": 3}


def test_an_evaluation_is_of_the_averaged_weights(tmp_path):
    system = tiny_system()
    evaluation = Evaluation(Specks(), Projection(), tmp_path / "cache")
    fit(system, tmp_path, steps=3, callbacks=[Evaluate(lambda: evaluation, n=20, every=2, seed=1, batch_size=20)])
    own = evaluation(system.pipeline, system.recipe, 20, seed=1, batch_size=20)["fid"]
    with system.ema.swapped():
        averaged = evaluation(system.pipeline, system.recipe, 20, seed=1, batch_size=20)["fid"]
    assert system.figures["fid"] == averaged != own
    assert system.figures["step"] == 3


def test_the_best_figure_is_remembered_by_a_run_that_goes_on(tmp_path):
    fit(tiny_system(), tmp_path, steps=2, callbacks=[Scripted({1: 2.0}), Checkpoint()])
    again = Checkpoint()
    trainer = tiny_trainer(
        tmp_path, max_steps=4, val_check_interval=1000, callbacks=[Scripted({3: 2.5, 4: 2.2}), again]
    )
    trainer.fit(
        tiny_system(), datamodule=ImageDataModule(Specks(), 8, 0), ckpt_path=tmp_path / "checkpoints" / "last.ckpt"
    )
    assert again.best == {"monitor": "fid", "value": 2.0, "step": 1, "n": 10}
    assert described(tmp_path, "last.ckpt") == again.best
    assert steps(tmp_path) == {"last.ckpt": 4, "best.ckpt": 1, "previous.ckpt": 2}


def test_the_previous_one_is_of_an_earlier_step_though_a_step_is_saved_again(tmp_path):
    """A run that was killed at its last step does it once more, from the previous one, and may be killed again."""
    fit(tiny_system(), tmp_path, steps=4, callbacks=[Checkpoint(every_n_train_steps=2)])
    trainer = tiny_trainer(tmp_path, max_steps=4, val_check_interval=1000, callbacks=[Checkpoint()])
    data, previous = ImageDataModule(Specks(), 8, 0), tmp_path / "checkpoints" / "previous.ckpt"
    trainer.fit(tiny_system(), datamodule=data, ckpt_path=previous)
    assert steps(tmp_path) == {"last.ckpt": 4, "previous.ckpt": 2}


class DiskIsFull(pl.Callback):
    """After a step, what is written to the temporary file goes to a device on which there is no space."""

    def __init__(self, step, folder) -> None:
        self.step, self.temporary = step, folder / "checkpoints" / "last.ckpt.new.part"

    def on_train_batch_end(self, trainer, system, *_) -> None:
        if trainer.global_step == self.step:
            self.temporary.symlink_to("/dev/full")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no full device")
def test_on_a_full_disk_the_last_whole_checkpoint_stays_and_one_line_says_so(tmp_path):
    callbacks = [Checkpoint(every_n_train_steps=1), DiskIsFull(2, tmp_path)]
    with pytest.raises(
        BrokenRunError, match=r"last\.ckpt could not be written \(No space left on device\); the one before"
    ):
        fit(tiny_system(), tmp_path, steps=4, callbacks=callbacks)
    assert steps(tmp_path) == {"last.ckpt": 2, "previous.ckpt": 1}


def test_where_no_folder_can_be_made_the_run_stops_with_one_line(tmp_path):
    (tmp_path / "checkpoints").write_text("a file")
    with pytest.raises(BrokenRunError, match=r"could not be written \(.*\); there is none before it"):
        fit(tiny_system(), tmp_path, steps=1, callbacks=[Checkpoint()])


def test_without_links_the_previous_one_is_a_copy(tmp_path, monkeypatch):
    def no_links(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", no_links)
    fit(tiny_system(), tmp_path, steps=3, callbacks=[Checkpoint(every_n_train_steps=1)])
    assert steps(tmp_path) == {"last.ckpt": 3, "previous.ckpt": 2}


def test_saving_changes_no_weight(tmp_path):
    saved, plain = tiny_system(), tiny_system()
    fit(saved, tmp_path / "saved", steps=3, callbacks=[Checkpoint(every_n_train_steps=1)])
    fit(plain, tmp_path / "plain", steps=3)
    assert torch.equal(weights(saved.pipeline), weights(plain.pipeline))
