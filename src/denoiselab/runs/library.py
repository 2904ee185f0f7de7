"""Trained runs in other programs: from denoiselab import load."""

from pathlib import Path
from typing import Any, NamedTuple

import torch

from denoiselab.assembly.sampling import recipe
from denoiselab.pipeline import Pipeline, Recipe
from denoiselab.runs.guides import check_codec
from denoiselab.runs.load import open_run


class Model(NamedTuple):
    """A trained model, its run's sampling recipe, and facts: config, image_shape, num_classes, step and others."""

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
    """Load a model from a run folder or a file of export.py.

    decay or sigma_rel: an average other than the run's default. Raises RunError.
    """
    pipeline, config, about = open_run(run, checkpoint, torch.device(device), {"decay": decay, "sigma_rel": sigma_rel})
    sampled = recipe(config)
    check_codec(sampled, pipeline)
    return Model(pipeline, sampled, about)
