"""The likelihood contract: from a denoiser and a batch of data to nats of each image."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from denoiselab.denoiser import DenoiseFn
from denoiselab.schedules import Schedule


class ByLogSNR(NamedTuple):
    """One part of the nats, in K bins of log-SNR."""

    part: str
    nats: Tensor  # (B, K), which sum to the part
    evaluations: Tensor  # (B, K), the number of denoiser evaluations for each
    edges: Tensor  # (K + 1,), ascending


@dataclass(frozen=True)
class Nats:
    """-log p(x_0) of each image, or a bound on it, summed over its dimensions; all float64 on the CPU."""

    parts: dict[str, Tensor]  # (B,) each; they sum to the total
    biases: dict[str, Tensor] = field(default_factory=dict)  # (B,) each: possible errors of an image's nats
    variances: dict[str, Tensor] = field(default_factory=dict)  # (B,) each: of an image's nats, if random
    by_log_snr: ByLogSNR | None = None
    words: dict[str, Any] = field(default_factory=dict)  # the method's options that the network decided

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
        """Returns the nats of x0: (B, ...); draws depend on the seed and an image's index alone.

        quantised: x0 has 256 levels in [-1, 1], and the nats are of a probability; otherwise of a density.
        """
