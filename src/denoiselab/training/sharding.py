"""Sharded weights: each device keeps its part of every tensor (FSDP2, torch's fully_shard)."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method


def shard(module: nn.Module, blocks: Sequence[nn.Module], step: str, mesh: DeviceMesh) -> None:
    """Shard a module in place over the mesh. Its method `step`, which returns the loss, gathers one of the `blocks` at
    a time and keeps parameters outside them gathered throughout."""
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)
    register_fsdp_forward_method(module, step)


@contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """Gather all weights on every device inside the context, so that each computes independently."""
    parts = [part for part in module.modules() if isinstance(part, FSDPModule)]
    hooks = [(part._forward_pre_hooks, part._forward_hooks) for part in parts]  # they gather and reshard, collectively
    try:
        for part in parts:
            part.unshard()
            part._forward_pre_hooks, part._forward_hooks = OrderedDict(), OrderedDict()
        yield
    finally:
        for part, (part._forward_pre_hooks, part._forward_hooks) in zip(parts, hooks, strict=True):
            part.reshard()
