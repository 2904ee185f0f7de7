"""The collectives that evaluation needs; with one process they are the identity."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist


def _active() -> bool:
    return dist.is_available() and dist.is_initialized()


def rank() -> int:
    return dist.get_rank() if _active() else 0


def world_size() -> int:
    return dist.get_world_size() if _active() else 1


def barrier() -> None:
    if _active():
        dist.barrier()


def all_sum(values: Tensor) -> Tensor:
    """Returns the sum over all ranks, on the CPU of each."""
    if not _active():
        return values
    device = torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
    total = values.to(device).clone()
    dist.all_reduce(total)
    return total.cpu()


def all_max(value: int) -> int:
    """Returns the largest value of all ranks, on each."""
    return int(collect(torch.tensor([value]), [rank()], world_size()).max())


def gather(value: Any) -> list[Any]:
    """Returns every rank's value, small and picklable, on each of them."""
    if not _active():
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def share(n: int, batch_size: int) -> list[int]:
    """Returns this rank's part of 0 ... n - 1, in whole batches; every index is on exactly one rank.

    The batches are those of one process, dealt to the ranks in turn: a batch's results are the same bits on any number
    of ranks (float32 rounds differently in batches of other sizes). No rank has more batches than with n/world_size
    indices each.
    """
    starts = range(rank() * batch_size, n, world_size() * batch_size)
    return [i for start in starts for i in range(start, min(n, start + batch_size))]


def collect(rows: Tensor, indices: Sequence[int], n: int) -> Tensor:
    """Returns (n, ...) on every rank, from each rank's rows (B, ...) and their indices."""
    whole = torch.zeros(n, *rows.shape[1:], dtype=torch.int64 if not rows.is_floating_point() else rows.dtype)
    whole[list(indices)] = rows.cpu().to(whole.dtype)
    return all_sum(whole).to(rows.dtype)
