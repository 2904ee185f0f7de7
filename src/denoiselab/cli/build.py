"""From a configuration to its parts, each instantiated once."""

import hashlib
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from denoiselab.cli import rules
from denoiselab.cli.rules.conditions import untold
from denoiselab.cli.rules.rule import trains_codec
from denoiselab.codecs import Latents
from denoiselab.conditioning import Conditioner, Routes
from denoiselab.data.source import Facts, Source
from denoiselab.denoiser import Denoiser
from denoiselab.errors import ConfigError, IncompatibleError
from denoiselab.metrics.classifier import check_labels, layers, trained_classifier
from denoiselab.metrics.evaluation import Evaluation, check_figures
from denoiselab.metrics.figures import Figure
from denoiselab.metrics.likelihood import LikelihoodEvaluation
from denoiselab.metrics.likelihood import check as check_likelihood
from denoiselab.metrics.points import PointEvaluation
from denoiselab.objectives import Autoencoding, Objective
from denoiselab.pipeline import Pipeline, Recipe
from denoiselab.randomness import seed_for


def plain(cfg: DictConfig) -> Any:
    """The resolved configuration in plain containers: what a checkpoint and a logger can hold."""
    return OmegaConf.to_container(cfg, resolve=True, throw_on_missing=False)


def pipeline(cfg: DictConfig, facts: Facts) -> Pipeline:
    """The model of a run with freshly drawn weights, the same for the same seed. Raises ConfigError."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(cfg.seed, "weights"))
        codec = instantiate(informed(cfg.codec, facts), _convert_="all")
        shape = codec.latent_shape(facts.shape)
        conditioner = instantiate(informed(cfg.conditioning, facts, shape, cfg.cache), _convert_="all")
        _check_routes(cfg, conditioner.routes)
        learns_variance = cfg.loss.get("variance") == "learned"
        backbone = instantiate(
            informed(cfg.backbone, facts),
            shape=list(shape),
            cond_dim=conditioner.routes.vector,
            outputs=2 if learns_variance else 1,
            **{key: dim for key, dim in _more_routes(conditioner.routes).items() if dim},
            _convert_="all",
        )
        schedule, parameterization = instantiate(cfg.schedule), instantiate(cfg.parameterization)
        denoiser = Denoiser(backbone, schedule, parameterization, learns_variance)
        return Pipeline(denoiser, conditioner, codec, facts.shape)


def informed(part: DictConfig, facts: Facts, latent: tuple[int, ...] = (), cache: str | None = None) -> Any:
    """A part, and the parts within it, with what they ask of the data by a key that is null: unless it says it itself.

    num_classes, class_names, image_shape; latent_shape, that of what is diffused; and cache, the folder of what is made
    once.
    """
    told = {
        "num_classes": len(facts.class_names),
        "class_names": list(facts.class_names),
        "image_shape": list(facts.shape),
        "latent_shape": list(latent),
        "cache": cache,
    }
    return OmegaConf.create(_filled(plain(part), told))


def _filled(node: Any, told: dict[str, Any]) -> Any:
    if not isinstance(node, dict):
        return node
    return {key: told[key] if value is None and key in told else _filled(value, told) for key, value in node.items()}


def _more_routes(routes: Routes) -> dict[str, int]:
    return {"concat_dim": routes.concat, "token_dim": routes.tokens}


def _check_routes(cfg: DictConfig, routes: Routes) -> None:
    """Raises IncompatibleError for a network that has no ears for what it is told."""
    network = str(cfg.backbone["_target_"]).rpartition(".")[2]
    if (routes.concat or routes.tokens) and network in ("MLP", "ReLUMLP", "Encoder"):
        raise IncompatibleError(
            f"backbone={network.lower()} is told vectors, and this conditioning tells "
            f"{'channels' if routes.concat else 'tokens'}; take backbone=unet, dit or jit, or of texts "
            "conditioning.route=vector"
        )


class Parts(NamedTuple):
    """What a training run is made of, apart from how it is run."""

    source: Source
    pipeline: Pipeline
    objective: Objective | Autoencoding
    recipe: Recipe
    data: Source  # what training sees: the source, with latents where these are kept


def parts(cfg: DictConfig, own: Path | None = None) -> Parts:
    """own: the checkpoint that a run goes on from. Raises ConfigError, and IncompatibleError for a combination without
    meaning."""
    from denoiselab.cli import frozen, guides  # which read runs, and these are built here

    rules.check_rules(cfg, rules.CONFIG_RULES)
    frozen.describe(cfg, own)
    source = instantiate(cfg.data)
    if {"num_classes", "class_names"} & set(cfg.conditioning) and source.num_classes < 1:
        points = "take conditioning=none guidance=none, or data=moons, mixture or pinwheel, which have classes"
        images = "a sub-folder for each class would give them; or take conditioning=none guidance=none metrics=none"
        raise ConfigError(
            f"conditioning=class and text need labels, and data={source.name} has none: "
            f"{points if len(source.shape) == 1 else images}"
        )
    if cfg.metrics and "extractor" in cfg.metrics:
        _check_figures(cfg, source)
    made = pipeline(cfg, source.facts)
    _check_told(made.conditioner, source)
    if cfg.likelihood:
        check_likelihood(made)
    trained = autoencoding(cfg, source) if trains_codec(cfg) else objective(cfg, made.denoiser)
    data = frozen.ready(made.codec, cfg, source, own) if isinstance(made.codec, Latents) else source
    how = recipe(cfg)
    guides.check_codec(how, made)
    return Parts(source, made, trained, how, data)


def _check_told(conditioner: Conditioner, source: Source) -> None:
    """Raises IncompatibleError where the data lack what is told of them, or mirror images without it, ConfigError where
    they have more classes."""
    for part, _ in conditioner.each({}):
        if (known := getattr(part, "num_classes", source.num_classes)) < source.num_classes:
            raise ConfigError(
                f"conditioning.num_classes={known} leaves out some of the {source.num_classes} classes of "
                f"data={source.name}; leave it null, which takes as many as the data have"
            )
    wanted = set(conditioner.sees) - {"image"}
    missing = sorted(wanted - set(source.test.__getitems__([0]))) if wanted else []
    if missing:
        raise IncompatibleError(untold(" and ".join(missing), f"data={source.name} has"))
    if wanted and source.flip:
        raise IncompatibleError(
            f"data.flip mirrors images of data={source.name}, and their {' and '.join(sorted(wanted))} would stay as "
            "they are; take data.flip=false"
        )


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
    for axis in ("threshold", "metrics", "extractor", "guidance", "sampler", "inpainting"):
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


def autoencoding(cfg: DictConfig, source: Source) -> Autoencoding:
    """Raises ConfigError for a perceptual loss of images that have no classes to learn features from."""
    classifier = trained_classifier(source, cfg.cache) if cfg.loss.perceptual else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(cfg.seed, "objective"))
        made: Autoencoding = instantiate(
            informed(cfg.loss, source.facts), layers=classifier and partial(layers, classifier), _convert_="all"
        )
    return made


def recipe(cfg: DictConfig, image_shape: tuple[int, ...] | None = None) -> Recipe:
    """Raises ConfigError and DataError, for images of that shape, for a mask that is none of theirs."""
    inpainting = instantiate(cfg.inpainting) if cfg.get("inpainting") else None
    if inpainting is not None and image_shape is not None:
        inpainting.masks(image_shape)
    axes = ("sampler", "spacing", "guidance", "threshold", *(["inpainting"] if inpainting else []))
    return Recipe(
        instantiate(cfg.sampler),
        instantiate(cfg.guidance),
        instantiate(cfg.threshold) if cfg.threshold else None,
        words(cfg, axes) | ({"float64": True} if cfg.get("float64") else {}),
        cfg.get("float64", False),
        inpainting,
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
