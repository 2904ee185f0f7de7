"""Checks for NaN or infinite gradients and weights, which stop the run or skip the step."""

import math
from collections.abc import Iterable
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from denoiselab import distributed
from denoiselab.errors import BrokenRunError
from denoiselab.limits import Count, checked
from denoiselab.progress import console
from denoiselab.training.callbacks.logging import log_figures, run_folder
from denoiselab.training.checkpoint_io import kept
from denoiselab.training.system import System

_TRY = "try a smaller optimizer.lr or trainer.gradient_clip_val, or more optimizer.warmup_steps"


@torch.no_grad()
def finite(tensors: Iterable[Tensor]) -> bool:
    """Whether every value is finite on all ranks, by each tensor's maximum norm, which cannot overflow.

    Synchronizes with the device once.
    """
    mine = [tensor.to_local() if isinstance(tensor, DTensor) else tensor for tensor in tensors]
    some = [tensor for tensor in mine if tensor.numel()]
    bad = bool(some) and not torch.stack(torch._foreach_norm(some, ord=math.inf)).isfinite().all()
    return not distributed.all_sum(torch.tensor(int(bad)))


def diverged(trainer: pl.Trainer, step: int, what: str, way_out: str = "") -> BrokenRunError:
    """Return the error that ends a run at this step."""
    said = kept(run_folder(trainer) / "checkpoints" / "last.ckpt")
    return BrokenRunError(f"step {step}: {what}; {said}; {_TRY}{way_out}")


class Finite(pl.Callback):
    """Callback that checks the gradients before each optimizer step and the weights after it. Must come first.

    on_nan="stop" raises BrokenRunError at the first non-finite gradient, before the optimizer sees it. "skip" skips the
    step: parameters, moments and the optimizer's step count stay unchanged, while the learning-rate schedule and the
    averages count a step without movement; `patience` skipped steps in a row stop the run. With precision=16-mixed,
    where infinite gradients set the loss scale and the scaler skips those steps itself, both wait for `patience` of
    them.

    All ranks decide alike, on what any of them sees after the gradients have been averaged.
    """

    @checked
    def __init__(self, on_nan: Literal["stop", "skip"] = "stop", patience: Count = 20) -> None:
        self.on_nan, self.patience = on_nan, patience
        self.skipped = self.in_a_row = 0
        self._told, self._judged_at = 0, -1

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._told, self._judged_at = self.skipped, trainer.global_step

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        if finite(p.grad for p in parameters if p.grad is not None):
            self.in_a_row = 0
            return
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None
        self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
        if self.on_nan == "stop" and not scaled:
            skip = "; callbacks.finite.on_nan=skip leaves such a step out"
            raise diverged(trainer, trainer.global_step + 1, "the gradients are NaN or infinite", skip)
        if self.in_a_row >= self.patience:
            what = f"the gradients were NaN or infinite {self.in_a_row} times in a row"
            raise diverged(trainer, trainer.global_step + 1, what)
        if not scaled:
            for parameter in parameters:
                parameter.grad = None

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, System)
        if trainer.global_step == self._judged_at:
            return  # several batches may belong to one step
        self._judged_at = trainer.global_step
        if not finite(pl_module.ema.live):
            raise diverged(trainer, trainer.global_step, "the weights are NaN or infinite")
        if self.skipped > self._told:
            self._told = self.skipped
            pl_module.losses["train/skipped_steps"] = self.skipped
            log_figures(trainer, {"train/skipped_steps": self.skipped})

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.skipped and trainer.is_global_zero:
            told = f"{self.skipped} of {trainer.global_step} steps were left out: their gradients were NaN or infinite"
            console.print(told, highlight=False)

    def state_dict(self) -> dict[str, Any]:
        return {"skipped": self.skipped, "in_a_row": self.in_a_row}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.skipped, self.in_a_row = state_dict["skipped"], state_dict["in_a_row"]
