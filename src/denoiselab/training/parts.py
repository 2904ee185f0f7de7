"""The parts of a training run, each built once."""

from pathlib import Path
from typing import NamedTuple

from omegaconf import DictConfig

from denoiselab.assembly import model, rules
from denoiselab.assembly.evaluation import check_metrics
from denoiselab.assembly.make import make
from denoiselab.assembly.rules.rule import trains_codec
from denoiselab.assembly.sampling import recipe
from denoiselab.codecs import Latents
from denoiselab.data.source import Source
from denoiselab.metrics.likelihood import check as check_likelihood
from denoiselab.objectives import Autoencoding, Objective
from denoiselab.pipeline import Pipeline, Recipe
from denoiselab.runs import codecs, guides


class Parts(NamedTuple):
    """The parts of a training, without its trainer and callbacks."""

    source: Source
    pipeline: Pipeline
    objective: Objective | Autoencoding
    recipe: Recipe
    data: Source  # the training data: the source, with latents if they are cached


def parts(cfg: DictConfig, own: Path | None = None) -> Parts:
    """Build the parts. own: the checkpoint to resume from. Raises ConfigError, and IncompatibleError for an invalid
    combination."""
    rules.check_rules(cfg, rules.CONFIG_RULES)
    codecs.describe(cfg, own)
    source: Source = make(cfg, "data")
    model.check_labels(cfg, source)
    check_metrics(cfg, source)
    pipeline = model.pipeline(cfg, source.facts)
    model.check_data(pipeline.conditioner, source)
    if cfg.likelihood:
        check_likelihood(pipeline)
    trained = model.autoencoding(cfg, source) if trains_codec(cfg) else model.objective(cfg, pipeline.denoiser)
    data = codecs.ready(pipeline.codec, cfg, source, own) if isinstance(pipeline.codec, Latents) else source
    sampled = recipe(cfg)
    guides.check_codec(sampled, pipeline)
    return Parts(source, pipeline, trained, sampled, data)
