"""Lightning's trainer as the rest of the framework needs it, and what makes a network faster or smaller in memory."""

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
    """A trainer that counts in optimizer steps, val_check_interval too; the rest are Lightning's options.

    strategy: "fsdp" is ours, any other Lightning's.
    """
    return pl.Trainer(
        callbacks=[Speed(compile, channels_last, gradient_checkpointing), *callbacks],
        strategy=FullySharded() if strategy == "fsdp" else strategy,
        accumulate_grad_batches=accumulate_grad_batches,
        val_check_interval=val_check_interval * accumulate_grad_batches,  # Lightning's are batches
        max_epochs=-1,  # the stream of batches never ends; max_steps does
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
    """Weights, gradients, optimizer state and averages in shards over all devices; checkpoints are whole as ever.

    It is the system that shards itself, see System.configure_model. (Lightning's own FSDP needs CUDA.)
    """

    def __init__(self) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()


class Speed(pl.Callback):
    """Readies the network before training, in place: the names of its weights stay as they are.

    compile: kernels that torch.compile makes of it, at the first step of each shape. channels_last: the convolutions'
    weights as tensor cores want them. gradient_checkpointing: each block is computed once more in the backward pass, in
    place of what it would have kept; the gradients are the same numbers.
    """

    def __init__(self, compile: bool, channels_last: bool, gradient_checkpointing: bool) -> None:
        self.compile, self.channels_last, self.gradient_checkpointing = compile, channels_last, gradient_checkpointing

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Raises ConfigError where there is no compiler."""
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
