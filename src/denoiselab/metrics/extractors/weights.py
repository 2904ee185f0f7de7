"""Weight files: loaded without executing code, downloaded with a verified checksum."""

import hashlib
import io
import os
import tempfile
from http.client import HTTPException
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import urlopen

import torch
from torch import Tensor

from denoiselab.errors import ConfigError
from denoiselab.progress import track

HINT = "leave metrics.weights out, and those that its authors give out are fetched"


class Remote(NamedTuple):
    """A published file and its expected sha256."""

    url: str
    sha256: str

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]


def sha256(*paths: Path) -> str:
    """SHA-256 of the concatenated files, as in `cat FILES | sha256sum`."""
    digest = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            while block := file.read(1 << 22):
                digest.update(block)
    return digest.hexdigest()


def read(path: Path) -> tuple[dict[str, Tensor], str]:
    """Load a network's tensors by name, and their file's sha256. Raises ConfigError for any content but tensors.

    A pickle can contain code; only tensors are loaded.
    """
    if not path.is_file():
        raise ConfigError(
            f"metrics.weights={path} {'is a folder, no file' if path.is_dir() else 'is not there'}; {HINT}"
        )
    content = path.read_bytes()
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:
        raise ConfigError(
            f"metrics.weights={path} is damaged, or holds more than tensors, and is not read "
            f"({type(error).__name__}); {HINT}"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise ConfigError(f"metrics.weights={path} is not a network's weights, a tensor for each name; {HINT}")
    return state, hashlib.sha256(content).hexdigest()


def fetched(remote: Remote, cache: Path) -> Path:
    """Return the path of the file in `cache`, downloaded if missing or damaged. Raises ConfigError if that fails.

    Writes to a temporary file and renames it, so that concurrent jobs do not interfere.
    """
    path = cache / remote.name
    if path.is_file() and sha256(path) == remote.sha256:
        return path
    cache.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=cache)
    try:
        with os.fdopen(handle, "wb") as file:
            _fetch(remote, file)
        found = sha256(Path(temporary))
        if found != remote.sha256:
            raise ConfigError(
                f"{remote.url} gave another file than it should (sha256 {found[:16]}..., not {remote.sha256[:16]}...), "
                "which is not used; try again, or bring the file from elsewhere and give metrics.weights=<file>"
            )
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return path


def _fetch(remote: Remote, file: Any) -> None:
    try:
        with urlopen(remote.url, timeout=30) as answer:
            megabytes = int(answer.headers.get("Content-Length", 0)) >> 20
            with track(f"fetching {remote.name}, MB", megabytes) as advance:
                while block := answer.read(1 << 20):
                    file.write(block)
                    advance(1)
    except (OSError, HTTPException) as error:
        raise ConfigError(
            f"the extractor's weights cannot be fetched: {remote.url} cannot be reached ({error}); bring that file "
            "here and give metrics.weights=<file>, or take extractor=classifier, which needs none"
        ) from error
