"""python sample.py run=<folder>: sample a trained run, to a grid and single images or a plot and array of points."""

from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from denoiselab.assembly.evaluation import check_with
from denoiselab.assembly.make import make
from denoiselab.assembly.sampling import recipe
from denoiselab.cli.application import Job
from denoiselab.cli.inversions import invert_images
from denoiselab.cli.prompts import Prompts
from denoiselab.conditioning import Wishes
from denoiselab.data.points import Points
from denoiselab.errors import ConfigError
from denoiselab.files import write_json
from denoiselab.metrics.evaluation import asks_for_classes
from denoiselab.pictures import TOLD, captioned, grid, groups, write_png
from denoiselab.point_pictures import beside
from denoiselab.progress import track
from denoiselab.report import summary
from denoiselab.runs import guides, load
from denoiselab.runs.identity import code_version


def run(cfg: DictConfig, job: Job) -> None:
    """Write sample.json and grid.png with images/<i>.png, or points.png with points.npy, next to the run's files."""
    folder = job.folder
    prompts = Prompts(cfg)
    pipeline, trained, about = load.requested(cfg)
    check_with(trained, cfg)
    prompts.check(pipeline, cfg.run)
    sampled = recipe(cfg, pipeline.image_shape)
    guides.check_codec(sampled, pipeline)
    if cfg.invert:
        figures = invert_images(pipeline, sampled, make(trained, "data"), cfg.n, cfg.batch_size, folder)
        facts = {**about["origin"], "n": cfg.n, **figures, **sampled.words, "code": code_version()}
        write_json(facts, folder / "sample.json")
        summary.conclude(f"mean error {figures['error']:.4f} of images in [-1, 1]", {}, [folder / "grid.png"])
        return
    classes = _classes(cfg, about["num_classes"])
    source = make(trained, "data") if pipeline.conditioner.sees or sampled.inpainting else None
    of_images = sampled.inpainting is not None
    if cfg.classes is not None and source is None and not asks_for_classes(pipeline, sampled):
        raise ConfigError(
            f"classes={list(cfg.classes)}: run={cfg.run} is told no class, and nothing guides it to one; leave classes "
            "out, or take guidance=classifier"
        )
    wishes = Wishes(pipeline.conditioner, about["num_classes"], source and source.test, classes, of_images)
    asked, against = prompts.asked(wishes), prompts.against(wishes)
    batches = []
    what = "points" if len(pipeline.image_shape) == 1 else "images"
    with track(f"generating {cfg.n} {what}", cfg.n) as advance:
        for batch in pipeline.generate(sampled, range(cfg.n), asked, cfg.seed, cfg.batch_size, against):
            batches.append(batch)
            advance(len(batch.images))
    whole, labels = torch.cat([batch.images for batch in batches]), torch.cat([batch.labels for batch in batches])
    if what == "points":
        told = labels if pipeline.conditioner.asks_class else None
        made = _write_points(whole, told, make(trained, "data"), folder)
    else:
        explained = torch.cat([pipeline.explained(batch) for batch in batches])
        made = _write_images(whole, explained, about["num_classes"], folder, prompts.captions)
    facts = {
        **about["origin"],
        "n": cfg.n,
        "seed": cfg.seed,
        **prompts.facts(pipeline, batches),
        "nfe": batch.evaluations,
        **sampled.words,
        "code": code_version(),
    }
    write_json(facts, folder / "sample.json")
    summary.conclude(f"{cfg.n} {what}, {batch.evaluations} network evaluations each", {}, made)


def _write_images(images: Tensor, explained: Tensor, num_classes: int, folder: Path, captions: list[str]) -> list[Path]:
    """Write each image, and a grid that shows each one next to its condition; returns the grid's path.

    With captions, which samples take in turn, the grid has one section per caption.
    """
    for index, image in enumerate(images):
        write_png(grid(image[None], 1, zoom=False), folder / "images" / f"{index:05d}.png")
    columns = num_classes if len(images) >= 2 * num_classes > 2 else round(len(images) ** 0.5)
    if captions:
        shares = [explained[i :: len(captions)] for i in range(len(captions))]
        wide = min(16, len(shares[0]))
        picture = captioned([(c, groups(share, wide)) for c, share in zip(captions, shares, strict=True)])
    else:
        picture = groups(explained, max(1, min(16, columns)), TOLD)
    write_png(picture, folder / "grid.png")
    return [folder / "grid.png"]


def _write_points(points: Tensor, labels: Tensor | None, source: Points, folder: Path) -> list[Path]:
    """Plot the points next to as many test points, and save them as float32 (n, D)."""
    write_png(beside(source, source.in_plane(points), labels), folder / "points.png")
    np.save(folder / "points.npy", points.numpy())
    return [folder / "points.png", folder / "points.npy"]


def _classes(cfg: DictConfig, num_classes: int) -> list[int]:
    """Return the requested classes, which samples take in turn."""
    if cfg.classes is None:
        return list(range(max(1, num_classes)))
    wanted = list(cfg.classes) if OmegaConf.is_list(cfg.classes) else cfg.classes
    known = f"which are the numbers 0 to {num_classes - 1}" if num_classes else "of which there are none"
    if not isinstance(wanted, list):
        raise ConfigError(f"classes={wanted} is not a list of this model's classes, {known}; write classes=[...]")
    if not wanted or not all(type(c) is int and 0 <= c < max(1, num_classes) for c in wanted):
        raise ConfigError(f"classes={wanted} is not a list of this model's classes, {known}")
    return wanted
