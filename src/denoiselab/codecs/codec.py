"""Codecs: between images, float in [-1, 1], and the space that is diffused."""

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Codec(nn.Module, ABC):
    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """images: (B, C, H, W) in [-1, 1] -> what is diffused, near unit variance."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """The inverse, as far as there is one."""

    @abstractmethod
    def latent_shape(self, image_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of one latent, for images of shape (C, H, W) or points of shape (D,)."""


class Unscaled(Codec, ABC):
    """A codec whose latents, (latent_channels, h, w), have any variance: `Latents` scales what is diffused."""

    latent_channels: int


class HasPrior(ABC):
    """A codec whose latents have a prior of their own, which is not the standard normal distribution."""

    @abstractmethod
    def prior(self, noise: Tensor) -> Tensor:
        """Latents of that prior, made of standard normal noise of their shape."""


class Identity(Codec):
    """Diffusion in pixels, or of the points themselves."""

    def encode(self, images: Tensor) -> Tensor:
        return images

    def decode(self, latents: Tensor) -> Tensor:
        return latents

    def latent_shape(self, image_shape: tuple[int, ...]) -> tuple[int, ...]:
        return image_shape
