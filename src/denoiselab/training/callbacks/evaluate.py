"""Figures of the averaged weights, while training and at its end: the headline figure and what stands beside it."""

import time
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl

from denoiselab import distributed
from denoiselab.metrics import Evaluation, PointEvaluation
from denoiselab.progress import console
from denoiselab.training.callbacks.logging import log_figures
from denoiselab.training.callbacks.periodic import Periodic
from denoiselab.training.system import Figure, System

SETTINGS = ("classifier_test_accuracy", "mmd_sigma")  # how figures were found, and no figures of the model


class Evaluate(Periodic):
    """Leaves its newest figures in system.figures, and in system.judged those that steps are compared by.

    `evaluation` makes the evaluation at its first use: it may train an extractor, and training should start soon.

    Figures of different n cannot be compared (FID falls with n), so that of the evaluations while training is decided
    once, at the first of them: as many whole batches as are expected to be generated within `max_seconds` (None: no
    limit), at least one a device and no more than n. A run that goes on keeps to it. The evaluation at the end of
    training is of all n; where these are more, the last step is judged by the smaller n too, as the steps before it
    were.
    """

    def __init__(
        self,
        evaluation: Callable[[], Evaluation | PointEvaluation],
        n: int | None = None,
        every: int | None = None,
        seed: int = 0,
        batch_size: int = 100,
        max_seconds: float | None = None,
    ) -> None:
        super().__init__(every)
        self.make_evaluation = evaluation
        self.n, self.seed, self.batch_size, self.max_seconds = n, seed, batch_size, max_seconds
        self.n_while_training: int | None = None  # not decided yet
        self.seconds = 0.0  # of all evaluations of the run
        self._evaluation: Evaluation | PointEvaluation | None = None

    def work(self, trainer: pl.Trainer, system: System) -> None:
        started = time.monotonic()
        if self._evaluation is None:
            self._evaluation = self.make_evaluation()
        n = self._evaluation.size(self.n)
        with system.ema.swapped():
            if not self.at_the_end and self.n_while_training is None:
                self.n_while_training = self.affordable(system, n)
            compared = min(n, self.n_while_training or n)
            figures = self._found(system, compared)
            self._judge(trainer, system, figures)
            if self.at_the_end and compared < n:
                figures = self._found(system, n)
        self.seconds += time.monotonic() - started
        system.figures = {**figures, "step": trainer.global_step, "metrics_seconds": round(self.seconds, 2)}

    def _found(self, system: System, n: int) -> dict[str, Any]:
        assert self._evaluation is not None
        return self._evaluation(system.pipeline, system.recipe, n, self.seed, self.batch_size)

    def _judge(self, trainer: pl.Trainer, system: System, figures: dict[str, Any]) -> None:
        """To the loggers, and to whoever compares steps."""
        told = {*system.recipe.words, *SETTINGS}
        names = [
            name for name in figures if isinstance(figures[name], float) and name.removeprefix("floor.") not in told
        ]
        found = {name: figures[name] for name in names}
        system.judged |= {name: Figure(value, trainer.global_step, figures["n"]) for name, value in found.items()}
        beside = {"n": figures["n"], **found}
        log_figures(trainer, {logged_as(name, figures["headline"]): value for name, value in beside.items()})

    def affordable(self, system: System, n: int) -> int:
        """The n of the evaluations while training, the same on all ranks, which sample their batches side by side."""
        at_once = self.batch_size * distributed.world_size()
        if self.max_seconds is None or n <= at_once:
            return n
        seconds = self._seconds_a_batch(system)
        if seconds * n > self.max_seconds * at_once:  # the first one may have compiled something
            seconds = min(seconds, self._seconds_a_batch(system))
        most = max(1, int(self.max_seconds / seconds)) * at_once
        if most < n and not distributed.rank():
            console.print(
                f"figures while training are of {most} of {n} samples, which take about {most / at_once * seconds:.0f} "
                f"s (metrics.max_seconds={self.max_seconds:g}); those at the end are of all",
                highlight=False,
                soft_wrap=True,
            )
        return min(n, most)

    def _seconds_a_batch(self, system: System) -> float:
        """Of the slowest rank, in whole microseconds."""
        indices, started = range(self.batch_size), time.monotonic()
        system.pipeline.sample(system.recipe, indices, system.wishes(indices), self.seed)
        return distributed.all_max(max(1, int(1e6 * (time.monotonic() - started)))) / 1e6

    def state_dict(self) -> dict[str, Any]:
        return {"n_while_training": self.n_while_training, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.n_while_training, self.seconds = state_dict["n_while_training"], state_dict["seconds"]


def logged_as(name: str, headline: str) -> str:
    """A figure's key in the loggers: its own; what other figures may have too, such as a floor, stands behind it."""
    if name.startswith("floor."):
        return f"{name.removeprefix('floor.')}/floor"
    return f"{headline}/{name}" if name in ("n", "floor", "seconds", "sampling_seconds") else name
