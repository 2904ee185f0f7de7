"""python evaluate.py run=<folder>: figures of a trained run, with other samplers, steps or guidance than it had."""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from denoiselab.cli import build, runs
from denoiselab.metrics import Evaluation


def run(cfg: DictConfig) -> float:
    """Writes metrics.json beside the run's own files; returns the FID."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    pipeline, trained, about = runs.load(cfg.run, cfg.checkpoint, runs.device(cfg.device))
    source = instantiate(trained.data)
    evaluation = Evaluation(source, instantiate(cfg.metrics.extractor)(source), cfg.cache)
    figures = evaluation(pipeline, build.recipe(cfg), cfg.n, cfg.seed, cfg.batch_size)
    about_run = {"run": str(cfg.run), "checkpoint": cfg.checkpoint, "step": about["step"], "code": runs.code_version()}
    runs.write_json(figures | about_run, folder / "metrics.json")
    runs.conclude("", figures, [folder / "metrics.json"])
    return figures["fid"]
