"""Progress of long work: a bar on a terminal, elsewhere an occasional line. Only rank 0 prints."""

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

console = Console(stderr=True)
_live: list[Progress] = []
_jobs: "list[Jobs]" = []


class _Count(MofNCompleteColumn):
    def render(self, task: Task) -> Text:
        return Text(task.fields["count"]) if "count" in task.fields else super().render(task)


class _Left(TimeRemainingColumn):
    """The time left: by the pace of the last 30 seconds, or until the task's own end (None: unknown)."""

    def render(self, task: Task) -> Text:
        if "end" not in task.fields:
            return super().render(task)
        end = task.fields["end"]
        told = "" if end is None else f"{_readable(max(0.0, end - time.monotonic()))} left"
        return Text(told, style="progress.remaining")


@contextmanager
def live() -> Iterator[Progress]:
    """Yields the one active bar display; nested uses share it."""
    if _live:
        yield _live[0]
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        _Count(),
        TimeElapsedColumn(),
        _Left(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        _live.append(progress)
        try:
            yield progress
        finally:
            _live.clear()


@contextmanager
def track(description: str, total: int, quiet: bool = False) -> Iterator[Callable[..., None]]:
    """Yields a function to call with the number of units done since its last call, and an optional `note`."""
    if quiet:
        yield lambda units, note="": None
    elif not sys.stderr.isatty():
        yield _lines(description, total)
    else:
        with live() as progress:
            task = progress.add_task(description, total=total, note="")
            try:
                yield lambda units, note="": progress.update(task, advance=units, note=note)
            finally:
                progress.remove_task(task)


def _lines(description: str, total: int, every: float = 10.0) -> Callable[..., None]:
    done, start = 0, time.monotonic()
    told = start

    def advance(units: int, note: str = "") -> None:
        nonlocal done, told
        done += units
        now = time.monotonic()
        if now - told >= every:
            told = now
            left = (now - start) / max(done, 1) * (total - done)
            print(
                f"{description}: {done}/{total}, {left:.0f} s left{note and ', ' + note}", file=sys.stderr, flush=True
            )

    return advance


class Jobs:
    """Several jobs in sequence, each expected to take time in proportion to its cost.

    Shows a bar on a terminal while the context is open, elsewhere a line before each job.
    """

    def __init__(self, description: str, costs: Sequence[float]) -> None:
        self.description, self.costs = description, list(costs)
        self.begun, self.idle = 0, False
        self._spent = self._seconds = 0.0  # of the jobs that were not idle

    def __enter__(self) -> "Jobs":
        self._stack = ExitStack()
        _jobs.append(self)
        if sys.stderr.isatty():
            self._progress = self._stack.enter_context(live())
            self._task = self._progress.add_task(self.description, total=sum(self.costs), note="", count="", end=None)
        return self

    def __exit__(self, *_: object) -> None:
        if sys.stderr.isatty():
            self._progress.remove_task(self._task)
        _jobs.remove(self)
        self._stack.close()

    @property
    def left(self) -> float | None:
        """The expected seconds of the current job and those after it; None before one has ended."""
        if not self._spent:
            return None
        return self._seconds / self._spent * sum(self.costs[max(0, self.begun - 1) :])

    @contextmanager
    def job(self) -> Iterator[None]:
        """Wraps each job in turn."""
        self.begun += 1
        cost, started, self.idle = self.costs[min(self.begun, len(self.costs)) - 1], time.monotonic(), False
        count, left = f"{self.begun}/{len(self.costs)}", self.left
        if sys.stderr.isatty():
            done = sum(self.costs[: self.begun - 1])
            end = None if left is None else started + left
            self._progress.update(self._task, completed=done, count=count, end=end)
        else:
            told = "" if left is None else f", {_readable(left)} left"
            print(f"{self.description}: {count}{told}", file=sys.stderr, flush=True)
        yield
        if not self.idle:
            self._spent, self._seconds = self._spent + cost, self._seconds + time.monotonic() - started


@contextmanager
def job() -> Iterator[None]:
    """Wraps each job that a bar counts, if one does."""
    with ExitStack() as stack:
        for jobs in _jobs:
            stack.enter_context(jobs.job())
        yield


def idle() -> None:
    """Marks the current job as having had nothing to do, so that the estimated pace ignores it."""
    for jobs in _jobs:
        jobs.idle = True


def _readable(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 120 else f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
