"""Codecs: the space in which diffusion happens."""

from denoiselab.codecs.codec import Codec, Identity

__all__ = ["Codec", "Identity"]
