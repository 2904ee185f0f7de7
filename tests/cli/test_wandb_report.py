"""The workspace and the report for W&B: built with no network, of keys that a real run has logged."""

import json
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from cli.test_evaluate_runs import say
from denoiselab.tools import wandb_report
from test_logging import TINY, history, pictures, records, wandb_folders  # noqa: F401

Keys = dict[str, set[str]]  # of a history, a summary and a configuration


@pytest.fixture(scope="module")
def logged(pictures, tmp_path_factory) -> dict[str, Keys]:  # noqa: F811
    """The keys that a training and an evaluation of it have logged."""
    place = tmp_path_factory.mktemp("outputs")
    own = [*TINY.split(), "metrics.n=10", f"data.root={pictures}", f"hydra.run.dir={place / 'run'}"]
    again = [f"run={place / 'run'}", "sampler=ddim", "n=10", "device=cpu", f"hydra.run.dir={place / 'evaluated'}"]
    for command, words in (("train", own), ("evaluate", again)):
        said = say(command, *words, f"cache={place / 'cache'}")
        assert said.status == 0, said.err
    return {"train": keys_of(place / "run"), "evaluate": keys_of(place / "evaluated")}


def keys_of(folder: Path) -> Keys:
    run = list(records(next(wandb_folders(folder)[0].glob("*.wandb"))))
    keys: Keys = {"history": {name for row in history(run) for name in row}, "summary": set(), "config": set()}
    for record in run:
        for item in record.summary.update:
            keys["summary"].add(".".join(item.nested_key) or item.key)
        for item in record.run.config.update:
            keys["config"] |= paths(item.key, json.loads(item.value_json))
    return keys


def paths(key: str, value: Any) -> set[str]:
    """A configuration's keys, with dots, of what holds others too."""
    inner = value if isinstance(value, dict) else {}
    return {key}.union(*(paths(f"{key}.{name}", part) for name, part in inner.items()))


@pytest.fixture(params=["workspace", "report"])
def built(request, monkeypatch) -> dict[str, Any]:
    """What would be sent, as W&B is sent it, where nothing can be."""

    def refused(*_: object) -> None:
        raise AssertionError("this asks the network")

    monkeypatch.setattr(socket.socket, "connect", refused)
    made = getattr(wandb_report, request.param)("someone", "denoiselab", "default")
    return json.loads(made._to_model().model_dump_json(by_alias=True, exclude_none=True))


def dicts(value: Any) -> list[dict[str, Any]]:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [*([value] if isinstance(value, dict) else []), *(found for part in inner for found in dicts(part))]


def panels(built: dict[str, Any]) -> list[dict[str, Any]]:
    return [part for part in dicts(built) if "viewType" in part]


def of_config(key: str) -> str:
    """W&B puts .value behind the first name of a configuration's key."""
    name, _, rest = key.partition(".value")
    return name + rest


def named(built: Any) -> Keys:
    """The keys that charts and tables name."""
    keys: Keys = {"history": set(), "summary": set(), "config": set()}
    told: list[str] = []
    for panel in panels(built):
        config = panel["config"]
        if panel["viewType"] == "Run History Line Plot":
            keys["history"] |= {config["xAxis"], *config["metrics"]}
            keys["config"] |= {of_config(config["groupBy"])} if "groupBy" in config else set()
        elif panel["viewType"] == "Media Browser":
            keys["history"] |= set(config["mediaKeys"])
        elif panel["viewType"] == "Scatter Plot":
            told += [config[axis] for axis in ("xAxis", "yAxis", "zAxis") if axis in config]
        else:
            assert panel["viewType"] == "Parallel Coordinates Plot"
            told += [column["accessor"] for column in config["columns"]]
    for feed in dicts(built):
        told += feed.get("columnPinned", {})
    for word in told:
        kind, _, key = word.partition(":")
        if kind != "run":
            keys[kind].add(of_config(key) if kind == "config" else key)
    return keys


@pytest.mark.slow
@pytest.mark.parametrize("index", range(6))
def test_every_key_is_one_that_a_real_run_of_that_kind_has_logged(index, logged):
    section = wandb_report.sections()[index]
    keys = named([panel._to_model().model_dump(by_alias=True, exclude_none=True) for panel in section.panels])
    assert any(keys.values())
    for kind, of_kind in keys.items():
        assert of_kind - logged[section.job_type][kind] == set(), section.name


@pytest.mark.slow
def test_nothing_else_is_named(built, logged):
    """The columns of the tables too."""
    assert len(wandb_report.sections()) == 6
    for kind, of_kind in named(built).items():
        assert of_kind - logged["train"][kind] - logged["evaluate"][kind] == set()


def test_the_charts_are_those_of_the_report_page(built):
    keys = named(built)
    history = {
        "fid",
        "fid/floor",
        "val/bits_per_dim",
        "samples",
        "loss_by_log_snr",
        "effective_weight",
        "_runtime",
        "nfe",
    }
    assert history <= keys["history"]
    assert {"nfe", "fid", "sampling_seconds", "class_accuracy", "guidance.scale"} <= keys["summary"]
    assert {"schedule._target_", "parameterization._target_", "optimizer.lr", "seed"} <= keys["config"]
    kinds = [panel["viewType"] for panel in panels(built)]
    assert kinds.count("Parallel Coordinates Plot") == 1
    assert len({panel["__id__"] for panel in panels(built)}) == len(kinds), "a panel of its own each"


def test_a_group_alone_is_shown_where_one_is_named(built):
    filters = [part for part in dicts(built) if part.get("key", {}).get("name") == "group"]
    assert filters
    assert {part["value"] for part in filters} == {"default"}
    whole = wandb_report.workspace("someone", "denoiselab")._to_model().model_dump_json(by_alias=True)
    assert '"group"' not in whole


def test_the_report_has_the_table_of_the_runs_that_each_section_is_of():
    made = wandb_report.report("someone", "denoiselab")
    sent = json.loads(made._to_model().model_dump_json(by_alias=True, exclude_none=True))
    types = [part["value"] for part in dicts(sent) if part.get("key", {}).get("name") == "jobType"]
    assert types == [part.job_type for part in wandb_report.sections()]
    assert set(types) == {"train", "evaluate"}


@pytest.mark.parametrize(
    ("words", "status", "told"),
    [
        ("project=p", 2, "entity must be given"),
        ("entity=me", 2, "project must be given"),
        ("entity=me project=p colour=red", 2, "colour=red is not known; allowed: entity=<name>"),
        ("entity=me project=p", 1, "W&B did not take the report of me/p"),
    ],
)
def test_a_slip_or_no_account_is_told_in_one_line(words, status, told, capsys, monkeypatch, tmp_path):
    for key in ("WANDB_API_KEY", "NETRC"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # no account that this machine may have
    assert wandb_report.main(words.split()) == status
    err = capsys.readouterr().err
    assert told in err
    assert err.count("\n") == 1


def test_without_the_library_it_is_said_what_brings_it(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    assert wandb_report.main(["entity=me", "project=p"]) == 2
    assert "pip install -e '.[workspaces]'" in capsys.readouterr().err
