"""Text encoders: map captions to a state for each token."""

from denoiselab.conditioning.encoders.encoder import TextEncoder
from denoiselab.conditioning.encoders.frozen import Frozen, minilm, of_folder
from denoiselab.conditioning.encoders.words import Words

__all__ = ["Frozen", "TextEncoder", "Words", "minilm", "of_folder"]
