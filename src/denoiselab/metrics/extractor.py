"""Feature extractors: the space in which sets of images are compared."""

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Extractor(nn.Module, ABC):
    """`name` stands beside every figure made with it; `dim` is the number of features."""

    name: str
    dim: int

    @abstractmethod
    def features(self, images: Tensor) -> Tensor:
        """images: uint8 (B, C, H, W) -> (B, dim)."""
