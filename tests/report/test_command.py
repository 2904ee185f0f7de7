"""report.py as a person types it, on runs that are made up and on a small sweep of real ones."""

import csv
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import synthetic
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from conftest import REPOSITORY
from denoiselab.assembly.configuration import Loader
from denoiselab.cli import main
from denoiselab.report.reading import find
from denoiselab.report.sweep import side_by_side as told


def say(monkeypatch, capsys, program: str, *words: str) -> tuple[int, str, str]:
    """(exit status, stdout, stderr) of a command, in this process."""
    monkeypatch.setattr(sys, "argv", [str(REPOSITORY / program), *words])
    GlobalHydra.instance().clear()
    status = 0
    try:
        main(program.removesuffix(".py"))
    except SystemExit as stop:
        status = int(stop.code or 0)
    out, err = capsys.readouterr()
    return status, out, err


@pytest.fixture
def sweep(tmp_path) -> Path:
    for i, (schedule, fid) in enumerate((("linear", 2.0), ("cosine", 1.0))):
        synthetic.run(tmp_path / "sweep" / str(i), {"schedule": schedule}, fid)
    return tmp_path / "sweep"


def test_a_report_is_three_files_and_what_it_comes_to_is_said(sweep, monkeypatch, capsys, tmp_path):
    status, out, err = say(monkeypatch, capsys, "report.py", f"run={sweep}", f"hydra.run.dir={tmp_path}/out")
    assert (status, err) == (0, "")
    assert out.startswith("Best: cosine, FID 1; the floor")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"report.html", "report.md", "report.csv", ".hydra"}


def test_several_folders_and_a_title_can_be_given(sweep, monkeypatch, capsys, tmp_path):
    words = [f"run=[{sweep}/0,{sweep}/1]", "title='Two schedules'", f"hydra.run.dir={tmp_path}/out"]
    status, _, err = say(monkeypatch, capsys, "report.py", *words)
    assert (status, err) == (0, "")
    assert (tmp_path / "out" / "report.md").read_text().startswith("# Two schedules\n\n2 runs, 2 sets of figures")


@pytest.mark.slow
def test_a_folder_of_reports_has_no_runs(sweep, monkeypatch, capsys, tmp_path):
    say(monkeypatch, capsys, "report.py", f"run={sweep}", f"hydra.run.dir={tmp_path}/reports/0")
    status, _, err = say(monkeypatch, capsys, "report.py", f"run={tmp_path}/reports", f"hydra.run.dir={tmp_path}/out")
    assert status == 2
    assert "has no runs in it" in err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "run is required; give run=<run folder>"),
        (["run=[]"], "run=[] names no folder; give a run's or a sweep's"),
        (["run={}/nowhere"], "nowhere is not there; give a run's or a sweep's folder"),
        (["run={}/sweep/0/checkpoints"], "checkpoints has no runs in it; give the folder of a run, of a sweep"),
        (["run=[{0}/sweep,{0}/other]"], "differ in data (and so do data_fingerprint): data=digits of 2, such as"),
        (["run={}/sweep", "where.n=5"], "where.n=5 is none of these figures'; there is n=1000 in 2"),
        (["run={}/sweep", "where.nn=5"], "where.nn is not an option here; did you mean where.n?"),
        (["run={0}/sweep,{0}/other"], "add -m to run one job for each"),
    ],
)
def test_a_slip_is_told_in_one_line_and_leaves_no_folder(sweep, words, told, monkeypatch, capsys, tmp_path):
    synthetic.run(tmp_path / "other" / "0", {}, 1.0, data="moons", data_fingerprint="x")
    given = [word.format(tmp_path) for word in words]
    status, out, err = say(monkeypatch, capsys, "report.py", *given, f"hydra.run.dir={tmp_path}/out")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert told in err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_report_needs_neither_torch_nor_lightning(sweep, tmp_path):
    code = "import sys; sys.argv[0] = 'report.py'\nfrom denoiselab.cli import main\ntry: main('report')\n"
    code += "finally: print(sorted({'torch', 'pytorch_lightning', 'wandb', 'sklearn'} & set(sys.modules)))"
    command = [sys.executable, "-c", code, f"run={sweep}", f"hydra.run.dir={tmp_path}/out"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=True, timeout=100)
    assert done.stdout.splitlines()[-1] == "[]"


POINTS = """
    experiment=points data=moons data.train=64 data.test=40 backbone.width=16 batch_size=8 sampler.steps=3
    likelihood=none callbacks.scatter=null callbacks.process=null trainer=cpu trainer.max_steps=4 logger=csv
"""


@pytest.mark.slow
def test_the_commands_of_a_row_make_its_figures_again(monkeypatch, capsys, tmp_path):
    """A sweep of real trainings and an evaluation of each; then what report.csv says is typed once more."""
    where = f"hydra.sweep.dir={tmp_path}/sweep"
    words = ["-m", "schedule=linear,cosine", "seed=0,1", *POINTS.split(), where]
    assert say(monkeypatch, capsys, "train.py", *words)[0] == 0
    for job in range(4):
        words = [f"run={tmp_path}/sweep/{job}", "metrics=points", "n=40", "sampler.steps=2", "device=cpu"]
        assert say(monkeypatch, capsys, "evaluate.py", *words)[0] == 0
    status, _, err = say(monkeypatch, capsys, "report.py", f"run={tmp_path}/sweep", f"hydra.run.dir={tmp_path}/out")
    assert status == 0, err
    lines = list(csv.DictReader((tmp_path / "out" / "report.csv").open(newline="")))
    assert len(lines) == 8
    assert {(line["word:schedule"], line["seed"], line["word:sampler.steps"]) for line in lines} == {
        (schedule, seed, steps) for schedule in ("linear", "cosine") for seed in "01" for steps in "23"
    }
    means = [
        sum(float(line["sliced_wasserstein"]) for line in lines if line["rank"] == rank) / 2
        for rank in ("1", "2", "3", "4")
    ]
    assert means == sorted(means)
    line = next(line for line in lines if line["word:sampler.steps"] == "2")
    trained, evaluated = (shlex.split(command)[1:] for command in line["command"].split(" && "))
    assert say(monkeypatch, capsys, *trained, f"hydra.run.dir={tmp_path}/again")[0] == 0
    moved = [f"run={tmp_path}/again" if word.startswith("run=") else word for word in evaluated]
    assert say(monkeypatch, capsys, *moved, f"hydra.run.dir={tmp_path}/again/evaluate/0")[0] == 0
    figures = json.loads((tmp_path / "again" / "evaluate" / "0" / "metrics.json").read_text())
    assert figures["sliced_wasserstein"] == float(line["sliced_wasserstein"])


def test_a_job_of_an_experiment_that_is_a_sweep_is_made_again_alone(tmp_path):
    """experiment=study trains 27 models; the command of one of them trains that one."""
    folder = synthetic.run(tmp_path / "0", {"seed": 1, "schedule": "flow", "experiment": "study"}, 1.0)
    path = folder / ".hydra" / "hydra.yaml"
    path.write_text(path.read_text().replace('"mode": "RUN"', '"mode": "MULTIRUN"'))
    ((command,),) = [row.commands for row in find([str(tmp_path)]).rows]
    assert str(command) == "python train.py seed=1 schedule=flow experiment=study hydra.mode=RUN"
    cfg = Loader("train").load_configuration("train", list(command.words), RunMode.RUN)
    assert cfg.hydra.mode.name == "RUN"


def test_a_sweeps_table_sets_apart_what_a_report_would_refuse(tmp_path):
    """Figures of another n, or through other weights of an extractor, are tables of their own."""
    more = ({}, {"n": 5000}, {"extractor_weights": "other"})
    jobs = [synthetic.run(tmp_path / str(i), {"seed": i}, 1.0, **own) for i, own in enumerate(more)]
    lines = told(jobs, tmp_path)
    assert lines[0] == "3 tables, whose figures cannot be compared with one another: extractor_weights, n"
    assert sum("the floor is at n 1000, not to be compared" in line for line in lines) == 1
