"""Progress bar and throughput of training."""

import time
from contextlib import ExitStack
from typing import Any

import pytorch_lightning as pl

from denoiselab import distributed
from denoiselab.limits import Count, checked
from denoiselab.progress import track
from denoiselab.training.callbacks.logging import log_figures
from denoiselab.training.system import System


class Progress(pl.Callback):
    """Progress bar over optimizer steps up to max_steps, with the latest losses."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stack, self._step = ExitStack(), trainer.global_step
        bar = track("training", trainer.max_steps - self._step, quiet=not trainer.is_global_zero)
        self._advance = self._stack.enter_context(bar)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        done, self._step = trainer.global_step - self._step, trainer.global_step
        assert isinstance(pl_module, System)
        self._advance(done, ", ".join(f"{name} {x:.4g}" for name, x in pl_module.losses.items() if "loss" in name))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stack.close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        if hasattr(self, "_stack"):
            self._stack.close()


class Pace(pl.Callback):
    """Callback that logs train/loss, train/lr and train/images_per_second every `every` optimizer steps.

    The loss is that of the step's global batch, the throughput since the last log. Must come before the checkpoint, so
    that a resumed run finds its log complete.
    """

    @checked
    def __init__(self, every: Count = 10) -> None:
        self.every = every

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._logged_at = trainer.global_step
        self._begin(pl_module)

    def _begin(self, system: pl.LightningModule) -> None:
        assert isinstance(system, System)
        self._since, self._images = time.monotonic() - system.paused, 0

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: dict[str, Any], batch_idx: int
    ) -> None:
        assert isinstance(pl_module, System)
        self._images += len(batch["image"]) * trainer.world_size
        if trainer.global_step % self.every == 0 and trainer.global_step > self._logged_at:
            seconds = time.monotonic() - pl_module.paused - self._since
            loss = float(distributed.all_sum(pl_module.loss.cpu().double())) / trainer.world_size
            pl_module.losses["train/loss"] = loss
            figures = {
                "train/loss": loss,
                "train/lr": trainer.optimizers[0].param_groups[0]["lr"],
                "train/images_per_second": self._images / seconds,
            }
            log_figures(trainer, figures)
            self._logged_at = trainer.global_step
            self._begin(pl_module)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._validation = time.monotonic()

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, System)
        pl_module.paused += time.monotonic() - self._validation
