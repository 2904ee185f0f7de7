"""Progress on a real terminal, and where there is none."""

import os
import pty
import re
import subprocess
import sys

from denoiselab import progress

NESTED = """
import time
from denoiselab.progress import track
with track("outer", 3) as advance:
    for i in range(3):
        with track("inner", 2) as inner:
            inner(1, "half way"); time.sleep(0.15); inner(1)
        advance(1, f"loss {i}")
        time.sleep(0.15)
with track("second", 1) as advance:
    advance(1)
print("done")
"""


def lines(capsys) -> list[str]:
    return capsys.readouterr().err.splitlines()


def test_where_there_is_no_terminal_a_line_comes_at_most_every_ten_seconds(monkeypatch, capsys):
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with progress.track("counting", 50) as advance:
        for _ in range(50):
            now += 1.0
            advance(1, "a note")
    assert lines(capsys) == [f"counting: {n}/50, {50 - n} s left, a note" for n in (10, 20, 30, 40, 50)]


def test_short_work_says_nothing_where_there_is_no_terminal(capsys):
    with progress.track("counting", 2) as advance:
        advance(2)
    assert lines(capsys) == []


def test_quiet_work_says_nothing_however_long_it_takes(monkeypatch, capsys):
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with progress.track("counting", 2, quiet=True) as advance:
        now += 1000
        advance(1)
    assert lines(capsys) == []


def test_work_of_unknown_or_no_length_does_not_crash(monkeypatch, capsys):
    clock = iter(range(0, 1000, 20))
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with progress.track("nothing", 0) as advance:
        advance(0)
    with progress.track("more than told", 1) as advance:
        advance(3)
    assert [line.partition(",")[0] for line in lines(capsys)] == ["nothing: 0/0", "more than told: 3/1"]


def test_the_time_that_jobs_are_going_to_take_goes_by_their_cost_and_not_by_their_number(monkeypatch, capsys):
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    costs = [1, 2, 10, 100]
    with progress.Jobs("jobs", costs):
        for cost in costs:
            with progress.job():
                now += 3.0 * cost
    assert lines(capsys) == ["jobs: 1/4", "jobs: 2/4, 6 min left", "jobs: 3/4, 6 min left", "jobs: 4/4, 5 min left"]


def test_a_job_that_has_nothing_to_do_says_nothing_of_the_time_of_the_others(monkeypatch, capsys):
    now = 100.0
    monkeypatch.setattr(progress.time, "monotonic", lambda: now)
    with progress.Jobs("jobs", [1, 1, 1, 1]):
        for idle in (False, True, True, False):
            with progress.job():
                now += 0.0 if idle else 20.0
                if idle:
                    progress.idle()
    assert lines(capsys) == ["jobs: 1/4", "jobs: 2/4, 60 s left", "jobs: 3/4, 40 s left", "jobs: 4/4, 20 s left"]


def test_a_job_by_itself_is_not_counted(capsys):
    with progress.job():
        progress.idle()
    assert lines(capsys) == []


def test_bars_within_bars_share_a_real_terminal_and_are_gone_when_work_is_done():
    """The program writes to a pseudo-terminal; what is seen are the letters, without the terminal's commands."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    program = subprocess.Popen([sys.executable, "-c", NESTED], stderr=theirs, stdout=subprocess.PIPE, env=environment)
    os.close(theirs)
    seen = b""
    try:
        while part := os.read(ours, 4096):
            seen += part
    except OSError:  # how Linux says that the other end is closed
        pass
    os.close(ours)
    assert program.communicate()[0] == b"done\n"
    assert program.returncode == 0
    text = seen.decode()
    for words in ("outer", "inner", "half way", "loss 1", "2/3", "1/2"):
        assert words in text
    assert "Traceback" not in text
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") > 0, "the cursor that was hidden is shown again"
    assert re.search(r"\x1b\[2K[\s\x1b\[\]?0-9A-Za-z]*$", text), "the last lines are wiped"
