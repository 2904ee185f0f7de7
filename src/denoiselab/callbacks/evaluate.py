"""Figures of the averaged weights, while training and at its end: the headline figure and what stands beside it."""

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl

from denoiselab.callbacks.logging import log_figures
from denoiselab.callbacks.periodic import Periodic
from denoiselab.system import DiffusionSystem


class Evaluate(Periodic):
    """Leaves its newest figures in system.figures.

    `evaluation` makes the evaluation at its first use: it may train an extractor, and training should start soon. The
    evaluation is called with (pipeline, recipe, n, seed, batch_size); its figures name their "headline".
    """

    def __init__(
        self,
        evaluation: Callable[[], Callable[..., dict[str, Any]]],
        n: int | None = None,
        every: int | None = None,
        seed: int = 0,
        batch_size: int = 100,
    ) -> None:
        super().__init__(every)
        self.make_evaluation = evaluation
        self.n, self.seed, self.batch_size = n, seed, batch_size
        self._evaluation: Callable[..., dict[str, Any]] | None = None

    def work(self, trainer: pl.Trainer, system: DiffusionSystem) -> None:
        if self._evaluation is None:
            self._evaluation = self.make_evaluation()
        with system.ema.swapped():
            figures = self._evaluation(system.pipeline, system.recipe, self.n, self.seed, self.batch_size)
        system.figures = {**figures, "step": trainer.global_step}
        if trainer.is_global_zero:
            headline = figures["headline"]
            beside = [name for name in ("floor", "class_accuracy", "off_plane", "seconds") if name in figures]
            log_figures(trainer, {headline: figures[headline]} | {f"{headline}/{k}": figures[k] for k in beside})
