"""The ranking: means over seeds, their intervals, and what can be told from the best."""

import csv
import io

import pytest
import synthetic

from denoiselab.report.report import make, reproduced
from denoiselab.report.tables import figure, to
from denoiselab.report.words import shown

NOISE = {0: 0.0, 1: 3.0, 2: -2.0}  # of a seed, far larger than the differences of the schedules


def ranked(folder, figures: dict[str, dict[int, float]], **more):
    for schedule, by_seed in figures.items():
        for seed, fid in by_seed.items():
            synthetic.run(folder / f"{schedule}_{seed}", {"schedule": schedule, "seed": seed}, fid, **more)
    return make([str(folder)])


def test_settings_are_ranked_by_their_means(tmp_path):
    report = ranked(tmp_path, {"linear": {0: 4.0, 1: 6.0}, "cosine": {0: 1.0, 1: 2.0}, "flow": {0: 3.0, 1: 3.5}})
    found = [(one.rank, one.setting.words["schedule"], one.setting.estimate.mean) for one in report.study.ranking]
    assert found == [(1, "cosine", 1.5), (2, "flow", 3.25), (3, "linear", 5.0)]
    assert report.best == 1.5


def test_paired_differences_tell_apart_what_intervals_do_not(tmp_path):
    """cosine is better by exactly .1 at each seed, though the seeds are 5 apart."""
    report = ranked(
        tmp_path,
        {"cosine": {s: 10 + x for s, x in NOISE.items()}, "linear": {s: 10.1 + x for s, x in NOISE.items()}},
    )
    best, other = report.study.ranking
    assert other.setting.estimate.overlaps(best.setting.estimate)
    assert other.behind.mean == pytest.approx(0.1)
    assert other.alike is False
    assert "All others are behind it" in " ".join(report.short)


def test_a_difference_that_changes_sign_between_seeds_is_none(tmp_path):
    report = ranked(tmp_path, {"cosine": {0: 1.0, 1: 2.0, 2: 3.0}, "linear": {0: 1.4, 1: 1.9, 2: 3.1}})
    assert report.study.ranking[1].alike is True
    assert "Not to be told from it at 95%: linear" in " ".join(report.short)
    assert "≈" in report.markdown()


def test_one_seed_takes_the_bootstrap_interval_of_its_samples(tmp_path):
    for schedule, fid in (("cosine", 1.0), ("linear", 1.3), ("flow", 2.0)):
        synthetic.run(tmp_path / schedule, {"schedule": schedule}, fid, fid_low=fid - 0.2, fid_high=fid + 0.2)
    report = make([str(tmp_path)])
    first, second, third = report.study.ranking
    assert (first.setting.estimate.low, first.setting.estimate.over) == (0.8, "bootstrap")
    assert (second.alike, third.alike) == (True, False)
    assert "bootstrap" in report.ranking_said


def test_without_an_interval_nothing_is_said_to_be_alike(tmp_path):
    report = ranked(tmp_path, {"cosine": {0: 1.0}, "linear": {0: 1.1}})
    assert report.study.ranking[1].alike is None
    assert "interval" not in [key for key, _ in report.ranking.columns]
    assert "no interval" in report.ranking_said


def test_seeds_that_only_one_setting_has_do_not_enter_its_distance(tmp_path):
    report = ranked(tmp_path, {"cosine": {0: 1.0, 1: 2.0}, "linear": {0: 1.5, 1: 2.5, 2: 100.0}})
    assert report.study.ranking[1].behind.mean == pytest.approx(0.5)


def test_points_are_ranked_by_their_own_figure(tmp_path):
    for i in range(2):
        own = {"headline": "sliced_wasserstein", "sliced_wasserstein": 0.03 + 0.01 * i, "floor": 0.02}
        synthetic.run(tmp_path / str(i), {"schedule": ("flow", "cosine")[i]}, 0.0, **own)
    report = make([str(tmp_path)])
    assert report.best == 0.03
    assert ("sliced_wasserstein", "sliced Wasserstein") in report.ranking.columns


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (35.01, "35.0"),
        (4.6633, "4.66"),
        (0.30561, "0.306"),
        (50, "50"),
        (1234.5, "1234"),
        (-0.0512, "−0.0512"),
        (0, "0"),
    ],
)
def test_figures_have_three_digits(value, said):
    assert figure(value) == said


def test_shares_are_percentages_and_what_is_not_known_is_a_dash():
    assert (figure(0.9944, True), figure(None), figure(float("nan"))) == ("99.4%", "–", "–")


def test_ends_of_intervals_have_two_digits_of_their_width():
    assert (to(0.4081, 0.0693), to(-0.00288, 0.05), to(12.3456, 3.1)) == ("0.408", "−0.003", "12.3")


def test_commands_of_seeds_are_one_sweep(tmp_path):
    report = ranked(tmp_path, {"cosine": {0: 1.0, 1: 2.0}, "linear": {0: 3.0}})
    commands = [[str(one) for one in reproduced(placed.setting)] for placed in report.study.ranking]
    assert commands == [
        ["python train.py -m schedule=cosine seed=0,1"],
        ["python train.py schedule=linear seed=0"],
    ]


def test_an_evaluations_row_has_the_training_and_the_evaluation(tmp_path):
    run = synthetic.run(tmp_path / "a run", {"schedule": "flow", "cache": "/tmp/x", "data.list": "[1,2]"}, 2.0)
    synthetic.evaluation(run, "a", {"sampler": "'ddpm'", "n": 1000}, 1.0)
    commands = [str(one) for one in reproduced(make([str(tmp_path)]).study.ranking[0].setting)]
    assert commands == [
        "python train.py schedule=flow 'data.list=[1,2]'",
        f"python evaluate.py 'run={run}' sampler=ddpm n=1000",
    ]


def test_csv_has_a_line_for_each_figure_with_all_words_and_figures(tmp_path):
    report = ranked(tmp_path, {"cosine": {0: 1.0, 1: 2.0}, "linear": {0: 3.0, 1: 3.5}}, class_accuracy=0.9)
    for path in report.write(tmp_path / "out"):
        if path.suffix == ".csv":
            lines = list(csv.DictReader(io.StringIO(path.read_text())))
    assert [(line["rank"], line["word:schedule"], line["seed"], float(line["fid"])) for line in lines] == [
        ("1", "cosine", "0", 1.0),
        ("1", "cosine", "1", 2.0),
        ("2", "linear", "0", 3.0),
        ("2", "linear", "1", 3.5),
    ]
    assert {line["class_accuracy"] for line in lines} == {"0.9"}
    for key, value in synthetic.FIGURES.items():
        assert {line[key] for line in lines} == {shown(value)}


# The floor


def test_a_floor_of_another_n_is_told_apart_and_not_drawn(tmp_path):
    """360 test images are the floor of 360 samples and not of 1000; what is extrapolated to any n may be compared."""
    for i, more in enumerate(({}, {"fid_infinity": 0.8, "floor.fid_infinity": 0.125})):
        for seed in (0, 1):
            for schedule, fid in (("cosine", 1.0), ("linear", 2.0)):
                words = {"seed": seed, "schedule": schedule}
                synthetic.run(tmp_path / str(i) / f"{schedule}{seed}", words, fid + seed, floor_n=360, **more)
    plain, extrapolated = (make([str(tmp_path / name)]) for name in "01")
    assert plain.short[0].endswith("the floor, that of real test data, is 0.300 at n 360, not to be compared.")
    assert extrapolated.short[0].endswith("not to be compared (FID∞, for any n: 0.800 and 0.125).")
    assert any("n 1000 and their floor is of n 360, not to be compared" in said for said in plain.warnings)
    assert any("FID∞ do not depend on n" in said for said in extrapolated.warnings)
    assert plain.provenance["floor"] == "0.3 (at n 360, not to be compared)"
    assert ("floor", "floor, n 360") in plain.ranking.columns
    assert [chart.floor for chart, _ in plain.charts()["ranking"]] == [None]
    assert "dotted" not in plain.page()


def test_a_floor_of_the_same_n_is_drawn(tmp_path):
    for schedule, fid in (("cosine", 1.0), ("linear", 2.0)):
        synthetic.run(tmp_path / schedule, {"schedule": schedule}, fid)
    report = make([str(tmp_path)])
    assert [chart.floor for chart, _ in report.charts()["ranking"]] == [0.3]
    assert report.warnings == []
    assert report.provenance["floor"] == "0.3 (n 1000)"
