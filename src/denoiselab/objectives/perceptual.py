r"""A perceptual loss: the distance of two images in the layers of a trained network (Zhang 2018, arXiv:1801.03924).

It is the sum over layers of the mean over places of $\left|f/|f| - g/|g|\right|^2$, with f and g the features of all
channels at a place, and without the channel weights that LPIPS learns from human judgements.
"""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional as nnf

Layers = Callable[[Tensor], Sequence[Tensor]]


class Perceptual:
    """`layers` maps images, float (B, C, H, W) in [-1, 1], to features (B, C, h, w) each; no part of the model."""

    def __init__(self, layers: Layers) -> None:
        self.layers = layers

    def __call__(self, images: Tensor, made: Tensor) -> Tensor:
        """Returns distances (B,), with gradients for both images."""
        pairs = zip(self.layers(images), self.layers(made), strict=True)
        terms = [(nnf.normalize(f) - nnf.normalize(g)).square().sum(1).flatten(1).mean(1) for f, g in pairs]
        total: Any = sum(terms)
        return total
