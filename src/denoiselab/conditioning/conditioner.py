"""Conditioners: map a batch to a condition, and a condition to the null condition.

A condition is a function of the batch alone. Random choices, such as a mask or the wording of a caption, come from the
uniform numbers batch["u"], which depend on the step in training and on the image's number everywhere else.
"""

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn

from denoiselab.conditioning.cond import Cond, Routes
from denoiselab.data.source import Batch
from denoiselab.limits import Count, Share, checked

NullCondition = Literal["learned", "zero"]
"""What a network is given in place of a condition that is dropped."""


class Conditioner(nn.Module, ABC):
    """Base class of conditioners. Attributes:

    routes: width of each conditioning input; drop: fraction of samples trained without the condition; coins: number of
    conditions dropped independently; sees: required keys of the batch, beside "label"; draws: uniform numbers needed
    per sample, batch["u"]: (B, draws); asks_class: whether an image that matches the condition has class
    batch["label"].
    """

    routes: Routes
    drop: float
    coins: int = 1
    sees: tuple[str, ...] = ()
    draws: int = 0
    asks_class: bool = False

    @abstractmethod
    def forward(self, batch: Batch) -> Cond:
        """The condition of a batch of B samples."""

    @abstractmethod
    def null(self, cond: Cond) -> Cond:
        """The null condition, with the shapes of `cond`."""

    @abstractmethod
    def each(self, batch: Batch) -> list[tuple["Conditioner", Batch]]:
        """The parts of this conditioner, each with its view of the batch."""

    @abstractmethod
    def steps(self, cond: Cond) -> list[Cond]:
        """From the null condition to `cond`, adding one part at a time."""

    @abstractmethod
    def dropped(self, cond: Cond, u: Tensor) -> Cond:
        """Replace `cond` by null where u: (B, coins) or (B,), uniform in [0, 1), is below `drop`."""


class Plain(Conditioner, ABC):
    """A single condition, dropped as a whole."""

    def dropped(self, cond: Cond, u: Tensor) -> Cond:
        return self.null(cond).where(u.reshape(len(u), -1)[:, 0] < self.drop, cond) if self.drop else cond

    def each(self, batch: Batch) -> list[tuple[Conditioner, Batch]]:
        return [(self, batch)]

    def steps(self, cond: Cond) -> list[Cond]:
        return [self.null(cond), cond]


class Judges(ABC):
    """A conditioner that measures how well images match their conditions."""

    @abstractmethod
    def judge(self, images: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Metrics, each float (B,), of uint8 images: (B, C, H, W); all on the CPU."""


def judged_by(conditioner: Conditioner, images: Tensor, batch: Batch) -> dict[str, Tensor]:
    """Metrics of all parts that are `Judges`, for uint8 images: (B, C, H, W); all on the CPU."""
    figures: dict[str, Tensor] = {}
    for part, own in conditioner.each(batch):
        if isinstance(part, Judges):
            figures |= part.judge(images, own)
    return figures


class Shows(ABC):
    """A conditioner whose condition can be shown as an image."""

    @abstractmethod
    def shown(self, batch: Batch) -> Tensor:
        """Images of the condition: uint8 (B, C, H, W), the shape of the data."""


class Keeps(ABC):
    """A conditioner that fixes some of the pixels."""

    @abstractmethod
    def kept(self, batch: Batch) -> Tensor:
        """bool (B, 1, H, W): True where the pixels are those of batch["image"]."""


class Unconditional(Plain):
    """No condition. The label is kept for classifier guidance and for training classifiers."""

    def __init__(self) -> None:
        super().__init__()
        self.routes, self.drop = Routes(), 0.0

    def forward(self, batch: Batch) -> Cond:
        return Cond(label=batch["label"])

    def null(self, cond: Cond) -> Cond:
        return Cond(label=unlabelled(cond.label))


class ClassLabel(Plain):
    """Class embedding: batch["label"], (B,) in 0 ... num_classes - 1, -> (B, dim); the null vector is learned too."""

    asks_class = True

    @checked
    def __init__(self, num_classes: Count, dim: Count = 128, drop: Share = 0.1) -> None:
        super().__init__()
        self.routes, self.drop, self.num_classes = Routes(vector=dim), drop, num_classes
        self.embedding = nn.Embedding(num_classes + 1, dim)

    def forward(self, batch: Batch) -> Cond:
        return Cond(vector=self.embedding(batch["label"]), label=batch["label"])

    def null(self, cond: Cond) -> Cond:
        assert cond.vector is not None
        null = self.embedding.weight[self.num_classes].expand_as(cond.vector)
        return Cond(vector=null, label=unlabelled(cond.label))


def unlabelled(label: Tensor | None) -> Tensor | None:
    """Replace each label by -1, no class."""
    return None if label is None else torch.full_like(label, -1)
