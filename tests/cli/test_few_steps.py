"""experiment=few_steps: a table and a plot of a figure against the number of network evaluations."""

import csv

import pytest
import torch
from hydra.utils import instantiate
from PIL import Image
from test_main import SMALL, say

from cases import SAMPLERS, SCHEDULES, over
from denoiselab.analytic import Gaussian
from denoiselab.assembly.configuration import CONF, composed
from denoiselab.spacings import LogSNR
from denoiselab.training.callbacks.few_steps import Row, as_table, evaluations_of


@over("sampler", SAMPLERS)
def test_the_evaluations_counted_are_those_of_a_real_denoiser(sampler):
    asked, made = [], SAMPLERS[sampler](7, LogSNR())

    def denoise(x, t):
        asked.append(t)
        return Gaussian(SCHEDULES["cosine"], 0.3, 0.5)(x, t)

    made(denoise, SCHEDULES["cosine"], torch.randn(2, 3))
    assert evaluations_of(made, SCHEDULES["cosine"]) == len(asked)


def test_a_figure_stands_at_the_first_budget_that_has_room_for_it_or_beyond_them_all():
    rows = [Row("ddim", "Trailing", 5, 5, 1.234), Row("heun", "Karras", 3, 5, 0.5), Row("heun", "Karras", 4, 7, 0.25)]
    rows += [Row("langevin", "LogSNR", 1, 6, 90.0), Row("ode", "Trailing", 5, 198, 0.125)]
    expected = """
| sampler | grid | 5 | 8 | 198 |
| --- | --- | --- | --- | --- |
| ddim | Trailing | 1.23 | – | – |
| heun | Karras | 0.5 | 0.25 | – |
| langevin | LogSNR | – | 90 | – |
| ode | Trailing | – | – | 0.125 |
"""
    assert as_table(rows, [5, 8]) == expected.strip()


@pytest.mark.slow
def test_each_sampler_of_diffusions_has_a_row_but_euler_which_is_ddim():
    named = composed("train", ["experiment=few_steps"]).callbacks.few_steps.samplers
    assert {*named, "euler", "prior"} == {path.stem for path in (CONF / "sampler").glob("*.yaml")}
    made = {name: composed("train", [f"sampler={name}", "sampler.steps=10"]) for name in ("euler", "ddim")}
    schedule, x_T = SCHEDULES["cosine"], torch.randn(4, 3)
    euler, ddim = (
        instantiate(cfg.sampler)(Gaussian(schedule, 0.3, 0.5), schedule, x_T, no_noise) for cfg in made.values()
    )
    assert torch.equal(euler, ddim)


def no_noise(x):
    raise AssertionError


@pytest.mark.slow
def test_one_command_trains_and_sets_the_samplers_side_by_side(monkeypatch, capsys, tmp_path, digits_cache):
    words = ["experiment=few_steps", "trainer.max_steps=2", "logger=csv", "likelihood=none", f"cache={digits_cache}"]
    words += ["callbacks.few_steps.n=12", "callbacks.few_steps.evaluations=[4,9]", f"hydra.run.dir={tmp_path}/run"]
    words += [
        "callbacks.few_steps.samplers=[ddim,heun,unipc,pc,langevin,ode]",
        *(w for w in SMALL if not w.startswith("sampler")),
    ]
    status, _, err = say(monkeypatch, capsys, "train", *words)
    assert status == 0, err
    with (tmp_path / "run" / "few_steps.csv").open() as file:
        rows = list(csv.DictReader(file))
    # Each sampler takes the most steps that the budget allows: Heun 2 N - 1 evaluations on a grid that ends in Euler,
    # Langevin 5 N + 1. An adaptive one takes its own, whatever the budgets.
    assert rows[-1]["sampler"] == "ode"
    assert int(rows[-1]["evaluations"]) > 9
    assert [(r["sampler"], r["steps"], r["evaluations"]) for r in rows[:-1]] == [
        ("ddim", "4", "4"),
        ("ddim", "9", "9"),
        ("heun", "2", "3"),
        ("heun", "5", "9"),
        ("unipc", "4", "4"),
        ("unipc", "9", "9"),
        ("pc", "2", "4"),
        ("pc", "4", "8"),
        ("langevin", "1", "6"),
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


@pytest.mark.slow
def test_a_sampler_that_the_schedule_refuses_is_left_out_with_the_reason(monkeypatch, capsys, tmp_path, digits_cache):
    words = ["experiment=few_steps", "schedule=flow", "callbacks.few_steps.samplers=[langevin,ddim]"]
    words += ["trainer.max_steps=2", "logger=csv", "likelihood=none", f"cache={digits_cache}"]
    words += ["callbacks.few_steps.n=12", "callbacks.few_steps.evaluations=[2]", f"hydra.run.dir={tmp_path}/run"]
    status, out, err = say(monkeypatch, capsys, "train", *words, *(w for w in SMALL if not w.startswith("sampler")))
    assert status == 0, err
    assert "few_steps leaves out langevin: sampler=langevin works in x/alpha" in out + err
    table = (tmp_path / "run" / "few_steps.md").read_text()
    assert "| ddim |" in table
    assert "langevin" not in table
