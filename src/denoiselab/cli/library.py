"""Trained runs for other programs: from denoiselab import load."""

from pathlib import Path
from typing import Any, NamedTuple

import torch

from denoiselab.cli import build, guides, runs
from denoiselab.pipeline import Pipeline, Recipe


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
    average = {"decay": decay, "sigma_rel": sigma_rel}
    pipeline, config, about = runs.load(str(run), checkpoint, torch.device(device), average)
    recipe = build.recipe(config)
    guides.check_codec(recipe, pipeline)
    return Model(pipeline, recipe, about)
