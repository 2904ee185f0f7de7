"""Run folders and exports of an earlier version keep working, and give the numbers that they gave then.

The files are described in tests/data/README.md. Numbers are compared to what rounding allows, as other processors add
up in another order.
"""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import get_object
from PIL import Image
from torch import Tensor

from conftest import REPOSITORY
from denoiselab import load
from denoiselab.assembly import aliases

DATA = Path(__file__).parent / "data"
RUN, EXPORT = DATA / "run_0a6303d", DATA / "export_0a6303d.safetensors"
EXPECTED: dict[str, Any] = json.loads((DATA / "expected_0a6303d.json").read_text())
TARGETS = (DATA / "targets_0a6303d.txt").read_text().split()
IMAGES = torch.tensor([list(bytes.fromhex(image)) for image in EXPECTED["images"]]).reshape(4, 1, 8, 8)


@pytest.fixture(params=["folder", "file"])
def old(request, tmp_path) -> Path:
    """The old run, as a folder or as an exported file, where a test may write beside it."""
    if request.param == "file":
        return Path(shutil.copy(EXPORT, tmp_path / "model.safetensors"))
    return Path(shutil.copytree(RUN, tmp_path / "run"))


def execute(command: str, *overrides: str) -> None:
    done = subprocess.run(
        [sys.executable, f"{command}.py", *overrides],
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY / "src")},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def assert_same_images(images: Tensor) -> None:
    """One level of 255 at most, where a sum that was rounded differently tips a pixel; few pixels are on the edge."""
    difference = (images.int() - IMAGES).abs()
    assert difference.max() <= 1
    assert (difference > 0).float().mean() < 0.02


def test_an_old_run_is_loaded_and_predicts_and_samples_as_it_did(old):
    model = load(old)
    labels = torch.arange(4)
    assert model.about["step"] == 6
    assert_same_images(model.pipeline.sample(model.recipe, range(4), labels, 0).images)
    x_t = torch.linspace(-1, 1, 256).reshape(4, 1, 8, 8)
    with torch.inference_mode(), model.pipeline.evaluating():
        x0 = model.pipeline.denoise_fn(model.recipe, {"label": labels})(x_t, torch.full((4,), 0.5)).x0
    torch.testing.assert_close(x0[:, 0, 0].flatten(), torch.tensor(EXPECTED["x0"]), atol=1e-5, rtol=0)


@pytest.mark.slow
def test_sample_makes_the_images_of_an_old_run(old, tmp_path):
    execute("sample", f"run={old}", "n=4", "device=cpu", f"hydra.run.dir={tmp_path / 'samples'}")
    files = sorted((tmp_path / "samples" / "images").iterdir())
    pixels = [torch.tensor(list(Image.open(file).tobytes())).reshape(1, 8, 8) for file in files]
    assert_same_images(torch.stack(pixels))
    facts = json.loads((tmp_path / "samples" / "sample.json").read_text())
    assert (facts["step"], facts["sampler"], facts["sampler.steps"], facts["guidance.scale"]) == (6, "DDIM", 5, 1.2)


@pytest.mark.slow
def test_evaluate_gives_the_likelihood_of_an_old_run(old, tmp_path):
    where = [f"hydra.run.dir={tmp_path / 'evaluation'}", f"cache={tmp_path / 'cache'}"]
    what = ["metrics=none", "likelihood=bound", "likelihood.n=20", "logger=csv", "device=cpu"]
    execute("evaluate", f"run={old}", *what, *where)
    metrics = json.loads((tmp_path / "evaluation" / "metrics.json").read_text())
    for name in ("bits_per_dim", "bits_per_dim_error"):
        assert metrics[name] == pytest.approx(EXPECTED[name], rel=1e-5)


@pytest.mark.slow
def test_an_old_run_is_resumed_where_it_stopped(tmp_path):
    run = shutil.copytree(RUN, tmp_path / "run")
    execute("train", f"run={run}", "resume=true", "trainer.max_steps=8", f"cache={tmp_path / 'cache'}")
    rows = list(csv.DictReader((run / "metrics.csv").open()))
    losses = {row["step"]: float(row["train/loss"]) for row in rows if row["train/loss"]}
    assert sorted(losses) == [str(step) for step in range(1, 9)]
    for step, loss in EXPECTED["train/loss"].items():
        assert losses[step] == pytest.approx(loss, rel=1e-5)
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["step"] == 8
    for name, value in EXPECTED["resumed"].items():
        assert metrics[name] == pytest.approx(value, rel=1e-5)


def test_everything_that_an_old_configuration_calls_is_still_found():
    lost = []
    for old in TARGETS:
        target = aliases.target(old)
        try:
            if old != "denoiselab.cli.sweeps.Jobs":  # Hydra's callback, which no command instantiates from a file
                get_object(target)
        except Exception as error:
            lost.append(f"{target}: {error}")
    assert len(TARGETS) == 156
    assert lost == []
