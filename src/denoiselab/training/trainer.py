"""Lightning's trainer with this framework's defaults, and options that save time or memory."""

import os
import shutil
from collections.abc import Sequence
from functools import partial
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import ModelParallelStrategy
from torch.utils.checkpoint import checkpoint

from denoiselab.backbones.layers import blocks
from denoiselab.errors import ConfigError
from denoiselab.limits import Count, checked
from denoiselab.training.system import System


@checked
def trainer(
    *,
    compile: bool = False,
    channels_last: bool = False,
    gradient_checkpointing: bool = False,
    val_check_interval: Count = 1000,
    accumulate_grad_batches: Count = 1,
    strategy: Any = "auto",
    callbacks: Sequence[pl.Callback] = (),
    logger: Any = False,
    **options: Any,
) -> pl.Trainer:
    """Return a trainer that counts in optimizer steps, also in val_check_interval; other options are Lightning's.

    strategy: "fsdp" selects FullySharded, any other value Lightning's own strategy.
    """
    return pl.Trainer(
        callbacks=[Speed(compile, channels_last, gradient_checkpointing), *callbacks],
        strategy=FullySharded() if strategy == "fsdp" else strategy,
        accumulate_grad_batches=accumulate_grad_batches,
        val_check_interval=val_check_interval * accumulate_grad_batches,  # Lightning counts batches
        max_epochs=-1,  # the stream of batches is endless; max_steps ends training
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        inference_mode=False,
        logger=logger,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


class FullySharded(ModelParallelStrategy):
    """Strategy that shards weights, gradients, optimizer state and averages over all devices; checkpoints stay whole.

    System.configure_model does the sharding. (Lightning's own FSDP needs CUDA.)
    """

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()


class Speed(pl.Callback):
    """Callback that prepares the network before training, in place; the names of its weights do not change.

    compile: torch.compile, at the first step of each shape. channels_last: the memory format that tensor cores prefer
    for convolutions. gradient_checkpointing: recompute each block in the backward pass instead of storing its
    activations; the gradients are identical.
    """

    def __init__(self, compile: bool, channels_last: bool, gradient_checkpointing: bool) -> None:
        self.compile, self.channels_last, self.gradient_checkpointing = compile, channels_last, gradient_checkpointing

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Raise ConfigError if compile is set and there is no C++ compiler."""
        if stage != "fit":
            return
        assert isinstance(pl_module, System)
        backbone = pl_module.pipeline.denoiser.backbone
        if self.channels_last:
            backbone.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            pl_module.ema.bind(pl_module.pipeline)
        if self.gradient_checkpointing:
            for block in blocks(backbone):
                block.forward = partial(checkpoint, block.forward, use_reentrant=False)
        if self.compile:
            if not any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))):
                raise ConfigError("trainer.compile=true needs a C++ compiler, and there is none; install g++")
            backbone.compile()
