"""python sample.py run=<folder> invert=true: encode test images to noise and back, with the run's own sampler."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from denoiselab.conditioning.wishes import numbered
from denoiselab.data.source import Source, to_float, to_uint8
from denoiselab.errors import ConfigError, IncompatibleError
from denoiselab.pictures import grid, write_png
from denoiselab.pipeline import Pipeline, Recipe
from denoiselab.progress import track
from denoiselab.samplers import invert

COLUMNS = 16


def invert_images(
    pipeline: Pipeline, recipe: Recipe, source: Source, n: int, batch_size: int, folder: Path
) -> dict[str, Any]:
    """Write grid.png of the first n test images: rows of images, their noise, and their reconstructions.

    Returns {"error": mean |image - reconstruction|, values in [-1, 1]; "noise_std": 1 for noise like the prior's}.
    Raises ConfigError for more images than there are, IncompatibleError for points or a sampler without an inverse.
    """
    if len(pipeline.image_shape) == 1:
        raise IncompatibleError("invert=true is drawn for images, and these data are points; take invert=false")
    if n > len(source.test):
        raise ConfigError(f"n={n} is more than the {len(source.test)} test images of data={source.name}; take fewer")
    schedule, codec = pipeline.denoiser.schedule, pipeline.codec
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    errors, noises = [], []
    with torch.no_grad(), pipeline.evaluating(), track(f"inverting {n} images", n) as advance:
        for start in range(0, n, batch_size):
            numbers = range(start, min(n, start + batch_size))
            batch = numbered(pipeline.conditioner, source.test.__getitems__(numbers), numbers)
            images = to_float(batch["image"]).to(pipeline.device)
            denoise = pipeline.denoise_fn(recipe, batch)
            x_T = invert(recipe.sampler, denoise, schedule, codec.encode(images))
            made = codec.decode(recipe.sampler(denoise, schedule, x_T))
            z = x_T / schedule.prior_std
            errors.append((made - images).abs().flatten(1).mean(1).cpu())
            noises.append(z.flatten(1).std(1).cpu())
            parts.append((batch["image"], to_uint8(codec.decode(z / 3)).cpu(), to_uint8(made).cpu()))
            advance(len(images))
    rows = (torch.cat(row) for row in zip(*parts, strict=True))
    write_png(grid(_beneath(*rows), min(n, COLUMNS)), folder / "grid.png")
    return {"error": float(torch.cat(errors).mean()), "noise_std": float(torch.cat(noises).mean())}


def _beneath(*rows: Tensor) -> Tensor:
    """Interleave rows of uint8 (n, C, H, W), split into lines of COLUMNS, so that matching lines are adjacent."""
    n = len(rows[0])
    width = min(n, COLUMNS)
    blank = torch.full((-n % width, *rows[0].shape[1:]), 255, dtype=torch.uint8)
    lines = torch.stack([torch.cat([row, blank]).unflatten(0, (-1, width)) for row in rows], 1)
    return lines.flatten(0, 2)
