"""evaluate.py over several runs, again, after it was killed, and what it leaves behind, by the real command line."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from PIL import Image

from denoiselab.assembly.configuration import CONF, Loader, plain, without_hydra
from denoiselab.assembly.sampling import recipe
from denoiselab.cli import main, named_runs
from denoiselab.conditioning.wishes import balanced_labels
from denoiselab.errors import RunError
from denoiselab.pictures import grid
from denoiselab.runs import evaluations as kept
from denoiselab.runs import identity, state
from denoiselab.runs.configuration import saved_config
from denoiselab.runs.load import open_run
from test_logging import records, run_record

TRAINED = """
    data=image_folder data.size=8 data.channels=1 data.test_fraction=0.3 batch_size=8 backbone=mlp backbone.width=16
    backbone.depth=1 sampler.steps=3 trainer=cpu trainer.max_steps=2 callbacks.samples=null callbacks.denoising=null
    metrics=fid metrics.n=20 likelihood=none
"""
QUICK = ["metrics=fid", "n=30", "device=cpu", "logger=csv"]


class Said(NamedTuple):
    status: int
    out: str
    err: str


def say(command: str, *words: str) -> Said:
    """A command, in this process."""
    out, err, status = StringIO(), StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", [str(CONF.parent / f"{command}.py"), *words])
        GlobalHydra.instance().clear()
        try:
            main(command)
        except SystemExit as stop:
            status = int(stop.code or 0)
    return Said(status, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """data/: 80 dark and 80 light images. sweep/: two runs, by the default logger. cache/."""
    place, rng = tmp_path_factory.mktemp("place"), np.random.default_rng(0)
    for name, low in (("dark", 0), ("light", 128)):
        (place / "data" / name).mkdir(parents=True)
        for i in range(80):
            picture = Image.fromarray(rng.integers(low, low + 128, (8, 8), dtype=np.uint8))
            picture.save(place / "data" / name / f"{i}.png")
    where = [f"data.root={place / 'data'}", f"cache={place / 'cache'}", f"hydra.sweep.dir={place / 'sweep'}"]
    said = say("train", "-m", *TRAINED.split(), *where, "schedule=linear,cosine")
    assert said.status == 0, said.err
    return place


@pytest.fixture
def there(place, tmp_path, monkeypatch) -> Path:
    """A copy of the sweep, in the folder that commands are given in."""
    shutil.copytree(place / "sweep", tmp_path / "sweep")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def evaluated(place: Path, *words: str) -> Said:
    flags = [word for word in words if word == "-m"]
    said = say("evaluate", *flags, *QUICK, f"cache={place / 'cache'}", *words[len(flags) :])
    assert said.status == 0, said.err
    assert "Traceback" not in said.out + said.err
    return said


def figures(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())


def found(run: Path) -> list[Path]:
    """The evaluations of a run, the oldest first."""
    paths = (run / "evaluate").rglob("metrics.json")
    return [path.parent for path in sorted(paths, key=lambda path: path.stat().st_mtime_ns)]


def table(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


# Several runs


@pytest.mark.slow
def test_a_sweep_of_trainings_ends_with_a_table_of_what_its_jobs_have_for_their_own(place):
    rows = table(place / "sweep" / "table.csv")
    assert [row["schedule"] for row in rows] == ["linear", "cosine"]
    for row, job in zip(rows, ("0", "1"), strict=True):
        made = figures(place / "sweep" / job)
        assert (float(row["figure"]), float(row["floor"])) == (made["fid"], made["floor"])
        assert float(row["seconds"]) == made["train_seconds"]
    lines = (place / "sweep" / "table.md").read_text().splitlines()
    assert lines[0].startswith("| schedule | fid |")
    assert lines[2].startswith("| linear | ")


@pytest.mark.slow
def test_a_sweeps_folder_stands_for_its_runs_and_one_table_has_each_of_them_under_each_setting(place, there):
    said = evaluated(place, "-m", "run=sweep", "sampler=ddim,heun", "sampler.steps=4")
    (made,) = (there / "outputs" / "evaluations").iterdir()
    rows = table(made / "table.csv")
    words = [(row["run"], row["schedule"], row["sampler"], row["nfe"]) for row in rows]
    schedules = {"sweep/0": "linear", "sweep/1": "cosine"}
    assert words == [(run, schedules[run], *how) for run in schedules for how in (("ddim", "4"), ("heun", "7"))]
    for row in rows:
        own = figures(Path(row["folder"]))
        assert (own["run"], own["fid"], own["nfe"]) == (row["run"], float(row["figure"]), int(row["nfe"]))
    lines = (made / "table.md").read_text().splitlines()
    assert len([line for line in lines if line.startswith("| sweep/")]) == 4
    assert "samples of seed 0: sample i starts from the same noise in all rows" in lines[-1]
    assert "4 of 4 jobs finished" in said.out
    assert "\n".join(lines[:2]) in said.out
    assert [line.partition(",")[0] for line in said.err.splitlines() if line.startswith("evaluations:")] == [
        f"evaluations: {i}/4" for i in range(1, 5)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "multirun"),
    [
        (["run=[sweep/0,sweep/1]"], False),
        (["run=sweep/0,sweep/1"], True),
        (["run=sweep"], False),
        (["run=sweep/*"], False),
        (["run='s*'"], True),
        (["run=[sweep/0,'sweep/1']", "seed=1"], False),
    ],
)
def test_runs_are_named_in_a_list_by_commas_by_a_sweep_or_by_a_pattern(words, multirun, there):
    turns = named_runs.turns(words, multirun)
    assert [turn[-1] for turn in turns] == ["run='sweep/0'", "run='sweep/1'"]
    assert all(turn[:-1] == words[1:] for turn in turns)


@pytest.mark.slow
def test_jobs_of_a_sweep_that_are_not_finished_are_left_out_and_that_is_said(there, capsys):
    state.write(there / "sweep" / "0", status="failed")
    assert named_runs.turns(["run=sweep"], False) == [["run='sweep/1'"]]
    assert capsys.readouterr().err == "run=sweep: 1 of 2 runs are not finished and are left out\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["run=sweep/0", "run=sweep/1"], "run=sweep/0 and run=sweep/1 are given both; for several runs write run=["),
        (["run=[sweep/0,./sweep/0]"], "run=sweep/0 is named twice"),
        (["run=sweep/0,sweep/1"], "add -m to evaluate each, or write run=["),
        (["run=[]"], "names no run"),
        (["run=[sweep/0,sweep/7]"], "run=sweep/7 is no folder"),
        (["run=nothing/*"], "run=nothing/* matches no run's folder"),
        (["run=[sweep/0,cut]"], "cut has no checkpoint last.ckpt; it was stopped before it saved one"),
        (["run=cut"], "cut has no checkpoint last.ckpt; it was stopped before it saved one"),
        (["run=sweep", "checkpoint=previous"], "has no checkpoint previous.ckpt; there is checkpoint="),
        (["run=broken"], "run=broken has no finished run, of 1"),
        (["run=sweep/0", "n=0"], "n must be at least 1 (got 0)"),
        (["run=sweep", "hydra.run.dir=here"], "hydra.run.dir=here is one folder, and these are 2 runs"),
        (["-m", "run=sweep", "sampler=ddim,hein"], "sampler=hein does not exist"),
        (["run=sweep", "schedule=flow"], "schedule=flow cannot be changed with run=sweep/0"),
        (["run=sweep/0", "data.root=data"], "data.root=data"),
    ],
)
def test_a_slip_is_told_in_one_line_before_anything_is_evaluated(words, told, there):
    (there / "cut").mkdir()
    shutil.copytree(there / "sweep" / "0" / ".hydra", there / "cut" / ".hydra")
    (there / "broken").mkdir()
    shutil.copytree(there / "cut", there / "broken" / "0")
    shutil.copy(there / "sweep" / "multirun.yaml", there / "broken")
    said = say("evaluate", *words)
    assert said.status == 2
    assert told.replace("data.root=data", str(there / "data")) in said.err
    assert said.err.count("\n") == 1, said.err
    assert not list(there.rglob("metrics.json")) or not found(there / "sweep" / "0")
    assert not (there / "outputs").exists()


@pytest.mark.slow
def test_when_one_run_cannot_be_evaluated_the_others_are_and_the_exit_status_is_one(place, there):
    (there / "sweep" / "0" / "checkpoints" / "last.ckpt").write_bytes(b"cut off")
    said = say("evaluate", *QUICK, f"cache={place / 'cache'}", "run=sweep")
    assert said.status == 1
    assert "1 of 2 jobs finished" in said.out
    assert "last.ckpt is damaged" in said.out
    assert figures(found(there / "sweep" / "1")[0])["step"] == 2


@pytest.mark.slow
def test_runs_of_other_data_stand_in_tables_of_their_own(place, there):
    """Half of the images are other data: their features, and the classifier that finds them, are others."""
    shutil.copytree(place / "data", there / "half", ignore=shutil.ignore_patterns("1*.png"))
    words = [*TRAINED.split(), "logger=csv", f"data.root={there / 'half'}", f"cache={place / 'cache'}"]
    assert say("train", *words, f"hydra.run.dir={there / 'other'}").status == 0
    said = evaluated(place, "run=[sweep/0,other,sweep/1]")
    told = "2 tables, whose figures cannot be compared with one another: data, data_fingerprint, split, extractor"
    assert told in said.out
    (made,) = (there / "outputs" / "evaluations").glob("*/table.md")
    tables = [part for part in made.read_text().split("\n\n") if part.startswith("|")]
    assert [["sweep/0" in part, "other" in part, "sweep/1" in part] for part in tables] == [
        [True, False, True],
        [False, True, False],
    ]


# Again, and after an interruption


@pytest.mark.slow
def test_what_was_evaluated_before_is_taken_until_it_is_asked_for_again(place, there):
    evaluated(place, "run=sweep/0")
    (first,) = found(there / "sweep" / "0")
    said = evaluated(place, "run=sweep/0", "device=auto", "logger=wandb")
    assert f"evaluated before, in {os.path.relpath(first)}; again=true evaluates anew" in said.err.replace("\n", " ")
    assert found(there / "sweep" / "0") == [first]
    assert len(list((there / "sweep" / "0" / "evaluate").iterdir())) == 1, "nothing is left of the second start"
    said = evaluated(place, "-m", "run=sweep/0", "sampler.steps=2,3")
    assert "2 of 2 jobs finished" in said.out
    made = {(figures(p)["sampler.steps"], "copy_of" in state.read(p)) for p in found(there / "sweep" / "0")}
    assert made == {(3, False), (2, False), (3, True)}, "the run itself has 3 steps"
    time.sleep(1.1)  # folders are named by the second
    said = evaluated(place, "run=sweep/0", "again=true")
    assert "evaluated before" not in said.err
    before, now = figures(first), figures(found(there / "sweep" / "0")[-1])
    times = ("seconds", "sampling_seconds")
    assert {k: v for k, v in before.items() if k not in times} == {k: v for k, v in now.items() if k not in times}


def killed_in_batch(batch: int, number: int, words: list[str]) -> None:
    """In a process of its own: a signal before this batch of samples; all batches before it are kept."""
    from denoiselab.metrics import generation
    from denoiselab.pipeline import Pipeline

    generation.EVERY = 0.0
    real, calls = Pipeline.sample, 0

    def signalling(self, recipe, indices, *args, **more):
        nonlocal calls
        calls += 1
        if calls == batch:
            os.kill(os.getpid(), number)
        return real(self, recipe, indices, *args, **more)

    Pipeline.sample = signalling
    os._exit(say("evaluate", *words).status)


def ended(*args: object) -> int:
    """The exit status of a forked process, negative for a signal."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["conftest", "denoiselab.cli.evaluate", "test_evaluate_runs"])
    process = context.Process(target=killed_in_batch, args=args)
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143)])
def test_an_evaluation_that_is_killed_is_gone_on_with_by_the_same_command(number, status, place, there, monkeypatch):
    words = [*QUICK, f"cache={place / 'cache'}", "batch_size=5", "n=30", "sampler.steps=4"]
    whole = evaluated(place, *words, "run=sweep/0")
    assert whole.status == 0
    (first,) = found(there / "sweep" / "0")
    shutil.move(first, there / "whole")
    assert ended(6 + 4, number, [*words, "run=sweep/0"]) == status
    (cut,) = (path.parent for path in (there / "sweep" / "0").rglob("saved.pt"))
    assert torch.load(cut / "saved.pt", weights_only=True)["done"] == 15
    assert state.read(cut)["status"] == ("running" if number == signal.SIGKILL else "interrupted")
    made = []
    from denoiselab.pipeline import Pipeline

    real = Pipeline.sample
    monkeypatch.setattr(
        Pipeline, "sample", lambda self, *args, **more: (made.extend(args[1]), real(self, *args, **more))[1]
    )
    time.sleep(1.1)
    evaluated(place, *words, "run=sweep/0")
    assert made == list(range(15, 30)), "the picture and the first batches were there"
    times = ("seconds", "sampling_seconds")
    (last,) = found(there / "sweep" / "0")
    assert {k: v for k, v in figures(last).items() if k not in times} == {
        k: v for k, v in figures(there / "whole").items() if k not in times
    }
    assert (last / "grid.png").exists()
    assert not list((there / "sweep" / "0").rglob("saved.pt"))
    assert not list((there / "sweep" / "0").rglob("part.*"))


@pytest.mark.slow
def test_the_part_that_is_done_is_kept_when_the_other_is_interrupted(place, there, monkeypatch):
    words = ["run=sweep/0", "likelihood=bound", "likelihood.n=4"]

    def stopped(*_):
        os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr("denoiselab.metrics.LikelihoodEvaluation.__call__", stopped)
        said = say("evaluate", *QUICK, f"cache={place / 'cache'}", *words)
    assert said.status == 143
    assert said.err.splitlines()[-1] == "evaluate.py: SIGTERM: the same command goes on from here"
    assert not found(there / "sweep" / "0")
    time.sleep(1.1)
    with monkeypatch.context() as patch:
        patch.setattr("denoiselab.metrics.Evaluation.__call__", stopped)  # is not needed any more
        evaluated(place, *words)
    made = figures(found(there / "sweep" / "0")[0])
    assert {"fid", "bits_per_dim"} <= set(made)
    assert made["headline"] == "fid"


def test_two_processes_do_not_evaluate_the_same_at_once(tmp_path):
    home = tmp_path / "evaluate"
    for name in "abc":
        (home / name).mkdir(parents=True)
    with kept.evaluating(home / "a", home, "same"):
        with (
            pytest.raises(RunError, match=f"just now in .*a, by process {os.getpid()}"),
            kept.evaluating(home / "b", home, "same"),
        ):
            pass
        with kept.evaluating(home / "c", home, "other") as work:
            assert work.finished is None
    with kept.evaluating(home / "b", home, "same") as work:
        assert work.finished is None, "the first has ended without figures"


# What decides the figures


@pytest.fixture
def hashed(place):
    """The identity that words give to an evaluation of a run."""

    def of(*words: str, job: str = "0", looked_through: str = "digest") -> str:
        given = [f"run={place / 'sweep' / job}", "metrics=fid", *words]
        cfg = without_hydra(Loader("evaluate", saved=saved_config).load_configuration("evaluate", given, RunMode.RUN))
        pipeline, trained, about = open_run(cfg.run, cfg.checkpoint, torch.device("cpu"), cfg.ema)
        from hydra.utils import instantiate

        return identity.identity(cfg, trained, pipeline, instantiate(trained.data), looked_through, about["origin"])

    return of


@pytest.mark.slow
def test_what_decides_figures_is_in_their_identity_and_nothing_else(hashed, monkeypatch, tmp_path):
    own = hashed()
    for free in ("device=cpu", "cache=elsewhere", "logger=csv", "logger.tags=[x]", "again=true", "checkpoint=best"):
        assert hashed(free) == own, free
    telling = ("n=7", "seed=1", "batch_size=3", "sampler=ddpm", "sampler.steps=5", "spacing=log_snr", "float64=true")
    telling += ("guidance.scale=2", "threshold=none", "likelihood=bound", "metrics=all", "metrics.keep=9")
    others = [hashed(word) for word in telling]
    others += [hashed(job="1"), hashed(looked_through="another"), own]
    assert len(set(others)) == len(others)


@pytest.mark.slow
def test_a_changed_line_of_the_package_or_of_a_part_of_ones_own_gives_no_old_figure_back(hashed, monkeypatch, tmp_path):
    own = hashed()
    (tmp_path / "my_samplers.py").write_text("from denoiselab.samplers import DDIM\n")
    monkeypatch.syspath_prepend(tmp_path)
    import my_samplers  # noqa: F401

    word = "sampler._target_=my_samplers.DDIM"
    before = hashed(word)
    assert before not in (own, None)
    (tmp_path / "my_samplers.py").write_text("from denoiselab.samplers import DDIM  # another\n")
    assert hashed(word) != before
    monkeypatch.setattr(identity, "source", lambda: "of other files")
    assert hashed() != own


def test_the_hash_of_the_source_is_that_of_every_file_of_the_package_wherever_it_lies(monkeypatch, tmp_path):
    own = identity.source()
    shutil.copytree(identity.PACKAGE, tmp_path / "denoiselab")
    monkeypatch.setattr(identity, "PACKAGE", tmp_path / "denoiselab")
    assert identity.source.__wrapped__() == own
    for path in (tmp_path / "denoiselab" / "guidance.py", tmp_path / "denoiselab" / "samplers" / "ddim.py"):
        whole = path.read_text()
        path.write_text(whole + "\n")
        assert identity.source.__wrapped__() != own
        path.write_text(whole)
    assert identity.source.__wrapped__() == own


# What it leaves behind


@pytest.mark.slow
def test_the_folder_has_the_first_samples_of_the_seed_and_figures_with_their_provenance(place, there):
    evaluated(place, "run=sweep/0", "n=50", "batch_size=40", "seed=5")
    (folder,) = found(there / "sweep" / "0")
    made = figures(folder)
    pipeline, cfg, _ = open_run("sweep/0", "last", torch.device("cpu"))
    samples = pipeline.sample(recipe(cfg), range(40), balanced_labels(range(40), 2), 5).images
    assert np.array_equal(np.asarray(Image.open(folder / "grid.png")), grid(samples, 10))
    expected = {"run": "sweep/0", "checkpoint": "last", "step": 2, "ema": "decay=0.999", "sample_seed": 5, "n": 50}
    assert expected.items() <= made.items()
    assert made["source"] == identity.source()
    assert made["code"] == identity.code_version()
    assert made["identity"] == state.read(folder)["identity"]
    assert made["data_fingerprint"] == figures(there / "sweep" / "0")["data_fingerprint"]


def wandb_run(folder: Path) -> tuple[Any, dict[str, Any], list[Any]]:
    """(the run, its summary, all records), read back from the disk."""
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    logged, summary = list(records(path)), {}
    for record in logged:
        if record.HasField("summary"):
            for item in record.summary.update:
                summary[".".join(item.nested_key) or item.key] = json.loads(item.value_json)
    return run_record(logged), summary, logged


@pytest.mark.slow
def test_an_evaluation_is_a_wandb_run_of_its_own_in_the_group_of_its_run(place, there):
    evaluated(place, "run=sweep/1", "logger=wandb", "logger.tags=[mine]", "sampler=heun", "sampler.steps=2")
    (folder,) = found(there / "sweep" / "1")
    run, summary, logged = wandb_run(folder)
    trained = wandb_run(there / "sweep" / "1")[0]
    assert (run.job_type, run.run_group, run.project) == ("evaluate", trained.run_group, "denoiselab")
    assert trained.run_group == "sweep"
    assert run.run_id != trained.run_id
    assert {"mine", "sampler=heun", "schedule=cosine", "backbone=mlp", "metrics=fid"} <= set(run.tags)
    assert not any("from_run" in tag for tag in run.tags)
    config = {item.key: json.loads(item.value_json) for item in run.config.update}
    assert (config["run"], config["step"], config["sampler"]["steps"]) == ("sweep/1", 2, 2)
    assert config["trained"]["schedule"] == plain(open_run("sweep/1", "last", torch.device("cpu"))[1])["schedule"]
    assert {k: summary[k] for k in ("fid", "floor", "n", "nfe", "sampler", "identity")}.items() <= figures(
        folder
    ).items()
    (image,) = folder.glob("wandb/offline-run-*/files/media/images/samples_*.png")
    assert np.array_equal(np.asarray(Image.open(image).convert("L")), np.asarray(Image.open(folder / "grid.png")))
    assert [record.exit.exit_code for record in logged if record.HasField("exit")] == [0]


@pytest.mark.slow
def test_a_wandb_run_is_closed_as_failed_when_the_evaluation_fails(place, there, monkeypatch):
    def fails(*_):
        raise RunError("it fails")

    monkeypatch.setattr("denoiselab.metrics.Evaluation.__call__", fails)
    said = say("evaluate", *QUICK, f"cache={place / 'cache'}", "run=sweep/0", "logger=wandb")
    assert said.status == 2
    (folder,) = (there / "sweep" / "0" / "evaluate").iterdir()
    assert [r.exit.exit_code for r in wandb_run(folder)[2] if r.HasField("exit")] == [1]
    assert state.read(folder)["status"] == "failed"


@pytest.mark.slow
def test_an_exact_denoiser_is_in_the_group_analytic(place, there):
    evaluated(
        place, "analytic=gaussian", "data=moons", "data.train=50", "data.test=40", "metrics=points", "logger=wandb"
    )
    (folder,) = (path.parent for path in (there / "outputs").rglob("metrics.json"))
    run, summary, _ = wandb_run(folder)
    assert (run.job_type, run.run_group) == ("evaluate", "analytic")
    assert summary["analytic"] == "gaussian"
    assert Image.open(folder / "points.png").width == round(2 * 2.4 * 110)


# Data that have moved, runs that go on


@pytest.mark.slow
def test_data_that_have_moved_are_found_by_data_root_and_other_data_are_refused(place, there):
    shutil.copytree(place / "data", there / "moved")
    evaluated(place, "run=sweep/0", "data.root=moved")
    (folder,) = found(there / "sweep" / "0")
    said = evaluated(place, "run=sweep/0")
    assert f"evaluated before, in {os.path.relpath(folder)}" in said.err, "they are the same wherever they lie"
    (there / "moved" / "dark" / "0.png").unlink()
    said = say("evaluate", *QUICK, f"cache={place / 'cache'}", "run=sweep/0", "data.root=moved")
    assert said.status == 2
    assert "holds other data than run=sweep/0 was trained on" in said.err
    assert said.err.count("\n") == 1


@pytest.mark.slow
def test_a_run_that_is_still_training_is_evaluated_as_it_is_and_that_is_said(place, there):
    with state.running(there / "sweep" / "0", "training"):
        said = evaluated(place, "run=sweep/0")
    assert "sweep/0 is still training: this is of its checkpoint=last, of step 2" in said.err


@pytest.mark.slow
def test_an_export_says_that_it_replaces_an_earlier_one(there):
    assert "in place of" not in say("export", "run=sweep/0").err
    assert "replaces an earlier export" in say("export", "run=sweep/0").err


@pytest.mark.slow
def test_where_a_run_is_named_wrongly_torch_is_not_waited_for(there):
    code = "import sys; sys.argv = ['evaluate.py', 'run=[sweep/0,nowhere]']; import atexit"
    code += (
        "; atexit.register(lambda: print('torch' in sys.modules)); from denoiselab.cli import main; main('evaluate')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout.strip() == "False"
