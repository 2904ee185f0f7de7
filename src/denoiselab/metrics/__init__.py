"""How generated images are judged."""

from denoiselab.metrics.classifier import Classifier, trained_classifier
from denoiselab.metrics.evaluation import Evaluation
from denoiselab.metrics.extractor import Extractor
from denoiselab.metrics.moments import Moments, frechet_distance

__all__ = ["Classifier", "Evaluation", "Extractor", "Moments", "frechet_distance", "trained_classifier"]
