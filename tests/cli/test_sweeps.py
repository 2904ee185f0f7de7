"""Sweeps as a person types them: real launchers and their processes, a real Optuna study on SQLite, a real SIGKILL."""

import fcntl
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
import torch
from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from joblib import Parallel, delayed
from omegaconf import OmegaConf
from optuna.trial import TrialState
from PIL import Image
from test_main import say
from test_point_commands import Silent

from conftest import REPOSITORY, planned
from denoiselab.cli import resume, studies, sweeps
from denoiselab.errors import BrokenRunError, ConfigError, IncompatibleError, RunError
from test_logging import records, run_record

pytestmark = pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")

POINTS = """
    experiment=points data=moons data.train=64 data.test=40 backbone.width=16 batch_size=8 sampler.steps=3
    likelihood=none callbacks.scatter=null callbacks.process=null trainer=cpu trainer.max_steps=4 logger=csv
"""
PICTURES = """
    data=image_folder data.size=8 data.channels=1 data.test_fraction=0.4 batch_size=8 backbone=mlp backbone.width=16
    backbone.depth=1 sampler.steps=3 metrics=none likelihood=none callbacks.samples=null callbacks.denoising=null
    trainer=cpu logger=csv
"""


def train(*words: str, seen: Any = Silent()) -> tuple[int, str, str]:
    """(exit status, stdout, stderr) of train.py in this process; launchers start processes of their own."""
    with pytest.MonkeyPatch.context() as patch:
        return say(patch, seen, "train", *words)


def state(job: Path) -> dict[str, Any]:
    return json.loads((job / "run.json").read_text())


def jobs(sweep: Path) -> list[str]:
    return sorted(path.name for path in sweep.iterdir() if path.is_dir() and path.name != ".submitit")


def checkpoint(job: Path) -> dict[str, Any]:
    return torch.load(job / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """A folder of images for each word that a sweep may ask for, but none called bad."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for name in ("good", "fine", "late"):
        for i in range(20):
            path = root / name / "ab"[i % 2] / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (8, 8), dtype=np.uint8)).save(path)
    return root


# Several processes a job


@pytest.fixture(scope="module")
def of_two_ranks(images, tmp_path_factory) -> Path:
    sweep = tmp_path_factory.mktemp("ranks") / "both"
    words = [*PICTURES.split(), f"data.root={images / 'good'}", "trainer.max_steps=4", "logger=wandb"]
    own = ["trainer=ddp_cpu", "trainer.devices=2", "schedule=linear,cosine", f"hydra.sweep.dir={sweep}"]
    status, *_ = train("-m", *words, *own)
    assert status == 0
    return sweep


@pytest.mark.slow
def test_a_sweep_of_two_ranks_is_two_runs_each_in_its_folder_with_its_own_configuration(of_two_ranks):
    """The ranks of a job have compared their configurations, noise and weights, or it would have failed."""
    assert jobs(of_two_ranks) == ["0", "1"]
    schedules = []
    for job in (of_two_ranks / name for name in "01"):
        assert state(job)["status"] == "finished"
        assert json.loads((job / "metrics.json").read_text())["step"] == 4
        saved = checkpoint(job)
        assert saved["denoiselab"]["config"]["trainer"]["devices"] == 2
        assert saved["global_step"] == 4
        assert not list(job.glob(".hydra_*")), "no rank has made a folder of its own"
        schedules.append(saved["denoiselab"]["config"]["schedule"]["_target_"])
    assert [name.rpartition(".")[2] for name in schedules] == ["linear", "cosine"]


@pytest.mark.slow
def test_a_sweep_of_two_ranks_is_two_wandb_runs_of_one_group(of_two_ranks):
    paths = list(of_two_ranks.rglob("*.wandb"))
    runs = [run_record(list(records(path))) for path in paths]
    assert len(runs) == 2
    assert len({run.run_id for run in runs}) == 2
    assert {run.run_group for run in runs} == {of_two_ranks.name}


@pytest.mark.slow
def test_the_ranks_of_a_trial_have_the_values_that_the_study_proposed(images, tmp_path):
    """In a process of submitit's, too, which has another command line."""
    words = [
        *POINTS.split(),
        "hparams_search=optuna",
        "hydra.sweeper.n_trials=1",
        f"hydra.sweep.dir={tmp_path / 'study'}",
    ]
    status, *_ = train(*words, "trainer=ddp_cpu", "hydra/launcher=submitit_local")
    assert status == 0
    (trial,) = optuna.load_study("points", f"sqlite:///{tmp_path}/study/study.db").trials
    config = checkpoint(tmp_path / "study" / "0")["denoiselab"]["config"]
    assert config["optimizer"]["lr"] == trial.params["optimizer.lr"]
    assert config["trainer"]["devices"] == 2
    figures = json.loads((tmp_path / "study" / "0" / "metrics.json").read_text())
    assert trial.value == figures["sliced_wasserstein"]


# Launchers


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "joblib", "submitit_local"])
def test_a_job_that_fails_is_told_and_the_others_go_on(launcher, images, tmp_path, capfd):
    words = [*PICTURES.split(), "trainer.max_steps=2", f"data.root={images / 'bad'},{images / 'good'}"]
    where = [f"hydra.sweep.dir={tmp_path / 'sweep'}", f"hydra/launcher={launcher}"]
    status, out, err = train("-m", *words, *where, seen=capfd)
    assert status == 1
    bad, good = tmp_path / "sweep" / "0", tmp_path / "sweep" / "1"
    (told,) = [line for line in err.splitlines() if line.startswith("failed: ")]
    assert f"{os.path.relpath(bad)} (data.root={images / 'bad'}): data.root='{images / 'bad'}' does not exist" in told
    assert "backbone.width" not in told, "only what is this job's own"
    assert "1 of 2 jobs finished" in out
    assert told.removeprefix("failed: ") in out.partition("jobs finished")[2]
    assert "Traceback" not in out + err
    assert "Traceback" in (bad / "error.txt").read_text()
    assert (state(bad)["status"], state(good)["status"]) == ("failed", "finished")
    assert (good / "metrics.json").exists()
    assert (tmp_path / "sweep" / ".submitit").exists() == (launcher == "submitit_local")


@pytest.mark.slow
def test_a_process_of_joblib_s_that_is_killed_ends_the_sweep_with_one_line():
    with pytest.raises(BrokenRunError, match="the sweep broke off: TerminatedWorkerError: A worker process"):  # noqa: SIM117
        with sweeps.launched():
            Parallel(n_jobs=2, backend="loky")(delayed(os.abort)() for _ in range(2))


@pytest.mark.slow
@pytest.mark.parametrize("word", ["hparams_search=optuna", "hydra/launcher=joblib", "hydra/launcher=submitit_local"])
def test_a_plugin_that_is_not_installed_is_named_with_what_to_install(word, monkeypatch, capsys):
    """Hydra looks in its store of options, from which they are taken here."""
    Plugins.instance()
    plugins = ConfigStore.instance().repo["hydra"]
    for group in ("sweeper", "launcher"):
        monkeypatch.setitem(plugins, group, {"basic.yaml": plugins[group]["basic.yaml"]})
    status, _, err = say(monkeypatch, capsys, "train", "-m", word, "seed=0,1")
    assert status == 2
    assert err.count("\n") == 1
    assert "pip install 'denoiselab[sweeps]'" in err


# Studies


@pytest.fixture(scope="module")
def study(tmp_path_factory) -> dict[str, Any]:
    """A study started three times, with what it and its folder were after each.

    Its first trials are asked for by name, so that one has no meaning and one is left as a killed process leaves it.
    """
    folder = tmp_path_factory.mktemp("studies") / "lr"
    folder.mkdir()
    storage, seen = f"sqlite:///{folder}/study.db", {"folder": folder}
    words = [
        *POINTS.split(),
        "hparams_search=optuna",
        "parameterization=eps",
        "loss=simple",
        "schedule=choice(cosine,flow)",
    ]
    start = [*words, f"hydra.sweep.dir={folder}", "hydra.sweeper.n_trials=2"]
    made = optuna.create_study(study_name="points", storage=storage)
    for schedule in ("cosine", "flow"):
        made.enqueue_trial({"optimizer.lr": 1e-3, "schedule": schedule})

    def look(name: str, status: int) -> None:
        trials = optuna.load_study("points", storage).trials
        files = {job: (folder / job / "run.json").stat().st_mtime_ns for job in jobs(folder) if job != "1"}
        seen[name] = {"status": status, "trials": trials, "jobs": jobs(folder), "files": files}

    look("first", train(*start)[0])
    made.enqueue_trial({"optimizer.lr": 2e-3, "schedule": "cosine"})
    dead = made.ask()
    dead._suggest("optimizer.lr", optuna.distributions.LogUniformDistribution(1e-4, 3e-3))
    dead._suggest("schedule", optuna.distributions.CategoricalDistribution(["cosine", "flow"]))
    look("second", train(*start)[0])
    look("resumed", train("-m", f"run={folder}", "resume=true", "hydra.sweeper.n_trials=4")[0])
    return seen


def values(trials: list[Any], *states: TrialState) -> list[tuple[float, str]]:
    return [(t.params["optimizer.lr"], t.params["schedule"]) for t in trials if not states or t.state in states]


@pytest.mark.slow
def test_a_trial_without_a_meaning_fails_with_one_line_and_the_study_goes_on(study):
    first = study["first"]
    assert [trial.state for trial in first["trials"]] == [TrialState.COMPLETE, TrialState.FAIL]
    assert first["status"] == 1
    assert first["jobs"] == ["0", "1"]
    error = (study["folder"] / "1" / "error.txt").read_text().splitlines()[0]
    assert error.startswith("parameterization=eps and score say nothing about x0 at alpha = 0")
    figure = json.loads((study["folder"] / "0" / "metrics.json").read_text())["sliced_wasserstein"]
    assert first["trials"][0].value == figure


@pytest.mark.slow
def test_a_second_start_adds_trials_in_folders_of_their_own_and_asks_for_the_one_that_broke_off(study):
    first, second = study["first"], study["second"]
    assert second["jobs"] == ["0", "1", "2", "3"]
    assert first["files"].items() <= second["files"].items(), "what was there is as it was"
    dead, again = second["trials"][2], second["trials"][3]
    assert dead.state == TrialState.FAIL
    assert again.state == TrialState.COMPLETE
    assert values([dead]) == values([again]) == [(2e-3, "cosine")]
    assert len(set(values(second["trials"]))) == 4, "no trial is proposed again, though the sampler is seeded"


@pytest.mark.slow
def test_a_resumed_study_comes_to_the_number_of_trials_and_tries_those_again_that_failed(study):
    before, after = study["second"], study["resumed"]
    ended = values(before["trials"], TrialState.COMPLETE)
    missing = 4 - len(ended)
    assert len(after["trials"]) == len(before["trials"]) + missing
    assert (1e-3, "flow") in values(after["trials"][len(before["trials"]) :]), "what failed is first"
    assert before["files"].items() <= after["files"].items()
    assert len(after["jobs"]) == len(set(values(after["trials"]))), "a folder for each of the proposals"


@pytest.mark.slow
def test_a_study_keeps_its_experiment(study, capsys):
    status, _, err = train("-m", f"run={study['folder']}", "resume=true", "loss=p2", seen=capsys)
    assert status == 2
    assert "is a study of another experiment (it differs in loss=p2, loss=simple)" in err
    saved = OmegaConf.load(study["folder"] / "multirun.yaml").hydra
    elsewhere = ["trainer=gpu" if word == "trainer=cpu" else word for word in saved.overrides.task]
    studies.check(study["folder"] / "multirun.yaml", saved, elsewhere)


@pytest.mark.parametrize(("resumed", "asked", "n_trials"), [(False, [2e-3], 5), (True, [2e-3, 3e-3], 4)])
def test_before_it_goes_on_a_study_asks_for_what_broke_off_and_the_sampler_draws_others(
    resumed, asked, n_trials, tmp_path
):
    storage = f"sqlite:///{tmp_path}/study.db"
    study = optuna.create_study(study_name="s", storage=storage)
    for lr in (1e-3, 2e-3, 3e-3):
        study.enqueue_trial({"lr": lr})
        study.ask()._suggest("lr", optuna.distributions.LogUniformDistribution(1e-4, 1e-2))
    study.tell(0, 1.5)
    study.tell(2, state=TrialState.FAIL)
    sweeper = {"study_name": "s", "storage": storage, "n_trials": 5, "sampler": {"seed": 7}}
    hydra = OmegaConf.create({"sweeper": sweeper, "overrides": {"task": [f"resume={str(resumed).lower()}"]}})
    OmegaConf.set_readonly(hydra, True)
    studies.prepare(hydra)
    assert (hydra.sweeper.n_trials, hydra.sweeper.sampler.seed) == (n_trials, 10)
    trials = optuna.load_study("s", storage).trials
    assert [trial.state for trial in trials[:3]] == [TrialState.COMPLETE, TrialState.FAIL, TrialState.FAIL]
    assert [trial.system_attrs["fixed_params"]["lr"] for trial in trials[3:]] == asked


@pytest.mark.parametrize("figure", [None, math.nan, math.inf])
def test_a_trial_without_a_figure_fails_as_a_nan_would_end_the_study(figure):
    with pytest.raises(BrokenRunError, match="no figure"):
        studies.comparable(figure)
    assert studies.comparable(2) == 2.0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("metrics=none", "use metrics=fid"),
        ("optimizer.lr=interval(0,1)", "optimizer.lr must be above 0"),
        ("optimizer.lrr=interval(1,2)", "did you mean optimizer.lr"),
        ("schedule=choice(linear,cosin)", "did you mean cosine"),
        ("loss=cross_entropy", "take experiment=noisy_classifier"),
    ],
)
def test_a_search_that_cannot_be_meant_is_refused_before_it_begins(words, told):
    with pytest.raises(ConfigError, match=told.replace("?", r"\?")):
        planned(["hparams_search=optuna", "loss=simple", *words.split()])


@pytest.mark.slow
def test_what_has_no_meaning_together_is_left_to_the_trial_that_draws_it():
    words = ["hparams_search=optuna", "parameterization=eps", "loss=simple", "optimizer.lr=1e-3"]
    planned([*words, "schedule=choice(cosine,flow)"])
    with pytest.raises(IncompatibleError, match="parameterization=eps"):
        planned([*words, "schedule=choice(jsd,flow)"])


@pytest.mark.slow
def test_all_that_the_search_proposes_by_itself_has_a_meaning():
    space = OmegaConf.load(REPOSITORY / "conf" / "hparams_search" / "optuna.yaml").hydra.sweeper.params
    planned([f"{key}={space[key]}" for key in ("schedule", "loss")], multirun=True)


# Going on with a sweep


@pytest.fixture(scope="module")
def broken_off(images, tmp_path_factory) -> tuple[Path, dict[str, Any]]:
    """A sweep whose first job has finished, whose second has failed, and that was killed within its third; and then
    gone on with, when the second's images are there, with one more."""
    root = tmp_path_factory.mktemp("sweep")
    sweep = root / "sweep"
    shutil.copytree(images, root / "images")
    roots = [str(root / "images" / name) for name in ("good", "bad", "fine", "late")]
    words = [*PICTURES.split(), "trainer.max_steps=150", "callbacks.checkpoint.every_n_train_steps=5"]
    command = [sys.executable, "train.py", "-m", *words, f"data.root={','.join(roots[:3])}", f"hydra.sweep.dir={sweep}"]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while not (sweep / "2" / "checkpoints" / "last.ckpt").exists():
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.01)
    process.kill()
    process.wait()
    before = {name: state(sweep / name) for name in "012"} | {"step": checkpoint(sweep / "2")["global_step"]}
    before["written"] = (sweep / "0" / "checkpoints" / "last.ckpt").stat().st_mtime_ns
    shutil.copytree(root / "images" / "good", root / "images" / "bad")
    status, *_ = train("-m", f"run={sweep}", "resume=true", f"data.root={','.join(roots)}", "trainer.devices=1")
    assert status == 0
    return sweep, before


@pytest.mark.slow
def test_a_sweep_that_goes_on_leaves_what_has_finished_alone(broken_off):
    sweep, before = broken_off
    assert before["0"]["status"] == "finished"
    assert (sweep / "0" / "checkpoints" / "last.ckpt").stat().st_mtime_ns == before["written"]
    assert state(sweep / "0") == before["0"]


@pytest.mark.slow
def test_a_sweep_that_goes_on_runs_what_failed_and_what_is_new(broken_off):
    sweep, before = broken_off
    assert before["1"]["status"] == "failed"
    assert jobs(sweep) == ["0", "1", "2", "3"]
    for name in "13":
        assert state(sweep / name)["status"] == "finished"
        assert checkpoint(sweep / name)["global_step"] == 150
    assert not list(sweep.glob("*/error.txt"))


@pytest.mark.slow
def test_a_job_that_was_killed_goes_on_from_its_last_checkpoint(broken_off):
    sweep, before = broken_off
    assert before["2"]["status"] == "running"
    assert 0 < before["step"] < 150
    assert state(sweep / "2")["status"] == "finished"
    assert checkpoint(sweep / "2")["global_step"] == 150
    previous = torch.load(sweep / "2" / "checkpoints" / "previous.ckpt", weights_only=True)
    assert previous["global_step"] == 145
    started = (sweep / "2" / ".hydra" / "overrides.yaml").stat().st_mtime
    assert (sweep / "2" / "metrics.csv").stat().st_mtime >= started


def test_a_job_s_folder_is_found_by_its_words_and_a_new_one_has_the_next_free_number(tmp_path):
    hydra = {"overrides": {"task": ["seed=0,1", "loss=p2", "trainer.max_steps=4"]}, "sweeper": {"params": None}}
    OmegaConf.save(OmegaConf.create({"hydra": hydra}), tmp_path / "multirun.yaml")

    def folder(number: int, *words: str) -> str:
        return sweeps.job_folder(str(tmp_path), number, words)

    assert folder(0, "seed=0", "loss=p2", "trainer.max_steps=4") == "0"
    assert folder(1, "seed=1", "loss=p2", "trainer.max_steps=4") == "1"
    assert folder(5, "loss=p2", "seed=1", "resume=true", "trainer.max_steps=8", "trainer=gpu") == "1"
    assert folder(0, "seed=2", "loss=p2", "trainer.max_steps=4") == "2"
    assert folder(0, "seed=0", "loss=p2x") == "3", "another experiment"
    hydra["overrides"]["task"] = ["trainer.max_steps=4,8", "loss=p2"]
    OmegaConf.save(OmegaConf.create({"hydra": hydra}), tmp_path / "multirun.yaml")
    assert folder(1, "seed=0", "loss=p2", "trainer.max_steps=8") == "4", "what is swept tells jobs apart"


@pytest.mark.slow
def test_a_sweep_s_folder_in_which_another_process_works_is_refused(tmp_path):
    (tmp_path / "multirun.yaml").touch()
    with (tmp_path / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(RunError, match="is a sweep that another process is running"):
            planned(["seed=0,1", f"hydra.sweep.dir={tmp_path}"], multirun=True)


@pytest.mark.slow
def test_a_combination_that_comes_twice_is_run_once(tmp_path, capsys):
    sweep = tmp_path / "twice"
    status, out, _ = train("-m", *POINTS.split(), "seed=0,0", f"hydra.sweep.dir={sweep}", seen=capsys)
    assert (status, jobs(sweep)) == (0, ["0"])
    assert "1 of 1 jobs finished" in out
    assert not (sweep / "0" / "error.txt").exists()


@pytest.mark.slow
def test_a_signal_that_comes_when_a_job_has_no_step_left_stops_the_sweep_after_it(tmp_path, capsys, monkeypatch):
    from denoiselab.training.callbacks import LossCurve

    monkeypatch.setattr(LossCurve, "on_train_end", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    sweep = tmp_path / "stopped"
    status, _, err = train("-m", *POINTS.split(), "seed=0,1", f"hydra.sweep.dir={sweep}", seen=capsys)
    assert status == 143
    assert "SIGTERM: this job had come to its end, and the sweep stops after it" in err
    assert jobs(sweep) == ["0"]
    assert state(sweep / "0")["status"] == "finished"


@pytest.mark.parametrize("word", ["optimizer.lr=0.1", "schedule=linear", "+optimizer.lr=0.1"])
def test_a_sweep_does_not_go_on_with_other_experiments(word, tmp_path):
    task = ["seed=0,1", "optimizer.lr=0.2"]
    OmegaConf.save(
        {"hydra": {"overrides": {"task": task, "hydra": []}, "sweeper": {"params": None}}}, tmp_path / "multirun.yaml"
    )
    on = [f"run={tmp_path}", "resume=true"]
    with pytest.raises(ConfigError, match="would make other experiments"):
        resume.resumed_overrides([*on, word], True)
    for fine in ("optimizer.lr=0.2", "seed=2", "seed=0,1,2", "trainer.max_steps=9", "trainer=ddp_cpu", "loss=snr,p2"):
        assert fine in resume.resumed_overrides([*on, fine], True)


def test_a_sweep_that_goes_on_is_launched_as_it_was_unless_another_way_is_named(tmp_path):
    ways = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweep.dir=x", "hydra.mode=MULTIRUN"]
    hydra = {"overrides": {"task": ["seed=0,1"], "hydra": ways}}
    OmegaConf.save(OmegaConf.create({"hydra": hydra}), tmp_path / "multirun.yaml")
    on = [f"run={tmp_path}", "resume=true"]
    where = f"hydra.sweep.dir='{tmp_path}'"
    assert resume.resumed_overrides(on, True) == ["seed=0,1", *ways[:2], "resume=true", where]
    assert resume.resumed_overrides([*on, "hydra/launcher=basic"], True) == [
        "seed=0,1",
        "resume=true",
        "hydra/launcher=basic",
        where,
    ]
