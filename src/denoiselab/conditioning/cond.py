"""A network's inputs beside x_t and t: a vector, channels or tokens."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as nnf


class Routes(NamedTuple):
    """Width of each conditioning input; 0 if unused."""

    vector: int = 0  # D of Cond.vector
    concat: int = 0  # C of Cond.concat
    tokens: int = 0  # D of Cond.tokens


class Cond(NamedTuple):
    """A batch of conditions. An unused input is None."""

    vector: Tensor | None = None  # (B, D), added to the time embedding
    concat: Tensor | None = None  # (B, C, H, W), appended to the channels of x_t
    tokens: Tensor | None = None  # (B, L, D), attended to
    label: Tensor | None = None  # int64 (B,), -1: none; for exact denoisers and classifiers, not networks
    mask: Tensor | None = None  # bool (B, L), True for valid tokens, at least one per sample; None: all
    parts: "tuple[Cond, ...]" = ()  # the parts of a combined condition

    def where(self, mask: Tensor, other: "Cond") -> "Cond":
        """Select per sample: this condition where mask: (B,) is True, else `other`. Drops parts."""
        return Cond(*[_where(mask, a, b) for a, b in zip(*_as_long(self, other), strict=True)])  # type: ignore[arg-type]

    def cat(self, other: "Cond") -> "Cond":
        """Concatenate two batches. Drops parts."""
        return Cond(*[_cat(a, b) for a, b in zip(*_as_long(self, other), strict=True)])  # type: ignore[arg-type]


def _as_long(*conds: Cond) -> Sequence[tuple[Tensor | None, ...]]:
    """The fields without parts, with tokens padded to the same number and the padding masked."""
    tokens = [cond.tokens for cond in conds if cond.tokens is not None]
    if len(tokens) < len(conds) or (
        len({x.shape[1] for x in tokens}) == 1 and len({cond.mask is None for cond in conds}) == 1
    ):
        return [cond[:-1] for cond in conds]
    length = max(x.shape[1] for x in tokens)
    made = []
    for cond, x in zip(conds, tokens, strict=True):
        there = x.new_ones(x.shape[:2], dtype=torch.bool) if cond.mask is None else cond.mask
        more = length - x.shape[1]
        made.append(cond._replace(tokens=nnf.pad(x, (0, 0, 0, more)), mask=nnf.pad(there, (0, more)))[:-1])
    return made


def _cat(a: Tensor | None, b: Tensor | None) -> Tensor | None:
    return None if a is None or b is None else torch.cat([a, b])


def _where(mask: Tensor, a: Tensor | None, b: Tensor | None) -> Tensor | None:
    if a is None or b is None:
        return None
    return torch.where(mask.reshape(-1, *[1] * (a.ndim - 1)), a, b)
