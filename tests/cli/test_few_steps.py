"""experiment=few_steps: a table and a plot of a figure against the number of network evaluations."""

import csv

import pytest
import torch
from PIL import Image
from test_main import SMALL, say

from cases import SAMPLERS, SCHEDULES, over
from denoiselab.analytic import Gaussian
from denoiselab.cli.few_steps import Row, as_table, evaluations_of
from denoiselab.spacings import LogSNR


@over("sampler", SAMPLERS)
def test_the_evaluations_counted_are_those_of_a_real_denoiser(sampler):
    asked, made = [], SAMPLERS[sampler](7, LogSNR())

    def denoise(x, t):
        asked.append(t)
        return Gaussian(SCHEDULES["cosine"], 0.3, 0.5)(x, t)

    made(denoise, SCHEDULES["cosine"], torch.randn(2, 3))
    assert evaluations_of(made, SCHEDULES["cosine"]) == len(asked)


def test_a_sampler_without_a_figure_at_a_count_has_an_empty_place():
    rows = [Row("ddim", "Trailing", 5, 5, 1.234), Row("heun", "LogSNR", 3, 5, 0.5), Row("heun", "LogSNR", 4, 7, 0.25)]
    expected = "| sampler | 5 | 7 |\n|---|---|---|\n| ddim | 1.23 |  |\n| heun | 0.5 | 0.25 |"
    assert as_table(rows) == expected


@pytest.mark.slow
def test_one_command_trains_and_sets_the_samplers_side_by_side(monkeypatch, capsys, tmp_path):
    words = ["experiment=few_steps", "trainer.max_steps=2", "logger=csv", "likelihood=none", f"cache={tmp_path}/cache"]
    words += ["callbacks.few_steps.n=12", "callbacks.few_steps.evaluations=[4,9]", f"hydra.run.dir={tmp_path}/run"]
    words += ["callbacks.few_steps.samplers=[ddim,heun,unipc]", *(w for w in SMALL if not w.startswith("sampler"))]
    status, _, err = say(monkeypatch, capsys, "train", *words)
    assert status == 0, err
    with (tmp_path / "run" / "few_steps.csv").open() as file:
        rows = list(csv.DictReader(file))
    # Each sampler takes the most steps that the budget allows: Heun 2 N - 1 evaluations on a grid that ends in Euler.
    assert [(r["sampler"], r["steps"], r["evaluations"]) for r in rows] == [
        ("ddim", "4", "4"),
        ("ddim", "9", "9"),
        ("heun", "2", "3"),
        ("heun", "5", "9"),
        ("unipc", "4", "4"),
        ("unipc", "9", "9"),
    ]
    assert all(float(r["fid"]) > 0 for r in rows)
    assert rows[0]["spacing"] == "Trailing"
    assert rows[2]["spacing"] == "Karras"
    assert "| heun |" in (tmp_path / "run" / "few_steps.md").read_text()
    with Image.open(tmp_path / "run" / "few_steps.png") as picture:
        assert picture.size == (770, 440)


@pytest.mark.slow
def test_without_a_figure_there_is_nothing_to_compare(monkeypatch, capsys, tmp_path):
    words = ["experiment=few_steps", "metrics=none", f"hydra.run.dir={tmp_path}/run", "trainer.max_steps=2"]
    status, _, err = say(monkeypatch, capsys, "train", *words)
    assert status == 2
    assert len(err.strip().splitlines()) == 1
    assert "metrics=none" in err
