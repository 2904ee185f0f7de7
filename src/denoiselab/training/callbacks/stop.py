"""Handling of SIGTERM and Ctrl-C: a checkpoint, a clean exit and exact resumption."""

import os
import signal
import threading
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import distributed as dist


class Stop(pl.Callback):
    """Callback that stops training after the current optimizer step at the first signal, at once on a second Ctrl-C.

    Must come last. Only rank 0 handles signals; the others ignore them. After each step the ranks agree over gloo,
    which does not block the accelerator. (Lightning's own handler broadcasts from the signal handler, which can
    interrupt another collective.)
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self) -> None:
        self.asked: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if threading.current_thread() is threading.main_thread():
            handler = self._ask if trainer.is_global_zero else signal.SIG_IGN
            self._before = {number: signal.signal(number, handler) for number in self.SIGNALS}
        self._group = dist.new_group(backend="gloo") if trainer.world_size > 1 else None

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.asked = signal.Signals(number)
        os.write(2, f"{self.asked.name}: stopping after this step\n".encode())  # a handler must not wait for a lock

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches or trainer.global_step == trainer.max_steps:
            return
        asked = torch.tensor(int(self.asked or 0))
        if self._group is not None:
            dist.all_reduce(asked, dist.ReduceOp.MAX, self._group)
        if asked:
            self.asked = signal.Signals(int(asked))
            raise SIGTERMException

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._restore()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if isinstance(exception, SIGTERMException) and self.asked is None:
            self.asked = signal.SIGTERM  # it came before training began, to Lightning's handler
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
