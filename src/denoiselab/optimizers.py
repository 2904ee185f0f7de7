"""Optimizers with their learning-rate schedule: linear warm-up, then constant or cosine decay to 0."""

import math
from collections.abc import Iterable
from typing import Literal

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from denoiselab.limits import Natural, NonNegative, Positive, ShareBelowOne, checked


@checked
def adamw(
    parameters: Iterable[nn.Parameter],
    max_steps: int,
    lr: Positive = 1e-3,
    betas: tuple[ShareBelowOne, ShareBelowOne] = (0.9, 0.99),
    weight_decay: NonNegative = 0.0,
    warmup_steps: Natural = 100,
    decay: Literal["cosine", "constant"] = "constant",
) -> tuple[torch.optim.Optimizer, LambdaLR]:
    """Returns AdamW (Adam with weight_decay 0) and its schedule, to be stepped once per optimizer step.

    A constant rate does not depend on max_steps, so an extended run equals one that was longer from the start. With
    decay, warm-up takes at most half of the steps.
    """
    optimizer = torch.optim.AdamW(parameters, lr=lr, betas=(betas[0], betas[1]), weight_decay=weight_decay)
    if decay == "cosine":
        warmup_steps = min(warmup_steps, max(1, max_steps // 2))
    return optimizer, LambdaLR(optimizer, lambda step: rate(step, max_steps, warmup_steps, decay))


def rate(step: int, max_steps: int, warmup_steps: int, decay: str) -> float:
    """Returns the share of the full learning rate at a step; decay: "cosine" or "constant"."""
    warm = min(1.0, (step + 1) / max(1, warmup_steps))
    if decay == "constant" or max_steps < 0:
        return warm
    done = min(1.0, max(0, step - warmup_steps) / max(1, max_steps - warmup_steps))
    return warm * (1 + math.cos(math.pi * done)) / 2
