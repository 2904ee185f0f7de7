"""Metrics of a set of images; a class computes one metric or several related ones."""

from denoiselab.metrics.figures.class_accuracy import AsTold, ClassAccuracy
from denoiselab.metrics.figures.cmmd import CMMD
from denoiselab.metrics.figures.fid import FID, SpatialFID
from denoiselab.metrics.figures.figure import Figure, Reference
from denoiselab.metrics.figures.inception_score import InceptionScore
from denoiselab.metrics.figures.kid import KID
from denoiselab.metrics.figures.manifolds import DensityCoverage, PrecisionRecall
from denoiselab.metrics.figures.memorisation import Memorisation
from denoiselab.metrics.figures.mmd import MMD

__all__ = [
    "CMMD",
    "FID",
    "KID",
    "MMD",
    "AsTold",
    "ClassAccuracy",
    "DensityCoverage",
    "Figure",
    "InceptionScore",
    "Memorisation",
    "PrecisionRecall",
    "Reference",
    "SpatialFID",
]
