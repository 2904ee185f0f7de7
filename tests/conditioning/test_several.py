"""Several conditions at once, and guidance with a scale for each."""

import itertools

import pytest
import torch
from torch import nn

from cases import SCHEDULES
from denoiselab.analytic import Gaussian
from denoiselab.conditioning import ClassLabel, Cond, Plain, Routes, Several, Unconditional
from denoiselab.denoiser import Prediction
from denoiselab.errors import IncompatibleError
from denoiselab.guidance import ClassifierFree, ClassifierFreeEach
from denoiselab.schedules import like

BATCH = {"label": torch.arange(6), "u": torch.rand(6, 3, generator=torch.Generator().manual_seed(0))}


class Drawn(Plain):
    """Tells the numbers that it draws, as channels and tokens; null is 0."""

    def __init__(self, draws, tokens, drop=0.1):
        super().__init__()
        self.routes, self.drop, self.draws = Routes(concat=draws, tokens=tokens), drop, draws
        self.sees = ("image",)
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, batch):
        u = self.weight * batch["u"]
        tokens = u[:, :, None].expand(-1, -1, self.routes.tokens)
        return Cond(concat=u[:, :, None, None], tokens=tokens, label=None)

    def null(self, cond):
        return Cond(concat=0 * cond.concat, tokens=0 * cond.tokens)


def test_each_part_sees_its_own_random_numbers_and_takes_its_own_routes():
    label, one, two = ClassLabel(6, dim=4), Drawn(1, 5), Drawn(2, 5)
    several = Several(label=label, one=one, two=two)
    told = several(BATCH)
    assert several.routes == Routes(4, 3, 5)
    assert several.draws == 3
    assert several.sees == ("image",)
    assert several.asks_class
    assert torch.equal(told.vector, label(BATCH).vector)
    assert torch.equal(told.concat[:, :, 0, 0], BATCH["u"])
    assert torch.equal(told.tokens[..., 0], BATCH["u"])
    assert told.mask.all()
    assert torch.equal(told.label, BATCH["label"])


def test_without_condition_each_part_says_its_own_nothing():
    label, one = ClassLabel(6, dim=4), Drawn(3, 5)
    several = Several(label=label, one=one)
    null = several.null(several(BATCH))
    assert torch.equal(null.vector, label.null(label(BATCH)).vector)
    assert not null.concat.any()
    assert not null.tokens.any()


def test_parts_are_dropped_independently_of_one_another():
    several = Several(drop=0.0, one=Drawn(1, 5, drop=0.3), two=Drawn(2, 5, drop=0.6))
    batch = {"label": torch.zeros(4000, dtype=torch.int64), "u": torch.rand(4000, 3) + 0.1}
    kept = several.dropped(several(batch), torch.rand(4000, several.coins)).concat[:, :, 0, 0] != 0
    assert torch.equal(kept[:, 1], kept[:, 2])  # of one part
    shares = [float((kept[:, 0] == a).logical_and(kept[:, 1] == b).double().mean()) for a in (0, 1) for b in (0, 1)]
    assert shares == pytest.approx([0.3 * 0.6, 0.3 * 0.4, 0.7 * 0.6, 0.7 * 0.4], abs=0.04)


def kept_by(coins: list[float]) -> list[bool]:
    """Which of the label and two parts are kept by these coins, where all chances are 1/2."""
    several = Several(drop=0.5, label=ClassLabel(6, dim=4, drop=0.5), one=Drawn(1, 5, drop=0.5), two=Drawn(2, 5, 0.5))
    told = several(BATCH | {"label": torch.arange(1), "u": torch.full((1, 3), 0.7)})
    assert several.coins == len(coins)
    found, null = several.dropped(told, torch.tensor([coins])), several.null(told)
    assert found.concat[0, 1].equal(found.concat[0, 2]), "of one part"
    return [not found.vector.equal(null.vector), *(found.concat[0, :2, 0, 0] != 0).tolist()]


def test_the_first_coin_drops_all_parts_and_each_other_coin_drops_one():
    """Every outcome of the four coins, so that no part shares a coin with another one or with all together."""
    for heads in itertools.product([False, True], repeat=4):
        together, *parts = heads
        assert kept_by([0.2 if head else 0.8 for head in heads]) == [not (together or head) for head in parts]


def test_a_part_is_dropped_as_often_whether_or_not_all_would_have_been():
    """The chance of each combination, at a chance of all together that is as large as that of the first part."""
    several = Several(drop=0.3, one=Drawn(1, 5, drop=0.3), two=Drawn(2, 5, drop=0.6))
    batch = {"label": torch.zeros(4000, dtype=torch.int64), "u": torch.rand(4000, 3) + 0.1}
    kept = several.dropped(several(batch), torch.rand(4000, several.coins)).concat[:, :, 0, 0] != 0
    shares = [float((kept[:, 0] == a).logical_and(kept[:, 1] == b).double().mean()) for a in (0, 1) for b in (0, 1)]
    neither = 0.3 + 0.7 * 0.3 * 0.6
    # Four standard deviations of a share of 4,000 are at most 0.032.
    assert shares == pytest.approx([neither, 0.7 * 0.3 * 0.4, 0.7 * 0.7 * 0.6, 0.7 * 0.7 * 0.4], abs=0.032)


def test_all_parts_are_dropped_together_with_a_chance_of_its_own():
    several = Several(drop=0.2, one=Drawn(1, 5, drop=0.0), two=Drawn(2, 5, drop=0.0))
    batch = {"label": torch.zeros(4000, dtype=torch.int64), "u": torch.rand(4000, 3) + 0.1}
    kept = several.dropped(several(batch), torch.rand(4000, several.coins)).concat[:, :, 0, 0] != 0
    assert torch.equal(kept.all(1), kept.any(1))
    assert float(kept.all(1).double().mean()) == pytest.approx(0.8, abs=0.03)


def test_steps_lead_from_no_condition_to_all_of_it():
    several = Several(label=ClassLabel(6, dim=4), one=Drawn(1, 5), two=Drawn(2, 5))
    told = several(BATCH)
    nothing, label, first, all_of_it = several.steps(told)
    null = several.null(told)
    assert torch.equal(nothing.vector, null.vector)
    assert torch.equal(label.vector, told.vector)
    assert not label.concat.any()
    assert torch.equal(first.concat[:, :1], told.concat[:, :1])
    assert not first.concat[:, 1:].any()
    assert torch.equal(all_of_it.concat, told.concat)


def test_tokens_of_different_widths_are_refused():
    with pytest.raises(IncompatibleError, match=r"tokens of 5 and 7 numbers.*give each the same dim"):
        Several(one=Drawn(1, 5), two=Drawn(1, 7))


def test_several_in_several_is_refused():
    with pytest.raises(IncompatibleError, match="made of conditions that tell something"):
        Several(one=Several(label=ClassLabel(3), two=Drawn(1, 5)))


@pytest.mark.parametrize("kind", [Unconditional, lambda: Several(label=ClassLabel(3), two=Drawn(1, 5))])
def test_a_part_without_a_meaning_beside_others_is_refused_wherever_it_stands(kind):
    for parts in ({"one": kind(), "label": ClassLabel(3)}, {"label": ClassLabel(3), "last": kind()}):
        with pytest.raises(IncompatibleError, match="made of conditions that tell something"):
            Several(**parts)


def test_a_route_that_no_part_takes_has_no_width():
    assert Several(one=ClassLabel(3, dim=4), two=ClassLabel(3, dim=6)).routes == Routes(vector=10)
    assert Several(one=Drawn(1, 0), two=Drawn(2, 5)).routes == Routes(concat=3, tokens=5)


def test_conditions_of_different_lengths_are_put_together_and_what_is_added_is_masked():
    short, long = Cond(tokens=torch.ones(2, 3, 4)), Cond(tokens=torch.ones(2, 5, 4))
    both = short.cat(long)
    assert both.tokens.shape == (4, 5, 4)
    assert both.mask.sum(1).tolist() == [3, 3, 5, 5]
    assert not both.tokens[~both.mask].any()
    chosen = long.where(torch.tensor([True, False]), short)
    assert chosen.mask.sum(1).tolist() == [5, 3]


# Guidance


class OfMean:
    """The exact denoiser of x0 ~ N(cond.vector, 1/4), which keeps the sizes of the batches it was asked for."""

    def __init__(self, schedule):
        self.schedule, self.batches = schedule, []

    def __call__(self, x_t, t, cond):
        self.batches.append(len(x_t))
        mean = cond.vector.reshape(-1, *[1] * (x_t.ndim - 1))
        centred = Gaussian(self.schedule, std=0.5)(x_t - like(self.schedule(t).alpha, x_t) * mean, t)
        return Prediction(x0=centred.x0 + mean, eps=centred.eps)


STEPS = [Cond(vector=torch.tensor(means).double()) for means in ([0.5, 0.5], [1.0, -2.0], [3.0, 0.0], [2.0, 2.5])]


def guided(guidance, denoiser, x_t, t):
    return guidance(denoiser, STEPS[-1], STEPS[0], STEPS[1:-1])(x_t, t)


X_T, T = torch.randn(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)), torch.tensor([0.3, 0.8])


@pytest.mark.parametrize("name", ["cosine", "flow", "ve"])
@pytest.mark.parametrize("scales", [[2.0, 0.5, 3.0], [1.0, 4.0, 1.0], [0.0, 0.0, 2.0], [1.0, 1.0, 0.0], [3.0, 3.0, 1]])
def test_a_scale_for_each_part_of_gaussian_classes_has_its_closed_form(name, scales):
    # x0 is affine in the mean, so that guiding it is the answer at the guided mean.
    denoiser, t = OfMean(SCHEDULES[name]), T.double()
    found = guided(ClassifierFreeEach(scales), denoiser, X_T, t)
    means = [step.vector for step in STEPS]
    mean = means[0] + sum(s * (b - a) for s, a, b in zip(scales, means, means[1:], strict=False))
    expected = denoiser(X_T, t, Cond(vector=mean))
    torch.testing.assert_close(found.x0, expected.x0, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.eps, expected.eps, rtol=1e-12, atol=1e-12)


def test_equal_scales_are_those_of_one_condition_bit_by_bit():
    denoiser, t = OfMean(SCHEDULES["cosine"]), T.double()
    each, whole = (guided(g, denoiser, X_T, t) for g in (ClassifierFreeEach([1.7] * 3), ClassifierFree(1.7)))
    assert torch.equal(each.x0, whole.x0)
    assert denoiser.batches == [4, 4]  # what counts for nothing is not asked for


@pytest.mark.parametrize(("scales", "batch"), [([1, 1, 1], 2), ([0, 0, 0], 2), ([2, 1, 1], 6), ([2, 3, 4], 8)])
def test_a_pass_asks_for_the_steps_that_count_alone(scales, batch):
    denoiser = OfMean(SCHEDULES["cosine"])
    guided(ClassifierFreeEach(scales), denoiser, X_T, T.double())
    assert denoiser.batches == [batch]


def test_outside_of_the_interval_it_is_the_conditional_answer():
    denoiser, schedule = OfMean(SCHEDULES["cosine"]), SCHEDULES["cosine"]
    t = schedule.time(-2 * torch.log(torch.tensor([0.1, 1.0]).double()))
    found = guided(ClassifierFreeEach([2.0, 3.0, 4.0], sigma_low=0.2), denoiser, X_T, t)
    plain = denoiser(X_T, t, STEPS[-1])
    torch.testing.assert_close(found.x0[0], plain.x0[0], rtol=0, atol=1e-14)
    assert (found.x0[1] - plain.x0[1]).abs().min() > 0.1


def test_another_number_of_scales_is_refused():
    with pytest.raises(
        IncompatibleError, match=r"has 2 values, but the condition has 3 parts; give one scale for each part"
    ):
        guided(ClassifierFreeEach([1.0, 2.0]), OfMean(SCHEDULES["cosine"]), X_T, T.double())
