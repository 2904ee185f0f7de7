"""Points from the command line: trained, sampled, evaluated and swept; and what has no meaning for them."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_main import say

from conftest import planned
from denoiselab.assembly import rules
from denoiselab.assembly.configuration import composed
from denoiselab.cli import checks
from denoiselab.data import Points
from denoiselab.data.points import moons
from denoiselab.errors import ConfigError, IncompatibleError
from denoiselab.training.parts import parts as assembled

TINY = [
    "data.train=64",
    "data.test=40",
    "trainer=cpu",
    "trainer.max_steps=2",
    "sampler.steps=4",
    "backbone.width=16",
    "callbacks.scatter.n=30",
    "likelihood=none",
]
CLASSES = ["conditioning=class", "guidance=cfg", "guidance.scale=2"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("experiment=points backbone=unet", "take backbone=mlp"),
        ("experiment=points backbone=dit", "take backbone=mlp"),
        ("experiment=points threshold=clip", "take threshold=none"),
        ("experiment=points metrics=fid", "take metrics=points"),
        ("experiment=points callbacks=default", "take callbacks=points"),
        ("metrics=points", "take metrics=fid"),
        ("callbacks=points", "take callbacks=default"),
        ("data=moons", "experiment=points takes all"),
    ],
)
def test_what_has_no_meaning_is_refused_by_the_checks_and_by_the_parts_with_what_to_take(words, told):
    cfg = composed("train", words.split())
    with pytest.raises(IncompatibleError, match=told):
        rules.check_rules(cfg)
    with pytest.raises(IncompatibleError, match=told):
        assembled(cfg)


@pytest.mark.slow
@pytest.mark.parametrize("words", ["data=moons", "data=checkerboard backbone=relu_mlp", "data=pinwheel data.dim=9"])
def test_what_has_a_meaning_is_accepted(words):
    planned(["experiment=points", *words.split()])
    cfg = composed("train", ["experiment=points", *words.split()])
    assert assembled(cfg).pipeline.image_shape == (cfg.data.dim,)


@pytest.mark.slow
def test_classes_of_points_that_have_none_are_refused_with_those_that_have():
    with pytest.raises(ConfigError, match="data=swiss_roll has none; use conditioning=none"):
        assembled(composed("train", ["experiment=points", *CLASSES]))


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run of class-conditional points in 3 dimensions, with W&B offline."""
    folder = tmp_path_factory.mktemp("points") / "run"
    words = ["experiment=points", "data=moons", "data.dim=3", *CLASSES, *TINY, "callbacks.process.frames=3"]
    with pytest.MonkeyPatch.context() as patch:
        status, _, err = say(patch, Silent(), "train", *words, f"hydra.run.dir={folder}")
    assert status == 0, err
    return folder


class Silent:
    """Stands for capsys in a fixture of a module."""

    def readouterr(self) -> tuple[str, str]:
        return "", ""


def figures(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text())


@pytest.mark.slow
def test_a_run_of_points_leaves_figures_pictures_and_checkpoints(run):
    made = figures(run)
    assert {"sliced_wasserstein", "floor", "off_plane", "val/loss"} <= set(made)
    assert (made["headline"], made["dim"], made["n"]) == ("sliced_wasserstein", 3, 40)
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
    names = {path.name for path in (run / "samples").iterdir()}
    assert {"step_2.png", "forward_2.png", "reverse_2.png", "reverse_2.gif", "score_2.png"} <= names
    (media,) = run.glob("wandb/offline-run-*/files/media")
    for key in ("samples", "forward", "denoising", "score"):
        assert len(list(media.glob(f"images/{key}_*.png"))) == 1
    (film,) = media.glob("videos/animation_*.gif")
    assert film.read_bytes() == (run / "samples" / "reverse_2.gif").read_bytes()


@pytest.mark.slow
def test_sample_draws_the_points_of_a_run_and_writes_them_as_numbers(run, monkeypatch, capsys, tmp_path):
    for name, n in ("a", 20), ("b", 5):
        words = [f"run={run}", f"hydra.run.dir={tmp_path / name}", f"n={n}", "classes=[1]", "device=cpu"]
        status, _, err = say(monkeypatch, capsys, "sample", *words)
        assert status == 0, err
    assert {path.name for path in (tmp_path / "a").iterdir()} == {".hydra", "points.npy", "points.png", "sample.json"}
    points, fewer = (np.load(tmp_path / name / "points.npy") for name in "ab")
    assert points.shape == (20, 3)
    # Another batch size orders the sums in float32 differently.
    np.testing.assert_allclose(points[:5], fewer, rtol=0, atol=1e-5)
    assert Image.open(tmp_path / "a" / "points.png").width == round(2 * 2.4 * 110)


@pytest.mark.slow
def test_evaluate_repeats_the_figures_of_the_run(run, monkeypatch, capsys, tmp_path):
    words = [f"run={run}", f"hydra.run.dir={tmp_path / 'x'}", "device=cpu"]  # what judges points is found by the data
    status, _, err = say(monkeypatch, capsys, "evaluate", *words)
    assert status == 0, err
    # Evaluating takes other batches than the run did.
    again, made = figures(tmp_path / "x"), figures(run)
    for key in ("sliced_wasserstein", "floor", "off_plane"):
        assert again[key] == pytest.approx(made[key], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "word", "told"),
    [("evaluate", "metrics=fid", "take metrics=points"), ("sample", "threshold=clip", "take threshold=none")],
)
def test_what_has_no_meaning_for_a_run_s_points_is_refused_after_training_too(
    run, command, word, told, monkeypatch, capsys, tmp_path
):
    status, _, err = say(monkeypatch, capsys, command, f"run={run}", word, f"hydra.run.dir={tmp_path / 'x'}")
    assert status == 2
    assert told in err
    assert err.count("\n") == 1


TOY = ["experiment=x_prediction_toy", "parameterization=v,x0", "data.dim=2,5"]


@pytest.mark.slow
def test_an_experiment_that_is_a_sweep_runs_all_its_jobs_in_one_command_and_sets_them_side_by_side(
    monkeypatch, capsys, tmp_path
):
    words = [*TOY, *TINY, "logger=csv", f"hydra.sweep.dir={tmp_path}"]
    status, out, err = say(monkeypatch, capsys, "train", *words)
    assert status == 0, err
    runs = ["v_2", "v_5", "x0_2", "x0_5"]
    known = {name: figures(tmp_path / name) for name in runs}
    with (tmp_path / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["run"] for row in rows] == runs
    for row in rows:
        assert (row["parameterization"], row["data.dim"]) == tuple(row["run"].split("_"))
        assert float(row["sliced_wasserstein"]) == known[row["run"]]["sliced_wasserstein"]
        assert row["off_plane"] == str(known[row["run"]].get("off_plane", ""))
    lines = (tmp_path / "table.md").read_text().splitlines()
    assert lines[0] == "| parameterization | data.dim=2 | data.dim=5 |"
    flat, deep = known["x0_2"]["sliced_wasserstein"], known["x0_5"]
    assert lines[3] == f"| x0 | {flat:.3f} | {deep['sliced_wasserstein']:.3f} ({deep['off_plane']:.1%}) |"
    assert "\n".join(lines) in out
    with Image.open(tmp_path / "table.png") as picture:
        assert picture.size == (round(2 * 2.4 * 110), round(2 * 2.65 * 110))


@pytest.mark.slow
def test_all_jobs_of_an_experiment_that_is_a_sweep_are_checked_before_the_first(monkeypatch):
    checked = []
    check = checks.check_job
    monkeypatch.setattr(checks, "check_job", lambda loader, words: checked.append(words) or check(loader, words))
    planned(["experiment=x_prediction_toy"])
    assert len(checked) == 12
    assert checked[0] == ["parameterization=eps", "data.dim=2", "experiment=x_prediction_toy"]
    checked.clear()
    planned(TOY)
    assert len(checked) == 4, "the command line's words are in place of the experiment's own"


@pytest.mark.slow
def test_a_bad_job_of_an_experiment_that_is_a_sweep_is_told_before_the_first_runs():
    with pytest.raises(IncompatibleError, match="parameterization=eps"):
        planned(["experiment=x_prediction_toy", "schedule.log_snr_min=null"])
    with pytest.raises(IncompatibleError, match="no multiple of trainer"):
        planned(["experiment=x_prediction_toy", "trainer=ddp_cpu", "trainer.devices=3"])


@pytest.mark.slow
def test_an_experiment_that_is_one_run_still_wants_m_for_several_values():
    with pytest.raises(ConfigError, match="add -m"):
        planned(["experiment=points", "seed=0,1"])


@pytest.mark.slow
def test_points_of_an_exact_denoiser_are_drawn_too(monkeypatch, capsys, tmp_path):
    words = ["analytic=empirical", "data=moons", "data.train=200", "n=50", "sampler.steps=400", "device=cpu"]
    status, _, err = say(monkeypatch, capsys, "sample", *words, f"hydra.run.dir={tmp_path}")
    assert status == 0, err
    points = np.load(tmp_path / "points.npy")
    train = Points("moons", moons, train=200).train.images.numpy()
    nearest = np.linalg.norm(points[:, None] - train[None], axis=2).min(1)
    assert nearest.max() < 0.02, "the exact denoiser of a data set ends on it, to the sampler's error in 400 steps"
