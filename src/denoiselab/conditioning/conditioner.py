"""Conditioners: from what a batch says to what the network is told, and to telling it nothing."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from denoiselab.conditioning.cond import Cond


class Conditioner(nn.Module, ABC):
    """`vector_dim` is the width of Cond.vector, 0 for none; `drop` the share of samples trained without condition."""

    vector_dim: int
    drop: float

    @abstractmethod
    def forward(self, batch: dict[str, Tensor]) -> Cond:
        """The condition of a batch of B samples."""

    @abstractmethod
    def null(self, cond: Cond) -> Cond:
        """No condition, for a batch like that of `cond`."""

    def dropped(self, cond: Cond, u: Tensor) -> Cond:
        """`cond`, but none where u: (B,), uniform in [0, 1), is below `drop`: guidance has its unconditional half."""
        if self.drop == 0 or all(part is None for part in cond):
            return cond
        return self.null(cond).where(u < self.drop, cond)


class Unconditional(Conditioner):
    """Tells the network nothing; the label stays beside it, for a classifier that guides or is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.vector_dim, self.drop = 0, 0.0

    def forward(self, batch: dict[str, Tensor]) -> Cond:
        return Cond(label=batch["label"])

    def null(self, cond: Cond) -> Cond:
        return Cond(label=unlabelled(cond.label))


class ClassLabel(Conditioner):
    """batch["label"]: (B,) in 0 ... num_classes - 1 -> a learned vector (B, dim); the null vector is learned too."""

    def __init__(self, num_classes: int, dim: int = 128, drop: float = 0.1) -> None:
        super().__init__()
        self.vector_dim, self.drop, self.num_classes = dim, drop, num_classes
        self.embedding = nn.Embedding(num_classes + 1, dim)

    def forward(self, batch: dict[str, Tensor]) -> Cond:
        return Cond(vector=self.embedding(batch["label"]), label=batch["label"])

    def null(self, cond: Cond) -> Cond:
        assert cond.vector is not None
        null = self.embedding.weight[self.num_classes].expand_as(cond.vector)
        return Cond(vector=null, label=unlabelled(cond.label))


def unlabelled(label: Tensor | None) -> Tensor | None:
    """-1, which is no class, for each sample."""
    return None if label is None else torch.full_like(label, -1)
