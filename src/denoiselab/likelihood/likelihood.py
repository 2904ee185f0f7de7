"""What a way to a likelihood is: from a denoiser and a batch of data to nats of each image."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from denoiselab.denoiser import DenoiseFn
from denoiselab.schedules import Schedule


class ByLogSNR(NamedTuple):
    """A part of the nats in K bins of log-SNR."""

    part: str
    nats: Tensor  # (B, K), which add up to the part
    evaluations: Tensor  # (B, K), of the denoiser, how many were made for each
    edges: Tensor  # (K + 1,), ascending


@dataclass(frozen=True)
class Nats:
    """-log p(x_0) of each image, or a bound on it, summed over its dimensions; all float64 on the CPU."""

    parts: dict[str, Tensor]  # (B,) each; they add up to the whole
    biases: dict[str, Tensor] = field(default_factory=dict)  # (B,) each: what an image's nats may be off by
    variances: dict[str, Tensor] = field(default_factory=dict)  # (B,) each: of an image's nats, where they are drawn
    by_log_snr: ByLogSNR | None = None
    words: dict[str, Any] = field(default_factory=dict)  # of the method's, those that the network decided

    @property
    def total(self) -> Tensor:
        return torch.stack(list(self.parts.values())).sum(0)


class Likelihood(ABC):
    words: dict[str, Any]
    """How it is taken, in plain values, for provenance."""

    @abstractmethod
    def __call__(
        self, denoise: DenoiseFn, schedule: Schedule, x0: Tensor, indices: Sequence[int], quantised: bool
    ) -> Nats:
        """x0: (B, ...); its draws are a function of the seed and an image's index alone.

        quantised: x0 is one of 256 levels in [-1, 1], and the nats are of a probability. Else they are of a density.
        """
