"""Conditioning: a Conditioner turns a batch into a Cond, the network's inputs beside x_t and t."""

from denoiselab.conditioning.cond import Cond, Routes
from denoiselab.conditioning.conditioner import (
    ClassLabel,
    Conditioner,
    Judges,
    Keeps,
    Plain,
    Shows,
    Unconditional,
    judged_by,
)
from denoiselab.conditioning.image import Colourisation, SuperResolution
from denoiselab.conditioning.inpainting import Inpainting
from denoiselab.conditioning.layout import Layout, LayoutChannels
from denoiselab.conditioning.segmentation import Segmentation
from denoiselab.conditioning.several import Several
from denoiselab.conditioning.text import Text
from denoiselab.conditioning.wishes import Wishes

__all__ = [
    "ClassLabel",
    "Colourisation",
    "Cond",
    "Conditioner",
    "Inpainting",
    "Judges",
    "Keeps",
    "Layout",
    "LayoutChannels",
    "Plain",
    "Routes",
    "Segmentation",
    "Several",
    "Shows",
    "SuperResolution",
    "Text",
    "Unconditional",
    "Wishes",
    "judged_by",
]
