"""Progress of long work: a bar on a terminal, now and then a line where there is none. Rank 0 speaks alone."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

console = Console(stderr=True)
_live: list[Progress] = []


@contextmanager
def live() -> Iterator[Progress]:
    """The one bar display that is on; nested uses share it."""
    if _live:
        yield _live[0]
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
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
    """Inside, call the yielded function with the number of units done since its last call, and a `note` if you like."""
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
