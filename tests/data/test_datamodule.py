from collections import Counter
from functools import cached_property
from itertools import chain, islice
from types import SimpleNamespace

import pytest
import torch
from pytorch_lightning import LightningModule, Trainer

from denoiselab.data import BatchStream, Digits, ImageDataModule, InMemory, Source
from denoiselab.data.datamodule import eval_batches
from denoiselab.errors import ConfigError


class Numbered(Source):
    """Image i is the single pixel of value i, and its label is i."""

    name = "numbered"
    class_names = ()
    flip = False
    shape = (1, 1, 1)

    def __init__(self, train: int = 50, test: int = 11) -> None:
        self._sizes = train, test

    @cached_property
    def train(self):
        return self._numbered(self._sizes[0])

    @cached_property
    def test(self):
        return self._numbered(self._sizes[1])

    @staticmethod
    def _numbered(n: int) -> InMemory:
        return InMemory(torch.arange(n, dtype=torch.uint8).reshape(n, 1, 1, 1), torch.arange(n))


class Recorder(LightningModule):
    """Keeps the labels of each batch that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[list[int]] = []
        self.validated: list[list[int]] = []

    def training_step(self, batch, batch_idx):
        self.seen.append(batch["label"].tolist())
        return self.weight * 0

    def validation_step(self, batch, batch_idx):
        assert torch.equal(batch["index"], batch["label"])
        self.validated.append(batch["index"].tolist())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def head(stream, n: int) -> list[list[int]]:
    return list(islice(stream, n))


def labels(loader, n: int | None = None) -> list[list[int]]:
    return [batch["label"].tolist() for batch in islice(loader, n)]


def fit(module: ImageDataModule, steps: int) -> Recorder:
    recorder = Recorder()
    trainer = Trainer(
        accelerator="cpu",
        max_steps=steps,
        use_distributed_sampler=False,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(recorder, datamodule=module)
    return recorder


@pytest.mark.parametrize("batch_size", [1, 3, 7, 10, 25])
def test_every_image_comes_exactly_once_in_each_epoch(batch_size):
    flat = list(chain.from_iterable(head(BatchStream(10, batch_size, seed=0), 30)))
    for epoch in range(len(flat) // 10):
        assert sorted(flat[10 * epoch : 10 * epoch + 10]) == list(range(10))


def test_epochs_have_different_orders():
    epochs = head(BatchStream(20, 20, seed=0), 5)
    assert len(set(map(tuple, epochs))) == 5


def test_a_batch_larger_than_the_set_repeats_images_evenly():
    assert set(Counter(BatchStream(4, 12, seed=0).batch(3)).values()) == {3}


def test_a_stream_from_k_is_the_tail_of_the_stream_from_0():
    assert head(BatchStream(10, 4, seed=1, start=7), 13) == head(BatchStream(10, 4, seed=1), 20)[7:]


def test_any_batch_may_be_asked_for_in_any_order():
    stream, expected = BatchStream(10, 4, seed=1), head(BatchStream(10, 4, seed=1), 20)
    for k in (19, 3, 4, 0, 11):
        assert stream.batch(k) == expected[k]


@pytest.mark.parametrize("world_size", [2, 3, 6])
def test_rank_r_of_w_has_every_w_th_image_of_the_global_batch_from_the_r_th_on(world_size):
    ranks = [BatchStream(10, 6, seed=2, rank=rank, world_size=world_size) for rank in range(world_size)]
    for whole, *shares in islice(zip(BatchStream(10, 6, seed=2), *ranks, strict=False), 12):
        assert [whole[rank::world_size] for rank in range(world_size)] == shares


def test_another_seed_gives_another_order():
    assert BatchStream(50, 50, seed=0).batch(0) != BatchStream(50, 50, seed=1).batch(0)


def test_the_global_generators_do_not_matter_and_are_not_touched():
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = labels(ImageDataModule(Numbered(), 8, seed=3).train_dataloader(), 9)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    assert labels(ImageDataModule(Numbered(), 8, seed=3).train_dataloader(), 9) == first


def test_a_permutation_is_drawn_once_an_epoch(monkeypatch):
    draws = []
    randperm = torch.randperm
    monkeypatch.setattr(torch, "randperm", lambda *args, **kwargs: draws.append(1) or randperm(*args, **kwargs))
    head(BatchStream(10, 4, seed=0), 50)
    assert len(draws) == 20


def test_a_stream_has_no_length():
    with pytest.raises(TypeError):
        len(BatchStream(10, 4, seed=0))


def test_a_batch_that_the_devices_cannot_share_is_refused_with_the_nearest_that_they_can():
    with pytest.raises(ConfigError, match=r"^batch_size=10 cannot be shared by 4 devices; try 8 or 12$"):
        BatchStream(100, 10, seed=0, world_size=4)
    with pytest.raises(ConfigError, match=r"try 4$"):
        BatchStream(100, 3, seed=0, world_size=4)


@pytest.mark.parametrize(
    ("key", "value"), [("batch_size", 0), ("batch_size", -4), ("eval_batch_size", 0), ("num_workers", -1)]
)
def test_an_invalid_number_is_refused_in_one_line_that_names_its_key(key, value):
    with pytest.raises(ConfigError, match=rf"^{key} must be at least .* \(got {value}\)$"):
        ImageDataModule(Numbered(), **{"batch_size": 8, "seed": 0, key: value})


@pytest.mark.parametrize("size", [0, 1, 5, 11, 12, 360])
@pytest.mark.parametrize("world_size", [1, 2, 3, 8])
@pytest.mark.parametrize("batch_size", [1, 4, 128, 1000])
def test_ranks_together_evaluate_each_image_once_in_equally_many_batches(size, world_size, batch_size):
    ranks = [eval_batches(size, batch_size, rank, world_size) for rank in range(world_size)]
    for rank, batches in enumerate(ranks):
        assert list(chain.from_iterable(batches)) == list(range(size))[rank::world_size]
        assert all(batches) or (batches == [[]] and rank >= size), "a batch of none only where there is no image"
    assert len({len(batches) for batches in ranks}) == 1
    if batch_size >= 2 * world_size and size >= world_size:
        # Each rank rounds its part of a batch up to a whole image at most.
        assert max(len(batch) for batches in ranks for batch in batches) <= -(-batch_size // world_size)


def test_val_batches_are_the_test_set_in_order_and_say_where_they_are_in_it():
    batches = list(ImageDataModule(Numbered(test=11), 4, seed=0).val_dataloader())
    assert torch.cat([batch["index"] for batch in batches]).tolist() == list(range(11))
    assert torch.cat([batch["image"] for batch in batches]).flatten().tolist() == list(range(11))
    assert max(len(batch["index"]) for batch in batches) == 4


def test_train_batches_hold_image_and_label_alone():
    batch = next(iter(ImageDataModule(Digits(), 16, seed=0).train_dataloader()))
    assert set(batch) == {"image", "label"}
    assert (batch["image"].shape, batch["image"].dtype) == ((16, 1, 8, 8), torch.uint8)
    assert (batch["label"].shape, batch["label"].dtype) == ((16,), torch.int64)


def trainer(rank: int = 0, world_size: int = 1, done: int = 0) -> SimpleNamespace:
    """Stand-in for a trainer of which nothing is asked but its place and the batches that it has done."""
    loop = SimpleNamespace(batch_progress=SimpleNamespace(current=SimpleNamespace(ready=done)))
    return SimpleNamespace(global_rank=rank, world_size=world_size, fit_loop=SimpleNamespace(epoch_loop=loop))


def test_the_loaders_take_rank_and_world_size_from_the_trainer():
    module = ImageDataModule(Numbered(), 8, seed=0)
    whole = labels(module.train_dataloader(), 10)
    for rank in range(2):
        module.trainer = trainer(rank, world_size=2)
        assert labels(module.train_dataloader(), 10) == [batch[rank::2] for batch in whole]
        assert list(chain.from_iterable(labels(module.val_dataloader()))) == list(range(11))[rank::2]


def test_workers_change_nothing():
    alone, helped = (ImageDataModule(Numbered(), 8, seed=0, num_workers=workers) for workers in (0, 2))
    assert labels(helped.train_dataloader(), 10) == labels(alone.train_dataloader(), 10)
    assert labels(helped.val_dataloader()) == labels(alone.val_dataloader())


def test_a_resumed_fit_sees_what_the_uninterrupted_one_would_have_seen():
    whole = fit(ImageDataModule(Numbered(), 8, seed=0), steps=15).seen
    resumed = ImageDataModule(Numbered(), 8, seed=0)
    resumed.trainer = trainer(done=6)
    batches = islice(iter(resumed.train_dataloader()), 9)
    assert [batch["label"].tolist() for batch in batches] == whole[6:]
    assert whole == head(BatchStream(50, 8, seed=0), 15)


def test_a_validation_run_sees_each_test_image_once():
    recorder = Recorder()
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(accelerator="cpu", use_distributed_sampler=False, **quiet)
    trainer.validate(recorder, datamodule=ImageDataModule(Numbered(), 4, seed=0, eval_batch_size=3), verbose=False)
    assert list(chain.from_iterable(recorder.validated)) == list(range(11))
    assert max(map(len, recorder.validated)) == 3
