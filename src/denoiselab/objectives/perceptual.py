"""A perceptual loss: how far two images are apart in the layers of a network that has learned to see (Zhang 2018).

sum over layers of the mean over places of |f/|f| - g/|g||^2, f and g the features of all channels at a place; without
the weights of channels that LPIPS learns from people's judgements.
"""

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional as nnf

Layers = Callable[[Tensor], Sequence[Tensor]]


class Perceptual:
    """`layers` gives features, (B, C, h, w) each, of images: float (B, C, H, W) in [-1, 1]; no part of the model."""

    def __init__(self, layers: Layers) -> None:
        self.layers = layers

    def __call__(self, images: Tensor, made: Tensor) -> Tensor:
        """(B,), with gradients for both."""
        pairs = zip(self.layers(images), self.layers(made), strict=True)
        terms = [(nnf.normalize(f) - nnf.normalize(g)).square().sum(1).flatten(1).mean(1) for f, g in pairs]
        total: Any = sum(terms)
        return total
