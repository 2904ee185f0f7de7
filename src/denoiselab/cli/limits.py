"""Limits of options that are in no part's signature: those of a run, Lightning's trainer and the logger."""

from typing import Annotated, Any, Literal

from denoiselab.limits import AtLeastTwo, Count, Limit, Natural, Positive, ProfileWidth, ShareBelowOne

Trained = Literal["last", "best"]
Checkpoint = Literal["last", "best", "previous"]

# Lightning accepts more forms of these than a type can express.
FREE = ("trainer.devices", "trainer.precision")

LIMITS: dict[str, Any] = {
    "seed": Natural,
    "batch_size": Count,
    "num_workers": Natural,
    "n": Count,
    "checkpoint": Checkpoint,
    "device": Literal["auto", "cpu", "cuda", "mps"],
    "codec.checkpoint": Checkpoint,
    "guidance.classifier.checkpoint": Trained,
    "guidance.weak.checkpoint": Trained,
    "ema.decay": ShareBelowOne | None,  # of sample.py and evaluate.py, which select one of a run's averages
    "ema.sigma_rel": ProfileWidth | None,
    "trainer.max_steps": Count,
    "trainer.gradient_clip_val": Positive | None,
    "trainer.log_every_n_steps": Count,
    "trainer.num_nodes": Count,
    "trainer.accelerator": Literal["auto", "cpu", "gpu", "cuda", "mps"],
    "trainer.deterministic": Literal[True, False, "warn"],
    "logger.mode": Literal["offline", "online"],
    "metrics.every": Count | None,
    "metrics.n": AtLeastTwo | None,
    "metrics.max_seconds": Positive | None,
    "metrics.seed": Natural,
    "metrics.batch_size": Count,
    "metrics.keep": Annotated[int, Limit(10, whole=True)],
    "likelihood.every": Count | None,
    "likelihood.n": AtLeastTwo | None,
    "likelihood.batch_size": Count,
}
