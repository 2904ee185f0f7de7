"""Trained runs for other programs: from denoiselab import load."""

from pathlib import Path
from typing import Any, NamedTuple

import torch

from denoiselab.assembly.sampling import recipe
from denoiselab.pipeline import Pipeline, Recipe
from denoiselab.runs.guides import check_codec
from denoiselab.runs.load import open_run


class Model(NamedTuple):
    """A trained model, how its run makes samples, and the facts: config, image_shape, num_classes, step and others."""

    pipeline: Pipeline
    recipe: Recipe
    about: dict[str, Any]


def load(
    run: str | Path,
    checkpoint: str = "last",
    device: str | torch.device = "cpu",
    decay: float | None = None,
    sigma_rel: float | None = None,
) -> Model:
    """The model of a run's folder, or of a file that export.py has made of one.

    decay or sigma_rel: another average than the run's own. Raises RunError.
    """
    pipeline, config, about = open_run(run, checkpoint, torch.device(device), {"decay": decay, "sigma_rel": sigma_rel})
    sampled = recipe(config)
    check_codec(sampled, pipeline)
    return Model(pipeline, sampled, about)
