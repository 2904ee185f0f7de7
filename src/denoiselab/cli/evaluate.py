"""python evaluate.py run=<folder>: figures of a trained run, with other samplers, steps or guidance than it had."""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from denoiselab.cli import build, runs
from denoiselab.errors import ConfigError


def run(cfg: DictConfig) -> float:
    """Writes metrics.json beside the run's own files; returns the headline figure."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    pipeline, trained, about = runs.given(cfg)
    build.check_again(trained, cfg)
    source, figures = instantiate(trained.data), {}
    if "extractor" in cfg.metrics or "evaluation" in cfg.metrics:
        evaluation = build.evaluation(cfg, source)
        figures = evaluation(pipeline, build.recipe(cfg), cfg.n, cfg.seed, cfg.batch_size)
    if cfg.likelihood:
        judged = build.likelihood(cfg, source)(pipeline)
        judged.write(folder)
        figures = {"headline": judged.name} | judged.figures | figures
    if not figures:
        raise ConfigError("metrics=none likelihood=none leave nothing to find; take metrics=fid or likelihood=bound")
    runs.write_json(figures | about["origin"] | {"code": runs.code_version()}, folder / "metrics.json")
    runs.conclude("", figures, sorted([*folder.glob("likelihood.*"), folder / "metrics.json"]))
    return figures[figures["headline"]]
