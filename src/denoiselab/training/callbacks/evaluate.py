"""Metrics of the averaged weights, during training and at its end: the headline metric and the others."""

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

SETTINGS = ("classifier_test_accuracy", "mmd_sigma")  # settings of the metrics, not metrics of the model


class Evaluate(Periodic):
    """Callback that evaluates samples; the latest metrics go to system.figures, those that rank steps to system.judged.

    `evaluation` is called at first use, as it may train an extractor, which would delay the start of training.

    Metrics of different n are not comparable (FID falls with n), so the n of evaluations during training is fixed at
    the first one: as many whole batches as are expected to take at most `max_seconds` (None: no limit), at least one a
    device and no more than n. A resumed run keeps it. The evaluation at the end of training uses all n; if that is
    more, the last step is also evaluated with the smaller n, for comparison with the steps before it.
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
        self.seconds = 0.0  # total over the run's evaluations
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
        """Pass metrics to the loggers and to system.judged."""
        told = {*system.recipe.words, *SETTINGS}
        names = [
            name for name in figures if isinstance(figures[name], float) and name.removeprefix("floor.") not in told
        ]
        found = {name: figures[name] for name in names}
        system.judged |= {name: Figure(value, trainer.global_step, figures["n"]) for name, value in found.items()}
        beside = {"n": figures["n"], **found}
        log_figures(trainer, {logged_as(name, figures["headline"]): value for name, value in beside.items()})

    def affordable(self, system: System, n: int) -> int:
        """Return the n of evaluations during training, the same on all ranks, which sample batches in parallel."""
        at_once = self.batch_size * distributed.world_size()
        if self.max_seconds is None or n <= at_once:
            return n
        seconds = self._seconds_a_batch(system)
        if seconds * n > self.max_seconds * at_once:  # the first batch may include compilation
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
        """Return the slowest rank's seconds per batch, rounded down to microseconds."""
        indices, started = range(self.batch_size), time.monotonic()
        system.pipeline.sample(system.recipe, indices, system.wishes(indices), self.seed)
        return distributed.all_max(max(1, int(1e6 * (time.monotonic() - started)))) / 1e6

    def state_dict(self) -> dict[str, Any]:
        return {"n_while_training": self.n_while_training, "seconds": self.seconds}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.n_while_training, self.seconds = state_dict["n_while_training"], state_dict["seconds"]


def logged_as(name: str, headline: str) -> str:
    """Return a metric's key in the loggers; n, floor and durations are prefixed by the headline metric's name."""
    if name.startswith("floor."):
        return f"{name.removeprefix('floor.')}/floor"
    return f"{headline}/{name}" if name in ("n", "floor", "seconds", "sampling_seconds") else name
