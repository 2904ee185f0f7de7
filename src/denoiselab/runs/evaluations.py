"""Evaluations on disk: a finished one is found by its identity, an interrupted one is resumed.

An evaluation's folder has run.json with its identity and status, and a lock while it runs (state.py); saved.pt, the
accumulated state of the part in progress; the metrics of each finished part; and at the end metrics.json and images.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from denoiselab.errors import RunError
from denoiselab.files import write_json
from denoiselab.runs import state

METRICS = "metrics.json"
_SAVED = "saved.pt"
_PARTS = "part.*.json"
_MADE = ("grid.png", "points.png", "likelihood.csv", "likelihood.png")


class Kept:
    """An evaluation's folder. `finished`: the folder of an earlier finished one; `gone_on`: of the one resumed."""

    def __init__(self, folder: Path, finished: Path | None = None, gone_on: Path | None = None) -> None:
        self.folder, self.finished, self.gone_on = folder, finished, gone_on
        self.saved = folder / _SAVED

    def part(self, name: str, find: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Return one part's metrics: saved ones, or else the result of `find`, which is saved."""
        path = self.folder / f"part.{name}.json"
        if not path.exists():
            write_json(find(), path)
            self.saved.unlink(missing_ok=True)
        return json.loads(path.read_text())

    def conclude(self, figures: dict[str, Any]) -> None:
        """Write metrics.json and delete the files of the parts."""
        write_json(figures, self.folder / METRICS)
        for path in self.folder.glob(_PARTS):
            path.unlink()

    @property
    def made(self) -> list[Path]:
        """The result files that exist."""
        return [self.folder / name for name in (*_MADE, METRICS) if (self.folder / name).exists()]


@contextmanager
def evaluating(folder: Path, home: Path, identity: str, again: bool = False, copies: bool = True) -> Iterator[Kept]:
    """Reserve the evaluation of this identity for this process. `home`: the folder of the run's evaluations.

    An interrupted evaluation in `home` or `folder` is moved to `folder`; a finished one is copied there, or with
    copies=False used in place. `again`: evaluate anew. Raises RunError if another process is evaluating the same.
    """
    folder = folder.resolve()
    with ExitStack() as stack:
        with _one_at_a_time(home):
            found = [] if again else _found(folder, home, identity)
            finished = next((path for path in found if (path / METRICS).exists()), None)
            if finished and not copies:
                yield Kept(finished, finished)
                return
            stack.enter_context(state.running(folder, identity))
            begun = next((path for path in found if _parts(path)), None)
            unfinished = None if finished else begun or next(iter(found), None)
            if folder not in (finished, unfinished):
                _clear(folder)
            if finished and finished != folder:
                for name in (*_MADE, METRICS):
                    if (finished / name).exists():
                        shutil.copy2(finished / name, folder / name)
                state.write(folder, copy_of=os.path.relpath(finished, folder))
            if unfinished and unfinished != folder:
                for path in [*_parts(unfinished), *(unfinished / name for name in _MADE)]:
                    if path.exists():
                        os.replace(path, folder / path.name)
                state.write(folder, wandb_id=state.read(unfinished).get("wandb_id"))
                state.write(unfinished, gone_on_in=os.path.relpath(folder, unfinished))
        yield Kept(folder, finished, None if finished else begun)


def _found(folder: Path, home: Path, identity: str) -> list[Path]:
    """Return the folders of this identity, newest first, copies last. Raises RunError if another process uses one."""
    paths = [*home.rglob(state.NAME), folder / state.NAME]
    same = {path.parent.resolve() for path in paths if state.read(path.parent).get("identity") == identity}
    for path in same:
        try:
            state.check_idle(path)
        except RunError as error:
            who = state.read(path)
            raise RunError(
                f"the same is being evaluated just now in {os.path.relpath(path)}, by process {who.get('process')} on "
                f"{who.get('host')}; wait for it, then this takes its figures"
            ) from error
    newest = sorted(same, key=lambda path: (path / state.NAME).stat().st_mtime_ns, reverse=True)
    return sorted(newest, key=lambda path: "copy_of" in state.read(path))


def _parts(folder: Path) -> list[Path]:
    return [*folder.glob(_SAVED), *folder.glob(_PARTS)]


def _clear(folder: Path) -> None:
    """Delete the files of another evaluation from the folder."""
    for path in [*_parts(folder), *(folder / name for name in (*_MADE, METRICS))]:
        path.unlink(missing_ok=True)
    state.write(folder, wandb_id=None)


@contextmanager
def _one_at_a_time(home: Path) -> Iterator[None]:
    """Lock the folder, so that two processes starting at once do not both find no evaluation."""
    home.mkdir(parents=True, exist_ok=True)
    handle = os.open(home, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
