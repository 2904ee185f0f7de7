"""Checks that the processes of a training agree in configuration and weights, and differ in noise."""

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from denoiselab import distributed
from denoiselab.errors import RunError
from denoiselab.limits import Count, checked
from denoiselab.randomness import generator
from denoiselab.training.callbacks.logging import due
from denoiselab.training.system import System


class RankSafety(pl.Callback):
    """Callback that compares the processes' configurations and noise when training starts, and every `every` steps
    their weights, averages and buffers, such as the latent scale or a time sampler's history.

    Raises RunError on all processes at the same step.
    """

    @checked
    def __init__(self, every: Count = 100) -> None:
        self.every = every
        self._compared_at = -1

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.world_size == 1:
            return
        assert isinstance(pl_module, System)
        told = json.dumps(pl_module.description.get("config"), sort_keys=True, default=str)
        configurations = distributed.gather(hashlib.blake2b(told.encode(), digest_size=8).hexdigest())
        if len(set(configurations)) > 1:
            raise _together(
                f"the processes have different configurations ({_of(configurations)}); start them with the same words, "
                "and hydra.run.dir among them"
            )
        rng = generator(pl_module.seed, "train", 0, 0, device=pl_module.device)
        drawn = distributed.gather(str(pl_module.drawn(torch.randn, rng, 1, 4).tolist()))
        if len(set(drawn)) < len(drawn):
            raise _together(f"processes draw the same noise ({_of(drawn)}); each has to have a rank of its own")

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        if trainer.world_size > 1 and due(trainer, self.every) and trainer.global_step != self._compared_at:
            self._compared_at = trainer.global_step  # several batches may belong to one step
            self.compare(pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.world_size > 1:
            self.compare(pl_module)

    def compare(self, system: pl.LightningModule) -> None:
        assert isinstance(system, System)
        averages = [tensor for shadow in system.ema.shadows for tensor in shadow]
        every = [*system.parameters(), *averages, *system.buffers()]
        sums = distributed.gather(checksum([t for t in every if not isinstance(t, DTensor)]))  # shards differ by design
        if len(set(sums)) > 1:
            raise _together(
                f"the processes have different weights at step {system.global_step} ({_of(sums)}): gradients were not "
                "averaged, or one process changed its weights by itself; the last checkpoint is from before"
            )


def _together(reason: str) -> RunError:
    """Return the error after all processes have got here, as an early exit could break another's collective."""
    with suppress(RuntimeError):
        distributed.barrier()
    return RunError(reason)


def _of(values: Sequence[Any]) -> str:
    return ", ".join(f"process {i}: {value}" for i, value in enumerate(values))


@torch.no_grad()
def checksum(tensors: Sequence[Tensor]) -> int:
    """Return a checksum of every bit of the tensors, independent of the order of summation."""
    total = 0
    for place, tensor in enumerate(tensors):
        bits = (
            tensor.detach()
            .contiguous()
            .view(-1)
            .view({1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.itemsize])
        )
        total += (2 * place + 1) * int(bits.to(torch.int64).sum())
    return total % 2**63
