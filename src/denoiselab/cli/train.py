"""python train.py: train a model."""

from omegaconf import DictConfig

from denoiselab.cli.application import Job
from denoiselab.training.start import Start
from denoiselab.training.train import train


def run(cfg: DictConfig, job: Job) -> float | None:
    """Train; returns the headline metric, for a search."""
    group = job.choices["experiment"] if job.sweep is None else job.sweep.name
    return train(cfg, Start(job.folder, job.choices, group, job.sweep is not None))
