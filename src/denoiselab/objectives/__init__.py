"""Training objectives: the contract in objective.py, one family per file."""

from denoiselab.objectives.adversarial import Adversarial
from denoiselab.objectives.autoencoder import Autoencoding
from denoiselab.objectives.bound import Hybrid, VariationalBound, rounded_up
from denoiselab.objectives.cross_entropy import CrossEntropy
from denoiselab.objectives.mse import LearnedUncertainty, WeightedMSE
from denoiselab.objectives.objective import Denoising, Objective

__all__ = [
    "Adversarial",
    "Autoencoding",
    "CrossEntropy",
    "Denoising",
    "Hybrid",
    "LearnedUncertainty",
    "Objective",
    "VariationalBound",
    "WeightedMSE",
    "rounded_up",
]
