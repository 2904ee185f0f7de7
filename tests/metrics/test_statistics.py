"""What is gathered of images does not depend on how they came, and real ones come evenly."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from denoiselab.data.source import InMemory, spread
from denoiselab.metrics import Looked, Needs, Statistics

N, NEEDS = 23, Needs(spatial=True, distances=True, splits=4)


def seen(n: int = N) -> tuple[Looked, Tensor, Tensor]:
    """What an extractor might see in n images, with the images and their classes."""
    rng = torch.Generator().manual_seed(1)
    drawn = [torch.randn(n, size, generator=rng) + 1 for size in (5, 7, 3)]
    images = torch.randint(256, (n, 1, 4, 4), generator=rng, dtype=torch.uint8)
    return Looked(*drawn), images, torch.randint(3, (n,), generator=rng)


def gathered(batches: Sequence[Sequence[int]], keep: int = 10) -> Statistics:
    looked, images, labels = seen()
    made = Statistics(N, keep, NEEDS)
    for i in map(list, batches):
        made.update(i, Looked(*(x[i] for x in looked if x is not None)), images[i], labels[i], judged=True)
    return made.reduced(TRAIN)


TRAIN = InMemory(seen(40)[1].flip(0), torch.zeros(40, dtype=torch.int64))


@pytest.mark.parametrize(
    "batches",
    [
        [[i] for i in range(N)],
        [range(7), range(7, N)],
        [range(12, N), range(12)],
        [[*range(0, N, 2)], [*range(1, N, 2)]],
    ],
    ids=["one by one", "two", "the last first", "every other"],
)
def test_what_is_gathered_does_not_depend_on_the_batches(batches):
    """Rows bit by bit, sums to float64's rounding."""
    whole, other = gathered([range(N)]), gathered(batches)
    assert whole.sums.keys() == other.sums.keys()
    for name in ("kept", "labels", "distances", "right", "features.count", "spatial.count"):
        assert torch.equal(whole.sums[name], other.sums[name]), name
    for name in ("features.sum", "features.outer", "spatial.sum", "spatial.outer", "scores"):
        torch.testing.assert_close(whole.sums[name], other.sums[name], rtol=1e-14, atol=1e-14)


def test_it_is_what_it_says():
    looked, _, labels = seen()
    made = gathered([range(N)])
    np.testing.assert_allclose(made.features.covariance, np.cov(looked.features.double().T), rtol=0, atol=1e-12)
    assert made.spatial is not None
    assert looked.spatial is not None
    assert looked.logits is not None
    np.testing.assert_allclose(made.spatial.mean, looked.spatial.double().mean(0), rtol=0, atol=1e-12)
    assert torch.equal(made.kept, looked.features[:10])
    assert torch.equal(made.labels, labels[:10])
    assert made.right == int((looked.logits.argmax(1) == labels).sum())
    p = looked.logits.double().softmax(1)
    assert made.scores is not None
    for split in range(4):
        part = p[[i for i in range(N) if i * 4 // N == split]]
        torch.testing.assert_close(made.scores[split, :-1], part.sum(0))
        torch.testing.assert_close(made.scores[split, -1], (part * part.log()).sum())


def test_its_size_does_not_depend_on_the_number_of_images():
    def size(n: int) -> int:
        looked, images, labels = seen(n)
        made = Statistics(n, 20, NEEDS)
        made.update(range(n), looked, images, labels, judged=True)
        return sum(value.numel() for value in made.state_dict().values())

    assert size(20) == size(2000)


def test_it_goes_on_from_a_file_as_if_nothing_had_been(tmp_path):
    looked, images, labels = seen()
    first, rest = range(12), range(12, N)

    def add(statistics: Statistics, i: Sequence[int]) -> None:
        part = list(i)
        statistics.update(part, Looked(*(x[part] for x in looked if x is not None)), images[part], labels[part])

    one = Statistics(N, 15, NEEDS)
    add(one, first)
    torch.save(one.state_dict(), tmp_path / "state.pt")
    again = Statistics(N, 15, NEEDS).load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    add(one, rest)
    add(again, rest)
    known, found = one.reduced(TRAIN).sums, again.reduced(TRAIN).sums
    assert known.keys() == found.keys()
    assert all(torch.equal(known[name], found[name]) for name in known)


def test_what_no_figure_needs_is_not_gathered():
    looked, images, labels = seen()
    made = Statistics(N)
    made.update(range(N), looked, images, labels)
    assert made.spatial is made.distances is made.right is None


def test_a_covariance_of_gigabytes_is_not_gathered():
    looked, images, labels = seen(3)
    made = Statistics(3, needs=Needs(spatial=True))
    made.update(range(3), looked._replace(spatial=torch.zeros(3, 4097)), images, labels)
    assert made.spatial is None


def test_features_of_half_precision_are_kept_in_single():
    looked, images, labels = seen()
    made = Statistics(N)
    made.update(range(N), looked._replace(features=looked.features.half()), images, labels)
    assert made.kept.dtype == torch.float32
    assert torch.equal(made.kept, looked.features.half().float())


@pytest.mark.parametrize(("total", "n"), [(100, 7), (1000, 100), (360, 360), (5, 2), (1, 1)])
def test_every_stretch_of_the_order_is_spread_evenly(total, n):
    """Gaps of at most twice their mean and a bit, and none twice."""
    order = spread(torch.zeros(total, dtype=torch.int64))
    assert sorted(order) == list(range(total))
    assert spread(torch.zeros(total, dtype=torch.int64), n) == order[:n]
    for start in range(0, total - n + 1, n):
        gaps = np.diff(sorted(order[start : start + n]))
        assert len(gaps) == 0 or gaps.max() <= 2.7 * total / n + 1


@pytest.mark.parametrize("classes", ["sorted", "shuffled", "in turn"])
def test_each_class_has_its_share_of_every_stretch(classes):
    labels = torch.arange(10).repeat_interleave(100)
    labels = {"sorted": labels, "shuffled": labels[torch.randperm(1000)], "in turn": torch.arange(1000) % 10}[classes]
    for start in (0, 137, 500):
        counts = labels[spread(labels)[start : start + 100]].bincount(minlength=10)
        assert 8 <= int(counts.min()) <= int(counts.max()) <= 12


def test_parts_of_several_figures_are_served_by_their_common_parts():
    assert Needs(splits=4) | Needs(True, splits=6) | Needs(distances=True) == Needs(True, True, 12)
