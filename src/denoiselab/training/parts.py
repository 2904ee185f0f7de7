"""What a training run is made of, each part made once."""

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
    """The parts of a training, apart from how it is run."""

    source: Source
    pipeline: Pipeline
    objective: Objective | Autoencoding
    recipe: Recipe
    data: Source  # what training sees: the source, with latents where these are kept


def parts(cfg: DictConfig, own: Path | None = None) -> Parts:
    """own: the checkpoint that a run is resumed from. Raises ConfigError, and IncompatibleError for a combination
    without meaning."""
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
