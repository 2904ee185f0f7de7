"""How the weighted error of eps is measured: w |eps - eps_hat|^2, or another norm of sqrt(w) (eps - eps_hat).

The error is known in the network's output space, eps - eps_hat = e_out (F* - F); sqrt(w) and e_out are put together in
float64 before they meet it, so that no product overflows where one is large and the other small.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from denoiselab.limits import Positive, checked
from denoiselab.schedules import like


class Norm(ABC):
    @abstractmethod
    def __call__(self, error: Tensor, scale: Tensor) -> Tensor:
        """The norm of `scale` error, of the shape of error: (B, ...); scale: (B,), float64."""


class L2(Norm):
    """|e|^2."""

    def __call__(self, error: Tensor, scale: Tensor) -> Tensor:
        return like(scale**2, error) * error.square()


class L1(Norm):
    """|e|."""

    def __call__(self, error: Tensor, scale: Tensor) -> Tensor:
        return like(scale.abs(), error) * error.abs()


class Huber(Norm):
    """|e|^2 up to delta, delta (2 |e| - delta) beyond, where it grows no faster (Huber 1964, twice his)."""

    @checked
    def __init__(self, delta: Positive = 1.0) -> None:
        self.delta = delta

    def __call__(self, error: Tensor, scale: Tensor) -> Tensor:
        size = like(scale.abs(), error) * error.abs()
        return torch.where(size <= self.delta, size.square(), self.delta * (2 * size - self.delta))
