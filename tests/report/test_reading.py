"""From folders to rows, and from rows to settings, axes and commands."""

import json
import os
import shutil

import pytest
import synthetic
from omegaconf import OmegaConf

from conftest import REPOSITORY
from denoiselab.errors import ConfigError, IncompatibleError, RunError
from denoiselab.report import comparing
from denoiselab.report.reading import find
from denoiselab.report.report import make


def axes(report) -> list[str]:
    return [axis.key for axis in report.study.axes]


def test_a_runs_own_figures_and_its_evaluations_are_rows_of_one_run(tmp_path):
    run = synthetic.run(tmp_path / "0", {"schedule": "flow", "seed": 3}, 2.0)
    synthetic.evaluation(run, "a/0", {"sampler": "ddpm", "sampler.steps": 20}, 1.0)
    rows = find([str(tmp_path)]).rows
    assert [row.run for row in rows] == [run, run]
    assert [(row.seed, row.words["schedule"], row.words["sampler"], row.words["sampler.steps"]) for row in rows] == [
        (3, "flow", "ddim", 50),
        (3, "flow", "ddpm", 20),
    ]


@pytest.mark.parametrize("given", ["", "0", "0/evaluate/a", "*", "0/evaluate/*/0"])
def test_a_sweeps_a_runs_and_an_evaluations_folder_can_be_given(tmp_path, given):
    run = synthetic.run(tmp_path / "0", {"schedule": "flow"}, 2.0)
    synthetic.evaluation(run, "a/0", {"sampler": "ddpm"}, 1.0)
    rows = find([str(tmp_path / given)]).rows
    assert {row.words["schedule"] for row in rows} == {"flow"}
    assert min(row.headline for row in rows) == 1.0


def test_a_folder_given_twice_counts_once(tmp_path):
    synthetic.run(tmp_path / "0", {"schedule": "flow"}, 2.0)
    assert len(find([str(tmp_path), str(tmp_path / "0"), f"{tmp_path}/*"]).rows) == 1


def test_what_was_typed_and_what_is_the_default_are_one_setting(tmp_path):
    synthetic.run(tmp_path / "0", {"seed": 0}, 2.0)
    synthetic.run(tmp_path / "1", {"seed": 1, "schedule": "cosine"}, 4.0)
    report = make([str(tmp_path)])
    assert [placed.setting.estimate.mean for placed in report.study.ranking] == [3.0]
    assert axes(report) == []


def test_how_a_run_is_logged_and_where_it_ran_is_no_axis(tmp_path):
    for i, words in enumerate(({"logger": "csv"}, {"logger": "wandb", "trainer": "ddp", "cache": "/elsewhere"})):
        synthetic.run(tmp_path / str(i), {"seed": i, **words}, 2.0)
    assert axes(make([str(tmp_path)])) == []


def test_what_an_option_brings_along_follows_it(tmp_path):
    """sampler=heun chooses spacing=karras, and schedule=linear has numbers that cosine has not."""
    run = synthetic.run(tmp_path / "0", {}, 2.0)
    for i, words in enumerate(({"sampler": "heun"}, {"sampler": "ddpm"}, {"sampler": "unipc"})):
        folder = synthetic.evaluation(run, str(i), words, 1.0 + i)
        path, spacing = folder / ".hydra" / "hydra.yaml", "trailing" if i == 1 else "karras"
        path.write_text(path.read_text().replace('"spacing": "from_run"', f'"spacing": "{spacing}"'))
    report = make([str(tmp_path)])
    assert [(axis.key, axis.follows) for axis in report.study.axes] == [("sampler", ("spacing",))]


def test_numbers_of_random_search_are_axes_of_their_own(tmp_path):
    """Each value of lr occurs once and so fixes all others; what was typed follows nothing."""
    for i, (lr, width) in enumerate(((0.1, 8), (0.2, 16), (0.3, 8))):
        synthetic.run(tmp_path / str(i), {"batch_size": width, "data.lr": lr}, 2.0 + i)
    assert axes(make([str(tmp_path)])) == ["batch_size", "data.lr"]


def test_an_experiment_that_brings_words_along_is_the_axis(tmp_path):
    for i, (experiment, schedule) in enumerate((("default", "cosine"), ("edm", "edm"))):
        folder = synthetic.run(tmp_path / str(i), {"schedule": schedule}, 1.0 + i)
        (folder / ".hydra" / "overrides.yaml").write_text(json.dumps([f"experiment={experiment}"]))
        path = folder / ".hydra" / "hydra.yaml"
        path.write_text(path.read_text().replace('"experiment": "default"', f'"experiment": "{experiment}"'))
    report = make([str(tmp_path)])
    assert [(axis.key, axis.follows) for axis in report.study.axes] == [("experiment", ("schedule",))]


def test_an_evaluation_that_repeats_another_counts_once(tmp_path):
    run = synthetic.run(tmp_path / "0", {}, 5.0)
    for name, fid in (("a", 1.0), ("b", 1.0)):
        synthetic.evaluation(run, name, {"sampler": "ddpm"}, fid)
    report = make([str(tmp_path)])
    assert len(report.study.rows) == 2
    assert [one.folder.name for one in report.left] == ["a"]  # the older
    assert "the same as" in report.left[0].reason


def test_of_the_same_evaluation_by_other_code_the_newest_counts(tmp_path):
    """Of one code the fullest; a fuller one of older code is past."""
    run = synthetic.run(tmp_path / "0", {}, None)
    made = (("old", 1.0, "aaa", {"kid": 0.1, "sfid": 1.0}), ("full", 2.0, "bbb", {"kid": 0.1}), ("new", 2.5, "bbb", {}))
    for i, (name, fid, source, more) in enumerate(made):
        folder = synthetic.evaluation(run, name, {"sampler": "ddpm"}, fid, source=source, **more)
        os.utime(folder / "metrics.json", (i, i))
    report = make([str(tmp_path)])
    assert [row.headline for row in report.study.rows] == [2.0]
    assert {one.folder.name for one in report.left if "the same" in one.reason} == {"old", "new"}


def test_evaluations_by_bound_and_by_ode_both_stand(tmp_path):
    run = synthetic.run(tmp_path / "0", {}, None)
    made = (("bound", {"likelihood": "VariationalBound"}), ("ode", {"likelihood": "ODELikelihood"}), ("none", {}))
    for name, more in made:
        synthetic.evaluation(run, name, {"sampler": "ddpm"}, 1.0, **more)
    report = make([str(tmp_path)])
    assert {row.figures.get("likelihood") for row in report.study.rows} == {"VariationalBound", "ODELikelihood"}
    assert [one.folder.name for one in report.left if "the same" in one.reason] == [
        "none"
    ]  # it says nothing that they do not


@pytest.mark.parametrize(
    ("headline", "key", "values", "take"),
    [
        ("bits_per_dim", "likelihood", ("VariationalBound", "ODELikelihood"), "where.likelihood=VariationalBound or "),
        ("bits_per_dim", "likelihood.n", (10, 20), r"the folders of one of them, run=\[A,B\]"),
        ("mmd", "mmd_sigma", (1.5, 2.5), "where.mmd_sigma=1.5 or where.mmd_sigma=2.5"),
        ("sliced_wasserstein", "directions", (64, 32), "where.directions=64 or where.directions=32"),
        ("mmd", "figures.mmd", ("sigma null", "sigma 2.0"), r"the folders of one of them, run=\[A,B\]"),
        ("precision", "keep", (1000, 2000), "where.keep=1000 or where.keep=2000"),
    ],
)
def test_figures_of_other_settings_of_their_own_are_refused(tmp_path, headline, key, values, take):
    for i, value in enumerate(values):
        synthetic.run(tmp_path / str(i), {"seed": i}, 1.0, **{"headline": headline, headline: 1.0, key: value})
    with pytest.raises(IncompatibleError, match=f"they differ in {key}: .*; take {take}"):
        make([str(tmp_path)])


def test_what_can_be_picked_is_what_the_commands_configuration_has():
    assert set(OmegaConf.load(REPOSITORY / "conf" / "report.yaml").where) == set(comparing.PICKED)


def test_settings_of_other_figures_forbid_no_comparison(tmp_path):
    for i, likelihood in enumerate(("VariationalBound", "ODELikelihood")):
        synthetic.run(tmp_path / str(i), {"seed": i}, 1.0, likelihood=likelihood, mmd_sigma=float(i), keep=i)
    assert len(make([str(tmp_path)]).study.rows) == 2


def test_several_seeds_of_samples_are_one_figure_of_a_training(tmp_path):
    for seed, shift in ((0, 0.0), (1, 1.0)):
        run = synthetic.run(tmp_path / str(seed), {"seed": seed}, None)
        for drawn in (0, 1):
            synthetic.evaluation(run, str(drawn), {"sampler": "ddpm"}, 2 + shift + drawn, sample_seed=drawn)
    report = make([str(tmp_path)])
    (placed,) = report.study.ranking
    assert placed.setting.by_seed() == {0: 2.5, 1: 3.5}
    assert any("several seeds" in said for said in report.warnings)


def test_bits_of_the_training_stand_beside_the_evaluations_of_the_same_weights(tmp_path):
    run = synthetic.run(tmp_path / "0", {}, 5.0, bits_per_dim=4.5, likelihood="VariationalBound")
    synthetic.evaluation(run, "a", {"sampler": "ddpm"}, 1.0)
    synthetic.evaluation(run, "b", {"sampler": "heun"}, 1.0, ema="decay=0.9")
    bits = {row.words["sampler"]: row.figures.get("bits_per_dim") for row in find([str(tmp_path)]).rows}
    assert bits == {"ddim": 4.5, "ddpm": 4.5, "heun": None}


def test_an_exact_denoiser_has_no_training(tmp_path):
    folder = tmp_path / "empirical" / "evaluate" / "0"
    choices = {"analytic": "empirical", "schedule": "from_run", "data": "digits"}
    choices |= dict.fromkeys(synthetic.SAMPLING, "from_run")
    made = {"choices": choices, "config": synthetic.config(dict.fromkeys(synthetic.SAMPLING, "x"), {})}
    synthetic.write_job(folder, "evaluate", {"analytic": "empirical", "data": "digits"}, made)
    figures = synthetic.FIGURES | {"fid": 0.4, "sampler": "DDIM", "schedule": "Cosine", "analytic": "Empirical"}
    (folder / "metrics.json").write_text(json.dumps(figures))
    (row,) = find([str(tmp_path)]).rows
    assert (row.run, row.seed) == (None, None)
    assert {key: row.words[key] for key in ("analytic", "schedule", "data", "sampler")} == {
        "analytic": "empirical",
        "schedule": "cosine",
        "data": "digits",
        "sampler": "ddim",
    }
    assert [str(command) for command in row.commands] == ["python evaluate.py analytic=empirical data=digits"]


def test_a_run_that_was_moved_is_found_by_its_evaluations(tmp_path):
    run = synthetic.run(tmp_path / "old", {"schedule": "flow"}, 2.0)
    synthetic.evaluation(run, "a", {"sampler": "ddpm"}, 1.0)
    shutil.move(run, tmp_path / "new")
    assert {row.words["schedule"] for row in find([str(tmp_path)]).rows} == {"flow"}


# Jobs without figures


def test_jobs_without_figures_are_listed_with_the_reason(tmp_path):
    for i in range(6):
        synthetic.run(tmp_path / str(i), {"seed": i}, 1.0 if i in (0, 4, 5) else None)
    (tmp_path / "1" / "error.txt").write_text("loss is NaN at step 12\n\ntrace")
    (tmp_path / "2" / "run.json").write_text('{"status": "interrupted", "error": "SIGTERM"}')
    (tmp_path / "3" / "run.json").write_text('{"status": "running"}')
    (tmp_path / "4" / "metrics.json").write_text('{"headline": "fid", "fid": NaN}')
    (tmp_path / "5" / "metrics.json").write_text('{"headline": "fi')
    report = make([str(tmp_path)])
    reasons = {one.folder.name: one.reason for one in report.left}
    assert reasons["1"] == "failed: loss is NaN at step 12"
    assert reasons["2"] == "interrupted: SIGTERM"
    assert "running, or was killed" in reasons["3"]
    assert reasons["4"] == "its fid is nan"
    assert "damaged" in reasons["5"]
    assert {one.words for one in report.left} == {f"seed={i}" for i in range(1, 6)}


def test_a_training_that_only_its_evaluations_judged_is_not_missing(tmp_path):
    run = synthetic.run(tmp_path / "0", {}, None)
    (run / "metrics.json").write_text('{"headline": null}')
    synthetic.evaluation(run, "a", {}, 1.0)
    assert make([str(tmp_path)]).left == []


def test_an_evaluation_that_went_on_in_another_folder_is_not_listed(tmp_path):
    run = synthetic.run(tmp_path / "0", {}, 2.0)
    for name, state in ("told", {"gone_on_in": "../new"}), ("killed", {}):
        folder = synthetic.evaluation(run, name, {"sampler.steps": 5}, None)
        (folder / "run.json").write_text(json.dumps({"status": "interrupted", "error": "SIGINT"} | state))
    synthetic.evaluation(run, "new", {"sampler.steps": 5}, 1.5)
    assert [one.folder.name for one in make([str(tmp_path)]).left] == ["killed"]


def test_without_any_figures_there_is_no_report(tmp_path):
    synthetic.run(tmp_path / "0", {}, None)
    with pytest.raises(RunError, match="no run there has figures"):
        make([str(tmp_path)])


def test_a_folder_that_has_no_runs_is_refused(tmp_path):
    with pytest.raises(RunError, match="has no runs in it"):
        make([str(tmp_path)])
    with pytest.raises(RunError, match="is not there"):
        make([str(tmp_path / "nowhere")])


# What may be compared


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("n", 5000),
        ("data", "fashion_mnist"),
        ("data_fingerprint", "other"),
        ("split", "other"),
        ("given", "image"),
        ("extractor", "inception-1234"),
        ("extractor_weights", "other"),
        ("resize", "bicubic"),
        ("floor_n", 10),
        ("headline", "kid"),
    ],
)
def test_figures_that_cannot_be_compared_are_refused_by_name(tmp_path, key, value):
    synthetic.run(tmp_path / "0", {"seed": 0}, 1.0)
    synthetic.run(tmp_path / "1", {"seed": 1}, 2.0, **{"kid": 0.1, key: value})
    with pytest.raises(IncompatibleError, match=rf"they differ in {key}.*; take where\.{key}=") as refused:
        make([str(tmp_path)])
    assert "\n" not in str(refused.value)
    assert [row.figures[key] for row in make([str(tmp_path)], {key: value}).study.rows] == [value]


def test_a_value_that_no_figure_has_is_refused_with_those_there_are(tmp_path):
    synthetic.run(tmp_path / "0", {}, 1.0)
    with pytest.raises(ConfigError, match=r"where\.n=7 is none of these figures'; there is n=1000 in 1"):
        make([str(tmp_path)], {"n": 7})


def test_older_figures_that_say_less_are_compared_with_a_warning(tmp_path):
    synthetic.run(tmp_path / "0", {"seed": 0}, 1.0)
    path = synthetic.run(tmp_path / "1", {"seed": 1}, 2.0) / "metrics.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "resize"}))
    assert any("do not say their resize" in said for said in make([str(tmp_path)]).warnings)


def test_other_code_is_warned_about(tmp_path):
    synthetic.run(tmp_path / "0", {"seed": 0}, 1.0)
    synthetic.run(tmp_path / "1", {"seed": 1}, 2.0, code="0.1.0+def-dirty")
    said = " ".join(make([str(tmp_path)]).warnings)
    assert "2 versions of the code" in said
    assert "-dirty" in said


def test_equal_sources_are_one_code_whatever_the_commit(tmp_path):
    """A commit of the README changes the version and no file of the package."""
    for i, code in enumerate(("0.1.0+abc", "0.1.0+def")):
        synthetic.run(tmp_path / str(i), {"seed": i}, 1.0, code=code, source="0123456789ab")
    assert not any("versions" in said for said in make([str(tmp_path)]).warnings)


def test_samples_with_the_seed_of_their_training_are_no_cause_for_warning(tmp_path):
    for i in range(4):
        synthetic.run(tmp_path / str(i), {"seed": i % 2, "schedule": ("flow", "cosine")[i // 2]}, 1.0 + i)
    report = make([str(tmp_path)])
    assert report.warnings == []
    assert report.provenance["seed of the samples"] == "that of the training"


@pytest.mark.parametrize("name", ["config", "hydra", "overrides"])
def test_a_run_whose_yaml_is_damaged_is_listed_with_the_file(tmp_path, name):
    for i in (0, 1):
        run = synthetic.run(tmp_path / str(i), {"seed": i}, 1.0)
    synthetic.evaluation(run, "a", {"sampler": "ddpm"}, 1.0)
    (run / ".hydra" / f"{name}.yaml").write_text("{a: [")
    report = make([str(tmp_path)])
    assert [row.folder.name for row in report.study.rows] == ["0"]
    assert all(f".hydra/{name}.yaml is damaged" in one.reason and "\n" not in one.reason for one in report.left)
    assert [one.folder.name for one in report.left] == ["1", "a"]
