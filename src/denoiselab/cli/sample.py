"""python sample.py run=<folder>: images of a trained run, as a grid and one by one."""

from pathlib import Path

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from denoiselab.cli import build, runs
from denoiselab.errors import ConfigError
from denoiselab.pictures import grid, write_png
from denoiselab.progress import track


def run(cfg: DictConfig) -> None:
    """Writes grid.png, images/<i>.png and sample.json beside the run's own files."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    pipeline, _, about = runs.load(cfg.run, cfg.checkpoint, runs.device(cfg.device))
    recipe = build.recipe(cfg)
    labels = _labels(cfg, about["num_classes"])
    images = []
    with track(f"generating {cfg.n} images", cfg.n) as advance:
        for batch in pipeline.generate(recipe, range(cfg.n), labels, cfg.seed, cfg.batch_size):
            images.append(batch.images)
            advance(len(batch.images))
    whole = torch.cat(images)
    for index, image in enumerate(whole):
        write_png(grid(image[None], 1, zoom=False), folder / "images" / f"{index:05d}.png")
    columns = about["num_classes"] if cfg.n >= 2 * about["num_classes"] > 2 else round(cfg.n**0.5)
    write_png(grid(whole, min(16, max(1, columns))), folder / "grid.png")
    facts = {
        "run": str(cfg.run),
        "checkpoint": cfg.checkpoint,
        "step": about["step"],
        "n": cfg.n,
        "seed": cfg.seed,
        "labels": labels.tolist(),
        "nfe": batch.evaluations,
        **recipe.words,
        "code": runs.code_version(),
    }
    runs.write_json(facts, folder / "sample.json")
    runs.conclude(f"{cfg.n} images, {batch.evaluations} network evaluations each", {}, [folder / "grid.png"])


def _labels(cfg: DictConfig, num_classes: int) -> torch.Tensor:
    """The wanted classes, round and round: (n,)."""
    wanted = list(range(max(1, num_classes))) if cfg.classes is None else list(cfg.classes)
    if not wanted or not all(type(c) is int and 0 <= c < max(1, num_classes) for c in wanted):
        raise ConfigError(
            f"classes={wanted} is not a list of this run's classes, which are the numbers 0 to {num_classes - 1}"
        )
    return torch.tensor([wanted[i % len(wanted)] for i in range(cfg.n)])
