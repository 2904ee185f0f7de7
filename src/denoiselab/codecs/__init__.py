"""Codecs: map between images and the space of the diffusion."""

from denoiselab.codecs.autoencoder import KL, VQ, Autoencoder, Coded
from denoiselab.codecs.codec import Codec, HasPrior, Identity, Unscaled
from denoiselab.codecs.latents import Latents
from denoiselab.codecs.standard_normal import StandardNormal

__all__ = ["KL", "VQ", "Autoencoder", "Codec", "Coded", "HasPrior", "Identity", "Latents", "StandardNormal", "Unscaled"]
