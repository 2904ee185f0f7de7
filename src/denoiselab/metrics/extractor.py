"""Interface of feature extractors, which define the space in which image sets are compared."""

from abc import ABC, abstractmethod
from typing import NamedTuple, final

from torch import Tensor, nn


class Looked(NamedTuple):
    """Output of an extractor for images (B, C, H, W)."""

    features: Tensor  # (B, dim)
    spatial: Tensor | None = None  # (B, S): some channels of a middle layer at every position, for sFID
    logits: Tensor | None = None  # (B, K), of the extractor's own classes, for the Inception score


class Extractor(nn.Module, ABC):
    """Base class of feature extractors; `name` (with a hash of the weights) and `resize` are stored with every metric.

    dim: number of features. knows_classes: whether its classes are those of the data, so that it can check whether an
    image is of the requested class.
    """

    name: str
    dim: int
    digest: str  # sha256 of the weights, 16 hex digits
    resize: str = "none"  # description: size, method, and the reference implementation
    knows_classes: bool = False

    @abstractmethod
    def look(self, images: Tensor) -> Looked:
        """Extract features from images: uint8 (B, C, H, W)."""

    @final
    def features(self, images: Tensor) -> Tensor:
        """Map images, uint8 (B, C, H, W), to features (B, dim)."""
        return self.look(images).features
