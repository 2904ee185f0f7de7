"""Codecs: map between images, float in [-1, 1], and the space of the diffusion."""

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Codec(nn.Module, ABC):
    @abstractmethod
    def encode(self, images: Tensor) -> Tensor:
        """Map images (B, C, H, W) in [-1, 1] to latents of about unit variance."""

    @abstractmethod
    def decode(self, latents: Tensor) -> Tensor:
        """Map latents back to images; the inverse of encode, up to the codec's error."""

    @abstractmethod
    def latent_shape(self, image_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of one latent, for images (C, H, W) or points (D,)."""


class Unscaled(Codec, ABC):
    """A codec with latents (latent_channels, h, w) of any variance; `Latents` scales them for diffusion."""

    latent_channels: int


class HasPrior(ABC):
    """A codec whose latents have a prior other than the standard normal distribution."""

    @abstractmethod
    def prior(self, noise: Tensor) -> Tensor:
        """Map standard normal noise to samples of the prior, of the same shape."""


class Identity(Codec):
    """Diffusion in pixels, or in the points' own space."""

    def encode(self, images: Tensor) -> Tensor:
        return images

    def decode(self, latents: Tensor) -> Tensor:
        return latents

    def latent_shape(self, image_shape: tuple[int, ...]) -> tuple[int, ...]:
        return image_shape
