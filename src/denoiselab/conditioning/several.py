"""Several conditions at once, dropped independently."""

import torch
from torch import Tensor, nn

from denoiselab.conditioning.cond import Cond, Routes
from denoiselab.conditioning.conditioner import Conditioner, Unconditional
from denoiselab.data.source import Batch
from denoiselab.errors import IncompatibleError
from denoiselab.limits import Share, checked


class Several(Conditioner):
    """Combine conditions by concatenating their vectors, channels and tokens.

    Each part is dropped with its own probability, independently, as guidance adds the parts one by one; all are dropped
    together with probability `drop`, as guidance starts from no condition (Brooks 2023, §3.2.1). Raises
    IncompatibleError for tokens of different widths and for a part that is Unconditional or Several.
    """

    @checked
    def __init__(self, drop: Share = 0.05, **parts: Conditioner) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(parts)
        every = self._parts()
        if any(isinstance(part, Several | Unconditional) for part in every):
            raise IncompatibleError(
                "conditioning=several is made of conditions that tell something, each of one thing; take others, as in "
                "conditioning@conditioning.second=inpainting"
            )
        widths = {part.routes.tokens for part in every} - {0}
        if len(widths) > 1:
            raise IncompatibleError(
                f"the parts of this conditioning tell tokens of {' and '.join(map(str, sorted(widths)))} numbers, and "
                "a network attends to tokens of one width; give each the same dim"
            )
        routes = [part.routes for part in every]
        self.routes = Routes(sum(r.vector for r in routes), sum(r.concat for r in routes), max(widths, default=0))
        self.together, self.drop = drop, max(drop, *(part.drop for part in every))
        self.coins = 1 + sum(part.coins for part in every)
        self.sees = tuple(sorted({key for part in every for key in part.sees}))
        self.draws = sum(part.draws for part in every)
        self.asks_class = any(part.asks_class for part in every)

    def each(self, batch: Batch) -> list[tuple[Conditioner, Batch]]:
        first, made = 0, []
        for part in self._parts():
            own = {"u": batch["u"][:, first : first + part.draws]} if "u" in batch else {}
            made.append((part, batch | own))
            first += part.draws
        return made

    def forward(self, batch: Batch) -> Cond:
        return joined([part(own) for part, own in self.each(batch)])

    def null(self, cond: Cond) -> Cond:
        return joined([part.null(told) for part, told in zip(self._parts(), cond.parts, strict=True)])

    def dropped(self, cond: Cond, u: Tensor) -> Cond:
        made, first = [], 1
        for part, told in zip(self._parts(), cond.parts, strict=True):
            made.append(part.dropped(told, u[:, first : first + part.coins]))
            first += part.coins
        return self.null(cond).where(u[:, 0] < self.together, joined(made))

    def steps(self, cond: Cond) -> list[Cond]:
        nulls = [part.null(told) for part, told in zip(self._parts(), cond.parts, strict=True)]
        return [joined([*cond.parts[:k], *nulls[k:]]) for k in range(len(nulls) + 1)]

    def _parts(self) -> list[Conditioner]:
        return [part for part in self.parts.values() if isinstance(part, Conditioner)]


def joined(parts: list[Cond]) -> Cond:
    """Concatenate conditions; the label is the first one present."""
    vectors = [part.vector for part in parts if part.vector is not None]
    channels = [part.concat for part in parts if part.concat is not None]
    tokens = [part.tokens for part in parts if part.tokens is not None]
    masks = [_mask(part) for part in parts if part.tokens is not None]
    labels = [part.label for part in parts if part.label is not None]
    return Cond(
        torch.cat(vectors, 1) if vectors else None,
        torch.cat(channels, 1) if channels else None,
        torch.cat(tokens, 1) if tokens else None,
        labels[0] if labels else None,
        torch.cat(masks, 1) if masks else None,
        tuple(parts),
    )


def _mask(cond: Cond) -> Tensor:
    assert cond.tokens is not None
    return torch.ones_like(cond.tokens[..., 0], dtype=torch.bool) if cond.mask is None else cond.mask
