"""Loading of trained runs and exact denoisers as models to sample from."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from omegaconf import DictConfig, OmegaConf

from denoiselab.assembly import model
from denoiselab.assembly.make import make
from denoiselab.assembly.sampling import described
from denoiselab.backbones import Encoder
from denoiselab.codecs import Identity
from denoiselab.conditioning import Unconditional
from denoiselab.data.source import Facts, to_float
from denoiselab.denoiser import Denoiser
from denoiselab.ema import Weights
from denoiselab.errors import ConfigError, RunError, UserError
from denoiselab.files import short
from denoiselab.pipeline import Pipeline
from denoiselab.runs import checkpoint as checkpoints
from denoiselab.runs import export


class Loaded(NamedTuple):
    """A pipeline with averaged weights, the configuration that it was built from, and its checkpoint's facts.

    about["origin"] is its provenance: run, checkpoint, step and ema.
    """

    pipeline: Pipeline
    config: DictConfig
    about: dict[str, Any]


def device(name: str) -> torch.device:
    """Return the device of that name, or the best for "auto". Raises RunError if the machine does not have it."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, here in there.items() if here))
    if not there[name]:
        raise RunError(f"device={name} is not on this machine; there is {' and '.join(k for k in there if there[k])}")
    return torch.device(name)


def open_run(
    folder: str | Path, checkpoint: str, on: torch.device, average: Mapping[str, float | None] | None = None
) -> Loaded:
    """Load the model of a run folder or of a file of export.py.

    The configuration is the checkpoint's, whatever conf/ contains now. average: other than the run's default, see
    `checkpoint.averaged`. Raises RunError.
    """
    if export.is_export(folder):
        return _exported(str(folder), checkpoint, on, average)
    if not Path(folder).is_dir():
        raise RunError(f"run={folder} is no folder; give a training run's, such as outputs/<experiment>/<date>_<time>")
    path = checkpoints.checkpoint_of(Path(folder), checkpoint)
    if not path.exists():
        checkpoints.check_trained(Path(folder))
    state = checkpoints.read(path)
    name, weights = checkpoints.averaged(state, Path(folder), average)
    about = state["denoiselab"]
    pipeline, cfg = _built(about, checkpoints.frozen_weights(state) | weights, path)
    origin = {"run": str(folder), "checkpoint": checkpoint, "step": state["global_step"], "ema": name}
    return Loaded(pipeline.to(on).eval(), cfg, about | {"step": state["global_step"], "origin": origin})


def _exported(file: str, checkpoint: str, on: torch.device, average: Mapping[str, float | None] | None) -> Loaded:
    """Load a file of export.py, which holds one average of one checkpoint."""
    weights, about = export.read(file)
    for key, value in (average or {}).items():
        if value is not None and f"{key}={value:g}" != about["ema"]:
            raise RunError(
                f"ema.{key}={value:g} is another average than {about['ema']}, the one in {file}; leave it out, or give "
                "the run's folder"
            )
    if checkpoint not in ("last", about["checkpoint"]):
        raise RunError(f"{file} was made of checkpoint={about['checkpoint']}; leave checkpoint={checkpoint} out")
    pipeline, cfg = _built(about, weights, Path(file))
    origin = {"run": str(file), **{key: about[key] for key in ("checkpoint", "step", "ema")}}
    return Loaded(pipeline.to(on).eval(), cfg, about | {"origin": origin})


def _built(about: dict[str, Any], weights: Weights, path: Path) -> tuple[Pipeline, DictConfig]:
    try:
        cfg = OmegaConf.create(about["config"])
        pipeline = model.pipeline(cfg, Facts(tuple(about["image_shape"]), tuple(about["class_names"])))
        pipeline.load_state_dict(weights)
    except UserError:
        raise
    except Exception as error:
        others = checkpoints.others(path)
        raise RunError(f"{path} is of another version of denoiselab ({short(error)}){others}") from error
    return pipeline, cfg


def exact(cfg: DictConfig, on: torch.device) -> Loaded:
    """Build the exact denoiser analytic=<option> of the training images, with flipped copies if data.flip is set.

    Raises ConfigError for class guidance where there are no classes.
    """
    source = make(cfg, "data")
    batch = source.train.__getitems__(range(len(source.train)))
    points, labels = to_float(batch["image"]).double(), batch["label"]
    if source.flip:
        points, labels = torch.cat([points, points.flip(-1)]), labels.repeat(2)
    denoiser = make(cfg, "analytic")(make(cfg, "schedule"), points, labels)
    if on.type == "mps":  # it has no float64
        denoiser.float()
    num_classes = 0 if denoiser.classes is None else source.num_classes
    origin = described(cfg, ("analytic", "schedule"))
    if num_classes == 0 and cfg.guidance.get("scale", 1) != 1:
        raise ConfigError(
            f"guidance.scale={cfg.guidance.scale} strengthens a class, and analytic={origin['analytic'].lower()} of "
            f"data={source.name} has none; use guidance=none, or analytic=mixture or empirical and data with classes"
        )
    pipeline = Pipeline(cast(Denoiser, denoiser), Unconditional(), Identity(), source.shape)
    about = {"image_shape": list(source.shape), "num_classes": num_classes, "class_names": list(source.class_names)}
    return Loaded(pipeline.to(on).eval(), cfg, about | {"origin": origin})


def requested(cfg: DictConfig) -> Loaded:
    """Load the trained run or exact denoiser that a command selects. Raises RunError for a classifier's run."""
    on = device(cfg.device)
    if cfg.analytic:
        return exact(cfg, on)
    loaded = open_run(cfg.run, cfg.checkpoint, on, cfg.ema)
    if isinstance(loaded.pipeline.denoiser.backbone, Encoder):
        raise RunError(
            f"run={cfg.run} is a classifier, which makes no images; give it as guidance.classifier.run={cfg.run} "
            "beside the run of a denoiser and guidance=classifier"
        )
    return loaded
