"""python evaluate.py run=<folder>: metrics of a trained run, optionally with another sampler, steps or guidance.

Sample i of a seed has the same noise and class for every run and all overrides, so that metrics of one seed are
compared in pairs.
"""

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import torch
from omegaconf import DictConfig, OmegaConf

from denoiselab.assembly.configuration import plain
from denoiselab.assembly.evaluation import check_with, evaluation, likelihood
from denoiselab.assembly.make import make
from denoiselab.assembly.sampling import recipe
from denoiselab.cli.application import Job
from denoiselab.conditioning import Wishes
from denoiselab.data.points import Points
from denoiselab.data.source import Source
from denoiselab.errors import ConfigError, Interrupted, RunError
from denoiselab.files import near, read_json
from denoiselab.overrides import pairs
from denoiselab.pictures import TOLD, groups, write_png
from denoiselab.pipeline import Pipeline, Recipe
from denoiselab.point_pictures import beside
from denoiselab.progress import console, idle
from denoiselab.report import summary
from denoiselab.runs import evaluations, export, guides, identity, load, state
from denoiselab.runs.configuration import results_folder
from denoiselab.training import wandb_runs

if TYPE_CHECKING:
    import wandb

SHOWN, COLUMNS = 40, 10  # the first samples of the seed
POINTS = 2000


def run(cfg: DictConfig, job: Job) -> float:
    """Write metrics.json and images next to the run's own files; returns the headline metric."""
    if not cfg.metrics.get("extractor") and not cfg.metrics.get("evaluation") and not cfg.likelihood:
        raise ConfigError("metrics=none likelihood=none leave nothing to find; take metrics=fid or likelihood=bound")
    folder = job.folder
    pipeline, trained, about = load.requested(cfg)
    check_with(trained, cfg)
    if cfg.run:
        _tell_if_going_on(Path(cfg.run), about["origin"])
    data = _data(cfg, trained, job)
    samples = "extractor" in cfg.metrics or "evaluation" in cfg.metrics
    judge = evaluation(cfg, data) if samples else None
    digest = getattr(getattr(judge, "extractor", None), "digest", "")
    own = identity.identity(cfg, trained, pipeline, data, digest, about["origin"])
    home = Path(results_folder(cfg.run, job.choices["analytic"])) / "evaluate"
    copies = job.sweep is not None or job.folder_given
    with _stopping(), evaluations.evaluating(folder, home, own, cfg.again, copies) as work:
        if work.gone_on is not None:
            console.print(f"going on with what {near(work.gone_on)} had begun", highlight=False, soft_wrap=True)
        if work.finished is None:
            with _logged(cfg, trained, about, work, job) as log:
                figures: dict[str, Any] = {}
                if judge is not None:
                    sampled = recipe(cfg, pipeline.image_shape)
                    guides.check_codec(sampled, pipeline)
                    _draw(pipeline, sampled, data, cfg, folder)
                    figures = work.part(
                        "samples",
                        partial(judge, pipeline, sampled, cfg.n, cfg.seed, cfg.batch_size, work.saved),
                    )
                if cfg.likelihood:
                    found = work.part("likelihood", lambda: _likelihood(cfg, data, pipeline, folder))
                    seconds = figures.get("seconds", 0.0) + found["likelihood.seconds"]
                    figures = found | figures | {"seconds": round(seconds, 2)}
                facts = {"code": identity.code_version(), "source": identity.source(), "identity": own}
                figures = _of_data(data) | figures | about["origin"] | facts
                work.conclude(figures)
                _log(log, figures, folder)
        else:
            idle()
            figures = read_json(work.folder / evaluations.METRICS)
            told = f"evaluated before, in {near(work.finished)}; again=true evaluates anew"
            console.print(told, highlight=False, soft_wrap=True)
        summary.conclude("", figures, work.made)
    if work.folder != folder.resolve():
        shutil.rmtree(folder)  # Hydra's folder, with only the overrides
    return figures[figures["headline"]]


def _tell_if_going_on(folder: Path, origin: Mapping[str, Any]) -> None:
    """Print a note if the run is still training, as its checkpoint is then not final."""
    if export.is_export(folder):
        return
    try:
        state.check_idle(folder)
    except RunError:
        told = f"{folder} is still training: this is of its checkpoint={origin['checkpoint']}, of step {origin['step']}"
        console.print(told, highlight=False, soft_wrap=True)


def _data(cfg: DictConfig, trained: DictConfig, job: Job) -> Source:
    """Return the run's training data, which may have moved. Raises RunError if a given data.root holds other data."""
    moved = "data.root" in pairs(job.overrides)
    if cfg.run and moved:
        trained.data.root = os.path.abspath(cfg.data.root)
    data: Source = make(trained, "data")
    known = _known_fingerprint(cfg.run)
    if known and not data.fingerprint.startswith(known):
        told = f"data.root={trained.data.get('root')} holds other data than run={cfg.run} was trained on"
        told += f" (fingerprint {data.fingerprint[: len(known)]}, and it was {known})"
        if moved:
            raise RunError(f"{told}; give the folder of the same files")
        console.print(f"note: {told}", highlight=False, soft_wrap=True)
    return data


def _known_fingerprint(folder: str | None) -> str:
    """Return the data fingerprint in a run's metrics.json, or an empty string."""
    path = Path(folder or os.devnull) / evaluations.METRICS
    return str(read_json(path).get("data_fingerprint", "")) if path.is_file() else ""


def _of_data(data: Source) -> dict[str, Any]:
    split = f"train {len(data.train)}, test {len(data.test)}"
    return {"data": data.name, "split": split, "data_fingerprint": data.fingerprint[:16]}


def _likelihood(cfg: DictConfig, data: Source, pipeline: Pipeline, folder: Path) -> dict[str, Any]:
    started = time.monotonic()
    judged = likelihood(cfg, data)(pipeline)
    judged.write(folder)
    return {"headline": judged.name, "likelihood.seconds": round(time.monotonic() - started, 2)} | judged.figures


def _draw(pipeline: Pipeline, recipe: Recipe, data: Source, cfg: DictConfig, folder: Path) -> None:
    """Draw the first evaluated samples: grid.png, or points.png next to as many test points."""
    points = isinstance(data, Points)
    most = POINTS if points else SHOWN
    path = folder / ("points.png" if points else "grid.png")
    if path.exists():  # of a resumed evaluation
        return
    indices = range(min(most, cfg.n or len(data.test)))
    wishes = Wishes(pipeline.conditioner, data.num_classes, data.test, of_images=recipe.inpainting is not None)
    batches = list(pipeline.generate(recipe, indices, wishes, cfg.seed, cfg.batch_size))
    if isinstance(data, Points):
        made, labels = torch.cat([b.images for b in batches]), torch.cat([b.labels for b in batches])
        told = labels if pipeline.conditioner.asks_class else None
        write_png(beside(data, data.in_plane(made), told), path)
    else:
        rows = torch.cat([pipeline.explained(batch) for batch in batches])
        write_png(groups(rows, COLUMNS, TOLD), path)


@contextmanager
def _logged(
    cfg: DictConfig, trained: DictConfig, about: Mapping[str, Any], work: evaluations.Kept, job: Job
) -> Iterator["wandb.Run | None"]:
    """Open a W&B run in the group of the trained run, and close it on exit; yields None without a logger."""
    if not cfg.logger:
        yield None
        return
    home = Path(about["origin"].get("run", "analytic"))
    group = about.get("wandb_group") or (home.absolute().parent.name if cfg.run else "analytic")
    config = plain(cfg) | about["origin"] | ({"trained": plain(trained)} if cfg.run else {})
    before = state.read(work.folder).get("wandb_id")
    log = wandb_runs.opened(cfg.logger, work.folder, "evaluate", _tags(cfg.run, job), group, config, before)
    state.write(work.folder, wandb_id=log.id)
    try:
        yield log
    except BaseException:
        log.finish(exit_code=1)
        raise
    log.finish(exit_code=0)


def _tags(folder: str | None, job: Job) -> list[str]:
    """Return the run's options as tags, updated by those of this command."""
    path = Path(folder or os.devnull) / ".hydra" / "hydra.yaml"
    chosen: dict[str, str] = {}
    for choices in (OmegaConf.load(path).hydra.runtime.choices if path.is_file() else {}, job.choices):
        chosen |= {k: v for k, v in choices.items() if v not in (None, "from_run") and "/" not in k and "@" not in k}
    return [f"{axis}={word}" for axis, word in chosen.items() if axis != "hydra"]


def _log(log: "wandb.Run | None", figures: dict[str, Any], folder: Path) -> None:
    if log is None:
        return
    import wandb

    log.log({name: value for name, value in figures.items() if isinstance(value, int | float)})  # lines over runs
    log.summary.update(figures)
    words = f"seed {figures.get('sample_seed')}, NFE {figures.get('nfe')}, {figures.get('sampler')}"
    for key, name in {"samples": "grid.png", "points": "points.png", "likelihood": "likelihood.png"}.items():
        if (folder / name).exists():
            log.log({key: wandb.Image(str(folder / name), caption=words)})


@contextmanager
def _stopping() -> Iterator[None]:
    """Stop on SIGTERM as on Ctrl-C: finished parts are kept, and the W&B run is closed."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise Interrupted(f"{signal.Signals(number).name}: the same command goes on from here", 128 + number)

    numbers = (signal.SIGTERM, signal.SIGINT) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, stop) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
