"""The commands as a person types them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

from denoiselab.assembly.configuration import CONF
from denoiselab.assembly.sampling import recipe as recipe_of
from denoiselab.cli import main
from denoiselab.runs.load import open_run

ROOT = CONF.parent
SMALL = ["backbone=mlp", "backbone.width=32", "backbone.depth=1", "batch_size=32", "metrics.n=20", "sampler.steps=4"]


def say(monkeypatch, capsys, command: str, *words: str) -> tuple[int, str, str]:
    """(exit status, stdout, stderr) of a command, in this process."""
    monkeypatch.setattr(sys, "argv", [str(ROOT / f"{command}.py"), *words])
    GlobalHydra.instance().clear()
    status = 0
    try:
        main(command)
    except SystemExit as stop:
        status = int(stop.code or 0)
    out, err = capsys.readouterr()
    return status, out, err


@pytest.fixture(scope="module")
def sweep(tmp_path_factory, digits_cache) -> Path:
    """A sweep of two schedules and two samplers by the real command in its own process."""
    folder = tmp_path_factory.mktemp("sweep")
    words = ["-m", "schedule=linear,cosine", "sampler=ddim,ddpm", "trainer=cpu", "trainer.max_steps=6", *SMALL]
    where = [f"hydra.sweep.dir={folder}", f"cache={digits_cache}"]
    done = subprocess.run(
        [sys.executable, "train.py", *words, *where], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.slow
def test_a_sweep_of_two_by_two_makes_four_run_folders_and_four_wandb_runs(sweep):
    runs = [sweep / str(i) for i in range(4)]
    assert all((run / "checkpoints" / "last.ckpt").exists() for run in runs)
    assert len({next(run.glob("wandb/offline-run-*/*.wandb")).name for run in runs}) == 4
    assert not list(sweep.rglob("*.part"))
    figures = [json.loads((run / "metrics.json").read_text()) for run in runs]
    assert [f["sampler"] for f in figures] == ["DDIM", "DDPM"] * 2
    for figure in figures:
        assert {"fid", "floor", "n", "extractor", "seed", "nfe", "code"} <= set(figure)
        assert figure["n"] == 20
    with Image.open(runs[0] / "samples" / "step_6.png") as picture:
        assert picture.size == (10 * 9 * 5 - 5, 10 * 9 * 5 - 5)


@pytest.mark.slow
def test_sample_writes_the_same_image_for_a_seed_whatever_else_is_asked_for(sweep, monkeypatch, capsys, tmp_path):
    for name, words in {"a": ["n=12", "batch_size=5"], "b": ["n=3"]}.items():
        where = [f"run={sweep / '0'}", f"hydra.run.dir={tmp_path / name}"]
        status, _, err = say(monkeypatch, capsys, "sample", *where, "sampler=ddim", "guidance.scale=2", *words)
        assert status == 0, err
    facts = json.loads((tmp_path / "a" / "sample.json").read_text())
    assert (facts["guidance.scale"], facts["n"], facts["labels"][:3]) == (2, 12, [0, 1, 2])
    assert len(list((tmp_path / "a" / "images").iterdir())) == 12
    for i in range(3):
        one, other = (Image.open(tmp_path / name / "images" / f"{i:05d}.png").tobytes() for name in "ab")
        # Another batch size orders the sums in a matrix product differently: one level of 255 at the most.
        assert max(abs(x - y) for x, y in zip(one, other, strict=True)) <= 1


@pytest.mark.slow
def test_sample_keeps_the_samplers_of_the_run_unless_another_is_named(sweep, monkeypatch, capsys, tmp_path):
    for words, sampler, steps in ([], "DDPM", 4), (["sampler.steps=3"], "DDPM", 3), (["sampler=heun"], "Heun", 18):
        where = [f"run={sweep / '1'}", f"hydra.run.dir={tmp_path / str(steps)}", "n=2"]
        status, _, err = say(monkeypatch, capsys, "sample", *where, *words)
        assert status == 0, err
        facts = json.loads((tmp_path / str(steps) / "sample.json").read_text())
        assert (facts["sampler"], facts["sampler.steps"]) == (sampler, steps)


@pytest.mark.slow
def test_evaluate_repeats_the_figures_of_the_run_and_changes_with_its_sampler(
    sweep, digits_cache, monkeypatch, capsys, tmp_path
):
    trained = json.loads((sweep / "0" / "metrics.json").read_text())
    where = [f"run={sweep / '0'}", "n=20", f"cache={digits_cache}", "device=cpu"]
    status, _, err = say(monkeypatch, capsys, "evaluate", *where, f"hydra.run.dir={tmp_path / 'same'}")
    assert status == 0, err
    same = json.loads((tmp_path / "same" / "metrics.json").read_text())
    for key in ("n", "extractor", "nfe", "sampler", "guidance.scale", "data_fingerprint"):
        assert same[key] == trained[key]
    for key in ("fid", "floor"):  # other numbers of threads add up in another order
        assert same[key] == pytest.approx(trained[key], rel=1e-3)
    say(monkeypatch, capsys, "evaluate", *where, f"hydra.run.dir={tmp_path / 'other'}", "sampler=heun")
    other = json.loads((tmp_path / "other" / "metrics.json").read_text())
    assert (other["sampler"], other["nfe"]) == ("Heun", 35)
    assert other["fid"] != same["fid"]


@pytest.mark.slow
def test_a_damaged_checkpoint_is_told_in_one_line(sweep, monkeypatch, capsys, tmp_path):
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    (tmp_path / "run" / ".hydra").symlink_to(sweep / "0" / ".hydra")
    whole = (sweep / "0" / "checkpoints" / "last.ckpt").read_bytes()
    (tmp_path / "run" / "checkpoints" / "last.ckpt").write_bytes(whole[: len(whole) // 2])
    status, _, err = say(monkeypatch, capsys, "sample", f"run={tmp_path / 'run'}", f"hydra.run.dir={tmp_path / 'x'}")
    assert status == 2
    assert err.count("\n") == 1
    assert "last.ckpt is damaged" in err
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("command", "words", "told"),
    [
        ("train", ["schedule=cosin"], "did you mean cosine?"),
        ("train", ["sampler.steps=["], "sampler.steps"),
        ("train", ["backbone.multipliers=[1,2,3,4,5]"], "halves the image 4 times"),
        ("train", ["backbone=dit", "backbone.patch=3"], "must be a divisor"),
        ("train", ["data=image_folder", "data.root=/no/such/folder"], "/no/such/folder"),
        ("sample", [], "run must be given"),
        ("sample", ["run=no/such/folder"], "no/such/folder is no folder"),
        ("evaluate", ["run=."], "no .hydra/config.yaml"),
    ],
)
def test_a_slip_ends_with_status_two_one_line_and_no_folder(command, words, told, monkeypatch, capsys, tmp_path):
    status, out, err = say(monkeypatch, capsys, command, *words, f"hydra.run.dir={tmp_path / 'run'}")
    assert status == 2
    assert err.startswith(f"{command}.py: ")
    assert err.count("\n") == 1, err
    assert told in err
    assert "Traceback" not in out + err
    assert not (tmp_path / "run").exists()


def test_a_folder_with_a_run_in_it_is_not_written_over(monkeypatch, capsys, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").write_text("precious")
    status, _, err = say(monkeypatch, capsys, "train", f"hydra.run.dir={tmp_path}")
    assert status == 2
    assert "already holds a run" in err
    assert (tmp_path / "checkpoints" / "last.ckpt").read_text() == "precious"


@pytest.mark.slow
def test_help_names_every_part_and_option_and_imports_no_torch():
    code = "import sys; sys.argv = ['train.py', '--help']; import atexit"
    code += "; atexit.register(lambda: print('torch' in sys.modules))"
    code += "; from denoiselab.cli import main; main('train')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.rstrip().endswith("False")
    for group in (p for p in CONF.iterdir() if p.is_dir() and p.name != "hydra"):
        line = next(line for line in done.stdout.splitlines() if line.startswith(f"{group.name}: "))
        assert all(option.stem in line for option in group.glob("*.yaml"))


@pytest.mark.slow
def test_the_default_experiment_draws_digits_that_an_independent_classifier_reads(digits_cache, tmp_path):
    """The judge is a support vector machine on pixels: it shares nothing with the model or with FID's features."""
    from sklearn.svm import SVC

    from denoiselab.conditioning.wishes import balanced_labels
    from denoiselab.data import Digits

    run = tmp_path / "run"
    words = [f"hydra.run.dir={run}", f"cache={digits_cache}", "trainer=cpu"]
    done = subprocess.run([sys.executable, "train.py", *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    figures = json.loads((run / "metrics.json").read_text())
    assert figures["n"] == figures["floor_n"] == 360
    assert figures["fid"] <= 3 * figures["floor"]
    assert figures["classifier_test_accuracy"] >= 0.98

    source = Digits()
    pixels = [source.train.__getitems__(range(1437)), source.test.__getitems__(range(360))]
    judge = SVC().fit(pixels[0]["image"].flatten(1), pixels[0]["label"])
    assert judge.score(pixels[1]["image"].flatten(1), pixels[1]["label"]) >= 0.98
    pipeline, cfg, _ = open_run(str(run), "last", torch.device("cpu"))

    labels = balanced_labels(range(1000), 10)
    images = torch.cat([b.images for b in pipeline.generate(recipe_of(cfg), range(1000), labels, 1, 250)])
    assert judge.score(images.flatten(1), labels) >= 0.97
