"""Metrics of how well samples follow their condition."""

from typing import final

from denoiselab.metrics.figures.figure import Figure, Reference
from denoiselab.metrics.statistics import Statistics


@final
class ClassAccuracy(Figure):
    """class_accuracy: the fraction of images that the extractor assigns to the requested class."""

    def __call__(self, generated: Statistics, reference: Reference) -> dict[str, float]:
        return {} if generated.right is None else {"class_accuracy": generated.right / generated.n}


@final
class AsTold(Figure):
    """The conditioner's own metrics under their own names, such as the error on known pixels."""

    def __call__(self, generated: Statistics, reference: Reference) -> dict[str, float]:
        return generated.told
