r"""Norms of the weighted eps error $\sqrt w\,(\epsilon - \hat\epsilon)$: $w\,|\epsilon - \hat\epsilon|^2$, or another.

The network's output gives the error as $\epsilon - \hat\epsilon = e_\mathrm{out} (F^* - F)$. $\sqrt w\,e_\mathrm{out}$
is computed first, in float64, so that nothing overflows where one is large and the other small.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from denoiselab.limits import Positive, checked
from denoiselab.schedules import like


class Norm(ABC):
    @abstractmethod
    def __call__(self, error: Tensor, scale: Tensor) -> Tensor:
        """Returns the norm of `scale` times `error`, of the shape of error: (B, ...); scale: (B,), float64."""


class L2(Norm):
    """$|e|^2$."""

    def __call__(self, error: Tensor, scale: Tensor) -> Tensor:
        return like(scale**2, error) * error.square()


class L1(Norm):
    """$|e|$."""

    def __call__(self, error: Tensor, scale: Tensor) -> Tensor:
        return like(scale.abs(), error) * error.abs()


class Huber(Norm):
    r"""$|e|^2$ up to $\delta$, then linear, $\delta (2|e| - \delta)$: twice the loss of Huber (1964)."""

    @checked
    def __init__(self, delta: Positive = 1.0) -> None:
        self.delta = delta

    def __call__(self, error: Tensor, scale: Tensor) -> Tensor:
        size = like(scale.abs(), error) * error.abs()
        return torch.where(size <= self.delta, size.square(), self.delta * (2 * size - self.delta))
