"""From a configuration to its parts, each instantiated once."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from denoiselab.cli import rules
from denoiselab.data.source import Source
from denoiselab.denoiser import Denoiser
from denoiselab.errors import ConfigError
from denoiselab.metrics.classifier import check_labels
from denoiselab.metrics.evaluation import Evaluation, check_figures
from denoiselab.metrics.figures import Figure
from denoiselab.metrics.likelihood import LikelihoodEvaluation
from denoiselab.metrics.likelihood import check as check_likelihood
from denoiselab.metrics.points import PointEvaluation
from denoiselab.objectives import Objective
from denoiselab.pipeline import Pipeline, Recipe
from denoiselab.randomness import seed_for


def plain(cfg: DictConfig) -> Any:
    """The resolved configuration in plain containers: what a checkpoint and a logger can hold."""
    return OmegaConf.to_container(cfg, resolve=True, throw_on_missing=False)


def pipeline(cfg: DictConfig, image_shape: tuple[int, ...], num_classes: int) -> Pipeline:
    """The model of a run with freshly drawn weights, the same for the same seed. Raises ConfigError."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(cfg.seed, "weights"))
        codec = instantiate(cfg.codec)
        conditioner = instantiate(cfg.conditioning, **_classes(cfg.conditioning, num_classes))
        learns_variance = cfg.loss.get("variance") == "learned"
        backbone = instantiate(
            cfg.backbone,
            shape=list(codec.latent_shape(image_shape)),
            cond_dim=conditioner.vector_dim,
            outputs=2 if learns_variance else 1,
            **_classes(cfg.backbone, num_classes),
            _convert_="all",
        )
        schedule, parameterization = instantiate(cfg.schedule), instantiate(cfg.parameterization)
        denoiser = Denoiser(backbone, schedule, parameterization, learns_variance)
        return Pipeline(denoiser, conditioner, codec, image_shape)


def _classes(part: DictConfig, num_classes: int) -> dict[str, int]:
    """What a part that asks for the number of classes is told: that of the data, unless it says one itself."""
    return {"num_classes": num_classes} if "num_classes" in part and part.num_classes is None else {}


class Parts(NamedTuple):
    """What a training run is made of, apart from how it is run."""

    source: Source
    pipeline: Pipeline
    objective: Objective
    recipe: Recipe


def parts(cfg: DictConfig) -> Parts:
    """Raises ConfigError, and IncompatibleError for a combination without meaning."""
    rules.check_rules(cfg, rules.CONFIG_RULES)
    source = instantiate(cfg.data)
    if "num_classes" in cfg.conditioning and source.num_classes < 1:
        points = "take conditioning=none guidance=none, or data=moons, mixture or pinwheel, which have classes"
        images = "a sub-folder for each class would give them; or take conditioning=none guidance=none metrics=none"
        raise ConfigError(
            f"conditioning=class needs labels, and data={source.name} has none: "
            f"{points if len(source.shape) == 1 else images}"
        )
    if cfg.metrics and "extractor" in cfg.metrics:
        _check_figures(cfg, source)
    made = pipeline(cfg, source.shape, source.num_classes)
    if cfg.likelihood:
        check_likelihood(made)
    return Parts(source, made, objective(cfg, made.denoiser), recipe(cfg))


def _check_figures(cfg: DictConfig, source: Source) -> None:
    """Figures that the data do not allow are refused now, not at the first evaluation."""
    check_figures(figures(cfg))
    if "weights" in cfg.metrics.extractor:
        instantiate(cfg.metrics.extractor)(source)  # made once for what it raises: weights that are not there, and more
    else:
        check_labels(source)
    if len(source.test) < 2:
        raise ConfigError(
            f"metrics=fid needs at least 2 test images, and data={source.name} has {len(source.test)}; "
            "give data.test_fraction more, or take metrics=none"
        )


def check_again(trained: DictConfig, cfg: DictConfig) -> None:
    """What a run's samples are made and judged with now, `cfg`, beside what it was trained with: IncompatibleError."""
    both = trained.copy()
    for axis in ("threshold", "metrics", "extractor", "guidance"):
        if axis in cfg:
            both[axis] = cfg[axis]
    rules.check_rules(both, rules.CONFIG_RULES)


def evaluation(cfg: DictConfig, source: Source) -> Evaluation | PointEvaluation:
    """What turns (pipeline, recipe, n, seed, batch_size) into figures."""
    if "extractor" in cfg.metrics:
        extractor = instantiate(cfg.metrics.extractor)(source)
        return Evaluation(source, extractor, cfg.cache, figures(cfg), cfg.metrics.keep)
    made: PointEvaluation = instantiate(cfg.metrics.evaluation)(source)
    return made


def figures(cfg: DictConfig) -> dict[str, Figure]:
    return {name: instantiate(part) for name, part in cfg.metrics.figures.items() if part}


def likelihood(cfg: DictConfig, source: Source) -> LikelihoodEvaluation:
    """What turns a pipeline into the likelihood of the test images. Raises ConfigError."""
    return LikelihoodEvaluation(source, instantiate(cfg.likelihood.method), cfg.likelihood.n, cfg.likelihood.batch_size)


def objective(cfg: DictConfig, denoiser: Denoiser) -> Objective:
    """Raises IncompatibleError where the loss has no meaning with the denoiser's parts."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(cfg.seed, "objective"))
        made = instantiate(cfg.loss)
    made.check(denoiser)
    return made


def recipe(cfg: DictConfig) -> Recipe:
    return Recipe(
        instantiate(cfg.sampler),
        instantiate(cfg.guidance),
        instantiate(cfg.threshold) if cfg.threshold else None,
        words(cfg, ("sampler", "spacing", "guidance", "threshold")) | ({"float64": True} if cfg.get("float64") else {}),
        cfg.get("float64", False),
    )


def words(cfg: DictConfig, axes: Iterable[str]) -> dict[str, Any]:
    """Parts in plain words for captions and figures: {"sampler": "DDIM", "sampler.steps": 50, ...}.

    Of a run that guides, its checkpoint and 16 hexadecimal digits of that file's sha256 too.
    """
    said: dict[str, Any] = {}
    for axis in axes:
        part = plain(cfg[axis])
        said[axis] = str(part.pop("_target_", "none")).rpartition(".")[2]
        part.pop("_partial_", None)
        said |= {f"{axis}.{key}": value for key, value in part.items() if not isinstance(value, dict | None)}
        for key, guide in part.items():
            if (path := guide_file(guide)) is not None:
                said |= {f"{axis}.{key}.{name}": guide[name] for name in ("run", "checkpoint")}
                said[f"{axis}.{key}.weights"] = hash_of(path)[:16]
    return said


def guide_file(part: Any) -> Path | None:
    """The checkpoint, or exported file, of the run that a part of guidance names; None where it names none."""
    if not isinstance(part, dict) or not part.get("run"):
        return None
    run = Path(part["run"])
    return run if run.is_file() else run / "checkpoints" / f"{part['checkpoint']}.ckpt"


def hash_of(path: Path) -> str:
    """sha256 in 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
