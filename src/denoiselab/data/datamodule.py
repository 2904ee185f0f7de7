"""Batches for the trainer. Which images are in a batch is a pure function of (seed, batch number, rank, world size).

The global stream is the endless concatenation of epoch permutations; global batch k is its positions
k B ... (k + 1) B - 1, whatever the epochs' borders, and rank r of w takes every w-th of them from the r-th on. So a
resumed run sees what the uninterrupted one would have seen, and the global batches do not depend on the device count.
"""

import signal
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TypeVar, final

import torch
from pytorch_lightning import LightningDataModule
from torch.utils.data import DataLoader

from denoiselab.data.source import Batch, ImageSet, Source
from denoiselab.errors import ConfigError
from denoiselab.limits import Count, Natural, checked
from denoiselab.randomness import generator

_T = TypeVar("_T")


@final
class BatchStream:
    """An endless batch sampler. `batch_size` is the global batch, in images; it may exceed the set's `size`."""

    def __init__(
        self, size: int, batch_size: int, seed: int, start: int = 0, rank: int = 0, world_size: int = 1
    ) -> None:
        if batch_size % world_size:
            lower = batch_size // world_size * world_size
            nearest = " or ".join(str(n) for n in (lower, lower + world_size) if n)
            raise ConfigError(f"batch_size={batch_size} cannot be shared by {world_size} devices; try {nearest}")
        self.size = size
        self.batch_size = batch_size
        self.seed = seed
        self.start = start
        self.rank = rank
        self.world_size = world_size
        self._epoch = -1
        self._order: list[int] = []

    def __iter__(self) -> Iterator[list[int]]:
        k = self.start
        while True:
            yield self.batch(k)
            k += 1

    def batch(self, k: int) -> list[int]:
        """This rank's share of global batch k, as indices into the data set."""
        positions = range(k * self.batch_size + self.rank, (k + 1) * self.batch_size, self.world_size)
        return [self._index(*divmod(position, self.size)) for position in positions]

    def _index(self, epoch: int, place: int) -> int:
        # Positions only ever grow along the stream, so one permutation is all that it needs to remember.
        if epoch != self._epoch:
            self._order = torch.randperm(self.size, generator=generator(self.seed, "epoch", epoch)).tolist()
            self._epoch = epoch
        return self._order[place]


def eval_batches(size: int, batch_size: int, rank: int = 0, world_size: int = 1) -> list[list[int]]:
    """This rank's share, rank::world_size, of one pass in order: over all ranks, every index exactly once.

    `batch_size` is global. Every rank gets the same number of batches, so that what the ranks do together in a step
    (synchronised buffers, gathered metrics) never waits for a rank that has ended; to this end batches are as equal as
    can be, rather than full ones and a rest. A rank for which there is no image has one batch of none.
    """
    share = range(rank, size, world_size)
    count = max(1, min(-(-size // batch_size), size // world_size))
    borders = [len(share) * i // count for i in range(count + 1)]
    return [list(share[a:b]) for a, b in pairwise(borders)]


@final
class Indexed(ImageSet):
    """The same images, each batch with "index": int64 (B,), their positions in the set."""

    def __init__(self, images: ImageSet) -> None:
        self.labels = images.labels
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        return {**self._images.__getitems__(indices), "index": torch.tensor(indices, dtype=torch.int64)}


@final
class ImageDataModule(LightningDataModule):
    """The loaders of a source. Batch sizes are global, in images; `num_workers` is per device.

    A run that goes on begins with the batch after the last that its trainer has done. The trainer needs
    use_distributed_sampler=False, as the batches are shared among the devices here.
    """

    @checked
    def __init__(
        self,
        source: Source,
        batch_size: Count,
        seed: int,
        num_workers: Natural = 0,
        eval_batch_size: Count | None = None,
    ) -> None:
        super().__init__()
        eval_batch_size = batch_size if eval_batch_size is None else eval_batch_size
        self.source = source
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.seed = seed
        self.num_workers = num_workers

    def setup(self, stage: str) -> None:
        # Reading now rather than at the first batch shows a bad file at once, and not beneath a progress bar.
        if stage == "fit":
            _ = self.source.train
        _ = self.source.test

    def train_dataloader(self) -> DataLoader[Batch]:
        images = self.source.train
        rank, world_size = self._place()
        done = self.trainer.fit_loop.epoch_loop.batch_progress.current.ready if self.trainer else 0
        stream = BatchStream(len(images), self.batch_size, self.seed, done, rank, world_size)
        return self._loader(images, stream)

    def val_dataloader(self) -> DataLoader[Batch]:
        images = self.source.test
        return self._loader(Indexed(images), eval_batches(len(images), self.eval_batch_size, *self._place()))

    def _place(self) -> tuple[int, int]:
        """(rank, world size)."""
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _loader(self, images: ImageSet, batches: BatchStream | list[list[int]]) -> DataLoader[Batch]:
        return DataLoader(
            images,
            batch_sampler=batches,
            collate_fn=_whole,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            worker_init_fn=_deaf,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),  # else each pass over the loader draws from torch's global generator
        )


def _deaf(worker: int) -> None:
    """Signals are the trainer's to answer: a worker that died of one would break off the step."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _whole(batch: _T) -> _T:
    """`__getitems__` has made a batch already."""
    return batch
