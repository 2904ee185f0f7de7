"""Points: distributions in the plane, optionally embedded in more dimensions.

A distribution draws n points z: (n, 2) and their classes. z is standardised to mean 0 and standard deviation 1 per
coordinate, and x = P z, where P: (D, 2) has orthonormal columns and depends on D only. Lengths and angles are
preserved, and P^T maps any x: (n, D) back to the plane. P is the identity for D = 2.

All draws are float64 from their own seeded generators: the same on every machine.
"""

import math
from collections.abc import Callable
from functools import cached_property
from typing import final

import torch
from torch import Tensor

from denoiselab.data.source import InMemory, Source
from denoiselab.limits import AtLeastTwo, Count, Finite, Natural, NonNegative, checked
from denoiselab.randomness import generator

Distribution = Callable[[int, torch.Generator], tuple[Tensor, Tensor]]
"""(n, generator) -> points, float64 (n, 2), and classes, int64 (n,), all 0 where there are none."""

_REFERENCE = 65_536  # points to estimate mean, standard deviation and the number of classes, whatever the sizes


@final
class Points(Source):
    """`train` and `test` points of a distribution, embedded in `dim` dimensions: float32 (N, dim).

    `name` is used in titles; `projection` is P: float64 (dim, 2).
    """

    flip = False

    @checked
    def __init__(
        self,
        name: str,
        distribution: Distribution,
        train: AtLeastTwo = 8192,
        test: AtLeastTwo = 2048,
        dim: AtLeastTwo = 2,
        seed: Natural = 0,
    ) -> None:
        self.name = name
        self.projection = _projection(dim)
        self._distribution, self._sizes, self._seed = distribution, (train, test), seed
        points, labels = distribution(_REFERENCE, generator("points", "reference"))
        self._mean, self._std = points.mean(0), points.std(0)
        classes = int(labels.max()) + 1
        self.class_names = tuple(map(str, range(classes))) if classes > 1 else ()

    @property
    def shape(self) -> tuple[int, ...]:
        return (len(self.projection),)

    @cached_property
    def train(self) -> InMemory:
        return self._drawn(self._sizes[0], "train")

    @cached_property
    def test(self) -> InMemory:
        return self._drawn(self._sizes[1], "test")

    def in_plane(self, points: Tensor) -> Tensor:
        """Project x: (n, dim) to P^T x: float64 (n, 2)."""
        return points.double().cpu() @ self.projection

    def embedded(self, plane: Tensor) -> Tensor:
        """Embed z: (n, 2) as P z: float64 (n, dim)."""
        return plane.double().cpu() @ self.projection.T

    def _drawn(self, n: int, split: str) -> InMemory:
        points, labels = self._distribution(n, generator("points", split, self._seed))
        return InMemory(self.embedded((points - self._mean) / self._std).float(), labels)


def _projection(dim: int) -> Tensor:
    """P: float64 (dim, 2), a uniformly random plane, by Gram-Schmidt, as the signs of QR may differ."""
    if dim == 2:
        return torch.eye(2, dtype=torch.float64)
    first, second = torch.randn(2, dim, generator=generator("points", "projection", dim), dtype=torch.float64)
    first = first / first.norm()
    second = second - (first @ second) * first
    second = second - (first @ second) * first  # again, against rounding
    return torch.stack([first, second / second.norm()], 1)


@checked
def swiss_roll(n: int, rng: torch.Generator, noise: NonNegative = 0.25) -> tuple[Tensor, Tensor]:
    """Noisy spiral r = angle, uniform in angle from 1.5 pi to 4.5 pi (Sohl-Dickstein 2015, fig. 1)."""
    angle = math.pi * (1.5 + 3 * _uniform(n, rng))
    spiral = angle[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
    return spiral + noise * _normal(n, rng), _no_classes(n)


@checked
def moons(n: int, rng: torch.Generator, noise: NonNegative = 0.06) -> tuple[Tensor, Tensor]:
    """Two interleaving half circles of radius 1, with noise; the class is the half circle."""
    labels = _classes(n, 2, rng)
    angle = math.pi * (_uniform(n, rng) + labels)
    centre = labels[:, None] * torch.tensor([1.0, 0.5], dtype=torch.float64)
    return centre + torch.stack([angle.cos(), angle.sin()], 1) + noise * _normal(n, rng), labels


@checked
def mixture(n: int, rng: torch.Generator, modes: Count = 8, std: NonNegative = 0.08) -> tuple[Tensor, Tensor]:
    """Equal Gaussians, evenly spaced on the unit circle; the class is the Gaussian."""
    labels = _classes(n, modes, rng)
    angle = 2 * math.pi / modes * labels.double()
    return torch.stack([angle.cos(), angle.sin()], 1) + std * _normal(n, rng), labels


@checked
def checkerboard(n: int, rng: torch.Generator, squares: AtLeastTwo = 4) -> tuple[Tensor, Tensor]:
    """Uniform distribution on the dark squares of a board of squares x squares."""
    dark = [(column, row) for column in range(squares) for row in range(squares) if (column + row) % 2 == 0]
    corners = torch.tensor(dark, dtype=torch.float64)[torch.randint(len(dark), (n,), generator=rng)]
    return corners + torch.stack([_uniform(n, rng), _uniform(n, rng)], 1), _no_classes(n)


@checked
def pinwheel(
    n: int,
    rng: torch.Generator,
    arms: Count = 5,
    radial: NonNegative = 0.3,
    tangential: NonNegative = 0.07,
    twist: Finite = 0.25,
) -> tuple[Tensor, Tensor]:
    """Bent arms: Gaussians at radius 1 with these standard deviations, turned by twist exp(radius)."""
    labels = _classes(n, arms, rng)
    arm = _normal(n, rng) * torch.tensor([radial, tangential], dtype=torch.float64)
    x, y = arm[:, 0] + 1, arm[:, 1]
    angle = 2 * math.pi / arms * labels.double() + twist * x.exp()
    return torch.stack([x * angle.cos() - y * angle.sin(), x * angle.sin() + y * angle.cos()], 1), labels


def _uniform(n: int, rng: torch.Generator) -> Tensor:
    return torch.rand(n, generator=rng, dtype=torch.float64)


def _normal(n: int, rng: torch.Generator) -> Tensor:
    return torch.randn(n, 2, generator=rng, dtype=torch.float64)


def _classes(n: int, classes: int, rng: torch.Generator) -> Tensor:
    return torch.randint(classes, (n,), generator=rng)


def _no_classes(n: int) -> Tensor:
    return torch.zeros(n, dtype=torch.int64)
