"""Weights in shards: each device keeps its part of every tensor (FSDP2, torch's fully_shard)."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method


def shard(module: nn.Module, blocks: Sequence[nn.Module], step: str, mesh: DeviceMesh) -> None:
    """In place, over the devices of the mesh. In the method `step` of the module, of which the loss comes, there is one
    of the `blocks` whole at a time, and all that is in none of them throughout.
    """
    for block in blocks:
        fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)
    register_fsdp_forward_method(module, step)


@contextmanager
def gathered(module: nn.Module) -> Iterator[None]:
    """Inside, each device has the whole of the weights: it computes by itself, and as often as it likes."""
    parts = [part for part in module.modules() if isinstance(part, FSDPModule)]
    hooks = [(part._forward_pre_hooks, part._forward_hooks) for part in parts]  # they gather and shard, all together
    try:
        for part in parts:
            part.unshard()
            part._forward_pre_hooks, part._forward_hooks = OrderedDict(), OrderedDict()
        yield
    finally:
        for part, (part._forward_pre_hooks, part._forward_hooks) in zip(parts, hooks, strict=True):
            part.reshard()
