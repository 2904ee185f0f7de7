"""python report.py run=<folder>: compare runs and evaluations in HTML, Markdown and CSV."""

from omegaconf import DictConfig, OmegaConf

from denoiselab.cli.application import Job
from denoiselab.files import near
from denoiselab.report.report import make


def run(cfg: DictConfig, job: Job) -> float:
    """Write report.html, report.md and report.csv; returns the best headline metric."""
    given = list(cfg.run) if OmegaConf.is_list(cfg.run) else [cfg.run]
    made = make(list(map(str, given)), dict(cfg.where), cfg.title)
    print("\n".join([*made.short, *map(near, made.write(job.folder))]))
    return made.best
