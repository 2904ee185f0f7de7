"""Trainings of two processes that are stopped, killed and started by others: real processes, real signals."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from omegaconf import OmegaConf
from test_faults import SMALL, state, step_of, without_announcement

from conftest import REPOSITORY, free_port
from denoiselab.errors import BrokenRunError, ConfigError, Interrupted, RunError
from denoiselab.training import processes as ranks
from denoiselab.training.start import Start

WORDS = [word for word in SMALL if not word.startswith(("trainer=", "trainer.max_steps="))]
WORDS += ["trainer=ddp_cpu", "trainer.max_steps=100000", "callbacks.checkpoint.every_n_train_steps=20"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY / "src")}


def until(happened: Callable[[], object], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.02)


def children(pid: int) -> list[int]:
    """Of all its threads."""
    return [int(i) for path in Path(f"/proc/{pid}/task").glob("*/children") for i in path.read_text().split()]


def below(pid: int) -> list[int]:
    """Its children, theirs, and so on: the ranks, and what W&B and the loaders have started."""
    return [i for child in children(pid) for i in (child, *below(child))]


def runs_still(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


class Ended(NamedTuple):
    status: int
    told: list[str]  # lines on stderr
    seconds: float  # from the fault to the end of the last process
    step: int  # of last.ckpt, which can be read
    state: tuple[str, str]


def training(folder: Path, words: list[str], fault: Callable[[int, list[int]], None]) -> Ended:
    """Starts a training, waits until it has saved, and has the fault happen to (launcher, ranks); all processes end."""
    last = folder / "checkpoints" / "last.ckpt"
    before = last.stat().st_mtime_ns if last.exists() else 0
    command = [sys.executable, str(REPOSITORY / "train.py"), *words]
    process = subprocess.Popen(
        command, cwd=folder.parent, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        until(lambda: process.poll() is not None or (last.exists() and last.stat().st_mtime_ns > before))
        every = below(process.pid)
        assert len(children(process.pid)) == 2, process.stderr.read()
        started = time.monotonic()
        fault(process.pid, sorted(children(process.pid)))
        until(lambda: process.poll() is not None and not any(map(runs_still, every)), 60)
        seconds = time.monotonic() - started
    finally:
        if process.poll() is None:
            process.kill()
    told = without_announcement(process.stderr.read()).splitlines()
    return Ended(process.returncode, told, seconds, step_of(folder), state(folder))


@pytest.fixture(scope="module")
def life(tmp_path_factory) -> dict[str, Ended]:
    """One run that is stopped in four ways, and goes on after each."""
    folder = tmp_path_factory.mktemp("life") / "run"
    faults = {
        "ctrl-c": lambda launcher, ranks: os.killpg(launcher, signal.SIGINT),
        "rank 1": lambda launcher, ranks: os.kill(ranks[1], signal.SIGKILL),
        "rank 0": lambda launcher, ranks: os.kill(ranks[0], signal.SIGKILL),
        "launcher": lambda launcher, ranks: os.kill(launcher, signal.SIGKILL),
    }
    ended: dict[str, Ended] = {}
    for name, fault in faults.items():
        again = [f"run={folder}", "resume=true"]
        ended[name] = training(folder, again if ended else [*WORDS, "logger=wandb", f"hydra.run.dir={folder}"], fault)
        print(f"{name}: all processes had ended after {ended[name].seconds:.1f} s")
    return ended


@pytest.mark.slow
def test_ctrl_c_leaves_a_checkpoint_of_the_step_and_no_process(life):
    stopped = life["ctrl-c"]
    assert stopped.status == 130
    assert stopped.told[0] == "SIGINT: stopping after this step"
    assert stopped.told[1].startswith(f"train.py: SIGINT: stopped at step {stopped.step}; ")
    assert len(stopped.told) == 2
    assert stopped.state[0] == "interrupted"


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_when_a_process_is_killed_the_other_stops_within_a_minute_and_the_run_goes_on_from_its_last_checkpoint(
    life, rank
):
    stopped, before = life[f"rank {rank}"], life["ctrl-c" if rank == 1 else "rank 1"]
    assert stopped.seconds < 60
    assert stopped.status == 1
    assert stopped.told[0].startswith(f"resuming at step {before.step} of ")
    line = f"process {rank} was killed by SIGKILL (as by a system without memory left); the others were stopped"
    assert stopped.told[1:] == [f"train.py: {line}"]
    assert stopped.state == ("failed", f"BrokenRunError: {line}")
    assert stopped.step > before.step


@pytest.mark.slow
def test_no_process_outlives_the_one_that_watches(life):
    """`training` has waited for the end of each of them."""
    assert life["launcher"].status == -signal.SIGKILL
    assert life["launcher"].step > life["rank 0"].step
    assert life["launcher"].state[0] == "running"  # it had no time to say more; its lock is gone


def started(folder: Path, *command: str, words: tuple[str, ...] = (), **variables: str) -> subprocess.Popen[str]:
    short = [word for word in WORDS if not word.startswith("trainer.max_steps=")]
    where = [str(REPOSITORY / "train.py"), *short, "trainer.max_steps=4", *words]
    return subprocess.Popen(
        [sys.executable, *command, *where], cwd=folder, env=ENVIRONMENT | variables, stderr=subprocess.PIPE, text=True
    )


def one_of_two(rank: int, port: str) -> dict[str, str]:
    """What torchrun tells a process."""
    there = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    return there | {"RANK": str(rank), "LOCAL_RANK": str(rank)}


def task_of_two(rank: int, port: str) -> dict[str, str]:
    """What srun tells a task: simulated, there is no SLURM here."""
    there = {"SLURM_JOB_ID": "1234", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2"}
    place = {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank), "SLURM_NODEID": "0", "SLURM_NNODES": "1"}
    return there | place | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}


def finished_once(folder: Path) -> None:
    """One run of four steps in the folder, with one table and one configuration."""
    assert step_of(folder) == 4
    assert json.loads((folder / "run.json").read_text())["status"] == "finished"
    rows = (folder / "metrics.csv").read_text().splitlines()
    assert len([row for row in rows if "step" in row]) == 1
    assert sorted(path.name for path in (folder / ".hydra").iterdir()) == [
        "config.yaml",
        "hydra.yaml",
        "overrides.yaml",
    ]
    assert "hydra.output_subdir" not in (folder / ".hydra" / "overrides.yaml").read_text()


@pytest.mark.slow
def test_torchrun_starts_one_run_of_two_processes_in_one_folder(tmp_path):
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(free_port())]
    process = started(tmp_path, *launcher, words=("hydra.run.dir=run",))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert err.count("metrics.json") == 1, err  # one process speaks
    assert [path.name for path in tmp_path.iterdir() if path.name != "outputs"] == ["run"]
    finished_once(tmp_path / "run")


@pytest.mark.slow
def test_two_tasks_of_srun_are_one_run_in_one_folder(tmp_path):
    """SLURM is simulated by its variables."""
    port = str(free_port())
    tasks = [started(tmp_path, words=("hydra.run.dir=run",), **task_of_two(rank, port)) for rank in range(2)]
    told = [task.communicate(timeout=120)[1] for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], told
    assert "metrics.json" in told[0]
    assert told[1] == ""
    finished_once(tmp_path / "run")


@pytest.mark.slow
def test_processes_started_with_differing_words_are_stopped(tmp_path):
    port = str(free_port())
    pair = [
        started(tmp_path, words=("hydra.run.dir=run", f"optimizer.lr=0.00{rank + 1}"), **one_of_two(rank, port))
        for rank in range(2)
    ]
    told = [without_announcement(process.communicate(timeout=120)[1]) for process in pair]
    assert [process.returncode for process in pair] == [2, 2], told
    for line in told:
        assert line.startswith("train.py: the processes have different configurations (process 0: "), line
        assert line.count("\n") == 1
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize(
    ("place", "words", "multirun", "told"),
    [
        (
            one_of_two,
            ["seed=1"],
            False,
            "each of torchrun's processes would make a folder of its own; give",
        ),
        (
            task_of_two,
            ["seed=1"],
            False,
            "each of srun's processes would make a folder of its own; give",
        ),
        (one_of_two, ["seed=1,2"], True, "leave torchrun out"),
    ],
)
def test_processes_that_would_each_make_a_folder_are_refused(place, words, multirun, told, monkeypatch):
    for key, value in place(1, "0").items():
        monkeypatch.setenv(key, value)
    with pytest.raises(ConfigError, match=told):
        ranks.as_one_of_several(words, multirun)
    assert ranks.as_one_of_several(["hydra.run.dir=x"], False) == ["hydra.run.dir=x", "hydra.output_subdir=null"]
    assert ranks.rank() == 1
    with pytest.raises(ConfigError, match="several processes, of which this trainer takes one; take trainer=ddp"):
        ranks.to_start(OmegaConf.create({"trainer": {"strategy": "auto", "devices": 1}}))


@pytest.mark.parametrize("strategy", ["auto", "ddp", "fsdp"])
def test_two_devices_are_two_processes_whatever_the_strategy_is_called(strategy):
    """Lightning would take two by itself, and run the command line again for the second."""
    assert (
        ranks.to_start(OmegaConf.create({"trainer": {"strategy": strategy, "devices": 2, "accelerator": "cpu"}})) == 2
    )


def test_several_machines_need_someone_to_start_their_processes():
    with pytest.raises(ConfigError, match="num_nodes=2 takes torchrun or srun"):
        ranks.to_start(OmegaConf.create({"trainer": {"strategy": "ddp", "devices": 2, "num_nodes": 2}}))


def test_a_batch_script_of_slurm_is_no_task_of_several(monkeypatch):
    """SLURM tells it of the tasks too, but of no step; simulated by its variables."""
    for key, value in task_of_two(0, "0").items():
        monkeypatch.setenv(key, value)
    monkeypatch.delenv("SLURM_STEP_ID")
    assert ranks.starter() is None
    assert ranks.to_start(OmegaConf.create({"trainer": {"strategy": "ddp", "devices": 2, "accelerator": "cpu"}})) == 2
    assert type(ranks.environment()[0]).__name__ == "LightningEnvironment"


def test_lightnings_own_answer_to_slurms_signals_is_off(monkeypatch):
    """It would save and queue the job again in the middle of a step; simulated by SLURM's variables."""
    for key, value in task_of_two(0, "0").items():
        monkeypatch.setenv(key, value)
    (environment,) = ranks.environment()
    assert (environment.global_rank(), environment.world_size(), environment.auto_requeue) == (0, 2, False)
    monkeypatch.delenv("SLURM_NTASKS_PER_NODE")
    with pytest.raises(ConfigError, match="--ntasks-per-node"):
        ranks.environment()


@pytest.fixture
def launched(monkeypatch, tmp_path):
    """Two processes, which run these lines, under the real launcher; no torch in them, so that they start at once."""

    def launch(lines: str) -> None:
        program = tmp_path / "program.py"
        program.write_text(
            "import os, signal, sys, time\nfrom denoiselab.training import processes as ranks\n"
            "from denoiselab.errors import *\n"
            "with ranks.telling():\n    rank = ranks.rank()\n" + "".join(f"    {line}\n" for line in lines.splitlines())
        )
        monkeypatch.setattr(ranks, "_RANK", (str(program),))
        monkeypatch.setattr(ranks, "_PATIENCE", 1.0)
        ranks.launch(2, {}, Start(tmp_path, {}, "default"))

    return launch


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize(
    ("error", "kind", "told"),
    [
        ("ConfigError('no such thing')", RunError, "^no such thing$"),
        ("BrokenRunError('step 3: NaN')", BrokenRunError, "^step 3: NaN$"),
        (
            "KeyError('x')",
            BrokenRunError,
            "(?s)process {rank} failed; the others were stopped\nTraceback.*KeyError: 'x'$",
        ),
    ],
)
def test_the_error_that_came_first_is_the_one_that_is_told(rank, error, kind, told, launched):
    """The other process fails of its silence at once, before anyone has looked."""
    lines = f"if rank == {rank}:\n    raise {error}\n"
    lines += f"while not os.path.exists(os.environ[ranks._FAILURES] + '/{rank}.txt'):\n"
    lines += "    time.sleep(0.001)\nraise RuntimeError('gone')"
    with pytest.raises(kind, match=told.format(rank=rank)):
        launched(lines)


def test_one_that_hangs_when_another_has_failed_is_ended(launched):
    begun = time.monotonic()
    with pytest.raises(BrokenRunError, match="process 1 failed"):
        launched("if rank == 1:\n    raise KeyError\ntime.sleep(60)")
    assert time.monotonic() - begun < 20


def test_a_second_ctrl_c_ends_all_at_once_though_the_first_is_not_heard(launched, tmp_path):
    lines = "signal.signal(signal.SIGINT, signal.SIG_IGN)\nif rank == 0:\n    for wait in range(2):\n"
    lines += "        time.sleep(0.3)\n        os.kill(os.getppid(), signal.SIGINT)\n"
    lines += "open(f'{os.getpid()}', 'w')\ntime.sleep(60)"
    begun = time.monotonic()
    before = Path.cwd()
    os.chdir(tmp_path)
    try:
        with pytest.raises(Interrupted, match="SIGINT: stopped at once, without a checkpoint") as stopped:
            launched(lines)
    finally:
        os.chdir(before)
    assert stopped.value.status == 130
    assert time.monotonic() - begun < 20
    assert not any(runs_still(int(path.name)) for path in tmp_path.iterdir() if path.name.isdigit())


def test_a_process_that_is_killed_is_the_reason_whatever_the_others_say(launched):
    with pytest.raises(BrokenRunError, match="process 1 was killed by SIGSEGV; the others were stopped"):
        launched("if rank == 1:\n    os.kill(os.getpid(), signal.SIGSEGV)\nraise RuntimeError('gone')")
