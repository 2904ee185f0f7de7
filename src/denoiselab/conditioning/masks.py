"""Masks of known pixels (True), drawn at random or read from a file.

A drawn mask is a function of uniform numbers u and the image's size alone. Of N pixels, between 1 and N - 1 are known.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from denoiselab.errors import ConfigError, DataError, IncompatibleError


class Masks(ABC):
    """A distribution of masks. draws: uniform numbers used per mask."""

    draws: int

    @abstractmethod
    def __call__(self, u: Tensor, height: int, width: int) -> Tensor:
        """u: (B, draws) in [0, 1) -> bool (B, 1, height, width), sides of at least 2.

        Raises IncompatibleError for an unsupported size.
        """


class Box(Masks):
    """All but a box at a random place, with sides `low` to `high` times the image's (rounded, at least 1 pixel).

    Raises ConfigError unless 0 < low <= high <= 1.
    """

    draws = 4

    def __init__(self, low: float = 0.3, high: float = 0.7) -> None:
        if not 0 < low <= high <= 1:
            raise ConfigError(f"a box from {low} to {high} of the sides makes no sense; allowed: 0 < low <= high <= 1")
        self.low, self.high = low, high

    def __call__(self, u: Tensor, height: int, width: int) -> Tensor:
        rows = self._span(u[:, 0], u[:, 1], height)
        columns = self._span(u[:, 2], u[:, 3], width)
        return ~(rows[:, None, :, None] & columns[:, None, None, :])

    def _span(self, size: Tensor, place: Tensor, side: int) -> Tensor:
        """Rows or columns that the box covers: bool (B, side)."""
        length = ((self.low + size * (self.high - self.low)) * side).round().clamp(1, side - 1)
        start = torch.minimum((place * (side - length + 1)).floor(), side - length)
        at = torch.arange(side, device=size.device)
        return (at >= start[:, None]) & (at < (start + length)[:, None])


SIDES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "left": lambda row, column: column < 0.5,
    "right": lambda row, column: column >= 0.5,
    "top": lambda row, column: row < 0.5,
    "bottom": lambda row, column: row >= 0.5,
}
"""The known half for each word, of a pixel's place in [0, 1)."""


class Half(Masks):
    """One half is known: left, right, top, bottom or, by default, any of these. Raises ConfigError for other values."""

    draws = 1

    def __init__(self, known: str = "any") -> None:
        if known not in ("any", *SIDES):
            raise ConfigError(f"the known half is {known!r}; allowed are any, {', '.join(SIDES)}")
        self.sides = list(SIDES.values()) if known == "any" else [SIDES[known]]

    def __call__(self, u: Tensor, height: int, width: int) -> Tensor:
        row = (torch.arange(height, device=u.device) / height)[:, None].expand(height, width)
        column = (torch.arange(width, device=u.device) / width).expand(height, width)
        halves = torch.stack([side(row, column) for side in self.sides])
        return halves[_choice(u[:, 0], len(halves))][:, None]


class RandomPixels(Masks):
    """A uniformly random fraction of the pixels, from `low` to `high`, is known.

    Pixel i is known if u[i + 1] is among the smallest, so `draws` is 1 plus the number of pixels.
    Raises ConfigError unless 0 <= low <= high <= 1.
    """

    def __init__(self, height: int, width: int, low: float = 0.1, high: float = 0.5) -> None:
        if not 0 <= low <= high <= 1:
            raise ConfigError(f"{low} to {high} of the pixels makes no sense; allowed: 0 <= low <= high <= 1")
        self.low, self.high, self.draws = low, high, 1 + height * width

    def __call__(self, u: Tensor, height: int, width: int) -> Tensor:
        score = u[:, 1 : 1 + height * width]
        count = (self.low + u[:, 0] * (self.high - self.low)) * height * width
        return _least(score, count.round()).reshape(-1, 1, height, width)


class Brush(Masks):
    """All but brush strokes: irregular holes, as in image editors (and Liu 2018, "partial convolutions").

    A stroke is a random walk of `turns` straight pieces from a random place. As fractions of the image's longer side, a
    piece is up to `length` long and the radius is `thin` to `thick`, but at least half a pixel's diagonal, so that no
    stroke falls between pixels.
    """

    def __init__(
        self, strokes: int = 2, turns: int = 4, length: float = 0.5, thin: float = 0.06, thick: float = 0.12
    ) -> None:
        if strokes < 1 or turns < 1 or not 0 < thin <= thick <= 1 or not 0 < length <= 1:
            raise ConfigError(
                f"{strokes} strokes of {turns} turns, {length} long and {thin} to {thick} thick make no sense; "
                "allowed: at least 1 of each, and shares of the side in (0, 1], the smaller one first"
            )
        self.strokes, self.turns, self.length, self.thin, self.thick = strokes, turns, length, thin, thick
        self.draws = strokes * (3 + 2 * turns)

    def __call__(self, u: Tensor, height: int, width: int) -> Tensor:
        side = max(height, width)
        strokes = u[:, : self.draws].unflatten(1, (self.strokes, -1))  # (B, S, 3 + 2 turns)
        start = strokes[..., :2] * torch.tensor([height, width], device=u.device)
        angle, run = 2 * torch.pi * strokes[..., 3::2], self.length * side * strokes[..., 4::2]
        moves = torch.stack([run * angle.sin(), run * angle.cos()], -1)  # (B, S, turns, 2)
        a = torch.cat([start[:, :, None], start[:, :, None] + moves.cumsum(2)[:, :, :-1]], 2)
        rows = torch.arange(height, device=u.device) + 0.5
        columns = torch.arange(width, device=u.device) + 0.5
        pixels = torch.cartesian_prod(rows, columns)  # (N, 2)
        # The nearest point of each piece a + k move, k in [0, 1], to each pixel's centre.
        to = pixels - a[..., None, :]
        k = (to * moves[..., None, :]).sum(-1) / moves.square().sum(-1).clamp(min=1e-12)[..., None]
        distance = (to - k.clamp(0, 1)[..., None] * moves[..., None, :]).norm(dim=-1)  # (B, S, turns, N)
        radius = ((self.thin + strokes[..., 2] * (self.thick - self.thin)) * side).clamp(min=0.5**0.5)
        beyond = (distance.amin(2) / radius[..., None]).amin(1)  # (B, N), at most 1 under a stroke
        return ~_least(beyond, (beyond <= 1).sum(1)).reshape(-1, 1, height, width)


class Mixed(Masks):
    """One of several kinds for each mask, all equally likely. Raises ConfigError if `kinds` is empty."""

    def __init__(self, kinds: Mapping[str, Masks]) -> None:
        if not kinds:
            raise ConfigError("a mixture of no masks is none; give it one kind at least")
        self.kinds = list(kinds.values())
        self.draws = 1 + max(kind.draws for kind in self.kinds)

    def __call__(self, u: Tensor, height: int, width: int) -> Tensor:
        every = torch.stack([kind(u[:, 1 : 1 + kind.draws], height, width) for kind in self.kinds])
        return every[_choice(u[:, 0], len(self.kinds)), torch.arange(len(u), device=u.device)]


class FromFile(Masks):
    """One mask for all images, from a file: white (grey >= 128) is known, black unknown.

    Raises DataError for a file that cannot be read as an image or is all white or all black. Calling it raises
    IncompatibleError for images of another size.
    """

    draws = 0

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            with Image.open(self.path) as picture:
                grey = np.asarray(picture.convert("L"))
        except Exception as error:  # of Pillow's decoders: OSError, SyntaxError, ValueError, struct.error and more
            reason = getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
            raise DataError(f"{str(path)!r} cannot be read as a mask ({reason}); give a PNG file") from error
        self.known = torch.from_numpy(grey >= 128)
        if self.known.all() or not self.known.any():
            told = "white, so that nothing is left to do" if self.known.all() else "black, so that nothing is known"
            raise DataError(f"{str(path)!r} is all {told}; paint white what is known, and black what is not")

    def __call__(self, u: Tensor, height: int, width: int) -> Tensor:
        if self.known.shape != (height, width):
            had = " x ".join(map(str, self.known.shape))
            raise IncompatibleError(
                f"mask {str(self.path)!r} is {had} pixels (height x width), and the images are {height} x {width}; "
                "give one of their size"
            )
        return self.known.to(u.device).expand(len(u), 1, height, width)


def _choice(u: Tensor, n: int) -> Tensor:
    """Map u: (B,) to int64 (B,) in 0 ... n - 1, clamped as n u may be rounded up to n."""
    return (u * n).long().clamp(max=n - 1)


def _least(score: Tensor, count: Tensor) -> Tensor:
    """Mark the `count`: (B,) smallest of each row of score: (B, N), at least 1 and at most N - 1: bool (B, N)."""
    rank = score.argsort(dim=1, stable=True).argsort(1)
    return rank < count.clamp(1, score.shape[1] - 1)[:, None]


KINDS: Mapping[str, Callable[[int, int], Masks]] = {
    "box": lambda height, width: Box(),
    "brush": lambda height, width: Brush(),
    "half": lambda height, width: Half(),
    "random": RandomPixels,
}
"""The masks that a word names, for images of height and width."""


def masks(told: str | Masks, height: int, width: int) -> Masks:
    """Masks from a name (box, brush, half, random, or mixed for all of these) or an image file. Masks pass through.

    Raises ConfigError for an unknown name, DataError for a file that cannot be read and IncompatibleError for an
    unsupported image size.
    """
    if min(height, width) < 2:
        raise IncompatibleError(
            f"a mask leaves a part of an image unknown, and {height} x {width} pixels have no parts; take images of at "
            "least 2 x 2 pixels"
        )
    if isinstance(told, Masks):
        made = told
    elif told == "mixed":
        made = Mixed({word: kind(height, width) for word, kind in KINDS.items()})
    elif told in KINDS:
        made = KINDS[told](height, width)
    elif isinstance(told, str) and (Path(told).suffix or Path(told).exists()):
        made = FromFile(told)
    else:
        raise ConfigError(
            f"mask={told} is no kind of mask and no file; allowed: {', '.join([*KINDS, 'mixed'])}, or a PNG file"
        )
    made(torch.zeros(1, made.draws), height, width)  # to raise errors early
    return made
