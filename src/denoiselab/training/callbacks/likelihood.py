"""Likelihood of the test images under the averaged weights."""

import pytorch_lightning as pl

from denoiselab.metrics.likelihood import LikelihoodEvaluation
from denoiselab.training.callbacks.logging import log_figures, log_picture, run_folder
from denoiselab.training.callbacks.periodic import Periodic
from denoiselab.training.system import Figure, System


class BitsPerDim(Periodic):
    """Callback that logs val/bits_per_dim with terms and errors, to likelihood.csv and .png and system.figures too."""

    def __init__(self, evaluation: LikelihoodEvaluation, every: int | None = None) -> None:
        super().__init__(every)
        self.evaluation = evaluation

    def work(self, trainer: pl.Trainer, system: System) -> None:
        with system.ema.swapped():
            judged = self.evaluation(system.pipeline)
        system.figures = {**system.figures, **judged.figures}
        value, n = judged.figures[judged.name], judged.figures["likelihood.n"]
        system.judged[judged.name] = Figure(value, trainer.global_step, n)
        if trainer.is_global_zero:
            log_figures(trainer, {f"val/{name}": value for name, value in judged.logged.items()})
            picture = judged.write(run_folder(trainer))
            if picture is not None:
                log_picture(trainer, "likelihood", picture, f"step {trainer.global_step}, {judged.caption}")
