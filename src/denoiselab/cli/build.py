"""From a configuration to its parts, each instantiated once."""

from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from denoiselab.data.source import Source
from denoiselab.denoiser import Denoiser
from denoiselab.objectives import Objective, WeightedMSE
from denoiselab.pipeline import Pipeline, Recipe
from denoiselab.randomness import seed_for


def plain(cfg: DictConfig) -> Any:
    """The resolved configuration in plain containers: what a checkpoint and a logger can hold."""
    return OmegaConf.to_container(cfg, resolve=True, throw_on_missing=False)


def pipeline(cfg: DictConfig, image_shape: tuple[int, int, int], num_classes: int) -> Pipeline:
    """The model of a run with freshly drawn weights, the same for the same seed. Raises ConfigError."""
    conditioning = {"num_classes": num_classes} if "dim" in cfg.conditioning else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(cfg.seed, "weights"))
        codec = instantiate(cfg.codec)
        conditioner = instantiate(cfg.conditioning, **conditioning)
        backbone = instantiate(
            cfg.backbone,
            shape=list(codec.latent_shape(image_shape)),
            cond_dim=conditioner.vector_dim,
            _convert_="all",
        )
        denoiser = Denoiser(backbone, instantiate(cfg.schedule), instantiate(cfg.parameterization))
        return Pipeline(denoiser, conditioner, codec, image_shape)


def objective(cfg: DictConfig, denoiser: Denoiser) -> Objective:
    """Raises IncompatibleError where the loss has no finite weight on this schedule."""
    made = instantiate(cfg.loss)
    if isinstance(made, WeightedMSE):
        made.check(denoiser.schedule, denoiser.parameterization)
    return made


def recipe(cfg: DictConfig) -> Recipe:
    return Recipe(
        instantiate(cfg.sampler),
        instantiate(cfg.guidance),
        instantiate(cfg.threshold) if cfg.threshold else None,
        _words(cfg),
    )


def _words(cfg: DictConfig) -> dict[str, Any]:
    """How samples are made, in plain words for captions and figures: {"sampler": "DDIM", "sampler.steps": 50, ...}."""
    words: dict[str, Any] = {}
    for axis in ("sampler", "spacing", "guidance", "threshold"):
        part = plain(cfg[axis])
        words[axis] = str(part.pop("_target_", "none")).rpartition(".")[2]
        words |= {f"{axis}.{key}": value for key, value in part.items() if not isinstance(value, dict | None)}
    return words


def source(cfg: DictConfig) -> Source:
    return instantiate(cfg.data)
