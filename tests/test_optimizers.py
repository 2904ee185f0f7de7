import math

import pytest
import torch
from torch import nn

from denoiselab.optimizers import adamw, rate


def lrs(steps, **kwargs):
    """The learning rate of each optimizer step."""
    weight = nn.Parameter(torch.zeros(1))
    optimizer, schedule = adamw([weight], **kwargs)
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        weight.grad = torch.ones(1)
        optimizer.step()
        schedule.step()
    return seen


@pytest.mark.parametrize("decay", ["cosine", "constant"])
def test_warm_up_is_linear_and_full_at_its_last_step(decay):
    found = lrs(100, max_steps=1000, lr=2.0, warmup_steps=100, decay=decay)
    assert found == pytest.approx([2.0 * (i + 1) / 100 for i in range(100)], rel=1e-15)


def test_cosine_falls_from_one_by_half_to_zero():
    assert rate(100, 1100, 100, "cosine") == 1.0
    assert rate(600, 1100, 100, "cosine") == pytest.approx(0.5, rel=1e-15)
    assert rate(100 + 250, 1100, 100, "cosine") == pytest.approx((1 + math.sqrt(0.5)) / 2, rel=1e-15)
    assert rate(1100, 1100, 100, "cosine") == rate(5000, 1100, 100, "cosine") == 0.0


def test_constant_stays_at_the_full_rate():
    assert lrs(300, max_steps=200, lr=3e-4, warmup_steps=100, decay="constant")[99:] == [3e-4] * 201


def test_no_warm_up_starts_at_the_full_rate():
    assert rate(0, 1000, 0, "cosine") == 1.0
    assert rate(0, 1000, 0, "constant") == 1.0


def test_training_without_a_last_step_does_not_decay():
    # Lightning's max_steps=-1.
    assert rate(10**6, -1, 100, "cosine") == 1.0


def test_a_training_shorter_than_its_warm_up_still_has_a_positive_rate():
    assert all(rate(step, 10, 100, "cosine") > 0 for step in range(10))


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_the_first_step_is_that_of_decoupled_weight_decay(weight_decay):
    # Adam's first step is lr times the gradient's sign; AdamW shrinks the weight by lr times weight_decay besides.
    weight = nn.Parameter(torch.tensor([2.0, -3.0], dtype=torch.float64))
    optimizer, _ = adamw([weight], max_steps=10, lr=0.01, warmup_steps=0, weight_decay=weight_decay)
    weight.grad = torch.tensor([5.0, -0.1], dtype=torch.float64)
    optimizer.step()
    start, sign = torch.tensor([2.0, -3.0]).double(), torch.tensor([1.0, -1.0]).double()
    expected = start * (1 - 0.01 * weight_decay) - 0.01 * sign
    torch.testing.assert_close(weight.detach(), expected, rtol=0, atol=1e-8)  # Adam's epsilon, 1e-8 of 0.1


def test_betas_may_be_any_sequence():
    # Hydra hands over a list.
    optimizer, _ = adamw([nn.Parameter(torch.zeros(1))], max_steps=1, betas=[0.8, 0.95])
    assert optimizer.param_groups[0]["betas"] == (0.8, 0.95)
