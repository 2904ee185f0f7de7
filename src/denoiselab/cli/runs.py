"""Runs on disk: what is written into a run's folder, and a run read back from it."""

import json
import os
import subprocess
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

import denoiselab
from denoiselab.backbones import Encoder
from denoiselab.cli import averages, build, exports
from denoiselab.codecs import Identity
from denoiselab.conditioning import Unconditional
from denoiselab.data.source import Facts, to_float
from denoiselab.denoiser import Denoiser
from denoiselab.ema import Weights
from denoiselab.errors import ConfigError, RunError, UserError
from denoiselab.files import replacing, step_of
from denoiselab.pipeline import Pipeline
from denoiselab.progress import console

_BESIDE = (
    *("sfid", "kid", "mmd", "cmmd"),
    *("inception_score", "precision", "recall", "density", "coverage", "memorised"),
)

# How well images do as their condition says.
_AS_TOLD = (
    *("known_error", "unknown_error", "consistency", "psnr", "grey_error", "colour_error", "colourfulness"),
    *("segmentation_iou", "layout_iou", "object_accuracy", "stray", "attribute_accuracy"),
)


def code_version() -> str:
    """The package's version, and the commit where the code is a git checkout."""
    here = Path(__file__).parent
    git = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=here, capture_output=True, text=True, check=False
    )
    return denoiselab.__version__ + (f"+{git.stdout.strip()}" if git.returncode == 0 else "")


def write_json(values: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Raises RunError for a file that holds no such values."""
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise RunError(f"{near(path)} is damaged ({exports.short(error)}); remove it") from error
    if not isinstance(values, dict):
        raise RunError(f"{near(path)} is damaged: it holds no keys and values; remove it")
    return values


def conclude(said: str, figures: dict[str, Any], files: Iterable[Path]) -> None:
    """The last words on the terminal: what was done, the figures that a person looks for, and where the rest lies."""
    lines = [said] if said else []
    few = "" if figures.get("floor_n") == figures.get("n") else f" at n {figures['floor_n']}, not to be compared"
    if "fid" in figures:
        floor, seen = f"real test images {figures['floor']:.2f}{few}", f"n {figures['n']}, {figures['extractor']}"
        between = f" ({figures['fid_low']:.2f} to {figures['fid_high']:.2f})" if "fid_low" in figures else ""
        lines.append(f"FID {figures['fid']:.2f}{between}, {floor} ({seen})")
    headline = figures.get("headline")
    if headline in _BESIDE:
        error, seen = figures.get(f"{headline}_error"), f"n {figures['n']}, {figures['extractor']}"
        spread = "" if error is None else f" +- {error:.2g}"
        floor = f"real test images {figures['floor']:.4g}{few}"
        lines.append(f"{headline} {figures[headline]:.4g}{spread}, {floor} ({seen})")
    if "sliced_wasserstein" in figures:
        floor, off = f"training points {figures['floor']:.4f}{few}", figures.get("off_plane")
        seen = f"n {figures['n']}" if off is None else f"n {figures['n']}; {off:.2%} of the squared norm off the plane"
        lines.append(f"sliced Wasserstein distance {figures['sliced_wasserstein']:.4f}, {floor} ({seen})")
    for name, unit in (("bits_per_dim", "bits"), ("nats_per_dim", "nats")):
        if name in figures:
            told = f"{figures['likelihood']}, n {figures['likelihood.n']}"
            lines.append(f"{figures[name]:.4f} +- {figures[f'{name}_error']:.4f} {unit} a dimension ({told})")
    if "class_accuracy" in figures:
        lines.append(f"{figures['class_accuracy']:.1%} are named as the class asked for by {figures['extractor']}")
    if "rfid" in figures:
        lines.append(f"the codec's reconstructions: FID {figures['rfid']:.2f}, PSNR {figures['rpsnr']:.1f} dB")
    rest = [key for key in _BESIDE if key in figures and key != headline]
    for keys in (rest, [key for key in _AS_TOLD if key in figures]):
        if keys:
            real = any(f"floor.{key}" in figures for key in keys)
            said = ", ".join(map(partial(_beside_its_floor, figures), keys))
            lines.append(f"{said}{'; in brackets those of real test images' if real else ''}")
    console.print("\n".join([*lines, *map(near, files)]), highlight=False, soft_wrap=True)


def _beside_its_floor(figures: dict[str, Any], key: str) -> str:
    floor = figures.get(f"floor.{key}")
    return f"{key} {figures[key]:.3g}" + ("" if floor is None else f" ({floor:.3g})")


def near(path: Path) -> str:
    """A path as one would type it here."""
    near = os.path.relpath(path)
    return str(path) if near.startswith("..") else near


def device(name: str) -> torch.device:
    """Raises RunError for one that is not there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, here in there.items() if here))
    if not there[name]:
        raise RunError(f"device={name} is not on this machine; there is {' and '.join(k for k in there if there[k])}")
    return torch.device(name)


def load(
    folder: str, checkpoint: str, on: torch.device, average: Mapping[str, float | None] | None = None
) -> tuple[Pipeline, DictConfig, dict[str, Any]]:
    """A run's pipeline with averaged weights, its configuration, and what its checkpoint says of itself.

    `folder` may be a file that export.py has made of a run. The configuration is that in the checkpoint: the run as it
    was, whatever has become of conf/. `average` is another one than the run's own, see `averages.chosen`. Raises
    RunError.
    """
    if exports.is_export(folder):
        return _exported(folder, checkpoint, on, average)
    if not Path(folder).is_dir():
        raise RunError(f"run={folder} is no folder; give a training run's, such as outputs/<experiment>/<date>_<time>")
    path = Path(folder) / "checkpoints" / f"{checkpoint}.ckpt"
    if not path.exists():
        check_trained(Path(folder))
    state = read(path)
    name, weights = averages.chosen(state["ema"], Path(folder), average)
    about = state["denoiselab"]
    pipeline, cfg = _built(about, frozen_weights(state) | weights, path)
    facts = {"run": str(folder), "checkpoint": checkpoint, "step": state["global_step"], "ema": name}
    return pipeline.to(on).eval(), cfg, about | {"step": state["global_step"], "origin": facts}


def _exported(
    file: str, checkpoint: str, on: torch.device, average: Mapping[str, float | None] | None
) -> tuple[Pipeline, DictConfig, dict[str, Any]]:
    """The same of a file of export.py, which holds one average of one checkpoint."""
    weights, about = exports.read(file)
    for key, value in (average or {}).items():
        if value is not None and f"{key}={value:g}" != about["ema"]:
            raise RunError(
                f"ema.{key}={value:g} is another average than {about['ema']}, the one in {file}; leave it out, or take "
                "the run's folder"
            )
    if checkpoint not in ("last", about["checkpoint"]):
        raise RunError(f"{file} was made of checkpoint={about['checkpoint']}; leave checkpoint={checkpoint} out")
    pipeline, cfg = _built(about, weights, Path(file))
    facts = {"run": str(file), **{key: about[key] for key in ("checkpoint", "step", "ema")}}
    return pipeline.to(on).eval(), cfg, about | {"origin": facts}


def frozen_weights(state: dict[str, Any]) -> Weights:
    """Of a checkpoint, those of the pipeline that are not trained, and so have no averages."""
    prefix = "pipeline."
    every = {k.removeprefix(prefix): v for k, v in state.get("state_dict", {}).items() if k.startswith(prefix)}
    return {name: values for name, values in every.items() if name not in state["ema"]["weights"]}


def _built(about: dict[str, Any], weights: Weights, path: Path) -> tuple[Pipeline, DictConfig]:
    try:
        cfg = OmegaConf.create(about["config"])
        pipeline = build.pipeline(cfg, Facts(tuple(about["image_shape"]), tuple(about["class_names"])))
        pipeline.load_state_dict(weights)
    except Exception as error:
        if isinstance(error.__cause__, UserError):  # what a part of it has said, within Hydra's own error
            raise error.__cause__ from error
        raise RunError(f"{path} is of another version of denoiselab ({exports.short(error)}){_others(path)}") from error
    return pipeline, cfg


def check_trained(folder: Path) -> None:
    """Raises RunError for an evaluation's folder, which says itself of which run it is."""
    metrics = folder / "metrics.json"
    run = read_json(metrics).get("run") if metrics.is_file() and not (folder / "checkpoints").is_dir() else None
    if run is not None:
        raise RunError(f"run={folder} is an evaluation, which has no weights; its run is run={run}")


def read(path: Path) -> dict[str, Any]:
    """A checkpoint's contents. Raises RunError for one that is not there, damaged or none of ours, and says what is."""
    if not path.exists():
        hint = _others(path) or "; it was stopped before it saved one"
        raise RunError(f"{path.parent.parent} has no checkpoint {path.name}{hint}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise RunError(f"{path} is damaged or no checkpoint ({exports.short(error)}){_others(path)}") from error
    if not isinstance(state, dict) or not {"denoiselab", "ema", "global_step"} <= set(state):
        raise RunError(f"{path} is not a checkpoint of denoiselab{_others(path)}")
    return state


def _others(path: Path) -> str:
    """The checkpoints beside a bad one that can be read, newest first."""
    others = set(path.parent.glob("*.ckpt")) - {path}
    found = [(step, other.stem) for other in others if (step := step_of(other)) is not None]
    return (
        "; there is " + " and ".join(f"checkpoint={name} of step {step}" for step, name in sorted(found)[::-1])
        if found
        else ""
    )


def exact(cfg: DictConfig, on: torch.device) -> tuple[Pipeline, DictConfig, dict[str, Any]]:
    """The same of the exact denoiser analytic=<option> of the training images; mirrored too, where training does so.

    Raises ConfigError for guidance by classes that there are not.
    """
    source = instantiate(cfg.data)
    batch = source.train.__getitems__(range(len(source.train)))
    points, labels = to_float(batch["image"]).double(), batch["label"]
    if source.flip:
        points, labels = torch.cat([points, points.flip(-1)]), labels.repeat(2)
    denoiser = instantiate(cfg.analytic)(instantiate(cfg.schedule), points, labels)
    if on.type == "mps":  # it has no float64
        denoiser.float()
    num_classes = 0 if denoiser.classes is None else source.num_classes
    facts = build.words(cfg, ("analytic", "schedule"))
    if num_classes == 0 and cfg.guidance.get("scale", 1) != 1:
        raise ConfigError(
            f"guidance.scale={cfg.guidance.scale} strengthens a class, and analytic={facts['analytic'].lower()} of "
            f"data={source.name} has none; take guidance=none, or analytic=mixture or empirical and data with classes"
        )
    pipeline = Pipeline(cast(Denoiser, denoiser), Unconditional(), Identity(), source.shape)
    about = {"image_shape": list(source.shape), "num_classes": num_classes, "class_names": list(source.class_names)}
    return pipeline.to(on).eval(), cfg, about | {"origin": facts}


def given(cfg: DictConfig) -> tuple[Pipeline, DictConfig, dict[str, Any]]:
    """What the command line names: a trained run or an exact denoiser. Raises RunError for a classifier's run."""
    on = device(cfg.device)
    if cfg.analytic:
        return exact(cfg, on)
    loaded = load(cfg.run, cfg.checkpoint, on, cfg.ema)
    if isinstance(loaded[0].denoiser.backbone, Encoder):
        raise RunError(
            f"run={cfg.run} is a classifier, which makes no images; give it as guidance.classifier.run={cfg.run} "
            "beside the run of a denoiser and guidance=classifier"
        )
    return loaded
