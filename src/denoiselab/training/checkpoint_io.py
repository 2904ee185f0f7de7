"""Reading and writing of the trainer's checkpoints."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import CheckpointIO

from denoiselab.files import replacing, step_of


def kept(path: Path) -> str:
    """Say whether there is a checkpoint to resume from, as part of a message."""
    step = step_of(path)
    return "no checkpoint had been written" if step is None else f"{os.path.relpath(path)} of step {step} is good"


class WholeFiles(CheckpointIO):
    """CheckpointIO that writes atomically and reads with weights_only.

    Lightning's own writes to the system's temporary folder first, which may be small, and does not flush to disk.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Raise OSError if writing fails; an existing file stays as it was."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        # A file object: given a path, torch's writer does not report the cause of a failure.
        with replacing(path) as temporary, temporary.open("wb") as file:
            torch.save(checkpoint, file)

    def load_checkpoint(
        self, path: Any, map_location: Callable[..., Any] | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return torch.load(path, map_location="cpu", weights_only=True)

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)
