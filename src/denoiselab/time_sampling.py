"""Training times t in (0, 1]. Which t are drawn, and how often, is one half of the effective loss weight.

A time sampler is called once for the *global* batch; each rank takes its part of the answer.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor


class TimeSampler(ABC):
    @abstractmethod
    def __call__(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n times in (0, 1], float64 of shape (n,)."""


def _uniform(n: int, generator: torch.Generator | None) -> Tensor:
    return torch.rand(n, generator=generator, dtype=torch.float64)


class Uniform(TimeSampler):
    """t ~ U(0, 1]."""

    def __call__(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return 1 - _uniform(n, generator)


class Discrete(TimeSampler):
    """t = i/T with i uniform on 1 ... T (DDPM, algorithm 1)."""

    def __init__(self, T: int = 1000) -> None:
        self.T = T

    def __call__(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return torch.randint(1, self.T + 1, (n,), generator=generator).to(torch.float64) / self.T


class Stratified(TimeSampler):
    """t_i = (u + i/n) mod 1 with one u ~ U[0, 1) (VDM, appendix I.1): each t uniform, the batch evenly spread."""

    def __call__(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        return 1 - (_uniform(1, generator) + torch.arange(n, dtype=torch.float64) / n) % 1
