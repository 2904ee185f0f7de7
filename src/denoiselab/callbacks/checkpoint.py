"""Checkpoints: checkpoints/last.ckpt, and checkpoints/best.ckpt by the newest evaluation's figure."""

import os
from pathlib import Path
from typing import Any

import pytorch_lightning as pl

from denoiselab.callbacks.logging import due, run_folder
from denoiselab.system import DiffusionSystem


class Checkpoint(pl.Callback):
    """last.ckpt every `every_n_train_steps` optimizer steps (None: at the end only) and at the end; best.ckpt whenever
    `monitor`, lower being better, has improved. Stands after the evaluation in the list of callbacks.

    A file is written under a temporary name and renamed, so a checkpoint is whole or not there.
    """

    def __init__(self, every_n_train_steps: int | None = None, monitor: str | None = "fid") -> None:
        self.every_n_train_steps, self.monitor = every_n_train_steps, monitor
        self.best: float | None = None
        self._judged_at = self._saved_at = -1

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self._judge(trainer, pl_module)
        if due(trainer, self.every_n_train_steps) and self._saved_at != trainer.global_step:
            self._saved_at = trainer.global_step  # several batches may belong to one optimizer step
            self._save(trainer, "last.ckpt")

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._judge(trainer, pl_module)
        self._save(trainer, "last.ckpt")

    def _judge(self, trainer: pl.Trainer, system: pl.LightningModule) -> None:
        assert isinstance(system, DiffusionSystem)
        if self.monitor not in system.figures or system.figures["step"] == self._judged_at:
            return
        self._judged_at, value = system.figures["step"], system.figures[self.monitor]
        if self.best is None or value < self.best:
            self.best = value
            self._save(trainer, "best.ckpt")

    def _save(self, trainer: pl.Trainer, name: str) -> None:
        path = run_folder(trainer) / "checkpoints" / name
        temporary = Path(f"{path}.part")
        trainer.save_checkpoint(temporary)  # on all ranks; rank 0 writes
        if trainer.is_global_zero:
            os.replace(temporary, path)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]
