"""From a configuration to its parts, each instantiated once."""

from typing import Any, NamedTuple

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from denoiselab.data.source import Source
from denoiselab.denoiser import Denoiser
from denoiselab.errors import ConfigError
from denoiselab.metrics.classifier import check_labels
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


class Parts(NamedTuple):
    """What a training run is made of, apart from how it is run."""

    source: Source
    pipeline: Pipeline
    objective: Objective
    recipe: Recipe


def parts(cfg: DictConfig) -> Parts:
    """Raises ConfigError, and IncompatibleError for a combination without meaning."""
    source = instantiate(cfg.data)
    if "dim" in cfg.conditioning and source.num_classes < 1:
        raise ConfigError(
            f"conditioning=class needs labels, and data={source.name} has none: a sub-folder for each class would give "
            "them; or take conditioning=none guidance=none metrics=none"
        )
    if cfg.metrics:
        _check_figures(cfg, source)
    made = pipeline(cfg, source.shape, source.num_classes)
    return Parts(source, made, objective(cfg, made.denoiser), recipe(cfg))


def _check_figures(cfg: DictConfig, source: Source) -> None:
    """Figures that the data do not allow are refused now, not at the first evaluation."""
    if str(cfg.metrics.extractor._target_).endswith("trained_classifier"):
        check_labels(source)
    if len(source.test) < 2:
        raise ConfigError(
            f"metrics=fid needs at least 2 test images, and data={source.name} has {len(source.test)}; "
            "give data.test_fraction more, or take metrics=none"
        )


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
