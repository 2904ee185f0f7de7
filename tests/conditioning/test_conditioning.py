import math

import pytest
import torch

from denoiselab.conditioning import ClassLabel, Cond, Routes, Unconditional


def cond(n=4, offset=0.0):
    return Cond(
        vector=torch.arange(n)[:, None].expand(n, 3) + offset,
        concat=torch.arange(n)[:, None, None, None].expand(n, 2, 5, 5) + offset,
        tokens=torch.arange(n)[:, None, None].expand(n, 6, 7) + offset,
        label=torch.arange(n) + int(offset),
    )


def same(a, b):
    return all((x is None and y is None) or torch.equal(x, y) for x, y in zip(a[:-1], b[:-1], strict=True))


# Cond


def test_where_chooses_sample_by_sample_by_every_route():
    chosen = cond().where(torch.tensor([True, False, False, True]), cond(offset=100.0))
    for part in chosen[:4]:
        assert part.reshape(len(part), -1)[:, 0].tolist() == [0, 101, 102, 3]
        assert (part == part.reshape(len(part), -1)[:, 0].reshape(-1, *[1] * (part.ndim - 1))).all()


def test_cat_puts_one_batch_after_the_other_by_every_route():
    both = cond().cat(cond(offset=100.0))
    for part in both[:4]:
        assert part.reshape(len(part), -1)[:, 0].tolist() == [0, 1, 2, 3, 100, 101, 102, 103]


def test_a_route_not_taken_stays_so():
    nothing, vector = Cond(), Cond(vector=torch.zeros(2, 3))
    mask = torch.tensor([True, False])
    for made in (nothing.where(mask, nothing), nothing.cat(nothing)):
        assert made == Cond()
    for made in (vector.where(mask, vector), vector.cat(vector)):
        assert made.vector is not None
        assert made.concat is made.tokens is None


# Conditioners


def test_a_label_is_told_by_its_own_row_of_a_table():
    conditioner, labels = ClassLabel(10, dim=6), torch.tensor([3, 0, 9, 3])
    vector = conditioner({"label": labels}).vector
    assert torch.equal(vector, conditioner.embedding.weight[labels])
    assert len(torch.unique(conditioner({"label": torch.arange(10)}).vector, dim=0)) == 10


def test_null_is_a_vector_of_its_own_whatever_the_label():
    conditioner = ClassLabel(10, dim=6)
    told = conditioner({"label": torch.arange(10)})
    null = conditioner.null(told).vector
    assert null.shape == told.vector.shape
    assert (null == null[0]).all()
    assert not (null == told.vector).all(1).any()


def test_null_is_learned():
    conditioner = ClassLabel(10, dim=6)
    conditioner.null(conditioner({"label": torch.arange(4)})).vector.sum().backward()
    gradient = conditioner.embedding.weight.grad
    assert torch.equal(gradient[10], torch.full((6,), 4.0))  # once for each of four samples
    assert (gradient[:10] == 0).all()


@pytest.mark.parametrize("drop", [0.1, 0.5])
def test_each_sample_is_dropped_with_its_own_chance(drop):
    n = 20_000
    conditioner = ClassLabel(10, dim=2, drop=drop)
    told = conditioner({"label": torch.arange(n) % 10})
    dropped = conditioner.dropped(told, torch.rand(n)).vector
    lost = (dropped == conditioner.null(told).vector).all(1)
    assert torch.equal(dropped[~lost], told.vector[~lost])
    assert float(lost.double().mean()) == pytest.approx(drop, abs=4 * math.sqrt(drop * (1 - drop) / n))
    # Neighbours are independent: both are dropped with the square of the chance.
    both = (lost[1:] & lost[:-1]).double().mean()
    assert float(both) == pytest.approx(drop**2, abs=4 * drop / math.sqrt(n))


def test_a_share_of_none_drops_none_and_of_one_drops_all():
    told = ClassLabel(3, dim=2)({"label": torch.arange(3)})
    assert ClassLabel(3, dim=2, drop=0.0).dropped(told, torch.zeros(3)) is told
    conditioner = ClassLabel(3, dim=2, drop=1.0)
    assert same(conditioner.dropped(told, torch.rand(3)), conditioner.null(told))


def test_the_drawn_numbers_say_which_are_dropped():
    conditioner = ClassLabel(3, dim=2, drop=0.5)
    told = conditioner({"label": torch.zeros(4, dtype=torch.long)})
    dropped = conditioner.dropped(told, torch.tensor([0.0, 0.5, 0.49, 0.9]))
    assert dropped.label.tolist() == [-1, 0, -1, 0]


def test_no_condition_is_told_to_nobody_but_the_label_stays_beside_it():
    conditioner, labels = Unconditional(), torch.arange(3)
    told = conditioner({"label": labels})
    assert told[:3] == conditioner.null(told)[:3] == conditioner.dropped(told, torch.zeros(3))[:3] == (None, None, None)
    assert torch.equal(told.label, labels)
    assert conditioner.null(told).label.tolist() == [-1, -1, -1]
    assert (conditioner.routes, conditioner.drop) == (Routes(), 0.0)
    assert not list(conditioner.parameters())


def test_a_dropped_sample_has_no_label_either():
    conditioner = ClassLabel(3, dim=2, drop=0.5)
    told = conditioner({"label": torch.zeros(100, dtype=torch.long)})
    dropped = conditioner.dropped(told, torch.rand(100))
    lost = (dropped.vector == conditioner.null(told).vector).all(1)
    assert torch.equal(dropped.label, torch.where(lost, -1, 0))
    assert 20 < int(lost.sum()) < 80


def test_the_width_told_to_the_backbone_is_that_of_the_vector():
    conditioner = ClassLabel(10, dim=6)
    assert conditioner({"label": torch.arange(2)}).vector.shape[1] == conditioner.routes.vector == 6
