"""Does a conditional model do as it is told?"""

from typing import final

from denoiselab.metrics.figures.figure import Figure, Reference
from denoiselab.metrics.statistics import Statistics


@final
class ClassAccuracy(Figure):
    """class_accuracy: the share of images that the extractor names as the class that was asked for."""

    def __call__(self, generated: Statistics, reference: Reference) -> dict[str, float]:
        return {} if generated.right is None else {"class_accuracy": generated.right / generated.n}


@final
class AsTold(Figure):
    """What the model's own condition says of that, by names of its own: the error on known pixels, and others."""

    def __call__(self, generated: Statistics, reference: Reference) -> dict[str, float]:
        return generated.told
