"""The experiment of JiT: the paper's loss and times, and its table of images."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image
from test_main import say

from conftest import planned
from denoiselab.assembly.configuration import composed
from denoiselab.data.source import to_float
from denoiselab.errors import ConfigError, IncompatibleError
from denoiselab.pictures import side_by_side
from denoiselab.report.grid import ImageTable
from denoiselab.training.parts import Parts
from denoiselab.training.parts import parts as assembled

EXPERIMENT = "experiment=x_prediction_vit"


def parts(parameterization: str) -> Parts:
    made = assembled(composed("train", [EXPERIMENT, f"parameterization={parameterization}", "backbone.patch=16"]))
    for parameter in made.pipeline.denoiser.backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    made.pipeline.double()
    return made


def test_the_times_are_the_paper_s_which_run_the_other_way():
    """There x_t = t x + (1 - t) e and logit t ~ N(-0.8, 0.8^2): its t is the share of data, ours that of noise."""
    times = parts("x0").objective.time_sampler
    u = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    theirs = torch.sigmoid(-0.8 + 0.8 * torch.special.ndtri(u))
    ours = times.quantile(u, None)
    torch.testing.assert_close(1 - ours.flip(0), theirs, rtol=1e-12, atol=0)
    assert float(ours[49]) == pytest.approx(0.69, abs=0.001)  # more noise than data


@pytest.mark.parametrize("parameterization", ["x0", "eps", "flow"])
def test_whatever_is_predicted_the_loss_is_the_mse_of_the_velocity(parameterization):
    """v = x - e in the paper, whose sign the square does not see; e is standard normal noise."""
    made = parts(parameterization)
    batch = made.source.train.__getitems__(range(4))
    x0 = to_float(batch["image"]).double()
    eps, t = torch.randn_like(x0), torch.tensor([0.1, 0.5, 0.8, 0.95], dtype=torch.float64)
    cond = made.pipeline.conditioner(batch)
    losses = made.objective(made.pipeline.denoiser, x0, cond, t=t, eps=eps)
    schedule = made.pipeline.denoiser.schedule
    alpha, sigma = (part[:, None, None, None] for part in schedule(t))
    said = made.pipeline.denoiser(alpha * x0 + sigma * eps, t, cond)
    expected = ((said.x0 - said.eps) - (x0 - eps)).square().flatten(1).mean(1)
    torch.testing.assert_close(losses, expected, rtol=1e-9, atol=0)


@pytest.mark.slow
def test_the_nine_jobs_are_checked_before_the_first_and_a_bad_one_is_told():
    planned([EXPERIMENT])
    with pytest.raises(IncompatibleError, match="parameterization=eps"):
        planned([EXPERIMENT, "schedule.log_snr_min=null"])
    with pytest.raises(ConfigError, match="must be a multiple of 8"):
        planned([EXPERIMENT, "data.size=16,20"])


@pytest.mark.slow
def test_its_jobs_are_set_side_by_side_in_a_table_of_images(monkeypatch, capsys, tmp_path):
    rng = np.random.default_rng(0)
    for i in range(24):
        path = tmp_path / "images" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (8, 8), dtype=np.uint8)).save(path)
    data = ["data=image_folder", f"data.root={tmp_path / 'images'}", "data.size=8", "data.test_fraction=0.4"]
    small = ["backbone.width=16", "backbone.depth=1", "batch_size=8", "sampler.steps=2", "trainer.max_steps=1"]
    where = ["logger=csv", "trainer=cpu", f"cache={tmp_path / 'cache'}", f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    swept = ["parameterization=x0,flow", "backbone.patch=4,8"]
    status, out, err = say(monkeypatch, capsys, "train", EXPERIMENT, *data, *small, *swept, *where)
    assert status == 0, err
    folder, runs = tmp_path / "sweep", ["x0_4", "x0_8", "flow_4", "flow_8"]
    with (folder / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["run"] for row in rows] == runs
    found = {run: json.loads((folder / run / "metrics.json").read_text()) for run in runs}
    for row in rows:
        assert (row["parameterization"], row["backbone.patch"]) == tuple(row["run"].split("_"))
        assert float(row["fid"]) == found[row["run"]]["fid"]
        assert float(row["class_accuracy"]) == found[row["run"]]["class_accuracy"]
    lines = (folder / "table.md").read_text().splitlines()
    assert lines[0] == "| parameterization | backbone.patch=4 | backbone.patch=8 |"
    told = [f"{found[run]['fid']:.3g} ({found[run]['class_accuracy']:.0%})" for run in runs]
    assert lines[2:4] == [f"| x0 | {told[0]} | {told[1]} |", f"| flow | {told[2]} | {told[3]} |"]
    assert "\n".join(lines) in out
    drawn = [(folder / run / "samples" / "step_1.png") for run in runs]
    titles = [f"{run.replace('_', ', patch = ')}: {said}" for run, said in zip(runs, told, strict=True)]
    expected = side_by_side([(a, np.array(Image.open(b))) for a, b in zip(titles, drawn, strict=True)], 2)
    assert np.array_equal(np.array(Image.open(folder / "table.png")), expected)


def test_pictures_stand_below_their_titles_row_by_row_and_what_is_missing_leaves_a_gap():
    dark, light = np.zeros((10, 20), np.uint8), np.full((10, 20, 3), 128, np.uint8)
    picture = side_by_side([("", dark), ("", None), ("", None), ("", light)], 2)
    height, width, _ = picture.shape
    quarters = picture.reshape(2, height // 2, 2, width // 2, 3).transpose(0, 2, 1, 3, 4).reshape(4, -1, 3)
    seen = [
        {int(level) for level, share in zip(*np.unique(q, return_counts=True), strict=True) if share > 0.5 * q.size}
        for q in quarters
    ]
    assert seen == [{0}, {255}, {255}, {128}]


def test_a_cell_says_fid_to_three_digits_and_the_share_named_right_where_there_is_one():
    table = ImageTable("parameterization", "backbone.patch")
    assert table.cell({"fid": 1.0}) == "1"
    assert table.cell({"fid": 171.83, "class_accuracy": 0.1139}) == "172 (11%)"
