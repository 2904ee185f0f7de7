"""What a figure is: a number, or several, that says how a set of images compares with real ones."""

import inspect
from abc import ABC, abstractmethod
from contextlib import suppress
from typing import ClassVar, NamedTuple, final

from denoiselab.metrics.statistics import Needs, Statistics


class Reference(NamedTuple):
    """The real images: what a model has learned from, and as many as there are of those that it has not seen."""

    train: Statistics
    test: Statistics


class Figure(ABC):
    """Plain values by name; none where the extractor does not see what the figure is made of.

    headline: the name of a distance by which models can be judged, the lower the better. needs: what has to be
    gathered for it.
    """

    headline: ClassVar[str | None] = None
    needs: Needs = Needs()

    @abstractmethod
    def __call__(self, generated: Statistics, reference: Reference) -> dict[str, float]: ...

    @final
    @property
    def settings(self) -> str:
        """The numbers that it was given, in words: "sigma 10.0, scale 1000.0"."""
        given = {key: "null" if value is None else value for key, value in vars(self).items() if key != "needs"}
        return ", ".join(f"{key} {value}" for key, value in given.items())

    @final
    @property
    def words(self) -> str:
        """Its name, numbers and source, by which what it has found is known again."""
        source = ""
        with suppress(OSError):  # a class of a notebook has none
            source = inspect.getsource(type(self))
        return f"{type(self).__qualname__} {sorted(vars(self).items())} {source}"
