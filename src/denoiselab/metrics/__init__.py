"""How generated images are judged."""

from denoiselab.metrics.classifier import Classifier, trained_classifier
from denoiselab.metrics.evaluation import Evaluation
from denoiselab.metrics.extractor import Extractor, Looked
from denoiselab.metrics.likelihood import LikelihoodEvaluation
from denoiselab.metrics.moments import Moments, frechet_distance
from denoiselab.metrics.points import PointEvaluation, sliced_wasserstein

__all__ = [
    "Classifier",
    "Evaluation",
    "Extractor",
    "LikelihoodEvaluation",
    "Looked",
    "Moments",
    "PointEvaluation",
    "frechet_distance",
    "sliced_wasserstein",
    "trained_classifier",
]
