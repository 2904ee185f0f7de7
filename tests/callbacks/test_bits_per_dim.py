"""The likelihood while training: of the averaged weights, at the trainer's step, and with no part in the training."""

import csv

import pytest
import torch
from pytorch_lightning.loggers import CSVLogger

from conftest import Specks, fit, tiny_system, weights
from denoiselab.likelihood import VariationalBound
from denoiselab.metrics import LikelihoodEvaluation
from denoiselab.training.callbacks import BitsPerDim

BOUND = VariationalBound(20, 3)


def test_the_bound_is_logged_with_its_parts_and_the_newest_stands_in_the_figures_and_files(tmp_path):
    system = tiny_system()
    callback = BitsPerDim(LikelihoodEvaluation(Specks(), BOUND, 5), every=2)
    logger = CSVLogger(tmp_path, name="", version="")
    fit(system, tmp_path, steps=5, callbacks=[callback], logger=logger)
    logger.save()
    with (tmp_path / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("val/bits_per_dim")]
    assert [int(row["step"]) for row in rows] == [2, 4, 5]
    for row in rows:
        parts = sum(float(row[f"val/bits_per_dim/{part}"]) for part in ("prior", "diffusion", "decoder"))
        assert float(row["val/bits_per_dim"]) == pytest.approx(parts, rel=1e-12)
    assert system.figures["bits_per_dim"] == pytest.approx(float(rows[-1]["val/bits_per_dim"]), rel=1e-12)
    assert system.figures["likelihood.K"] == 3
    with system.ema.swapped():
        known = LikelihoodEvaluation(Specks(), BOUND, 5)(system.pipeline).figures["bits_per_dim"]
    assert system.figures["bits_per_dim"] == pytest.approx(known, rel=1e-12), "of the averaged weights"
    assert known != LikelihoodEvaluation(Specks(), BOUND, 5)(system.pipeline).figures["bits_per_dim"]
    assert {"likelihood.csv", "likelihood.png"} <= {path.name for path in tmp_path.iterdir()}


def test_it_does_not_change_a_single_bit_of_training(tmp_path):
    quiet, busy = tiny_system(seed=3), tiny_system(seed=3)
    fit(quiet, tmp_path / "quiet", steps=4)
    fit(busy, tmp_path / "busy", steps=4, callbacks=[BitsPerDim(LikelihoodEvaluation(Specks(), BOUND, 5), every=1)])
    assert torch.equal(weights(quiet.pipeline), weights(busy.pipeline))


def test_other_figures_stay_beside_it(tmp_path):
    system = tiny_system()
    system.figures = {"fid": 1.0}
    fit(system, tmp_path, steps=1, callbacks=[BitsPerDim(LikelihoodEvaluation(Specks(), BOUND, 2))])
    assert system.figures["fid"] == 1.0
    assert system.figures["bits_per_dim"] > 0
