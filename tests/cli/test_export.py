"""A run in one file: it holds all that sampling needs, and gives what the run's folder gives."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_main import ROOT, say

from denoiselab import load
from denoiselab.conditioning.wishes import balanced_labels
from denoiselab.errors import RunError
from denoiselab.runs import export as exports
from denoiselab.runs.identity import code_version

pytestmark = pytest.mark.slow
QUICK = """
    backbone.channels=8 batch_size=8 sampler=dpmpp_2m sampler.steps=3 spacing=quadratic metrics=none likelihood=none
    callbacks.samples.n=4 callbacks.denoising.n=1 trainer=cpu trainer.max_steps=6 logger=csv ema.decay=[0.9,0.5]
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A U-Net after six steps, with two averages of them."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    command = [sys.executable, str(ROOT / "train.py"), *QUICK.split(), f"hydra.run.dir={folder}"]
    done = subprocess.run(command, cwd=folder.parent, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture
def moved(run, monkeypatch, capsys, tmp_path) -> Path:
    """An exported file in a folder of its own, while the run's folder is not there."""
    status, _, err = say(monkeypatch, capsys, "export", f"run={run}")
    assert status == 0, err
    (tmp_path / "elsewhere").mkdir()
    file = (run / "export" / "model.safetensors").rename(tmp_path / "elsewhere" / "digits.safetensors")
    away = run.rename(run.with_name("away"))
    monkeypatch.chdir(tmp_path)
    yield file
    away.rename(run)


def test_the_file_tells_any_program_what_it_holds(run, monkeypatch, capsys):
    status, _, err = say(monkeypatch, capsys, "export", f"run={run}", "ema.decay=0.5")
    assert status == 0, err
    assert not list(run.rglob("*.part"))
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    weights = load_file(run / "export" / "model.safetensors")
    averaged = state["ema"]["others"]["decay=0.5"]
    assert weights.keys() == averaged.keys()
    assert all(w.dtype == torch.float32 and torch.equal(w, averaged[name]) for name, w in weights.items())
    with safe_open(run / "export" / "model.safetensors", "np") as file:
        told = file.metadata()
    assert json.loads(told["config"]) == state["denoiselab"]["config"]
    assert json.loads(told["image_shape"]) == [1, 8, 8]
    assert json.loads(told["class_names"]) == [str(i) for i in range(int(told["num_classes"]))]
    assert (told["step"], told["ema"], told["checkpoint"], told["denoiselab"]) == ("6", "decay=0.5", "last", "1")
    assert told["code"] == code_version()


@pytest.mark.parametrize("words", [[], ["spacing=trailing", "guidance.scale=2"], ["sampler=heun", "float64=true"]])
def test_images_of_the_file_are_those_of_the_run(run, moved, words, monkeypatch, capsys):
    made = {}
    for name, given in {"file": moved, "run": run.with_name("away")}.items():
        where = Path(f"{name}_of_{len(words)}").resolve()
        status, _, err = say(monkeypatch, capsys, "sample", f"run={given}", f"hydra.run.dir={where}", "n=5", *words)
        assert status == 0, err
        facts = json.loads((where / "sample.json").read_text())
        assert Path(facts.pop("run")) == given
        made[name] = facts, [path.read_bytes() for path in sorted((where / "images").iterdir())]
    assert made["file"] == made["run"]
    assert len(made["run"][1]) == 5


def test_what_is_made_of_the_file_lies_in_a_folder_named_as_the_file(moved, monkeypatch, capsys):
    status, _, err = say(monkeypatch, capsys, "sample", f"run={moved}", "n=1")
    assert status == 0, err
    (picture,) = moved.parent.rglob("grid.png")
    assert picture.relative_to(moved.parent).parts[:2] == ("digits", "sample")


def test_figures_of_the_file_are_those_of_the_run(run, moved, monkeypatch, capsys):
    figures = {}
    for name, given in {"file": moved, "run": run.with_name("away")}.items():
        words = [f"run={given}", f"hydra.run.dir={name}", "metrics=none", "likelihood=bound", "likelihood.n=20"]
        status, _, err = say(monkeypatch, capsys, "evaluate", *words)
        assert status == 0, err
        figures[name] = json.loads(Path(name, "metrics.json").read_text())
    apart = {key for key in figures["run"] if figures["run"][key] != figures["file"][key]}
    assert figures["run"]["bits_per_dim"] > 0
    assert apart - {"seconds", "likelihood.seconds"} == {"run"}


def test_a_program_loads_the_file_in_two_lines_and_without_lightning(run, moved):
    code = """if True:
        from denoiselab import load
        pipeline, recipe, about = load("elsewhere/digits.safetensors")
        import sys, torch
        images = pipeline.sample(recipe, range(3), torch.arange(3), seed=4).images
        torch.save([images, about["class_names"], "pytorch_lightning" in sys.modules], "made.pt")
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    images, names, lightning = torch.load("made.pt", weights_only=True)
    model = load(run.with_name("away"))
    assert torch.equal(images, model.pipeline.sample(model.recipe, range(3), balanced_labels(range(3), 10), 4).images)
    assert names == model.about["class_names"]
    assert not lightning


def altered(file: Path, sealed: bool = False, **changes) -> None:
    """The same weights with other metadata; sealed: as if export.py had written them."""
    with safe_open(file, "np") as opened:
        told = {**opened.metadata(), **changes}
    if sealed:
        told["sha256"] = exports._digest(load_file(file), told)
    save_file(load_file(file), file, told)


def with_target(file: Path, axis: str, target: str) -> None:
    config = exports.about(file)["config"]
    config[axis] = {"_target_": target, "command": "touch caught"}
    altered(file, config=json.dumps(config))


def flip_a_bit(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1000] ^= 1
    file.write_bytes(data)


SPOILED = {
    "gone": (Path.unlink, "is no file; python export.py"),
    "cut": (lambda file: file.write_bytes(file.read_bytes()[:-1000]), "is damaged or no safetensors file"),
    "emptied": (lambda file: file.write_bytes(b""), "is damaged or no safetensors file"),
    "another kind": (lambda file: torch.save({}, file), "is damaged or no safetensors file"),
    "a bit": (flip_a_bit, "does not hold what was exported"),
    "foreign": (lambda file: save_file(load_file(file), file), "is not of denoiselab"),
    "newer": (lambda file: altered(file, denoiselab="2"), "is of format 2, and this denoiselab reads 1"),
    "half told": (lambda file: altered(file, config="{"), "its metadata are not whole"),
    "other network": (lambda file: altered(file, sealed=True, image_shape="[3, 8, 8]"), "of another version"),
    "a command": (lambda file: with_target(file, "codec", "os.system"), "wants os.system called"),
    "a training": (
        lambda file: with_target(file, "schedule", "denoiselab.tools.selftest.train"),
        "wants denoiselab.tools.selftest",
    ),
    "an edit": (lambda file: altered(file, step="7"), "does not hold what was exported"),
    "a hidden one": (lambda file: with_target(file, "data", "denoiselab.files.os.system"), "wants denoiselab.files.os"),
    "nowhere": (lambda file: with_target(file, "codec", "my_codecs.Own"), "needs my_codecs.Own, which is not here"),
    "a detour": (lambda file: altered(file, config='{"codec": "${evil}"}'), "is not resolved"),
}


@pytest.mark.parametrize("what", SPOILED)
def test_a_file_that_is_damaged_or_not_ours_is_told_in_one_line_and_nothing_in_it_is_run(
    moved, what, monkeypatch, capsys
):
    spoil, told = SPOILED[what]
    spoil(moved)
    status, _, err = say(monkeypatch, capsys, "sample", f"run={moved}", "n=1", "hydra.run.dir=made")
    assert (status, err.count("\n")) == (2, 1), err
    assert told in err
    assert not Path("made").exists()
    assert not Path("caught").exists()


@pytest.mark.parametrize(
    ("command", "words", "told"),
    [
        ("sample", ["ema.decay=0.5"], "ema.decay=0.5 is another average than decay=0.9"),
        ("evaluate", ["ema.sigma_rel=0.1"], "ema.sigma_rel=0.1 is another average than decay=0.9"),
        ("sample", ["checkpoint=best"], "was made of checkpoint=last"),
        ("sample", ["schedule=linear"], "schedule=linear cannot be changed with run="),
        ("export", [], "is an exported file already"),
    ],
)
def test_what_the_file_does_not_hold_is_refused(moved, command, words, told, monkeypatch, capsys):
    status, _, err = say(monkeypatch, capsys, command, f"run={moved}", *words)
    assert (status, err.count("\n")) == (2, 1), err
    assert told in err


@pytest.mark.parametrize(
    ("words", "told"), [([], "run is required"), (["run=."], "no .hydra"), (["ema.decay=0.7"], "there is decay=0.9")]
)
def test_what_cannot_be_exported_is_told_in_one_line(run, words, told, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    given = words if words in ([], ["run=."]) else [f"run={run}", *words]
    status, _, err = say(monkeypatch, capsys, "export", *given, "hydra.run.dir=made")
    assert (status, err.count("\n")) == (2, 1), err
    assert told in err
    assert not Path("made").exists()


def test_a_file_that_cannot_be_written_leaves_the_one_before_it(tmp_path):
    """The limit on the size of a file stands for a full disk: the system refuses the same call."""
    path = tmp_path / "model.safetensors"
    exports.write(path, {"w": torch.arange(10.0)}, {"step": 1})
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(RunError, match=r"model\.safetensors could not be written \(File too large\)"):
            exports.write(path, {"w": torch.zeros(10_000)}, {"step": 2})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
