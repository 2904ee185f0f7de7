"""Models from a configuration: codec, conditioner, network, schedule and parameterization, each built once."""

from functools import partial

import torch
from omegaconf import DictConfig

from denoiselab.assembly.make import known_of, make
from denoiselab.assembly.rules.conditions import missing_condition
from denoiselab.conditioning import Conditioner, Routes
from denoiselab.data.source import Facts, Source
from denoiselab.denoiser import Denoiser
from denoiselab.errors import ConfigError, IncompatibleError
from denoiselab.metrics.classifier import layers, trained_classifier
from denoiselab.objectives import Autoencoding, Objective
from denoiselab.pipeline import Pipeline
from denoiselab.randomness import seed_for


def pipeline(cfg: DictConfig, facts: Facts) -> Pipeline:
    """Build a run's model with newly initialized weights, determined by the seed. Raises ConfigError."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(cfg.seed, "weights"))
        codec = make(cfg, "codec", known_of(facts))
        shape = codec.latent_shape(facts.shape)
        conditioner = make(cfg, "conditioning", known_of(facts, shape, cfg.cache))
        routes = conditioner.routes
        _check_routes(cfg, routes)
        learns_variance = cfg.loss.get("variance") == "learned"
        further = {"concat_dim": routes.concat, "token_dim": routes.tokens}
        backbone = make(
            cfg,
            "backbone",
            known_of(facts),
            shape=list(shape),
            cond_dim=routes.vector,
            outputs=2 if learns_variance else 1,
            **{key: dim for key, dim in further.items() if dim},
        )
        schedule, parameterization = make(cfg, "schedule"), make(cfg, "parameterization")
        denoiser = Denoiser(backbone, schedule, parameterization, learns_variance)
        return Pipeline(denoiser, conditioner, codec, facts.shape)


def _check_routes(cfg: DictConfig, routes: Routes) -> None:
    """Raise IncompatibleError if the network lacks a route that the condition needs."""
    network = str(cfg.backbone["_target_"]).rpartition(".")[2]
    if (routes.concat or routes.tokens) and network in ("MLP", "ReLUMLP", "Encoder"):
        raise IncompatibleError(
            f"backbone={network.lower()} takes vector conditioning only; this one yields "
            f"{'channels' if routes.concat else 'tokens'}; use backbone=unet, dit or jit, or for texts "
            "conditioning.route=vector"
        )


def objective(cfg: DictConfig, denoiser: Denoiser) -> Objective:
    """Build the loss. Raises IncompatibleError if it does not fit the denoiser."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(cfg.seed, "objective"))
        made: Objective = make(cfg, "loss")
    made.check(denoiser)
    return made


def autoencoding(cfg: DictConfig, source: Source) -> Autoencoding:
    """Build an autoencoder's loss. Raises ConfigError for a perceptual loss, which needs classes, without any."""
    classifier = trained_classifier(source, cfg.cache) if cfg.loss.perceptual else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(cfg.seed, "objective"))
        made: Autoencoding = make(
            cfg, "loss", known_of(source.facts), layers=classifier and partial(layers, classifier)
        )
    return made


def check_labels(cfg: DictConfig, source: Source) -> None:
    """Raise ConfigError for class conditioning on data without classes."""
    if {"num_classes", "class_names"} & set(cfg.conditioning) and source.num_classes < 1:
        points = "use conditioning=none guidance=none, or data=moons, mixture or pinwheel, which have classes"
        images = "give each class a folder of its own, or use conditioning=none guidance=none metrics=none"
        raise ConfigError(
            f"conditioning=class and text need labels, and data={source.name} has none; "
            f"{points if len(source.shape) == 1 else images}"
        )


def check_data(conditioner: Conditioner, source: Source) -> None:
    """Raise IncompatibleError if the data lack an input of the condition, or flip images but not that input;
    ConfigError if they have more classes than the conditioner."""
    for part, _ in conditioner.each({}):
        if (known := getattr(part, "num_classes", source.num_classes)) < source.num_classes:
            raise ConfigError(
                f"conditioning.num_classes={known} leaves out some of the {source.num_classes} classes of "
                f"data={source.name}; leave it null, which takes as many as the data have"
            )
    wanted = set(conditioner.sees) - {"image"}
    missing = sorted(wanted - set(source.test.__getitems__([0]))) if wanted else []
    if missing:
        raise IncompatibleError(missing_condition(" and ".join(missing), f"data={source.name} has"))
    if wanted and source.flip:
        raise IncompatibleError(
            f"data.flip mirrors images of data={source.name} but not their {' and '.join(sorted(wanted))}; "
            "use data.flip=false"
        )
