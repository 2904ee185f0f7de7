"""Conditioners: from what a batch says to what the network is told, and to telling it nothing.

A condition is a function of the batch alone. What it chooses at random, such as a mask or the wording of a caption, it
makes of the uniform numbers batch["u"], which the trainer draws for a step and everyone else for an image's number.
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
    """What it is, as attributes:

    routes: how wide what it tells is; drop: the share of samples trained without condition; coins: how many conditions
    are dropped each by itself; sees: the keys of the batch, beside "label", that it cannot do without; draws: how many
    uniform numbers it wants of each sample, as batch["u"]: (B, draws); asks_class: whether an image that does as it is
    told is of the class batch["label"].
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
        """No condition, for a batch like that of `cond`."""

    @abstractmethod
    def each(self, batch: Batch) -> list[tuple["Conditioner", Batch]]:
        """The conditions that it is made of, each with what it sees of a batch."""

    @abstractmethod
    def steps(self, cond: Cond) -> list[Cond]:
        """From no condition to `cond`: with each part told in turn, beside those before it."""

    @abstractmethod
    def dropped(self, cond: Cond, u: Tensor) -> Cond:
        """`cond`, but none where u: (B, coins) or (B,), uniform in [0, 1), is below `drop`: for guidance."""


class Plain(Conditioner, ABC):
    """One condition, told or not."""

    def dropped(self, cond: Cond, u: Tensor) -> Cond:
        return self.null(cond).where(u.reshape(len(u), -1)[:, 0] < self.drop, cond) if self.drop else cond

    def each(self, batch: Batch) -> list[tuple[Conditioner, Batch]]:
        return [(self, batch)]

    def steps(self, cond: Cond) -> list[Cond]:
        return [self.null(cond), cond]


class Judges(ABC):
    """A conditioner that can tell how well images do as they are told."""

    @abstractmethod
    def judge(self, images: Tensor, batch: Batch) -> dict[str, Tensor]:
        """Figures, float (B,) each, of uint8 images: (B, C, H, W); all on the CPU."""


def judged_by(conditioner: Conditioner, images: Tensor, batch: Batch) -> dict[str, Tensor]:
    """What all judges among its parts say of uint8 images: (B, C, H, W); all on the CPU."""
    figures: dict[str, Tensor] = {}
    for part, own in conditioner.each(batch):
        if isinstance(part, Judges):
            figures |= part.judge(images, own)
    return figures


class Shows(ABC):
    """A conditioner of which there is something to see."""

    @abstractmethod
    def shown(self, batch: Batch) -> Tensor:
        """Pictures of what is told, uint8, of the shape of the images: (B, C, H, W)."""


class Keeps(ABC):
    """A conditioner that gives some of the pixels as they are to be."""

    @abstractmethod
    def kept(self, batch: Batch) -> Tensor:
        """bool (B, 1, H, W): where the image is batch["image"]."""


class Unconditional(Plain):
    """Tells the network nothing; the label stays beside it, for a classifier that guides or is trained."""

    def __init__(self) -> None:
        super().__init__()
        self.routes, self.drop = Routes(), 0.0

    def forward(self, batch: Batch) -> Cond:
        return Cond(label=batch["label"])

    def null(self, cond: Cond) -> Cond:
        return Cond(label=unlabelled(cond.label))


class ClassLabel(Plain):
    """batch["label"]: (B,) in 0 ... num_classes - 1 -> a learned vector (B, dim); the null vector is learned too."""

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
    """-1, which is no class, for each sample."""
    return None if label is None else torch.full_like(label, -1)
