"""A run that is stopped or killed and gone on with ends as if nothing had happened, bit by bit.

By the real command line, in this process or, where it is to be killed, in one that is forked from a server which has
imported everything. The moment is chosen by a patch; the signals are real.
"""

import csv
import json
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from conftest import fit, tiny_system
from denoiselab.assembly.configuration import CONF
from denoiselab.cli import main, resume
from denoiselab.errors import ConfigError, RunError
from denoiselab.runs import experiment, state
from denoiselab.tools.selftest import compared, compared_logs, figures
from denoiselab.tools.selftest import stopped as stopped_from_outside
from denoiselab.tools.selftest import train as train_outside
from test_logging import records

# 1437 images are 4.79 batches: steps lie within epochs and across their borders.
WORDS = """
    data=digits batch_size=300 backbone=mlp backbone.width=16 backbone.depth=1 trainer=cpu logger=csv
    optimizer.warmup_steps=1 ema.decay=[0.9,0.5] ema.sigma_rel=0.1 ema.snapshot_every=3
    trainer.max_steps=12 trainer.log_every_n_steps=1 trainer.val_check_interval=2
    callbacks.checkpoint.every_n_train_steps=2 callbacks.samples.every=2 callbacks.samples.n=4
    callbacks.samples.columns=2 callbacks.denoising=null sampler.steps=2 metrics=none likelihood=none
"""
TINY = WORDS.split()
LEARNED = {
    "nothing else": [],
    "times by loss, and its uncertainty": [
        *["time_sampling=loss_second_moment", "time_sampling.T=8", "time_sampling.history=2", "loss=uncertainty"]
    ],
    "a schedule": ["schedule=learned", "loss=vlb"],
    "two batches a step": ["trainer.accumulate_grad_batches=2"],
}


class Said(NamedTuple):
    status: int
    out: str
    err: str


def train(*words: str) -> Said:
    """python train.py, in this process."""
    out, err, status = StringIO(), StringIO(), 0
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", [str(CONF.parent / "train.py"), *words])
        GlobalHydra.instance().clear()
        try:
            main("train")
        except SystemExit as stop:
            status = int(stop.code or 0)
    return Said(status, out.getvalue(), err.getvalue())


def gone_on(folder: Path, *words: str) -> Said:
    said = train(f"run={folder}", "resume=true", *words)
    assert said.status == 0, said.err
    return said


def send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def before(owner: object, name: str, due: Callable[..., bool], number: signal.Signals) -> Callable[[], None]:
    """A patch by which this process sends itself a signal before a call of owner.name for which due(...) is true."""
    real = getattr(owner, name)

    def signalling(*args, **kwargs):
        if due(*args):
            send(number)
        return real(*args, **kwargs)

    setattr(owner, name, signalling)
    return lambda: setattr(owner, name, real)


def at_step(step: int) -> Callable[..., bool]:
    """For methods of the system, and of callbacks that are handed the trainer."""
    return lambda one, other, *_: getattr(one, "global_step", getattr(other, "global_step", None)) == step


def with_a_log_at_step_1(system, *_) -> bool:
    """A log is written to disk with each checkpoint, and now and then between."""
    for logger in system.loggers:
        logger.save()
    return system.global_step == 1


def moments() -> dict[str, tuple[object, str, Callable[..., bool]]]:
    """Where a process is killed: what is about to be called."""
    from denoiselab.training import fit
    from denoiselab.training.callbacks import Checkpoint, SampleGrid, Snapshots
    from denoiselab.training.system import DiffusionSystem

    return {
        "before the first checkpoint": (DiffusionSystem, "training_step", with_a_log_at_step_1),
        "in a step": (DiffusionSystem, "training_step", at_step(7)),
        "while sampling": (SampleGrid, "work", at_step(6)),
        "before a snapshot": (Snapshots, "work", at_step(6)),
        "in validation": (DiffusionSystem, "validation_step", at_step(6)),
        "before a checkpoint is in its place": (
            sys.modules["denoiselab.training.callbacks.checkpoint"],
            "_keep",
            lambda path, _: torch.load(f"{path}.new", weights_only=True)["global_step"] == 6,
        ),
        "in the last evaluation": (SampleGrid, "work", at_step(12)),
        "before the last checkpoint": (Checkpoint, "on_train_end", lambda *_: True),
        "before the last figures": (fit, "_conclude", lambda *_: True),
    }


def until(moment: str, words: list[str]) -> None:
    """In a process of its own."""
    import denoiselab.training.fit  # noqa: F401

    before(*moments()[moment], signal.SIGKILL)
    os._exit(train(*words).status)


def for_a_while(seconds: float, words: list[str]) -> None:
    """In a process of its own: killed so many seconds after its first step has begun."""
    from denoiselab.training.system import DiffusionSystem

    timer = threading.Timer(seconds, send, (signal.SIGKILL,))
    real = DiffusionSystem.on_train_start
    DiffusionSystem.on_train_start = lambda self: (timer.start(), real(self))
    os._exit(train(*words).status)


def ended(work: Callable, *args: object) -> int:
    """The exit status of a forked process, negative for a signal."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["conftest", "denoiselab.training.fit", "denoiselab.tools.selftest", "test_resume"])
    process = context.Process(target=work, args=args)
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def checkpoint(folder: Path, name: str = "last") -> dict:
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)


def assert_same(one: Path, other: Path) -> None:
    assert compared(checkpoint(one), checkpoint(other)) is None
    assert compared_logs(figures(one / "metrics.csv"), figures(other / "metrics.csv")) is None
    snapshots = sorted(path.name for path in (one / "ema").iterdir())
    assert snapshots == ["12.pt", "3.pt", "6.pt", "9.pt"]
    for name in snapshots:
        pair = [torch.load(folder / "ema" / name, weights_only=True) for folder in (one, other)]
        assert compared(*({"all": [list(snapshot) for snapshot in loaded]} for loaded in pair)) is None
    assert json.loads((other / "run.json").read_text())["status"] == "finished"


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Callable[[str], Path]:
    """A run in one go, by what it learns beside weights."""
    made: dict[str, Path] = {}

    def of(learned: str) -> Path:
        if learned not in made:
            folder = tmp_path_factory.mktemp("whole") / "run"
            said = train(*TINY, *LEARNED[learned], f"hydra.run.dir={folder}")
            assert said.status == 0, said.err
            made[learned] = folder
        return made[learned]

    return of


@pytest.fixture(scope="module")
def half(tmp_path_factory) -> Path:
    """A run that has ended after 6 of its 12 steps, being asked for no more."""
    folder = tmp_path_factory.mktemp("half") / "run"
    said = train(*TINY, "trainer.max_steps=6", f"hydra.run.dir={folder}")
    assert said.status == 0, said.err
    return folder


@pytest.fixture
def run(half, tmp_path) -> Path:
    """A copy of that."""
    shutil.copytree(half, tmp_path / "run")
    return tmp_path / "run"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.slow
def test_a_run_of_n_steps_that_is_asked_for_n_more_is_one_of_2n(whole, run):
    said = gone_on(run, "trainer.max_steps=12")
    assert "resuming at step 6 of 12\n  trainer.max_steps: 6 -> 12\n" in said.err
    assert_same(whole("nothing else"), run)


@pytest.mark.slow
@pytest.mark.parametrize("learned", LEARNED)
def test_sigterm_while_sampling_stops_after_that_step_and_the_run_goes_on_exactly(learned, whole, tmp_path):
    from denoiselab.training.callbacks import SampleGrid

    restore = before(SampleGrid, "work", at_step(6), signal.SIGTERM)
    try:
        said = train(*TINY, *LEARNED[learned], f"hydra.run.dir={tmp_path / 'run'}")
    finally:
        restore()
    assert said.status == 128 + signal.SIGTERM == 143
    last = said.err.splitlines()[-1]
    assert last.startswith("train.py: SIGTERM: stopped at step 6; python train.py run=")
    assert last.endswith("/run resume=true goes on")
    assert "Traceback" not in said.err
    assert checkpoint(tmp_path / "run")["global_step"] == 6
    assert json.loads((tmp_path / "run" / "run.json").read_text())["status"] == "interrupted"
    gone_on(tmp_path / "run")
    assert_same(whole(learned), tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize(
    "moment",
    [
        "before the first checkpoint",
        "in a step",
        "while sampling",
        "before a snapshot",
        "in validation",
        "before a checkpoint is in its place",
        "in the last evaluation",
        "before the last checkpoint",
        "before the last figures",
    ],
)
def test_a_run_that_is_killed_goes_on_from_its_last_checkpoint_and_its_log_has_each_step_once(moment, whole, tmp_path):
    folder = tmp_path / "run"
    assert ended(until, moment, [*TINY, f"hydra.run.dir={folder}"]) == -signal.SIGKILL
    assert json.loads((folder / "run.json").read_text())["status"] == "running", "nobody was left to say otherwise"
    gone_on(folder)
    assert_same(whole("nothing else"), folder)
    with (folder / "metrics.csv").open(newline="") as file:
        steps = [int(row["step"]) for row in csv.DictReader(file) if row["train/loss"]]
    assert steps == list(range(1, 13))
    assert not list(folder.rglob("*.part")) and not list(folder.rglob("*.new"))


@pytest.mark.slow
def test_a_run_that_is_killed_at_random_moments_ends_as_if_it_had_not_been(whole, tmp_path):
    folder, lives = tmp_path / "run", []
    words = [*TINY, *LEARNED["two batches a step"], f"hydra.run.dir={folder}"]
    while len(lives) < 4 and (not lives or lives[-1][1]):
        seconds = random.SystemRandom().uniform(0, 0.8)
        lives.append((seconds, ended(for_a_while, seconds, words)))
        words = [f"run={folder}", "resume=true"]
    assert {status for _, status in lives} <= {0, -signal.SIGKILL}, lives
    if lives[-1][1]:
        gone_on(folder)
    assert_same(whole("two batches a step"), folder)


@pytest.mark.slow
def test_no_checkpoint_and_no_figure_is_made_in_the_midst_of_the_first_step_after_going_on(tmp_path):
    """Two batches a step: after the first of them the number of steps is still that of the checkpoint."""
    from denoiselab.training.callbacks import Checkpoint

    saved: list[int] = []

    class Counting(Checkpoint):
        def _save(self, trainer, system, name) -> None:
            saved.append(trainer.fit_loop.epoch_loop.batch_progress.total.ready)
            super()._save(trainer, system, name)

    for steps, path in (4, None), (8, tmp_path / "checkpoints" / "last.ckpt"):
        system = tiny_system()
        with pytest.MonkeyPatch.context() as patch:
            from pytorch_lightning import Trainer

            real = Trainer.fit
            patch.setattr(Trainer, "fit", lambda *a, _p=path, _r=real, **k: _r(*a, ckpt_path=_p, **k))
            fit(system, tmp_path, steps, [Counting(every_n_train_steps=2)], accumulate_grad_batches=2)
    assert saved == [4, 8, 8, 12, 16, 16]


@pytest.mark.slow
def test_sigterm_from_outside_ends_with_143_and_the_wandb_run_goes_on_under_its_id(whole, tmp_path):
    folder = tmp_path / "run"
    words = [*TINY, "logger=wandb", "trainer.max_steps=12", f"hydra.run.dir={folder}"]
    status = stopped_from_outside(words, folder, signal.SIGTERM)
    assert status == 143
    assert 2 <= checkpoint(folder)["global_step"] < 12
    gone_on(folder)
    assert_same(whole("nothing else"), folder)
    first, second = sorted((folder / "wandb").glob("offline-run-*"), key=lambda path: path.stat().st_mtime)
    logged = [list(records(next(run.glob("*.wandb")))) for run in (first, second)]
    ids = [record.run.run_id for run in logged for record in run if record.HasField("run")]
    assert len(set(ids)) == 1
    assert [[record.exit.exit_code for record in run if record.HasField("exit")] for run in logged] == [[1], [0]]
    assert any(record.HasField("preempting") for record in logged[0])
    steps = [
        int(item.value_json)
        for run in logged
        for record in run
        if record.HasField("history")
        and any("train/loss" in (item.key, *item.nested_key) for item in record.history.item)
        for item in record.history.item
        if "trainer/global_step" in (item.key, *item.nested_key)
    ]
    assert steps == list(range(1, 13)), "each step once"


@pytest.mark.slow
def test_two_processes_go_on_exactly_after_sigterm_and_after_their_watcher_was_killed(tmp_path):
    """One chain: stopped, gone on and killed, gone on to the end; and one run in one go beside it."""
    words = [*TINY, "trainer=ddp_cpu", "trainer.max_steps=30"]
    whole, folder = tmp_path / "whole", tmp_path / "run"
    assert stopped_from_outside([*words, f"hydra.run.dir={folder}"], folder, signal.SIGTERM) == 143
    assert json.loads((folder / "run.json").read_text())["status"] == "interrupted"
    at = checkpoint(folder)["global_step"]
    going_on = [f"run={folder}", "resume=true"]
    assert stopped_from_outside(going_on, folder, signal.SIGKILL) == -signal.SIGKILL
    assert at < checkpoint(folder)["global_step"] < 30
    train_outside(going_on)
    train_outside([*words, f"hydra.run.dir={whole}"])
    assert compared(checkpoint(whole), checkpoint(folder)) is None
    assert compared_logs(figures(whole / "metrics.csv"), figures(folder / "metrics.csv")) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("schedule=linear", "schedule._target_: denoiselab.schedules.cosine -> denoiselab.schedules.linear"),
        ("optimizer.lr=0.1", "optimizer.lr: 0.002 -> 0.1"),
        ("batch_size=100", "batch_size: 300 -> 100"),
        ("seed=7", "seed: 0 -> 7"),
        ("trainer.accumulate_grad_batches=2", "trainer.accumulate_grad_batches: 1 -> 2"),
        ("trainer.precision=bf16-mixed", "trainer.precision: 32-true -> bf16-mixed"),
    ],
)
def test_what_would_be_another_experiment_is_refused_and_the_folder_stays_as_it_was(word, told, run):
    was = contents(run)
    said = train(f"run={run}", "resume=true", "trainer.max_steps=12", word)
    assert said.status == 2
    assert said.err.count("\n") == 1
    assert said.err.startswith("train.py: resume=true continues the same experiment, and this would be another one")
    assert told in said.err
    assert contents(run) == was


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["schedule=linear"], "already holds a run; add resume=true"),
        (["schedule=linear", "resume=true"], "this would be another one"),
    ],
)
def test_a_start_in_the_folder_of_another_run_is_refused_and_the_folder_stays_as_it_was(words, told, run):
    was = contents(run)
    said = train(*TINY, *words, f"hydra.run.dir={run}")
    assert said.status == 2
    assert told in said.err
    assert contents(run) == was


@pytest.mark.slow
def test_fewer_steps_than_are_done_are_refused_also_for_a_run_that_has_not_finished(run):
    (run / "run.json").write_text(json.dumps({"status": "interrupted"}))
    was = contents(run)
    said = train(f"run={run}", "resume=true", "trainer.max_steps=4")
    assert said.status == 2
    assert "has done its 6 steps; for more give trainer.max_steps=12" in said.err
    assert {name: bits for name, bits in contents(run).items() if ".hydra" not in name} == {
        name: bits for name, bits in was.items() if ".hydra" not in name
    }


def test_a_trial_or_a_job_of_a_sweep_goes_on_by_itself(tmp_path):
    (tmp_path / ".hydra").mkdir()
    OmegaConf.save(["hparams_search=optuna", "hydra.mode=MULTIRUN", "seed=2"], tmp_path / ".hydra" / "overrides.yaml")
    words = resume.resumed_overrides([f"run={tmp_path}", "resume=true"], multirun=False)
    assert words == ["seed=2", "resume=true", "hydra.mode=RUN", f"hydra.run.dir='{tmp_path}'"]


def test_the_average_weights_alone_are_nothing_to_train_on():
    with pytest.raises(RunError, match="holds only averaged weights"):
        resume.resumed_overrides(["run=model.safetensors", "resume=true"], multirun=False)


def test_a_process_that_was_forked_does_not_keep_a_run_locked(tmp_path):
    """As a worker which reads images does that outlives a run that was killed."""
    with state.running(tmp_path, "identity"):
        told, tell = os.pipe()
        child = os.fork()
        if not child:
            os.write(tell, b"1")
            time.sleep(60)
            os._exit(0)
        os.read(told, 1)
        with pytest.raises(RunError, match="is a run that is going on"):
            state.check_idle(tmp_path)
    try:
        state.check_idle(tmp_path)
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.slow
def test_what_only_changes_how_a_run_is_looked_at_is_listed(run):
    said = gone_on(
        run, "trainer.max_steps=8", "sampler.steps=1", "callbacks.samples.n=2", "trainer.val_check_interval=4"
    )
    for line in (
        "resuming at step 6 of 8",
        "  trainer.max_steps: 6 -> 8",
        "  sampler.steps: 2 -> 1",
        "  callbacks.samples.n: 4 -> 2",
        "  trainer.val_check_interval: 2 -> 4",
    ):
        assert line in said.err.splitlines()
    said = train(f"run={run}", "resume=true")
    assert said.status == 2, "the words that were added hold from then on"
    assert "has done its 8 steps; for more give trainer.max_steps=16" in said.err


def test_more_steps_of_a_decay_that_is_drawn_out_over_all_of_them_are_said_to_change_the_learning_rate():
    def config(decay: str, steps: int) -> dict:
        return {"optimizer": {"decay": decay}, "trainer": {"max_steps": steps, "devices": 1}}

    (line,) = experiment.changes(config("cosine", 6), config("cosine", 12))
    assert line.startswith("trainer.max_steps: 6 -> 12 (optimizer.decay=cosine ")
    assert "from here on the learning rate is that of 12 steps" in line
    assert experiment.changes(config("constant", 6), config("constant", 12)) == ["trainer.max_steps: 6 -> 12"]
    assert experiment.changes(config("cosine", 6), config("cosine", 6)) == []
    more = config("cosine", 6) | {"trainer": {"max_steps": 6, "devices": 2}}
    assert experiment.changes(config("cosine", 6), more) == ["trainer.devices: 1 -> 2"]
    with pytest.raises(ConfigError, match=r"optimizer\.decay: cosine -> constant"):
        experiment.changes(config("cosine", 6), config("constant", 6))


@pytest.mark.slow
def test_a_run_that_is_finished_says_so_and_stays_finished(run):
    said = train(f"run={run}", "resume=true")
    assert said.status == 2
    assert "run has done its 6 steps; for more give trainer.max_steps=12" in said.err
    assert json.loads((run / "run.json").read_text())["status"] == "finished"


@pytest.mark.slow
def test_a_run_that_is_going_on_is_not_gone_on_with(run):
    with state.running(run, "same"):
        was = contents(run)
        said = train(f"run={run}", "resume=true", "trainer.max_steps=12")
        assert contents(run) == was
    assert said.status == 2
    assert f"is a run that is going on (process {os.getpid()} on " in said.err
    assert "stop that first" in said.err


@pytest.mark.slow
@pytest.mark.parametrize(
    "damage", [lambda whole: whole[: len(whole) // 2], lambda whole: b"", lambda whole: b"PK" * 99]
)
def test_a_damaged_checkpoint_is_refused_with_the_one_before_and_that_is_gone_on_from(damage, whole, run):
    last = run / "checkpoints" / "last.ckpt"
    last.write_bytes(damage(last.read_bytes()))
    words = [f"run={run}", "resume=true", "trainer.max_steps=12"]
    said = train(*words)
    assert said.status == 2
    assert said.err.count("\n") == 1
    assert "last.ckpt is damaged or no checkpoint" in said.err
    assert said.err.strip().endswith("; there is checkpoint=previous of step 4")
    if last.stat().st_size == 198:
        gone_on(run, "trainer.max_steps=12", "checkpoint=previous")
        assert_same(whole("nothing else"), run)


@pytest.mark.slow
def test_a_run_goes_on_from_its_best_checkpoint_once_and_then_from_its_last(whole, run):
    """The best one here is a copy: what is tested is which file is read."""
    checkpoints = run / "checkpoints"
    shutil.copy(checkpoints / "previous.ckpt", checkpoints / "best.ckpt")
    assert "resuming at step 4 of 8" in gone_on(run, "trainer.max_steps=8", "checkpoint=best").err
    assert "resuming at step 8 of 12" in gone_on(run, "trainer.max_steps=12").err
    assert_same(whole("nothing else"), run)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["run=no/such/run", "resume=true"], "run=no/such/run is no run's folder"),
        (["-m", "run=no/such/run", "resume=true"], "run=no/such/run is no sweep's folder"),
        (["resume=true"], "resume=true continues a run; name its folder, run=<folder>"),
        (["run=outputs"], "run=outputs is a run to continue; add resume=true"),
        (["run=outputs", "resume=true", "hydra.run.dir=there"], "two folders; leave hydra.run.dir=there out"),
        (["run=outputs", "resume=true", "checkpoint=lost"], "outputs is no run's folder"),
    ],
)
def test_half_a_question_is_answered_with_the_other_half(words, told):
    said = train(*words)
    assert said.status == 2
    assert said.err.count("\n") == 1
    assert told in said.err


def test_the_words_of_a_run_are_kept_but_not_how_it_was_gone_on_with(tmp_path):
    (tmp_path / ".hydra").mkdir()
    saved = ["schedule=linear", "seed=3", "resume=true", "checkpoint=best"]
    (tmp_path / ".hydra" / "overrides.yaml").write_text("".join(f"- {word}\n" for word in saved))
    words = resume.resumed_overrides([f"run={tmp_path}", "resume=true", "seed=4"], multirun=False)
    assert words == ["schedule=linear", "resume=true", "seed=4", "hydra.mode=RUN", f"hydra.run.dir='{tmp_path}'"]


def table(folder: Path, *lines: str) -> Path:
    path = folder / "metrics.csv"
    path.write_text("step,train/loss,val/bits_per_dim,val/loss\n" + "".join(f"{line}\n" for line in lines))
    return path


def test_a_log_is_cut_after_its_checkpoints_step_and_half_a_row_goes_too(tmp_path):
    path = table(tmp_path, "1,0.5,,", "2,0.25,,", "2,,3.5,", "2,,,0.5", "3,0.125,,", "")
    with path.open("a") as file:
        file.write("4,0.0")
    experiment.cut(path, 2)
    assert path.read_text().splitlines()[1:] == ["1,0.5,,", "2,0.25,,", "2,,3.5,", "2,,,0.5"]
    experiment.cut(path, 2, validated=False)
    assert path.read_text().splitlines()[1:] == ["1,0.5,,", "2,0.25,,", "2,,3.5,"], "validation will come again"
    experiment.cut(path, -1)
    assert path.read_text().splitlines() == ["step,train/loss,val/bits_per_dim,val/loss"]
