"""Conditioning: Cond is what a network is told, a Conditioner makes it from a batch."""

from denoiselab.conditioning.cond import Cond
from denoiselab.conditioning.conditioner import ClassLabel, Conditioner, Unconditional

__all__ = ["ClassLabel", "Cond", "Conditioner", "Unconditional"]
