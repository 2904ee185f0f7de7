"""sample.py and evaluate.py with an exact denoiser in place of a trained run."""

import json

import numpy as np
import pytest
from PIL import Image
from test_main import say

from conftest import Projection
from denoiselab.assembly.configuration import CONF
from denoiselab.data import Digits

EXACT = sorted(path.stem for path in (CONF / "analytic").glob("*.yaml") if path.stem != "none")


def drawn(folder):
    paths = sorted((folder / "images").iterdir())
    return np.stack([np.asarray(Image.open(path)) for path in paths])


def sampled(monkeypatch, capsys, folder, *words):
    """The images and the facts of a sample.py that ends well."""
    status, _, err = say(monkeypatch, capsys, "sample", f"hydra.run.dir={folder}", "device=cpu", *words)
    assert status == 0, err
    return drawn(folder), json.loads((folder / "sample.json").read_text())


@pytest.mark.slow
def test_the_training_set_alone_gives_its_images_of_the_classes_asked_for(monkeypatch, capsys, tmp_path):
    words = ["analytic=empirical", "data=digits", "sampler=heun", "n=6", "classes=[3,8]"]
    images, facts = sampled(monkeypatch, capsys, tmp_path / "six", *words)
    train = Digits().train
    for image, label in zip(images, facts["labels"], strict=True):
        # By the last step the posterior is one image, to less than a level of 255.
        same = (train.images[:, 0].numpy() == image).all((1, 2))
        assert same.sum() == 1
        assert train.labels[same].tolist() == [label]
    assert facts["labels"] == [3, 8, 3, 8, 3, 8]
    assert {"analytic": "Empirical", "schedule": "cosine", "sampler": "Heun", "nfe": 35}.items() <= facts.items()
    assert (facts["guidance"], facts["threshold"]) == ("Unguided", "none")
    again, _ = sampled(monkeypatch, capsys, tmp_path / "two", *words, "n=2", "batch_size=1")
    assert np.array_equal(again, images[:2])


@pytest.mark.slow
@pytest.mark.parametrize("option", EXACT)
@pytest.mark.parametrize("words", [[], ["schedule=flow", "sampler=ddpm", "spacing=trailing", "threshold=clip"]])
def test_each_exact_denoiser_draws_with_any_parts_and_leaves_its_folder_in_outputs(
    option, words, monkeypatch, capsys, tmp_path
):
    monkeypatch.chdir(tmp_path)
    status, _, err = say(monkeypatch, capsys, "sample", f"analytic={option}", "n=2", "sampler.steps=4", *words)
    assert status == 0, err
    (folder,) = (tmp_path / "outputs" / "analytic" / option / "sample").iterdir()
    assert drawn(folder).std() > 30  # a grey image has 0, a digit about 90


@pytest.mark.slow
def test_guidance_by_exact_classes_changes_images_and_scale_one_is_no_guidance(monkeypatch, capsys, tmp_path):
    words = ["analytic=mixture", "n=4", "sampler.steps=6"]
    scales = {"plain": [], "one": ["guidance=cfg", "guidance.scale=1"], "three": ["guidance=cfg", "guidance.scale=3"]}
    images = {k: sampled(monkeypatch, capsys, tmp_path / k, *words, *more)[0] for k, more in scales.items()}
    assert np.array_equal(images["plain"], images["one"])
    assert not np.array_equal(images["plain"], images["three"])


@pytest.mark.slow
def test_fid_of_the_training_set_falls_to_that_of_real_images_with_more_steps(monkeypatch, capsys, tmp_path):
    # Seen through a random projection of the pixels: a trained classifier would take its time to be trained.
    monkeypatch.setattr("denoiselab.metrics.trained_classifier", lambda source, cache: Projection(pixels=64))
    words = ["-m", "analytic=empirical", "sampler=heun", "sampler.steps=3,18", f"cache={tmp_path}", "device=cpu"]
    status, _, err = say(monkeypatch, capsys, "evaluate", *words, f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert status == 0, err
    few, many = (json.loads((tmp_path / "sweep" / str(i) / "metrics.json").read_text()) for i in range(2))
    assert (few["analytic"], few["nfe"], many["nfe"]) == ("Empirical", 5, 35)
    assert few["fid"] > 3 * many["fid"]
    assert many["fid"] < 1.5 * many["floor"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "words", "told"),
    [
        ("sample", [], "run must be given, a trained run's folder: run=<folder>; or take an exact denoiser"),
        ("evaluate", ["analytic=none"], "analytic=empirical"),
        ("sample", ["analytic=empiricl"], "did you mean empirical?"),
        ("sample", ["run={run}", "analytic=gaussian"], "run and analytic are two denoisers"),
        ("evaluate", ["run={run}", "analytic=mixture"], "run and analytic are two denoisers"),
        ("sample", ["run={run}", "schedule=flow"], "schedule=flow cannot be changed with run="),
        ("evaluate", ["run={run}", "data.size=3"], "data.size=3 cannot be changed with run="),
        ("sample", ["run={run}", "conditioning=text"], "which was trained with its own; leave it out"),
        ("sample", ["run={run}", "conditioning.mask=half"], "which was trained with its own; leave it out"),
        (
            "sample",
            ["analytic=empirical", "inpainting=repaint", "sampler.steps=10"],
            "inpainting.jump=10 and sampler.steps=10",
        ),
        ("sample", ["analytic=gaussian", "guidance=cfg"], "use guidance=none, or analytic=mixture or empirical"),
        ("sample", ["analytic=gaussian", "classes=[3]"], "of which there are none"),
        ("sample", ["analytic=mixture", "classes=[10]"], "which are the numbers 0 to 9"),
        ("sample", ["analytic=mixture", "classes=7"], "classes=7 is not a list"),
        ("sample", ["analytic=mixture", "classes=seven"], "classes=seven is not a list"),
        ("evaluate", ["analytic=empirical", "data=fashion_mnist"], "data.root must be given"),
    ],
)
def test_a_slip_is_told_in_one_line_and_leaves_no_folder(command, words, told, monkeypatch, capsys, tmp_path):
    (tmp_path / "trained" / ".hydra").mkdir(parents=True)
    axes = ("spacing", "sampler", "threshold", "guidance", "schedule", "data")
    (tmp_path / "trained" / ".hydra" / "config.yaml").write_text("".join(f"{axis}: {{}}\n" for axis in axes))
    words = [word.format(run=tmp_path / "trained") for word in words]
    status, out, err = say(monkeypatch, capsys, command, *words, f"hydra.run.dir={tmp_path / 'made'}")
    assert status == 2
    assert err.count("\n") == 1, err
    assert told in err
    assert "Traceback" not in out + err
    assert not (tmp_path / "made").exists()


@pytest.mark.slow
def test_help_shows_the_exact_denoisers(monkeypatch, capsys):
    _, out, _ = say(monkeypatch, capsys, "sample", "--help")
    assert "sample.py analytic=empirical" in out
    assert f"analytic: {', '.join(sorted([*EXACT, 'none']))}" in out
