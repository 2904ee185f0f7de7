"""How the trainer's checkpoints go to disk and come back."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning.plugins.io import CheckpointIO

from denoiselab.files import replacing, step_of


def kept(path: Path) -> str:
    """In words, that this checkpoint is there to go on from, or is not."""
    step = step_of(path)
    return "no checkpoint had been written" if step is None else f"{os.path.relpath(path)} of step {step} is good"


class WholeFiles(CheckpointIO):
    """A checkpoint is whole or not there, and holds plain values: it is read with weights_only.

    Lightning's own first writes to the system's temporary folder, which may be small, and is not flushed to the disk.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Raises OSError where it cannot be written; what was there before stays."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        # A file rather than its name, for which torch has a writer that does not say what went wrong.
        with replacing(path) as temporary, temporary.open("wb") as file:
            torch.save(checkpoint, file)

    def load_checkpoint(
        self, path: Any, map_location: Callable[..., Any] | None = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        return torch.load(path, map_location="cpu", weights_only=True)

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)
