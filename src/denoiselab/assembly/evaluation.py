"""Evaluations from a configuration: the metrics of samples and the likelihood."""

from omegaconf import DictConfig

from denoiselab import axes
from denoiselab.assembly import rules
from denoiselab.assembly.make import make
from denoiselab.axes import Role
from denoiselab.data.source import Source
from denoiselab.errors import ConfigError
from denoiselab.metrics.classifier import check_labels
from denoiselab.metrics.evaluation import Evaluation, check_figures
from denoiselab.metrics.figures import Figure
from denoiselab.metrics.likelihood import LikelihoodEvaluation
from denoiselab.metrics.points import PointEvaluation


def evaluation(cfg: DictConfig, source: Source) -> Evaluation | PointEvaluation:
    """Return a callable from (pipeline, recipe, n, seed, batch_size) to metrics."""
    if "extractor" in cfg.metrics:
        extractor = make(cfg, "metrics.extractor")(source)
        return Evaluation(source, extractor, cfg.cache, figures(cfg), cfg.metrics.keep)
    made: PointEvaluation = make(cfg, "metrics.evaluation")(source)
    return made


def figures(cfg: DictConfig) -> dict[str, Figure]:
    return {name: make(cfg, f"metrics.figures.{name}") for name, part in cfg.metrics.figures.items() if part}


def likelihood(cfg: DictConfig, source: Source) -> LikelihoodEvaluation:
    """Return a callable from a pipeline to the likelihood of the test images. Raises ConfigError."""
    return LikelihoodEvaluation(source, make(cfg, "likelihood.method"), cfg.likelihood.n, cfg.likelihood.batch_size)


def check_metrics(cfg: DictConfig, source: Source) -> None:
    """Raise an error before a run starts, not at its first evaluation, for metrics that the data do not allow."""
    if not cfg.metrics or "extractor" not in cfg.metrics:
        return
    check_figures(figures(cfg))
    if "weights" in cfg.metrics.extractor:
        make(cfg, "metrics.extractor")(source)  # only to raise its errors, such as missing weights
    else:
        check_labels(source)
    if len(source.test) < 2:
        raise ConfigError(
            f"metrics=fid needs at least 2 test images, and data={source.name} has {len(source.test)}; "
            "raise data.test_fraction, or use metrics=none"
        )


def check_with(trained: DictConfig, cfg: DictConfig) -> None:
    """Raise IncompatibleError if the sampling or metrics options of `cfg` are incompatible with the trained run."""
    both = trained.copy()
    for axis in axes.of(Role.SAMPLING, Role.JUDGING):
        if axis in cfg:
            both[axis] = cfg[axis]
    rules.check_rules(both, rules.CONFIG_RULES)
