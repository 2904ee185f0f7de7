"""Points: distributions in the plane, and the plane embedded in more dimensions.

A distribution draws n points z: (n, 2) and their classes. z is brought to mean 0 and standard deviation 1 a coordinate,
and x = P z, where P: (D, 2) has orthonormal columns and is the same for every distribution, size and seed. So lengths
and angles stay as they are, and P^T brings any x: (n, D) back to the plane. D = 2 leaves z as it is.

All draws are float64 from generators with seeds of their own: the same on every machine.
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

_REFERENCE = 65_536  # points that give mean, standard deviation and the number of classes, whatever the sizes


@final
class Points(Source):
    """`train` and `test` points of a distribution in `dim` dimensions, float32 (N, dim).

    `name` stands in captions and figures; `projection` is P: float64 (dim, 2).
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
        """x: (n, dim) -> P^T x: float64 (n, 2)."""
        return points.double().cpu() @ self.projection

    def embedded(self, plane: Tensor) -> Tensor:
        """z: (n, 2) -> P z: float64 (n, dim)."""
        return plane.double().cpu() @ self.projection.T

    def _drawn(self, n: int, split: str) -> InMemory:
        points, labels = self._distribution(n, generator("points", split, self._seed))
        return InMemory(self.embedded((points - self._mean) / self._std).float(), labels)


def _projection(dim: int) -> Tensor:
    """P: float64 (dim, 2), orthonormal columns in a uniformly random plane: Gram-Schmidt, as QR's signs may differ."""
    if dim == 2:
        return torch.eye(2, dtype=torch.float64)
    first, second = torch.randn(2, dim, generator=generator("points", "projection", dim), dtype=torch.float64)
    first = first / first.norm()
    second = second - (first @ second) * first
    second = second - (first @ second) * first  # once more, for what rounding has left of the first
    return torch.stack([first, second / second.norm()], 1)


@checked
def swiss_roll(n: int, rng: torch.Generator, noise: NonNegative = 0.25) -> tuple[Tensor, Tensor]:
    """The spiral r = angle, even in the angle from 1.5 pi to 4.5 pi, and noise (Sohl-Dickstein 2015, fig. 1)."""
    angle = math.pi * (1.5 + 3 * _uniform(n, rng))
    spiral = angle[:, None] * torch.stack([angle.cos(), angle.sin()], 1)
    return spiral + noise * _normal(n, rng), _no_classes(n)


@checked
def moons(n: int, rng: torch.Generator, noise: NonNegative = 0.06) -> tuple[Tensor, Tensor]:
    """Two half circles of radius 1, the second turned by 180 degrees and moved to hook into the first."""
    labels = _classes(n, 2, rng)
    angle = math.pi * (_uniform(n, rng) + labels)
    centre = labels[:, None] * torch.tensor([1.0, 0.5], dtype=torch.float64)
    return centre + torch.stack([angle.cos(), angle.sin()], 1) + noise * _normal(n, rng), labels


@checked
def mixture(n: int, rng: torch.Generator, modes: Count = 8, std: NonNegative = 0.08) -> tuple[Tensor, Tensor]:
    """Equal Gaussians, evenly on the unit circle; the class is the Gaussian."""
    labels = _classes(n, modes, rng)
    angle = 2 * math.pi / modes * labels.double()
    return torch.stack([angle.cos(), angle.sin()], 1) + std * _normal(n, rng), labels


@checked
def checkerboard(n: int, rng: torch.Generator, squares: AtLeastTwo = 4) -> tuple[Tensor, Tensor]:
    """Uniform on the dark squares of a board of squares x squares."""
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
    """Arms of a wheel, bent: Gaussians about radius 1 of these standard deviations, turned by twist exp(radius)."""
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
