"""What goes wrong around a training, injected for real: the command line says one line, and nothing good is lost.

Signals, killed processes and torchrun are in test_processes.py.
"""

import json
import os
import pickle
import resource
import subprocess
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_main import say

from denoiselab.errors import RunError
from denoiselab.runs.checkpoint import read as read_checkpoint

SMALL = ["data=digits", "backbone=mlp", "backbone.width=16", "backbone.depth=1", "batch_size=8", "sampler.steps=3"]
SMALL += ["metrics=none", "likelihood=none", "logger=csv", "trainer=cpu", "trainer.max_steps=6"]
SMALL += ["trainer.val_check_interval=1000", "callbacks.samples.n=4", "callbacks.samples.columns=2"]
SMALL += ["callbacks.denoising.n=1"]


def without_announcement(told: str) -> str:
    """What was said on stderr but for the line with which training begins."""
    return "".join(line for line in told.splitlines(keepends=True) if " images a step" not in line)


@pytest.fixture
def train(monkeypatch, capsys, tmp_path):
    """Runs train.py in this process; its status, and what it says on stderr: one line where it is stopped."""

    def run(*words: str, folder: Path = tmp_path / "run") -> tuple[int, str]:
        given = {word.partition("=")[0] for word in words}
        base = [word for word in SMALL if word.partition("=")[0] not in given]
        where = [] if any(word.startswith("hydra.") for word in words) else [f"hydra.run.dir={folder}"]
        status, out, err = say(monkeypatch, capsys, "train", *words, *base, *where)
        assert "Traceback" not in out + err
        err = without_announcement(err)
        assert status == 0 or err.count("\n") == 1, err
        return status, err

    return run


def step_of(folder: Path, name: str = "last") -> int:
    return read_checkpoint(folder / "checkpoints" / f"{name}.ckpt")["global_step"]


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


def state(folder: Path) -> tuple[str, str]:
    told = json.loads((folder / "run.json").read_text())
    return told["status"], told["error"]


@pytest.mark.slow
def test_a_learning_rate_that_diverges_stops_the_run_and_names_the_last_good_checkpoint(train, tmp_path):
    status, err = train("optimizer.lr=1e30", "callbacks.checkpoint.every_n_train_steps=1")
    assert status == 1
    assert "the gradients are NaN or infinite" in err
    assert "try a smaller optimizer.lr" in err
    step = step_of(tmp_path / "run")
    assert f"last.ckpt of step {step} is good" in err
    assert state(tmp_path / "run")[0] == "failed"
    weights = read_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")["state_dict"].values()
    assert all(value.isfinite().all() for value in weights)


@contextmanager
def limited(kind: int, value: int):
    """A limit of the operating system on this process."""
    before = resource.getrlimit(kind)
    resource.setrlimit(kind, (value, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(kind, before)


def address_space() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="this system does not say what a process has")
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ["batch_size=50000", "backbone.width=2048"],
            "out of memory with 50000 images at once; trainer.accumulate_grad_batches=2 computes 25000 at once, "
            "and a step is of batch_size=50000 images as before",
        ),
        (
            ["callbacks.samples.n=100000", "backbone.width=1024", "callbacks.samples.batch_size=100000"],
            "out of memory in SampleGrid, which stands beside the training; callbacks.samples.batch_size=100000 is too "
            "much, take 50000",
        ),
        (["backbone.width=30000"], "out of memory while the network was made; take a smaller backbone"),
    ],
    ids=["training", "sampling", "network"],
)
def test_without_memory_one_line_says_what_to_take_less_of(words, told, train, tmp_path):
    """The allocator's own refusal, under a limit of the operating system."""
    train()  # what is imported and started at the first training takes its room before
    with limited(resource.RLIMIT_AS, address_space() + 300 * 2**20):
        status, err = train(*words, folder=tmp_path / "other")
    assert (status, err) == (1, f"train.py: {told}\n")
    if (tmp_path / "other").exists():  # training had begun
        assert state(tmp_path / "other") == ("failed", f"BrokenRunError: {told}")


@pytest.fixture
def disk(tmp_path):
    """A file system of its own, of a few hundred kilobytes; where one cannot be mounted the test is left out."""
    path = tmp_path / "disk"
    path.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", path], capture_output=True, check=False)
    if made.returncode:
        pytest.skip("no file system can be mounted here")
    yield path
    subprocess.run(["umount", path], check=True)


@pytest.mark.slow
def test_on_a_full_disk_the_checkpoint_before_stays_and_no_part_of_another_is_left(disk, train):
    """There is room for one checkpoint of 176 kB, and not for two."""
    status, err = train("callbacks.checkpoint.every_n_train_steps=2", folder=disk / "run")
    assert status == 1
    assert "last.ckpt could not be written (No space left on device); the one before it is as it was" in err
    assert step_of(disk / "run") == 2
    assert {path.name for path in (disk / "run" / "checkpoints").iterdir()} == {"last.ckpt"}
    assert state(disk / "run")[0] == "failed"


@pytest.mark.slow
def test_a_full_disk_is_told_when_pictures_and_tables_find_it_too(disk, train):
    (disk / "other").write_bytes(b"0" * 2**10 * 220)
    words = ["callbacks.samples.every=1", "callbacks.samples.n=400", "trainer.log_every_n_steps=1"]
    status, err = train(*words, "trainer.max_steps=100", folder=disk / "run")
    assert status == 1
    assert "could not be written (No space left on device); make room" in err
    assert "run resume=true goes on" in err
    for path in (disk / "run" / "samples").glob("*"):
        assert path.suffix == ".png"
        np.asarray(Image.open(path))  # whole


@pytest.mark.slow
def test_a_limit_on_the_size_of_files_is_told_as_a_full_disk_is(train, tmp_path):
    with limited(resource.RLIMIT_FSIZE, 100 * 2**10):
        status, err = train()
    assert status == 1
    assert "last.ckpt could not be written (File too large); there is none before it" in err
    assert not {name for name in files(tmp_path) if name.endswith((".ckpt", ".part", ".new"))}


@pytest.mark.slow
@pytest.mark.parametrize("what", ["under a file", "read-only", "a link to nowhere", "a sweep under a file"])
def test_a_folder_that_cannot_be_written_is_told_before_anything_is_done(what, train, tmp_path, request):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    where, why = {
        "under a file": (f"hydra.run.dir={tmp_path}/file/run", "Not a directory"),
        "a sweep under a file": (f"hydra.sweep.dir={tmp_path}/file/run", "Not a directory"),
        "read-only": (f"hydra.run.dir={tmp_path}/disk/run", "Read-only file system"),
        "a link to nowhere": (f"hydra.run.dir={tmp_path}/link/run", "File exists"),
    }[what]
    if what == "read-only":
        subprocess.run(["mount", "-o", "remount,ro", request.getfixturevalue("disk")], check=True)
    status, err = train(*(["-m", "seed=0,1"] if "sweep" in what else []), where)
    assert status == 2
    assert f"could not be written ({why}); give a folder that can be, as in hydra.run.dir=outputs/mine" in err
    assert files(tmp_path) == {"file"}


class Surprise:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "picture", "pickle", "another program's"])
def test_a_damaged_or_foreign_checkpoint_is_refused_and_the_one_before_it_offered(damage, trained, train, tmp_path):
    path = tmp_path / "run" / "checkpoints" / "last.ckpt"
    path.parent.mkdir(parents=True)
    whole = trained / "checkpoints" / "last.ckpt"
    path.with_name("previous.ckpt").write_bytes((trained / "checkpoints" / "previous.ckpt").read_bytes())
    (tmp_path / "run" / ".hydra").symlink_to(trained / ".hydra")
    if damage == "picture":
        Image.new("L", (8, 8)).save(path, "PNG")
    elif damage == "another program's":
        torch.save({"state_dict": {}, "epoch": 3}, path)
    else:
        path.write_bytes(
            {
                "truncated": whole.read_bytes()[:-100],
                "empty": b"",
                "text": b"weights: none\n",
                "pickle": pickle.dumps(Surprise(tmp_path / "made")),
            }[damage]
        )
    why = "is not a checkpoint of denoiselab" if damage == "another program's" else "is damaged or no checkpoint"
    with pytest.raises(RunError, match=f"last.ckpt {why}.*; there is checkpoint=previous of step 4$") as refused:
        read_checkpoint(path)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "made").exists()  # nothing in the file is run
    if damage == "truncated":  # as the command line has it, and what it offers
        assert train("resume=true") == (2, f"train.py: {refused.value}\n")
        assert train("resume=true", "checkpoint=previous")[0] == 0
        assert step_of(tmp_path / "run") == 6


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of six steps that has saved every second."""
    from _pytest.monkeypatch import MonkeyPatch

    from denoiselab.cli import main

    folder = tmp_path_factory.mktemp("trained")
    from hydra.core.global_hydra import GlobalHydra

    with MonkeyPatch.context() as patch:
        words = [*SMALL, "callbacks.checkpoint.every_n_train_steps=2", f"hydra.run.dir={folder}"]
        patch.setattr("sys.argv", ["train.py", *words])
        GlobalHydra.instance().clear()
        with pytest.raises(SystemExit) as ended:
            main("train")
    assert not ended.value.code
    return folder
