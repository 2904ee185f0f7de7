"""What a run says of itself while it trains: its pace, its loss curve, its progress on a screen or in a file."""

import csv
import math
import time
from functools import partial
from pathlib import Path

import pytest
import pytorch_lightning as pl
from PIL import Image
from pytorch_lightning.loggers import CSVLogger

from conftest import Projection, Specks, fit, tiny_system
from denoiselab import progress
from denoiselab.metrics import Evaluation
from denoiselab.optimizers import adamw
from denoiselab.training.callbacks import Evaluate, LossCurve, Pace, Progress, loss_curve


class Losses(pl.Callback):
    """What `Pace` tells of the loss, without looking at the clock."""

    def on_train_batch_end(self, trainer, system, *_) -> None:
        system.losses["train/loss"] = float(system.loss)


class Slow(pl.Callback):
    """Stand-in for a large network: each batch takes a twentieth of a second."""

    def on_train_batch_start(self, *_) -> None:
        time.sleep(0.05)


class SlowEvaluation(Evaluation):
    """Stand-in for an evaluation of many images: it takes a second."""

    def __call__(self, *args, **kwargs):
        time.sleep(1)
        return super().__call__(*args, **kwargs)


def logger(folder: Path) -> CSVLogger:
    return CSVLogger(folder, name="", version="")


def table(folder: Path, column: str) -> dict[int, float]:
    """A column of metrics.csv by step."""
    with (folder / "metrics.csv").open() as file:
        rows = [(int(row["step"]), row[column]) for row in csv.DictReader(file) if row.get(column)]
    assert len(dict(rows)) == len(rows), "one value a step"
    return {step: float(value) for step, value in rows}


def test_the_pace_is_logged_at_each_period_with_the_learning_rate_of_the_next_step(tmp_path):
    system = tiny_system(optimizer=partial(adamw, lr=1e-2, warmup_steps=2, decay="cosine"))
    fit(system, tmp_path, steps=6, callbacks=[Pace(every=2), Slow()], logger=logger(tmp_path), batch_size=8)
    rates = table(tmp_path, "train/images_per_second")
    assert set(rates) == {2, 4, 6}
    assert all(20 < rate < 8 / 0.05 for rate in rates.values()), "8 images in a twentieth of a second and a bit"
    known = {2: 1e-2, 4: 1e-2 * (1 + math.cos(math.pi / 2)) / 2, 6: 0.0}
    assert table(tmp_path, "train/lr") == pytest.approx(known, abs=1e-12)


def test_a_pace_is_of_every_image_of_an_optimizer_step_and_logged_once_a_period(tmp_path):
    """Three batches a step, each of which takes a twentieth of a second: still 8 images in that time."""

    class Counting(CSVLogger):
        def log_metrics(self, metrics, step=None):
            if "train/lr" in metrics:
                logged.append((step, metrics["train/images_per_second"]))
            super().log_metrics(metrics, step)

    logged: list[tuple[int, float]] = []
    counting, callbacks = Counting(tmp_path, name="", version=""), [Pace(every=2), Slow()]
    fit(tiny_system(), tmp_path, steps=4, callbacks=callbacks, logger=counting, accumulate_grad_batches=3)
    assert [step for step, _ in logged] == [2, 4]
    assert all(20 < rate < 8 / 0.05 for _, rate in logged)


@pytest.mark.parametrize("beside", ["validation", "evaluation"])
def test_time_spent_on_validation_and_evaluation_is_not_counted_as_trainings(beside, tmp_path):
    class SlowValidation(pl.Callback):
        def on_validation_start(self, *_) -> None:
            time.sleep(1)

    evaluate = Evaluate(lambda: SlowEvaluation(Specks(), Projection(), tmp_path / "cache"), n=4, every=2)
    slow, every = (SlowValidation(), 2) if beside == "validation" else (evaluate, None)
    callbacks = [Pace(every=2), slow]
    fit(tiny_system(), tmp_path, steps=4, callbacks=callbacks, logger=logger(tmp_path), validate_every=every)
    assert table(tmp_path, "train/images_per_second")[4] > 16, "16 images in less than a second"


def test_the_loss_curve_shows_what_the_run_has_logged(tmp_path, monkeypatch):
    drawn = []

    def draw(curves, path):
        drawn.append(curves)
        real(curves, path)

    real = loss_curve.loss_curve
    monkeypatch.setattr(loss_curve, "loss_curve", draw)
    fit(
        tiny_system(),
        tmp_path,
        steps=6,
        callbacks=[Pace(every=1), LossCurve()],
        logger=logger(tmp_path),
        validate_every=3,
    )
    (curves,) = drawn
    assert set(curves) == {"train/loss", "val/loss"}
    for name, (steps, values) in curves.items():
        assert dict(zip(steps, values, strict=True)) == table(tmp_path, name)
    assert len(curves["train/loss"][0]) == 6
    assert len(curves["val/loss"][0]) == 2
    assert len(Image.open(tmp_path / "loss.png").convert("RGB").getcolors(maxcolors=10**6)) > 10


def test_a_run_without_a_table_has_no_loss_curve_and_no_failure(tmp_path):
    fit(tiny_system(), tmp_path, steps=1, callbacks=[LossCurve()])
    assert not (tmp_path / "loss.png").exists()


def test_progress_in_a_file_is_a_line_now_and_then_with_the_newest_loss(tmp_path, monkeypatch, capsys):
    """A stand-in clock on which each look at it is 6 s after the last: every second batch is due a line."""
    clock = iter(range(0, 10_000, 6))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    system = tiny_system()
    fit(system, tmp_path, steps=6, callbacks=[Losses(), Progress()])
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("training")]
    assert [line.partition(",")[0] for line in lines] == ["training: 2/6", "training: 4/6", "training: 6/6"]
    assert lines[-1].endswith(f"train/loss {system.losses['train/loss']:.4g}")


def test_a_run_that_fails_ends_its_bar(tmp_path, monkeypatch, capsys):
    class Fails(pl.Callback):
        def on_train_batch_end(self, *_) -> None:
            raise ArithmeticError

    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with pytest.raises(ArithmeticError):
        fit(tiny_system(), tmp_path, steps=2, callbacks=[Progress(), Fails()])
    assert not progress._live
