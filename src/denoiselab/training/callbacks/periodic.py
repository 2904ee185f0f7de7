"""Base class of callbacks that run every k optimizer steps and once at the end."""

import time
from abc import ABC, abstractmethod
from typing import Any

import pytorch_lightning as pl

from denoiselab.training.callbacks.logging import due
from denoiselab.training.system import System


class Periodic(pl.Callback, ABC):
    """Callback that calls `work` on all ranks every `every` optimizer steps (None: only at the end) and at the end.

    `at_the_end` is True during the last call.
    """

    def __init__(self, every: int | None) -> None:
        self.every = every
        self.done_at = -1
        self.at_the_end = False

    @abstractmethod
    def work(self, trainer: pl.Trainer, system: System) -> None: ...

    def _once(self, trainer: pl.Trainer, system: pl.LightningModule) -> None:
        if self.done_at != trainer.global_step:  # several batches may belong to one optimizer step
            self.done_at = trainer.global_step
            assert isinstance(system, System)
            started = time.monotonic()
            self.work(trainer, system)
            system.paused += time.monotonic() - started

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.done_at = trainer.global_step  # already done for the step of the checkpoint
        self.at_the_end = False

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if due(trainer, self.every):
            self._once(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.at_the_end = True
        self._once(trainer, pl_module)
