"""Base class of metrics that compare a set of images with real ones."""

import inspect
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import ClassVar, NamedTuple, final

from denoiselab.metrics.statistics import Needs, Statistics


class Reference(NamedTuple):
    """Statistics of real images: all training images, and as many test images as are evaluated."""

    train: Statistics
    test: Statistics


class Figure(ABC):
    """One or more metrics as plain values by name; empty if the extractor lacks the required features.

    headline: name of a distance that can rank models (lower is better). needs: statistics that must be gathered.
    """

    headline: ClassVar[str | None] = None
    needs: Needs = Needs()

    @abstractmethod
    def __call__(self, generated: Statistics, reference: Reference) -> dict[str, float]: ...

    @final
    @property
    def settings(self) -> str:
        """The parameters as text: "sigma 10.0, scale 1000.0"."""
        given = {key: "null" if value is None else value for key, value in vars(self).items() if key != "needs"}
        return ", ".join(f"{key} {value}" for key, value in given.items())

    @final
    @property
    def words(self) -> str:
        """Cache key: name, parameters and source code."""
        source = ""
        with suppress(OSError):  # classes defined in a notebook have none
            source = inspect.getsource(type(self))
        return f"{type(self).__qualname__} {sorted(vars(self).items())} {source}"
