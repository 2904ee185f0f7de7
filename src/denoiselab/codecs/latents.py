"""Diffusion in the latents of a trained autoencoder (Rombach 2022): z = (E(x) - shift)/scale.

shift and scale are the mean and standard deviation of each channel of E(x) over the training images, so that z has mean
0 and variance 1 per channel, as schedules and parameterizations assume.
"""

from collections.abc import Iterable
from typing import Any, final

import torch
from torch import Tensor

from denoiselab.codecs.codec import Codec, Unscaled


@final
class Latents(Codec):
    """A frozen codec with normalised latents. shift, scale: (C, 1, 1), 0 and 1 until measured.

    The state dict holds them and the codec's weights, except for DiffusersVAE. `origin`, where the codec comes from, is
    ignored here.
    """

    def __init__(self, model: Unscaled, **origin: Any) -> None:
        super().__init__()
        self.model = model.requires_grad_(False).eval()
        self.shift: Tensor
        self.scale: Tensor
        self.register_buffer("shift", torch.zeros(model.latent_channels, 1, 1))
        self.register_buffer("scale", torch.ones(model.latent_channels, 1, 1))

    @torch.no_grad()
    def unscaled(self, images: Tensor) -> Tensor:
        """x -> E(x)."""
        return self.model.encode(images)

    def scaled(self, latents: Tensor) -> Tensor:
        """E(x) -> z."""
        return (latents - self.shift) / self.scale

    def encode(self, images: Tensor) -> Tensor:
        return self.scaled(self.unscaled(images))

    def decode(self, latents: Tensor) -> Tensor:
        return self.model.decode(latents * self.scale + self.shift)

    def latent_shape(self, image_shape: tuple[int, ...]) -> tuple[int, ...]:
        return self.model.latent_shape(image_shape)

    def measure(self, batches: Iterable[Tensor]) -> None:
        """Compute shift and scale from batches of E(x), with each image once."""
        count, total, squares = 0, torch.zeros(()), torch.zeros(())
        for batch in batches:
            rows = batch.double().movedim(1, -1).flatten(0, -2).cpu()
            count, total, squares = count + len(rows), total + rows.sum(0), squares + rows.square().sum(0)
        mean = total / count
        deviation = (squares / count - mean.square()).clamp(min=1e-12).sqrt()
        self.shift.copy_(mean[:, None, None])
        self.scale.copy_(deviation[:, None, None])
