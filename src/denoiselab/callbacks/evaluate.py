"""FID and class accuracy of the averaged weights, while training and at its end."""

from collections.abc import Callable

import pytorch_lightning as pl

from denoiselab.callbacks.logging import log_figures
from denoiselab.callbacks.periodic import Periodic
from denoiselab.metrics.evaluation import Evaluation
from denoiselab.system import DiffusionSystem


class Evaluate(Periodic):
    """Leaves its newest figures in system.figures.

    `evaluation` makes the evaluation at its first use: it may train an extractor, and training should start soon.
    """

    def __init__(
        self,
        evaluation: Callable[[], Evaluation],
        n: int | None = None,
        every: int | None = None,
        seed: int = 0,
        batch_size: int = 100,
    ) -> None:
        super().__init__(every)
        self.make_evaluation = evaluation
        self.n, self.seed, self.batch_size = n, seed, batch_size
        self._evaluation: Evaluation | None = None

    def work(self, trainer: pl.Trainer, system: DiffusionSystem) -> None:
        if self._evaluation is None:
            self._evaluation = self.make_evaluation()
        with system.ema.swapped():
            figures = self._evaluation(system.pipeline, system.recipe, self.n, self.seed, self.batch_size)
        system.figures = {**figures, "step": trainer.global_step}
        if trainer.is_global_zero:
            names = ("fid", "floor", "class_accuracy", "seconds")
            log_figures(trainer, {k if k == "fid" else f"fid/{k}": figures[k] for k in names if k in figures})
