"""SIGTERM and Ctrl-C: a checkpoint, a clean end, and exact resumption."""

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
    """The first signal stops training after the optimizer step that it falls into; a second Ctrl-C stops at once.

    Stands last in the list of callbacks. Rank 0 alone listens, the others leave the signals to it, whoever sent them;
    after each step the ranks agree, over gloo, which keeps no accelerator waiting. (Lightning's own handler broadcasts
    from within the signal, which can fall into the middle of another collective.)
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
            self.asked = signal.SIGTERM  # it came before training began, and Lightning's handler took it
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
