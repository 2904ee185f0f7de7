"""What lies in a run's folder, read and written without a training: state, words, identity, averages, evaluations."""

import copy
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file, save_file

from denoiselab.cli import resume
from denoiselab.ema import Snapshot
from denoiselab.errors import ConfigError, RunError
from denoiselab.overrides import pair
from denoiselab.runs import checkpoint, experiment, identity, state
from denoiselab.runs import evaluations as kept
from denoiselab.runs import export as exports

# State


def test_a_folder_without_a_run_has_no_state_and_is_idle(tmp_path):
    assert state.read(tmp_path) == {}
    state.check_idle(tmp_path)
    assert list(tmp_path.iterdir()) == [], "and nothing is left behind"


def test_facts_are_added_to_those_that_are_there(tmp_path):
    state.write(tmp_path, first=1, second=2)
    state.write(tmp_path, second=3)
    assert state.read(tmp_path) == {"first": 1, "second": 3}


def test_a_run_says_that_it_is_running_and_by_which_process_and_then_that_it_has_finished(tmp_path):
    state.write(tmp_path, error="of an earlier attempt", own="kept")
    with state.running(tmp_path, "abc"):
        place = {"process": os.getpid(), "host": socket.gethostname()}
        facts = {"identity": "abc", "error": None, "own": "kept", **place}
        assert state.read(tmp_path) == facts | {"status": "running"}
        with pytest.raises(RunError, match=rf"is a run that is going on \(process {os.getpid()} on"):
            state.check_idle(tmp_path)
        with pytest.raises(RunError, match="is a run that is going on"), state.running(tmp_path, "other"):
            pass
        assert state.read(tmp_path)["identity"] == "abc"
    assert state.read(tmp_path) == facts | {"status": "finished"}
    state.check_idle(tmp_path)


@pytest.mark.parametrize(
    ("error", "status"),
    [(KeyboardInterrupt(), "interrupted"), (SystemExit(143), "interrupted"), (ValueError("a\n  b"), "failed")],
)
def test_a_run_that_ends_by_an_error_says_which_and_is_idle(error, status, tmp_path):
    with pytest.raises(type(error)), state.running(tmp_path, "abc"):
        raise error
    text = " ".join(str(error).split())
    assert (state.read(tmp_path)["status"], state.read(tmp_path)["error"]) == (
        status,
        f"{type(error).__name__}: {text}",
    )
    state.check_idle(tmp_path)


def test_a_long_error_is_cut_after_500_characters(tmp_path):
    with pytest.raises(ValueError, match="x"), state.running(tmp_path, "abc"):
        raise ValueError("x" * 2000)
    assert state.read(tmp_path)["error"] == ("ValueError: " + "x" * 2000)[:500]


def test_a_lock_without_a_process_is_of_a_run_that_is_dead(tmp_path):
    (tmp_path / ".lock").touch()
    state.write(tmp_path, status="running")
    state.check_idle(tmp_path)


# The command line of a run that goes on


@pytest.mark.parametrize(
    ("word", "key", "value"),
    [
        ("seed=3", "seed", "3"),
        ("+new.key=a=b", "new.key", "a=b"),
        ("~logger", "logger", ""),
        ("++seed='x y'", "seed", "x y"),
        ('run="a"', "run", "a"),
    ],
)
def test_an_override_has_a_key_and_a_value(word, key, value):
    assert pair(word) == (key, value)


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ([], False),
        (["resume=true"], True),
        (["resume=True"], True),
        (["resume=yes"], True),
        (["resume=on"], True),
        (["resume=1"], True),
        (["resume=false"], False),
        (["resume=0"], False),
        (["resume=true", "resume=false"], False),
    ],
)
def test_a_run_goes_on_where_resume_is_true(words, wanted):
    assert resume.requested(words) is wanted


def test_words_that_name_no_run_stay_as_they_are():
    assert resume.resumed_overrides(["seed=1", "run=null"], multirun=False) == ["seed=1", "run=null"]
    with pytest.raises(ConfigError, match="name its folder"):
        resume.resumed_overrides(["resume=true"], multirun=False)
    there = ["resume=true", "hydra.run.dir=there"]
    assert resume.resumed_overrides(there, multirun=False) == there
    there = ["resume=true", "hydra.sweep.dir=there"]
    assert resume.resumed_overrides(there, multirun=True) == there
    for word in ("hydra.run.dir=there", "hydra.sweep.dir=there"):
        with pytest.raises(ConfigError, match=f"run=x and {word} are two folders"):
            resume.resumed_overrides(["run=x", "resume=true", word], multirun=False)


def sweep(folder: Path, *task: str, hydra: tuple[str, ...] = (), params: dict[str, str] | None = None) -> Path:
    """A sweep's folder with these words."""
    folder.mkdir(exist_ok=True)
    said = {"overrides": {"task": list(task), "hydra": list(hydra)}, "sweeper": {"params": params}}
    OmegaConf.save(OmegaConf.create({"hydra": said}), folder / experiment.SWEEP)
    return folder


def test_a_sweeps_words_come_back_with_its_launcher_and_sweeper(tmp_path):
    own = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra/sweeper=optuna", "hydra.sweep.dir=old")
    folder = sweep(tmp_path / "sweep", "schedule=linear,cosine", "seed=1", "resume=true", hydra=own)
    given = [f"run={folder}", "resume=true", "trainer.max_steps=9"]
    words = resume.resumed_overrides(given, multirun=True)
    assert words == ["schedule=linear,cosine", "seed=1", *own[:3], *given[1:], f"hydra.sweep.dir='{folder}'"]
    other = resume.resumed_overrides([*given, "hydra/launcher=submitit"], multirun=True)
    assert [word for word in other if "launcher" in word] == ["hydra/launcher=submitit"]
    assert "hydra/sweeper=optuna" in other


@pytest.mark.parametrize(
    "word",
    ["schedule=linear,flow", "schedule=linear", "seed=1,2", "trainer=gpu", "hydra/launcher=basic", "num_workers=2"],
)
def test_a_sweep_goes_on_with_other_values_of_what_it_has_several_of_or_of_how_it_runs(word, tmp_path):
    folder = sweep(tmp_path / "sweep", "schedule=linear,cosine", "seed=1")
    assert word in resume.resumed_overrides([f"run={folder}", "resume=true", word], multirun=True)


@pytest.mark.parametrize("word", ["seed=2", "optimizer.lr=0.1", "trainer.precision=bf16-mixed", "trainers=gpu"])
def test_a_sweep_does_not_go_on_with_what_makes_its_jobs_other_experiments(word, tmp_path):
    folder = sweep(tmp_path / "sweep", "schedule=linear,cosine", "seed=1")
    with pytest.raises(ConfigError, match=rf"{word} would make other experiments of the jobs of run="):
        resume.resumed_overrides([f"run={folder}", "resume=true", word], multirun=True)
    assert "seed=1" in resume.resumed_overrides([f"run={folder}", "resume=true", "seed=1"], multirun=True), (
        "but with its own"
    )


def test_a_sweep_and_a_run_are_told_apart(tmp_path):
    folder = sweep(tmp_path / "sweep", "seed=1,2")
    with pytest.raises(RunError, match="is a sweep's folder; add -m"):
        resume.resumed_overrides([f"run={folder}", "resume=true"], multirun=False)
    with pytest.raises(RunError, match=r"it has no multirun\.yaml; leave out -m"):
        resume.resumed_overrides([f"run={tmp_path}", "resume=true"], multirun=True)


def test_what_a_sweep_has_several_of_is_in_its_words_or_in_its_search(tmp_path):
    folder = sweep(tmp_path / "sweep", "schedule=linear,cosine", "seed=1", params={"optimizer.lr": "interval(1, 2)"})
    assert resume.swept(folder) == {"schedule", "optimizer.lr"}
    assert resume.swept(sweep(tmp_path / "other", "seed=range(3)")) == {"seed"}
    assert resume.swept(tmp_path) == set()


CONFIG: dict[str, Any] = {
    "seed": 0,
    "run": None,
    "resume": False,
    "checkpoint": "last",
    "num_workers": 0,
    "cache": "cache",
    "caches": 1,
    "data": {"name": "digits", "root": "here", "rootless": 1},
    "codec": {"kind": "vae", "cached": True},
    "sampler": {"name": "ddim", "steps": 50},
    "metrics": {"n": 8},
    "trainer": {"max_steps": 6, "devices": 1, "precision": "32-true"},
    "optimizer": {"lr": 0.1, "decay": "cosine"},
}
HOW_IT_RUNS = ("num_workers", "cache", "data.root", "codec.cached", "sampler.steps", "metrics.n", "trainer.devices")
NAMES = ("run", "resume", "checkpoint")
EXPERIMENT = ("seed", "caches", "data.name", "data.rootless", "codec.kind", "trainer.precision", "optimizer.lr")


def changed(*keys: str) -> dict[str, Any]:
    config = OmegaConf.create(copy.deepcopy(CONFIG))
    for key in keys:
        OmegaConf.update(config, key, "another")
    made = OmegaConf.to_container(config)
    assert isinstance(made, dict)
    return made


def test_the_identity_of_a_run_is_of_what_makes_it_this_experiment():
    own = experiment.identity(CONFIG)
    assert len(own) == 12
    assert all(experiment.identity(changed(key)) == own for key in (*HOW_IT_RUNS, *NAMES))
    others = [experiment.identity(changed(key)) for key in (*EXPERIMENT, "trainer.max_steps")]
    assert len({own, *others}) == 1 + len(others)
    assert experiment.identity(dict(reversed(CONFIG.items()))) == own, "whatever the order"
    without = changed()
    del without["trainer"]["max_steps"]
    assert experiment.identity(without) not in (own, *others)


def test_a_run_that_goes_on_may_run_and_be_looked_at_otherwise_and_says_so():
    assert experiment.changes(CONFIG, changed(*NAMES)) == []
    assert experiment.changes(CONFIG, changed("sampler.steps", "run")) == ["sampler.steps: 50 -> another"]
    more = {**CONFIG, "likelihood": {"n": 3}}
    assert experiment.changes(CONFIG, more) == ["likelihood.n: nothing -> 3"]
    assert experiment.changes(more, CONFIG) == ["likelihood.n: 3 -> nothing"]
    for key in (*HOW_IT_RUNS, *NAMES):
        assert experiment.free(key)
    for key in EXPERIMENT:
        assert not experiment.free(key)


@pytest.mark.parametrize("key", EXPERIMENT)
def test_what_makes_another_experiment_is_refused_by_its_key(key):
    with pytest.raises(ConfigError, match=rf"this would be another one \({key}: .* -> another\); leave that"):
        experiment.changes(CONFIG, changed(key, "sampler.steps"))


def test_the_first_three_of_several_changes_are_named():
    with pytest.raises(ConfigError, match=r"\(seed: 0 -> another; caches: [^;]*; data\.name: [^;]*\); leave"):
        experiment.changes(CONFIG, changed(*EXPERIMENT[:3]))
    with pytest.raises(ConfigError, match=r"\(seed: 0 -> another; caches: [^;]*; data\.name: [^;]*; \.\.\.\); leave"):
        experiment.changes(CONFIG, changed(*EXPERIMENT[:4]))


def begun(folder: Path) -> Path:
    """A run's folder with a checkpoint and its configuration."""
    for name in (".hydra", "checkpoints"):
        (folder / name).mkdir(parents=True)
    (folder / "checkpoints" / "last.ckpt").touch()
    OmegaConf.save(OmegaConf.create(CONFIG), folder / ".hydra" / "config.yaml")
    return folder


def test_the_words_given_are_compared_with_the_run_that_they_name(tmp_path):
    folder = begun(tmp_path / "run")
    for name in (f"run={folder}", f"hydra.run.dir={folder}"):
        resume.compare([name, "resume=true"], OmegaConf.create(changed("sampler.steps")))
        with pytest.raises(ConfigError, match="another one"):
            resume.compare([name, "resume=true"], OmegaConf.create(changed("seed")))
        with pytest.raises(ConfigError, match="already holds a run; add resume=true"):
            resume.compare([name], OmegaConf.create(changed()))
        with state.running(folder, "x"), pytest.raises(RunError, match="going on"):
            resume.compare([name, "resume=true"], OmegaConf.create(changed()))


def test_a_folder_without_a_checkpoint_may_be_begun_in(tmp_path):
    def unasked() -> Any:
        raise AssertionError("there is nothing to compare")

    resume.compare(["seed=1"], unasked)
    resume.compare([f"hydra.run.dir={tmp_path}"], unasked)
    (tmp_path / "checkpoints").mkdir()
    resume.compare([f"hydra.run.dir={tmp_path}"], unasked)


def test_a_checkpoint_tells_whether_its_step_was_validated():
    def saved(completed: int, processed: int) -> dict[str, Any]:
        total = {"total": {"completed": completed, "processed": processed}}
        return {"loops": {"fit_loop": {"epoch_loop.batch_progress": total}}}

    assert experiment.validated(saved(4, 4))
    assert not experiment.validated(saved(3, 4))


def test_a_log_that_was_put_aside_comes_back(tmp_path):
    experiment.cut(tmp_path / "metrics.csv", 3)
    assert not list(tmp_path.iterdir())
    (tmp_path / experiment.ASIDE).write_text("step,train/loss\n1,0.5\n2,0.25\n")
    (tmp_path / "metrics.csv").write_text("step,train/loss\n")
    experiment.cut(tmp_path / "metrics.csv", 1)
    assert (tmp_path / "metrics.csv").read_text().split() == ["step,train/loss", "1,0.5"]
    assert not (tmp_path / experiment.ASIDE).exists()


def test_half_a_row_without_its_step_goes_too(tmp_path):
    (tmp_path / "metrics.csv").write_text("train/loss,step\n0.5,1\n0.2")
    experiment.cut(tmp_path / "metrics.csv", 5)
    assert (tmp_path / "metrics.csv").read_text().split() == ["train/loss,step", "0.5,1"]


# Evaluations


FIGURES = {"fid": 1.5}


@contextmanager
def evaluating(folder: Path, home: Path, name: str, **how: Any) -> Iterator[kept.Kept]:
    """As the command line does it: the folder is there."""
    folder.mkdir(parents=True, exist_ok=True)
    with kept.evaluating(folder, home, name, **how) as work:
        yield work


def evaluated(folder: Path, home: Path, name: str = "same", **how: Any) -> kept.Kept:
    """An evaluation that is finished, of figures with a picture."""
    with evaluating(folder, home, name, **how) as work:
        if not work.finished:
            work.part("fid", lambda: FIGURES)
            (work.folder / "grid.png").write_text("a picture")
            work.conclude(FIGURES)
    return work


def interrupted(folder: Path, home: Path, name: str = "same", part: bool = True) -> None:
    with pytest.raises(KeyboardInterrupt), evaluating(folder, home, name) as work:
        if part:
            work.part("fid", lambda: FIGURES)
            (work.folder / "grid.png").write_text("half a picture")
        state.write(folder, wandb_id="w")
        raise KeyboardInterrupt


def unasked() -> dict[str, Any]:
    raise AssertionError("this part is there already")


def test_a_new_evaluation_is_running_inside_and_finished_afterwards(tmp_path):
    with evaluating(tmp_path / "a", tmp_path, "same") as work:
        assert (work.folder, work.finished, work.gone_on) == (tmp_path / "a", None, None)
        assert state.read(work.folder)["status"] == "running"
        work.saved.write_text("accumulated")
        assert work.part("fid", lambda: FIGURES) == FIGURES
        assert not work.saved.exists(), "what was accumulated is in the part"
        assert work.part("fid", unasked) == FIGURES
        work.saved.write_text("of the next part")
        assert work.part("fid", unasked) == FIGURES
        assert work.saved.exists()
        assert work.made == []
        work.conclude(FIGURES)
    assert state.read(tmp_path / "a")["status"] == "finished"
    assert json.loads((tmp_path / "a" / "metrics.json").read_text()) == FIGURES
    assert not list((tmp_path / "a").glob("part.*")), "the parts are in metrics.json"
    assert work.made == [tmp_path / "a" / "metrics.json"]


def test_a_finished_evaluation_is_copied_or_taken_where_it_lies(tmp_path):
    first = evaluated(tmp_path / "a", tmp_path)
    assert first.finished is None
    second = evaluated(tmp_path / "b", tmp_path)
    assert (second.folder, second.finished, second.gone_on) == (tmp_path / "b", tmp_path / "a", None)
    assert [path.read_text() for path in second.made] == [path.read_text() for path in first.made]
    assert [path.name for path in second.made] == ["grid.png", "metrics.json"]
    assert state.read(tmp_path / "b")["copy_of"] == "../a"
    third = evaluated(tmp_path / "c", tmp_path, copies=False)
    assert (third.folder, third.finished) == (tmp_path / "a", tmp_path / "a"), "an original, though a copy is newer"
    assert not list((tmp_path / "c").iterdir())
    other = evaluated(tmp_path / "d", tmp_path, "other")
    assert other.finished is None


def test_a_finished_evaluation_in_its_own_folder_stays_as_it_is(tmp_path):
    evaluated(tmp_path / "a", tmp_path)
    again = evaluated(tmp_path / "a", tmp_path)
    assert (again.folder, again.finished) == (tmp_path / "a", tmp_path / "a")
    assert len(again.made) == 2
    assert "copy_of" not in state.read(tmp_path / "a")


def test_what_is_wanted_again_is_neither_copied_nor_gone_on_with(tmp_path):
    evaluated(tmp_path / "a", tmp_path)
    interrupted(tmp_path / "b", tmp_path, "other")
    for folder, name in (("c", "same"), ("a", "same"), ("d", "other"), ("b", "other")):
        with evaluating(tmp_path / folder, tmp_path, name, again=True) as work:
            assert (work.finished, work.gone_on, work.made) == (None, None, [])
            assert not list(work.folder.glob("part.*"))


def test_an_interrupted_evaluation_is_gone_on_with_in_another_folder(tmp_path):
    interrupted(tmp_path / "a", tmp_path)
    with evaluating(tmp_path / "b", tmp_path, "same") as work:
        assert (work.finished, work.gone_on) == (None, tmp_path / "a")
        assert work.part("fid", unasked) == FIGURES
        assert (work.folder / "grid.png").exists()
        work.conclude(FIGURES)
    assert state.read(tmp_path / "a")["gone_on_in"] == "../b"
    assert state.read(tmp_path / "b")["wandb_id"] == "w"
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == [".lock", "run.json"]
    assert evaluated(tmp_path / "c", tmp_path).finished == tmp_path / "b"


def test_an_interrupted_evaluation_is_gone_on_with_in_its_own_folder(tmp_path):
    home = tmp_path / "home"
    interrupted(tmp_path / "a", home)
    with evaluating(tmp_path / "a", home, "same") as work:
        assert (work.finished, work.gone_on) == (None, tmp_path / "a")
        assert work.part("fid", unasked) == FIGURES
    assert "gone_on_in" not in state.read(tmp_path / "a")


def test_one_that_was_interrupted_before_it_had_anything_gives_its_wandb_run_alone(tmp_path):
    interrupted(tmp_path / "a", tmp_path, part=False)
    with evaluating(tmp_path / "b", tmp_path, "same") as work:
        assert (work.finished, work.gone_on) == (None, None)
    assert state.read(tmp_path / "b")["wandb_id"] == "w"


def test_of_several_that_were_finished_the_newest_is_taken(tmp_path):
    for name, age in (("a", 50), ("b", 10), ("c", 90)):
        evaluated(tmp_path / name, tmp_path / "homes" / name)
        os.utime(tmp_path / name / state.NAME, (time.time() - age, time.time() - age))
    assert evaluated(tmp_path / "homes" / "d", tmp_path).finished == tmp_path / "b"


def test_another_evaluation_leaves_nothing_behind_in_a_folder(tmp_path):
    interrupted(tmp_path / "a", tmp_path, "other")
    (tmp_path / "a" / "saved.pt").touch()
    (tmp_path / "a" / "metrics.json").touch()
    with evaluating(tmp_path / "a", tmp_path, "same") as work:
        assert (work.finished, work.gone_on, work.made) == (None, None, [])
        assert sorted(path.name for path in work.folder.iterdir()) == [".lock", "run.json"]
    assert state.read(tmp_path / "a")["wandb_id"] is None


def test_one_that_is_being_evaluated_is_waited_for(tmp_path):
    with (
        evaluating(tmp_path / "a", tmp_path, "same"),
        pytest.raises(RunError, match=rf"is being evaluated just now in .*, by process {os.getpid()} on"),
        evaluating(tmp_path / "b", tmp_path, "same"),
    ):
        pass
    assert not list((tmp_path / "b").iterdir())


# Identity of evaluations


def test_the_identity_of_an_evaluation_leaves_out_where_it_runs_and_how_files_are_found():
    config = {
        "device": "cpu",
        "logger": {"tags": ["x"]},
        "ema": {"decay": 0.9},
        "devices": 2,
        "data": {"root": "here", "name": "digits"},
        "metrics": {"every": 5, "n": 8, "max_seconds": 3, "fid": {"cache": "c", "weights": "w", "keep": 1}},
        "extractor": {"weights": "w", "dim": 3},
        "guidance": {"weights": "w", "cache": "c"},
    }
    found = dict(identity._leaves(config))
    assert sorted(found) == [
        *("data.name", "devices", "extractor.dim", "guidance.cache", "guidance.weights"),
        *("metrics.fid.keep", "metrics.n"),
    ]


class Weights(torch.nn.Module):
    """A stand-in for a pipeline: tensors by name."""

    def __init__(self, **tensors: torch.Tensor) -> None:
        super().__init__()
        for name, values in tensors.items():
            self.register_buffer(name, values)


def test_the_hash_of_weights_is_of_their_names_types_shapes_and_bits():
    w = torch.arange(4.0)
    own = identity._of_weights(Weights(w=w, v=w))
    assert identity._of_weights(Weights(v=w.clone(), w=w[None, :][0])) == own, "whatever the order"
    others = [
        Weights(w=w, u=w),
        Weights(w=w, v=w.reshape(2, 2)),
        Weights(w=w, v=w.int()),
        Weights(w=w, v=w.view(torch.int32)),
    ]
    others += [Weights(w=w, v=torch.nextafter(w, w + 1)), Weights(w=w), Weights(w=w, v=-w)]
    assert len({own, *map(identity._of_weights, others)}) == 1 + len(others)


def test_the_hash_of_files_is_of_their_names_and_where_each_ends():
    own = identity._hash({"a": b"xy", "b": b"z"})
    others = [{"a": b"x", "b": b"yz"}, {"a": b"xy", "c": b"z"}, {"a": b"xyb 1\nz"}, {"a": b"xy"}]
    others += [{"a": b"xy", "b": b"w"}]
    assert len({own, *map(identity._hash, others)}) == 1 + len(others)
    assert len(own) == 12


def test_a_part_of_ones_own_is_in_the_identity_and_no_library_is(monkeypatch, tmp_path):
    (tmp_path / "my_parts").mkdir()
    (tmp_path / "my_parts" / "__init__.py").touch()
    (tmp_path / "my_parts" / "nets.py").write_text("class Net: ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    import my_parts.nets  # noqa: F401

    assert identity._own_file("my_parts.nets.Net") == tmp_path / "my_parts" / "nets.py"
    for target in ("denoiselab.samplers.DDIM", "torch.nn.Linear", "math.sin", "no_such_module.Net"):
        assert identity._own_file(target) is None


def test_the_identity_of_an_evaluation_is_of_all_that_decides_its_figures(monkeypatch, tmp_path):
    for name in ("mask.png", "other.png", "guide.safetensors"):
        (tmp_path / name).write_bytes(b"before")
    told = {
        "seed": 0,
        "device": "cpu",
        "guidance": {"scale": 1.0, "guide": {"run": str(tmp_path / "guide.safetensors")}},
    }
    told |= {"inpainting": {"mask": str(tmp_path / "mask.png")}}
    model = {"data": {"name": "digits"}, "conditioning": {"mask": str(tmp_path / "other.png")}, "optimizer": {"lr": 1}}

    def of(change: Any = None, model_change: Any = None, looked: str = "eye", step: int = 7, **parts: Any) -> str:
        cfg, trained = OmegaConf.create(told | (change or {})), OmegaConf.create(model | (model_change or {}))
        pipeline = Weights(w=parts.get("w", torch.zeros(2)))
        pipeline.conditioner = torch.nn.Linear(1, parts.get("width", 1), bias=False).requires_grad_(False)
        pipeline.conditioner.weight.zero_()
        data = SimpleNamespace(fingerprint=parts.get("fingerprint", "f"))
        return identity.identity(cfg, trained, pipeline, data, looked, {"step": step, "ema": parts.get("ema", "e")})

    own = of()
    assert of({"device": "cuda"}) == own
    assert of(None, {"optimizer": {"lr": 2}}) == own, "how a model was trained is in its weights"
    others = [
        *(of({"seed": 1}), of(None, {"data": {"name": "other"}}), of(looked="other"), of(step=8), of(ema="other")),
        *(of(w=torch.ones(2)), of(width=2), of(fingerprint="other")),
    ]
    for name in ("mask.png", "other.png", "guide.safetensors"):
        (tmp_path / name).write_bytes(b"after")
        others.append(of())
    assert len({own, *others}) == 1 + len(others)


# Averages


def test_snapshots_are_those_up_to_the_checkpoints_step_in_the_order_of_their_steps(tmp_path):
    for step in (5, 10, 100):
        torch.save(
            [tuple(Snapshot(step, width, {"w": torch.full((1,), float(step))})) for width in (0.05, 0.1)],
            tmp_path / f"{step}.pt",
        )
    found = checkpoint._snapshots(tmp_path, 10)
    assert [(snapshot.step, snapshot.sigma_rel) for snapshot in found] == [(5, 0.05), (5, 0.1), (10, 0.05), (10, 0.1)]
    assert [snapshot.step for snapshot in checkpoint._snapshots(tmp_path, 1000)] == [5, 5, 10, 10, 100, 100]
    assert checkpoint._snapshots(tmp_path / "none", 10) == []


# Exports


FACTS = {
    "config": {"seed": 0},
    "unresolved": {"seed": "${own}"},
    "image_shape": [1, 4, 4],
    "num_classes": 3,
    "class_names": ["a", "b", "c"],
    "step": 7,
    "ema": "decay=0.9",
    "checkpoint": "last",
    "code": "abc",
}
MODEL = {"w": torch.arange(6.0).reshape(2, 3), "half": torch.ones(3, dtype=torch.float16)}


def exported(folder: Path) -> Path:
    path = folder / "new" / "deeper" / "model.safetensors"
    for _ in range(2):  # in a folder that is made, and over the file that is there
        exports.write(path, MODEL, FACTS)
    return path


def test_an_export_gives_back_its_weights_and_facts(tmp_path):
    path = exported(tmp_path)
    weights, told = exports.read(path)
    assert told.pop("sha256")
    assert told == FACTS
    assert weights.keys() == MODEL.keys()
    assert all(torch.equal(weights[name], MODEL[name]) for name in MODEL)
    assert exports.about(path).keys() == {*FACTS, "sha256"}
    assert exports.is_export(path)
    assert not exports.is_export(path.parent)


def resaved(path: Path, weights: dict[str, torch.Tensor] | None = None, **facts: str | None) -> None:
    """The same file with other weights or facts; None: without that fact."""
    told = {key: value for key, value in {**exports._metadata(path), **facts}.items() if value is not None}
    save_file(load_file(path) if weights is None else weights, path, told)


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"denoiselab": None}, "is not of denoiselab"),
        ({"denoiselab": "2"}, "is of format 2, and this denoiselab reads 1"),
        ({"step": "7."}, "its metadata are not whole"),
        ({"ema": None}, "its metadata are not whole"),
        ({"step": "8"}, "does not hold what was exported"),
        ({"ema": "decay=0.5"}, "does not hold what was exported"),
        ({"config": '{"seed": "${evil}"}'}, "is not resolved"),
        ({"config": '{"sampler": {"_target_": "os.system"}}'}, "wants os.system called"),
        ({"unresolved": '{"codec": [{"_target_": "os.system"}]}'}, "wants os.system called"),
    ],
)
def test_an_export_with_other_facts_is_refused(facts, message, tmp_path):
    path = exported(tmp_path)
    resaved(path, **facts)
    with pytest.raises(RunError, match=message):
        exports.read(path)


@pytest.mark.parametrize(
    "change",
    [
        {"w": MODEL["w"] + 1},
        {"w": MODEL["w"].reshape(3, 2)},
        {"w": MODEL["w"].view(torch.int32)},
        {"v": MODEL["w"]},
    ],
    ids=["values", "shape", "type", "name"],
)
def test_an_export_with_other_weights_is_refused(change, tmp_path):
    path = exported(tmp_path)
    resaved(path, {"half": MODEL["half"], **change})
    with pytest.raises(RunError, match="does not hold what was exported"):
        exports.read(path)


def test_a_file_that_is_no_export_is_refused(tmp_path):
    for path, message in (
        (tmp_path / "none.safetensors", "is no file"),
        (tmp_path / "damaged.safetensors", "is damaged"),
    ):
        if path.stem == "damaged":
            path.write_bytes(b"x" * 100)
        with pytest.raises(RunError, match=message):
            exports.about(path)


def test_somebody_elses_error_is_cut_to_one_short_line():
    assert exports.short(ValueError("a\n b")) == "ValueError: a b"
    assert exports.short(ValueError("x" * 500)) == "ValueError: " + "x" * 120
