"""python report.py run=<folder>: runs and evaluations set side by side, as a page, as Markdown and as CSV."""

from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from denoiselab import report


def run(cfg: DictConfig) -> float:
    """Writes report.html, report.md and report.csv; returns the best headline figure."""
    given = list(cfg.run) if OmegaConf.is_list(cfg.run) else [cfg.run]
    folder = Path(HydraConfig.get().runtime.output_dir)
    made = report.make([str(word) for word in given], dict(cfg.where), cfg.title)
    print("\n".join([*made.short, *map(report.near, made.write(folder))]))
    return made.best
