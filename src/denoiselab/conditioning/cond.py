"""What a network is told beside x_t and t, by the three routes of the literature."""

from typing import NamedTuple

import torch
from torch import Tensor


class Cond(NamedTuple):
    vector: Tensor | None = None  # (B, D), added to the time embedding
    concat: Tensor | None = None  # (B, C, H, W), appended to the channels of x_t
    tokens: Tensor | None = None  # (B, L, D), attended to
    label: Tensor | None = None  # int64 (B,), -1: none; for exact denoisers and classifiers, networks do not see it

    def where(self, mask: Tensor, other: "Cond") -> "Cond":
        """This condition where mask: (B,) is true, the other one elsewhere; sample by sample."""
        return Cond(*(_where(mask, a, b) for a, b in zip(self, other, strict=True)))

    def cat(self, other: "Cond") -> "Cond":
        """Both batches, one after the other."""
        return Cond(*(_cat(a, b) for a, b in zip(self, other, strict=True)))


def _cat(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return None if a is None or b is None else torch.cat([a, b])


def _where(mask: Tensor, a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return None
    return torch.where(mask.reshape(-1, *[1] * (a.ndim - 1)), a, b)
