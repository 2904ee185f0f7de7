"""Evaluation of generated images, points and likelihoods."""

from denoiselab.metrics.classifier import Classifier, trained_classifier
from denoiselab.metrics.evaluation import Evaluation
from denoiselab.metrics.extractor import Extractor, Looked
from denoiselab.metrics.figures import (
    CMMD,
    FID,
    KID,
    MMD,
    AsTold,
    ClassAccuracy,
    DensityCoverage,
    Figure,
    InceptionScore,
    Memorisation,
    PrecisionRecall,
    Reference,
    SpatialFID,
)
from denoiselab.metrics.likelihood import LikelihoodEvaluation
from denoiselab.metrics.moments import Moments, frechet_distance
from denoiselab.metrics.points import PointEvaluation, sliced_wasserstein
from denoiselab.metrics.statistics import Needs, Statistics

__all__ = [
    "CMMD",
    "FID",
    "KID",
    "MMD",
    "AsTold",
    "ClassAccuracy",
    "Classifier",
    "DensityCoverage",
    "Evaluation",
    "Extractor",
    "Figure",
    "InceptionScore",
    "LikelihoodEvaluation",
    "Looked",
    "Memorisation",
    "Moments",
    "Needs",
    "PointEvaluation",
    "PrecisionRecall",
    "Reference",
    "SpatialFID",
    "Statistics",
    "frechet_distance",
    "sliced_wasserstein",
    "trained_classifier",
]
