"""Checkpoints: checkpoints/last.ckpt, and checkpoints/best.ckpt by a metric to minimize."""

import itertools
import math
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
from pytorch_lightning.trainer.states import TrainerFn
from pytorch_lightning.utilities.exceptions import SIGTERMException

from denoiselab.errors import BrokenRunError
from denoiselab.files import replacing, step_of
from denoiselab.limits import Count, checked
from denoiselab.training.callbacks.finite import diverged, finite
from denoiselab.training.callbacks.logging import due, run_folder
from denoiselab.training.system import System

# Metrics that can select the best checkpoint, lower is better; "headline": the evaluation's headline metric.
Monitor = Literal[
    "headline", "fid", "rfid", "sfid", "kid", "mmd", "cmmd", "sliced_wasserstein",
    "bits_per_dim", "nats_per_dim", "val/loss",
]  # fmt: skip


class Checkpoint(pl.Callback):
    """Callback that saves last.ckpt every `every_n_train_steps` optimizer steps (None: only at the end) and after the
    last step, and best.ckpt when `monitor` decreases. Must come after all callbacks that use a step's weights.

    monitor: a name in system.judged, or "headline" for the evaluation's headline metric; None: no best.ckpt. val/loss
    is taken from validations during training, not from one after it. best.ckpt stores its metric in its description
    as "best". As the minimum of many noisy values it is biased low: evaluate the checkpoint again with another seed.

    previous.ckpt is the last checkpoint of an earlier step. Raises BrokenRunError if a file cannot be written, and for
    NaN or infinite weights, which never replace a good checkpoint.
    """

    @checked
    def __init__(self, every_n_train_steps: Count | None = None, monitor: Monitor | None = "headline") -> None:
        self.every_n_train_steps, self.monitor = every_n_train_steps, monitor
        self.best: dict[str, Any] | None = None  # monitor, value, step, n
        self._judged_at = self._saved_at = -1

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, System)
        self._saved_at = trainer.global_step  # else a resumed run would save amid its first step
        if self.best is not None:
            pl_module.description["best"] = self.best

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        self._judge(trainer, pl_module)
        last = trainer.global_step == trainer.max_steps  # saved again after its evaluation, which may take long
        if (last or due(trainer, self.every_n_train_steps)) and self._saved_at != trainer.global_step:
            self._saved_at = trainer.global_step  # several batches may belong to one optimizer step
            self._save(trainer, pl_module, "last.ckpt")

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.monitor == "val/loss" and trainer.state.fn == TrainerFn.FITTING:
            self._judge(trainer, pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._judge(trainer, pl_module)
        self._save(trainer, pl_module, "last.ckpt")

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Save on a stop signal, which takes effect between two steps on all ranks; other exceptions do not save."""
        if isinstance(exception, SIGTERMException):
            self._save(trainer, pl_module, "last.ckpt")

    def _judge(self, trainer: pl.Trainer, system: pl.LightningModule) -> None:
        assert isinstance(system, System)
        name = system.figures.get("headline") if self.monitor == "headline" else self.monitor
        figure = system.judged.get(name or "")
        if figure is None or figure.step != trainer.global_step or figure.step == self._judged_at:
            return
        self._judged_at = figure.step
        if not _better(self.best, new := {"monitor": name, **figure._asdict()}):
            return
        self.best = system.description["best"] = new
        self._save(trainer, system, "best.ckpt")

    def _save(self, trainer: pl.Trainer, system: pl.LightningModule, name: str) -> None:
        assert isinstance(system, System)
        if not finite([*system.ema.live, *itertools.chain(*system.ema.shadows)]):
            raise diverged(trainer, trainer.global_step, "the weights are NaN or infinite")
        path = run_folder(trainer) / "checkpoints" / name
        new = path.with_name(f"{name}.new")
        for logger in trainer.loggers:
            logger.save()  # a resumed run finds its log complete up to here
        try:
            trainer.save_checkpoint(new)  # all ranks take part; rank 0 writes
            if trainer.is_global_zero:
                if name == "last.ckpt" and step_of(path) not in (None, trainer.global_step):
                    _keep(path, path.with_name("previous.ckpt"))
                os.replace(new, path)
        except OSError as error:
            with suppress(OSError):
                new.unlink(missing_ok=True)
            left = "the one before it is as it was" if path.is_file() else "there is none before it"
            raise BrokenRunError(f"{path} could not be written ({error.strerror or error}); {left}") from error

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Make a run resumed between two steps validate first, as its checkpoint precedes that step's validation.

        The trainer would skip that validation, and its metrics would be missing from the log.
        """
        loops = checkpoint["loops"]["fit_loop"]
        batches, validation = loops["epoch_loop.batch_progress"]["total"], loops["epoch_loop.val_loop.batch_progress"]
        begun = int(batches["completed"] < batches["processed"])  # as if stopped in its first batch
        validation["total"] = {"ready": begun, "started": begun, "processed": 0, "completed": 0}
        validation["current"] = {"ready": 0, "started": 0, "processed": 0, "completed": 0}

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        best = state_dict["best"]
        self.best = best if isinstance(best, dict) else None  # a bare number in old runs, without its metric


def _better(best: dict[str, Any] | None, new: dict[str, Any]) -> bool:
    """Whether the new value replaces the best; one of another metric or n is not comparable and does."""
    if best is None or any(best[key] != new[key] for key in ("monitor", "n")) or math.isnan(best["value"]):
        return True
    return bool(new["value"] < best["value"])


def _keep(path: Path, other: Path) -> None:
    """Preserve the file `path` as `other`, by a hard link where the file system has them, else by a copy."""
    with replacing(other) as temporary:
        temporary.unlink(missing_ok=True)
        try:
            os.link(path, temporary)
        except OSError:
            shutil.copyfile(path, temporary)
