"""Run folders as train.py and evaluate.py leave them, with figures that are made up: what a report finds is known."""

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

CHOICES = {
    "experiment": "default",
    "schedule": "cosine",
    "parameterization": "v",
    "loss": "simple",
    "spacing": "trailing",
    "sampler": "ddim",
    "threshold": "clip",
    "guidance": "none",
    "backbone": "unet",
    "data": "digits",
    "trainer": "auto",
    "logger": "csv",
}
SAMPLING = ("spacing", "sampler", "threshold", "guidance")
FIGURES = {
    "headline": "fid",
    "floor": 0.3,
    "n": 1000,
    "floor_n": 1000,
    "extractor": "digits-classifier-efa34384",
    "extractor_weights": "efa34384",
    "resize": "none",
    "data": "digits",
    "split": "train 1437, test 1000",
    "given": "none",
    "data_fingerprint": "0023daf805a83b1a",
    "step": 400,
    "ema": "decay=0.999",
    "code": "0.1.0+abc",
}


def config(choices: dict[str, str], numbers: dict[str, Any]) -> dict[str, Any]:
    """A configuration of parts with a target and a number each."""
    made: dict[str, Any] = {
        axis: {"_target_": f"denoiselab.{axis}.{option}", "norm": "${norm}"} for axis, option in choices.items()
    }
    made |= {"experiment": None, "seed": 0, "batch_size": 128, "cache": "/somewhere/.cache"}
    made["sampler"]["steps"] = 50
    made["trainer"] = {"_target_": "denoiselab.training.trainer.trainer"}
    for key, value in numbers.items():
        part, _, name = key.rpartition(".")
        (made[part] if part else made)[name] = value
    return made


def write_job(folder: Path, command: str, words: dict[str, Any], made: dict[str, Any], mode: str = "RUN") -> None:
    """The .hydra of a job; `words` are typed, `made` are the choices and what they come to."""
    told = folder / ".hydra"
    told.mkdir(parents=True)
    hydra = {
        "mode": mode,
        "overrides": {"hydra": ["hydra.mode=MULTIRUN"] if mode == "MULTIRUN" else [], "task": []},
        "job": {"config_name": command, "num": 0},
        "runtime": {"choices": made["choices"]},
    }
    (told / "hydra.yaml").write_text(json.dumps({"hydra": hydra}))  # JSON is YAML, and sooner written
    (told / "config.yaml").write_text(json.dumps(made["config"]))
    (told / "overrides.yaml").write_text(json.dumps([f"{key}={value}" for key, value in words.items()]))


def run(folder: Path, words: dict[str, Any], fid: float | None, **figures: Any) -> Path:
    """A training with these words, which judged itself; fid None: it was never finished."""
    choices = CHOICES | {key: value for key, value in words.items() if key in CHOICES}
    numbers = {key: value for key, value in words.items() if key not in CHOICES}
    write_job(folder, "train", words, {"choices": choices, "config": config(choices, numbers)})
    (folder / "checkpoints").mkdir()
    if fid is not None:
        seed = words.get("seed", 0)
        own = {"seed": seed, "sample_seed": seed, "fid": fid, "nfe": 50, "train_seconds": 60.0}
        (folder / "metrics.json").write_text(json.dumps(FIGURES | own | figures))
    return folder


def evaluation(run: Path, name: str, words: dict[str, Any], fid: float | None, **figures: Any) -> Path:
    """An evaluation of a run, in its folder."""
    trained = json.loads((run / ".hydra" / "hydra.yaml").read_text())["hydra"]["runtime"]["choices"]
    chosen = {axis: words.get(axis, trained[axis]) for axis in SAMPLING}
    numbers = {key: value for key, value in words.items() if "." in key}
    made = config(chosen, {"n": 1000, "checkpoint": "last", **numbers})
    choices = {axis: words.get(axis, "from_run") for axis in SAMPLING}
    folder = run / "evaluate" / name
    write_job(folder, "evaluate", {"run": run, **words}, {"choices": choices, "config": made}, "MULTIRUN")
    if fid is not None:
        steps = numbers.get("sampler.steps", 50)
        own = {"fid": fid, "nfe": steps, "sample_seed": 0, "run": str(run), "checkpoint": "last", "identity": name}
        own |= {"seconds": 2.0 + 0.1 * steps, "sampling_seconds": 0.1 * steps}
        (folder / "metrics.json").write_text(json.dumps(FIGURES | own | figures))
    return folder


def table(path: Path, head: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([head, *rows])


def curves(run: Path, level: float = 1.0) -> None:
    """What a training leaves by log-SNR: an eps-MSE of `level`, one bit in each bin, a weight of `level`."""
    edges = [(float(low), float(low) + 2) for low in range(-10, 10, 2)]
    table(
        run / "loss_by_log_snr.csv",
        ["log_snr_from", "log_snr_to", "eps_mse", "loss", "count"],
        [[*edge, level / (1 + np.exp(-edge[0])), level, 36] for edge in edges],
    )
    parts = [["prior", "", "", 0.1, 0.0, ""], *(["diffusion", *edge, 1.0, 0.01, 10] for edge in edges)]
    head = ["part", "log_snr_from", "log_snr_to", "bits_per_dim", "error", "evaluations"]
    table(run / "likelihood.csv", head, parts)
    table(run / "weight.csv", ["log_snr", "weight"], [[x, level * np.exp(-(x**2) / 20)] for x in range(-10, 11)])


def grid(path: Path, shade: int) -> None:
    """A PNG of one shade."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((9, 9), shade, np.uint8)).save(path)
