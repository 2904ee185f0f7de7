"""What a run leaves in its folder, read back from the disk: W&B's own file, the tables and the pictures.

Two real runs by the command line's function, one after the other in this process, as a sweep does it.
"""

import csv
import json
import os
import struct
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from wandb.proto.wandb_internal_pb2 import Record

from conftest import trained
from denoiselab.assembly.configuration import plain
from denoiselab.errors import ConfigError

SEEDS = (3, 4)
TINY = """
    data=image_folder data.size=8 data.channels=1 batch_size=8 num_workers=0
    backbone=mlp backbone.width=16 backbone.depth=1 optimizer.warmup_steps=2 sampler=heun sampler.steps=3
    trainer=cpu trainer.max_steps=6 trainer.val_check_interval=3 trainer.log_every_n_steps=2
    callbacks.pace.every=2 callbacks.checkpoint.every_n_train_steps=3
    callbacks.samples.n=4 callbacks.samples.columns=2 callbacks.samples.every=3 callbacks.denoising.n=2
"""
FIGURES = "metrics.every=4 metrics.n=10"


def records(path: Path) -> Iterator[Record]:
    """A .wandb file: 7 bytes of header, then blocks of 32 KiB with pieces (checksum, length, kind, bytes), as LevelDB's
    log has them. Kinds 1 and 4 end a record."""
    data, place, record = path.read_bytes(), 7, b""
    while place + 7 <= len(data):
        if (room := 32768 - place % 32768) < 7:
            place += room
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield Record.FromString(record)
            record = b""


def history(run: list[Record]) -> Iterator[dict[str, Any]]:
    for record in run:
        if record.HasField("history"):
            row: dict[str, Any] = {}
            for item in record.history.item:
                name, *inner = item.nested_key or [item.key]
                value = json.loads(item.value_json)
                if inner:
                    row.setdefault(name, {})[".".join(inner)] = value
                else:
                    row[name] = value
            yield row


def by_step(rows: Iterator[dict[str, Any]]) -> dict[str, dict[int, Any]]:
    """name -> {trainer/global_step: value}; no name twice at a step."""
    made: dict[str, dict[int, Any]] = defaultdict(dict)
    for row in rows:
        step = row.pop("trainer/global_step")
        for name, value in row.items():
            if not name.startswith("_") and name != "epoch":
                assert step not in made[name], f"{name} twice at step {step}"
                made[name][step] = value
    return made


def wandb_folders(folder: Path) -> list[Path]:
    return sorted((folder / "wandb").glob("offline-run-*"))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """80 dark and 80 light images of 8 x 8 pixels: enough for a classifier to be trained, in no time."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for name, low in (("dark", 0), ("light", 128)):
        (root / name).mkdir()
        for i in range(80):
            Image.fromarray(rng.integers(low, low + 128, (8, 8), dtype=np.uint8)).save(root / name / f"{i}.png")
    return root


@pytest.fixture(scope="module")
def done(pictures, tmp_path_factory) -> SimpleNamespace:
    """The two runs, and what they have done to the process."""
    place = tmp_path_factory.mktemp("outputs")
    before = {k: v for k, v in os.environ.items() if k.startswith("WANDB")}
    made = SimpleNamespace(folders=[], cfgs=[], returned=[])
    for seed in SEEDS:
        folder = place / "default" / f"2026-01-01_00-00-0{seed}"
        words = f"{TINY} {FIGURES} logger.tags=[mine] data.root={pictures} cache={place / 'cache'} seed={seed}"
        cfg, headline = trained(words, folder)
        made.returned.append(headline)
        made.folders.append(folder)
        made.cfgs.append(cfg)
    made.environment = before, {k: v for k, v in os.environ.items() if k.startswith("WANDB")}
    return made


@pytest.fixture(scope="module")
def folder(done) -> Path:
    return done.folders[0]


@pytest.fixture(scope="module")
def logged(folder) -> list[Record]:
    (run,) = wandb_folders(folder)
    (path,) = run.glob("*.wandb")
    return list(records(path))


@pytest.fixture(scope="module")
def figures(folder) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text())


def run_record(logged: list[Record]) -> Any:
    (run,) = [record.run for record in logged if record.HasField("run")]
    return run


@pytest.mark.slow
def test_each_run_is_one_wandb_run_of_its_own_and_has_ended(done):
    ids = []
    for folder in done.folders:
        (place,) = wandb_folders(folder)
        logged = list(records(next(place.glob("*.wandb"))))
        ids.append(run_record(logged).run_id)
        assert sum(record.HasField("exit") for record in logged) == 1
        assert place.name.endswith(ids[-1])
        assert {row["trainer/global_step"] for row in history(logged)} <= set(range(7))
    assert len(set(ids)) == 2


@pytest.mark.slow
def test_the_processs_environment_is_as_it_was(done):
    before, after = done.environment
    assert after.get("WANDB_MODE") == before.get("WANDB_MODE")
    assert "WANDB_RUN_ID" not in after


@pytest.mark.slow
def test_wandb_has_every_key_that_the_design_promises_at_the_trainers_steps(logged):
    rows = by_step(history(logged))
    assert (
        set(rows["fid"]) == set(rows["fid/floor"]) == set(rows["fid/seconds"]) == set(rows["class_accuracy"]) == {4, 6}
    )
    assert set(rows["fid/n"].values()) == {10}
    assert set(rows["samples"]) == {3, 6}
    assert set(rows["denoising"]) == set(rows["likelihood"]) == set(rows["loss_by_log_snr"]) == {6}
    assert set(rows["val/bits_per_dim"]) == set(rows["val/bits_per_dim/decoder"]) == {6}
    assert set(rows["train/loss"]) == set(rows["train/lr"]) == set(rows["train/images_per_second"]) == {2, 4, 6}
    assert len(rows["val/loss"]) == 2


@pytest.mark.slow
def test_the_validation_loss_stands_at_the_number_of_steps_done_as_all_figures_of_those_weights_do(logged):
    rows = by_step(history(logged))
    assert set(rows["val/loss"]) == set(rows["val/eps_mse"]) == set(rows["samples"]) == {3, 6}


@pytest.mark.slow
def test_the_x_axis_of_every_wandb_chart_is_the_trainers_step(logged):
    axes = {(r.metric.name or r.metric.glob_name): r.metric.step_metric for r in logged if r.HasField("metric")}
    assert axes.get("*") == "trainer/global_step"


@pytest.mark.slow
def test_the_csv_table_has_the_same_scalars_as_wandb(logged, folder):
    table: dict[str, dict[int, float]] = defaultdict(dict)
    with (folder / "metrics.csv").open() as file:
        for row in csv.DictReader(file):
            step = int(row.pop("step"))
            for name, value in row.items():
                if value and name != "epoch":
                    assert step not in table[name]
                    table[name][step] = float(value)
    rows = by_step(history(logged))
    scalars = {name: values for name, values in rows.items() if not isinstance(next(iter(values.values())), dict)}
    assert set(table) == set(scalars)
    for name in scalars:
        assert table[name] == pytest.approx(scalars[name], rel=1e-12), name


@pytest.mark.slow
@pytest.mark.parametrize("key", ["samples", "denoising"])
def test_pictures_in_wandb_are_the_files_beside_it_and_say_what_they_are_of(key, logged, folder):
    (place,) = wandb_folders(folder)
    file_name = {"samples": "step", "denoising": "denoising"}[key]
    for step, image in by_step(history(logged))[key].items():
        kept = np.asarray(Image.open(place / "files" / image["path"]).convert("L"))
        assert (kept == np.asarray(Image.open(folder / "samples" / f"{file_name}_{step}.png"))).all()
        for words in (f"step {step}", "seed 3", "NFE 5", "sampler Heun", "sampler.steps 3", "guidance.scale 1.2"):
            assert words in image["caption"]


@pytest.mark.slow
def test_wandb_has_the_resolved_configuration_once(logged, done):
    run = run_record(logged)
    config = {item.key: json.loads(item.value_json) for item in run.config.update if item.key != "_wandb"}
    assert config == plain(done.cfgs[0])
    assert config["callbacks"]["samples"]["seed"] == 3, "which is ${seed} in the file"
    assert "${" not in json.dumps(config)


@pytest.mark.slow
def test_tags_are_the_chosen_options_and_the_users_own(logged):
    run = run_record(logged)
    chosen = {"sampler=heun", "spacing=karras", "schedule=cosine", "backbone=mlp", "data=image_folder", "trainer=cpu"}
    assert chosen | {"mine"} <= set(run.tags)
    assert all(tag == "mine" or tag.count("=") == 1 for tag in run.tags)


@pytest.mark.slow
def test_a_wandb_run_is_found_by_its_group_kind_and_name(logged, folder):
    run = run_record(logged)
    assert (run.project, run.run_group, run.job_type) == ("denoiselab", "default", "train")
    assert run.display_name == f"default/{folder.name}"


@pytest.mark.slow
def test_final_figures_carry_their_provenance(figures, done):
    for key in ("fid", "floor", "class_accuracy", "val/loss", "val/eps_mse", "train/loss"):
        assert isinstance(figures[key], float)
    known = {"n": 10, "floor_n": 10, "seed": 3, "sample_seed": 3, "step": 6, "nfe": 5, "sampler": "Heun"}
    assert {key: figures[key] for key in known} == known
    assert figures["extractor"].startswith("image_folder-classifier-") or "-classifier-" in figures["extractor"]
    assert figures["sampler.steps"] == 3
    assert figures["code"]
    assert done.returned[0] == figures["fid"], "what a search over runs is given"


@pytest.mark.slow
def test_final_figures_are_those_that_were_logged_last(figures, logged):
    rows = by_step(history(logged))
    assert figures["fid"] == pytest.approx(rows["fid"][6], rel=1e-12)
    assert figures["val/loss"] == pytest.approx(list(rows["val/loss"].values())[-1], rel=1e-6)


@pytest.mark.slow
def test_wandbs_summary_has_the_final_figures_with_their_words(figures, logged):
    summary: dict[str, Any] = {}
    for record in logged:
        if record.HasField("summary"):
            for item in record.summary.update:
                summary[".".join(item.nested_key) or item.key] = json.loads(item.value_json)
    for key in ("fid", "floor", "n", "extractor", "seed", "step", "metrics_seconds"):
        assert summary[key] == figures[key]
    assert (summary["best/fid"], summary["best/step"]) == (figures["best"]["value"], figures["best"]["step"])


@pytest.mark.slow
def test_the_best_checkpoint_is_that_of_the_lowest_fid_in_the_log_and_says_so_everywhere(figures, logged, folder):
    (fid, step), best = min((fid, step) for step, fid in by_step(history(logged))["fid"].items()), figures["best"]
    assert best == {"monitor": "fid", "value": pytest.approx(fid, rel=1e-12), "step": step, "n": 10}
    state = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    assert state["global_step"] == step
    assert state["denoiselab"]["best"] == best


@pytest.mark.slow
def test_where_the_best_is_not_the_last_the_last_line_says_so(pictures, done, tmp_path, capsys):
    """A learning rate that is far too large makes each step worse than the one before."""
    cache = done.cfgs[0].cache
    words = f"{TINY} metrics.every=2 metrics.n=10 optimizer.lr=0.3 likelihood=none logger=csv data.root={pictures}"
    trained(f"{words} cache={cache}", tmp_path / "run")
    figures = json.loads((tmp_path / "run" / "metrics.json").read_text())
    best, said = figures["best"], capsys.readouterr().err.splitlines()[-1]
    assert best["step"] == 2
    assert best["value"] < figures["fid"]
    told = f"checkpoint=best is of step 2: fid {best['value']:.4g} (n 10); at step 6 it was {figures['fid']:.4g}"
    assert said == told


@pytest.mark.slow
def test_the_checkpoint_remembers_the_wandb_run_and_the_configuration(logged, folder, done):
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["denoiselab"]["wandb_id"] == run_record(logged).run_id
    assert state["denoiselab"]["config"] == plain(done.cfgs[0])


@pytest.mark.slow
def test_a_runs_folder_holds_what_the_design_says_and_nothing_half_written(folder):
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    own = {file for file in files if not file.startswith("wandb/")}
    assert own == {
        ".lock",
        "run.json",
        "checkpoints/last.ckpt",
        "checkpoints/previous.ckpt",
        "checkpoints/best.ckpt",
        "samples/step_3.png",
        "samples/step_6.png",
        "samples/denoising_6.png",
        "metrics.csv",
        "metrics.json",
        "loss.png",
        "weight.csv",
        "weight.png",
        "likelihood.csv",
        "likelihood.png",
        "loss_by_log_snr.csv",
        "loss_by_log_snr.png",
    }


@pytest.mark.slow
def test_another_seed_is_another_run_of_the_same_data_and_extractor(done, figures):
    other = json.loads((done.folders[1] / "metrics.json").read_text())
    assert other["fid"] != figures["fid"]
    for key in ("extractor", "data_fingerprint", "floor"):
        assert other[key] == figures[key]


@pytest.mark.slow
def test_the_same_seed_in_another_folder_gives_the_same_figures(pictures, done, figures, tmp_path):
    """Without W&B, and with other pictures beside training; the seconds alone differ."""
    words = f"{TINY} {FIGURES} logger=csv data.root={pictures} cache={tmp_path / 'cache'} seed=3"
    trained(f"{words} trainer.val_check_interval=2 callbacks.samples.every=1", tmp_path / "run")
    again = json.loads((tmp_path / "run" / "metrics.json").read_text())
    own = ("seconds", "train_seconds", "metrics_seconds", "sampling_seconds")
    assert {k: v for k, v in again.items() if k not in own} == {k: v for k, v in figures.items() if k not in own}
    assert not (tmp_path / "run" / "wandb").exists()


@pytest.mark.slow
@pytest.mark.parametrize("steps", [2, 5])
def test_the_final_validation_loss_is_of_the_final_weights_where_the_interval_does_not_end_there(
    steps, pictures, tmp_path
):
    words = f"{TINY} metrics=none logger=csv data.root={pictures} trainer.max_steps={steps}"
    for interval in (3, 1):
        trained(f"{words} trainer.val_check_interval={interval}", tmp_path / f"{interval}")
    rarely, often = (json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("3", "1"))
    assert rarely["val/loss"] == often["val/loss"]
    with (tmp_path / "3" / "metrics.csv").open() as file:
        table = {int(row["step"]): float(row["val/loss"]) for row in csv.DictReader(file) if row["val/loss"]}
    assert table[steps] == pytest.approx(rarely["val/loss"], rel=1e-6)


def exit_code(folder: Path) -> int:
    (place,) = wandb_folders(folder)
    (code,) = [r.exit.exit_code for r in records(next(place.glob("*.wandb"))) if r.HasField("exit")]
    return code


def test_a_run_that_fails_is_a_failed_run_in_wandb_and_the_next_one_is_not(pictures, tmp_path, monkeypatch):
    def fails(self, trainer, system):
        raise ArithmeticError

    words = f"{TINY} metrics=none trainer.max_steps=1 data.root={pictures}"
    with monkeypatch.context() as patch, pytest.raises(ArithmeticError):
        patch.setattr("denoiselab.training.callbacks.SampleGrid.work", fails)
        trained(words, tmp_path / "failed")
    trained(words, tmp_path / "next")
    assert exit_code(tmp_path / "next") == 0
    assert exit_code(tmp_path / "failed") != 0


@pytest.mark.parametrize("case", ["no labels", "one test image"])
def test_figures_that_the_data_do_not_allow_are_refused_before_training(case, tmp_path):
    """And not at the first evaluation, some hundred steps on; or at the end, before the checkpoint is written."""
    root, rng = tmp_path / "images", np.random.default_rng(0)
    for name in ("",) if case == "no labels" else ("a", "b"):
        (root / name).mkdir(parents=True)
        for i in range(70):
            Image.fromarray(rng.integers(0, 255, (8, 8), dtype=np.uint8)).save(root / name / f"{i}.png")
    words = f"{TINY} data.root={root} cache={tmp_path / 'cache'} conditioning=none guidance=none"
    with pytest.raises(ConfigError):
        trained(f"{words} data.test_fraction=0.005", tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.csv").exists(), "nothing was trained"
    assert not (tmp_path / "run" / "wandb").exists()
