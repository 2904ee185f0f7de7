"""Feature extractors: the space in which sets of images are compared."""

from abc import ABC, abstractmethod
from typing import NamedTuple, final

from torch import Tensor, nn


class Looked(NamedTuple):
    """What an extractor sees in images (B, C, H, W)."""

    features: Tensor  # (B, dim)
    spatial: Tensor | None = None  # (B, S): a few channels at every place of a middle layer, for the spatial FID
    logits: Tensor | None = None  # (B, K) of the classes that the extractor knows, for the Inception score


class Extractor(nn.Module, ABC):
    """What stands beside every figure made with one: `name`, with a hash of the weights in it, and how it resizes.

    dim: the number of features. knows_classes: whether its classes are those of the data, so that it can say whether
    an image is of the class that was asked for.
    """

    name: str
    dim: int
    digest: str  # sha256 of the weights, 16 hex digits
    resize: str = "none"  # in words: to what size, how, and as which program does it
    knows_classes: bool = False

    @abstractmethod
    def look(self, images: Tensor) -> Looked:
        """images: uint8 (B, C, H, W)."""

    @final
    def features(self, images: Tensor) -> Tensor:
        """images: uint8 (B, C, H, W) -> (B, dim)."""
        return self.look(images).features
