"""Batches for the trainer, as a pure function of (seed, batch number, rank, world size).

The global stream concatenates epoch permutations without end. Global batch k is its positions k B ... (k + 1) B - 1,
across epoch boundaries; rank r of w takes every w-th of them, starting at r. So a resumed run sees the same batches as
an uninterrupted one, and global batches do not depend on the number of devices.
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
    """Endless batch sampler. `batch_size` is global, in images, and may exceed the set's `size`."""

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
        # Positions only grow along the stream, so it keeps one permutation.
        if epoch != self._epoch:
            self._order = torch.randperm(self.size, generator=generator(self.seed, "epoch", epoch)).tolist()
            self._epoch = epoch
        return self._order[place]


def eval_batches(size: int, batch_size: int, rank: int = 0, world_size: int = 1) -> list[list[int]]:
    """Batches of this rank's share, rank::world_size, of one ordered pass: over all ranks, every index exactly once.

    `batch_size` is global. Every rank gets the same number of batches, of nearly equal sizes, so that collective
    operations (synchronised buffers, gathered metrics) never wait for a finished rank. A rank without images gets one
    empty batch.
    """
    share = range(rank, size, world_size)
    count = max(1, min(-(-size // batch_size), size // world_size))
    borders = [len(share) * i // count for i in range(count + 1)]
    return [list(share[a:b]) for a, b in pairwise(borders)]


@final
class Indexed(ImageSet):
    """Image set that adds "index", int64 (B,), the images' positions, to each batch."""

    def __init__(self, images: ImageSet) -> None:
        self.labels = images.labels
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        return {**self._images.__getitems__(indices), "index": torch.tensor(indices, dtype=torch.int64)}


@final
class ImageDataModule(LightningDataModule):
    """Data loaders of a source. Batch sizes are global, in images; `num_workers` is per device.

    A resumed run starts with the batch after the trainer's last. The trainer needs use_distributed_sampler=False, as
    batches are already split among devices here.
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
        # Read now, so that a bad file shows up at once and not below a progress bar.
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
            generator=torch.Generator(),  # otherwise each pass draws from torch's global generator
        )


def _deaf(worker: int) -> None:
    """Ignore signals, which the trainer handles: a killed worker would abort the step."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _whole(batch: _T) -> _T:
    """Collate nothing: `__getitems__` returns a whole batch."""
    return batch
