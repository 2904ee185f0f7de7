"""What is made once for all jobs, of which several may want it at once."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from denoiselab.cache import cached

JOB = """
import os, sys, time
from pathlib import Path
from denoiselab.cache import cached

def make():
    Path(sys.argv[1], f"made by {os.getpid()}").touch()
    time.sleep(float(sys.argv[2]))
    return {"numbers": list(range(100_000)), "by": os.getpid()}

print(cached(Path(sys.argv[1], "cache", "thing.pt"), make)["by"])
"""


def job(folder: Path, seconds: float) -> subprocess.Popen:
    command = [sys.executable, "-c", JOB, str(folder), str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def until(path: Path, pattern: str) -> None:
    started = time.monotonic()
    while not list(path.glob(pattern)):
        assert time.monotonic() - started < 60
        time.sleep(0.02)


def test_of_two_jobs_at_once_one_makes_it_and_the_other_waits_and_reads_it(tmp_path):
    first = job(tmp_path, seconds=6)
    until(tmp_path, "made by *")
    second = job(tmp_path, seconds=6)
    told = [process.communicate(timeout=60) for process in (first, second)]
    assert [out.strip() for out, _ in told] == [str(first.pid)] * 2, told
    assert len(list(tmp_path.glob("made by *"))) == 1
    assert "waiting for another job to make thing.pt" in told[1][1]
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["thing.pt"]


def test_a_job_that_was_killed_at_it_leaves_it_to_the_next(tmp_path):
    first = job(tmp_path, seconds=60)
    until(tmp_path, "made by *")
    first.kill()
    first.wait()
    assert cached(tmp_path / "cache" / "thing.pt", lambda: {"by": "the next"}) == {"by": "the next"}
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["thing.pt"]


def test_a_file_that_cannot_be_read_is_made_anew(tmp_path):
    path = tmp_path / "thing.pt"
    path.write_bytes(b"half of a file")
    with pytest.warns(UserWarning, match=r"thing.pt cannot be read \(\w+\) and is made anew"):
        assert cached(path, lambda: [1]) == [1]
    assert cached(path, lambda: [2]) == [1]


def test_what_fails_on_the_way_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError):
        cached(tmp_path / "cache" / "thing.pt", lambda: 1 // 0)
    assert list((tmp_path / "cache").iterdir()) == []


def test_where_the_file_system_has_no_locks_it_is_made_all_the_same(tmp_path, monkeypatch):
    def no_locks(handle: int, how: int) -> None:
        raise OSError(95, os.strerror(95))

    monkeypatch.setattr("fcntl.flock", no_locks)
    assert torch.equal(cached(tmp_path / "thing.pt", lambda: torch.ones(3)), torch.ones(3))
    assert [path.name for path in tmp_path.iterdir()] == ["thing.pt"]
