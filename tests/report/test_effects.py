"""Means of each axis, on runs whose figures are additive: the answers are known."""

import numpy as np
import pytest
import synthetic

from denoiselab.report.report import Report, make

SCHEDULE = {"linear": 1.0, "cosine": 0.0, "flow": 0.5}
PREDICTION = {"eps": 0.2, "x0": 4.0, "v": 0.0}
SEEDS = {0: -0.1, 1: 0.0, 2: 0.3}


def study(folder, figure, leave=()) -> Report:
    """A sweep of schedule, parameterization and seed; `leave` are jobs that never ended."""
    job = 0
    for seed in SEEDS:
        for schedule in SCHEDULE:
            for prediction in PREDICTION:
                words = {"seed": seed, "schedule": schedule, "parameterization": prediction}
                fid = None if (schedule, prediction, seed) in leave else figure(schedule, prediction, seed)
                synthetic.run(folder / str(job), words, fid)
                job += 1
    return make([str(folder)])


def additive(schedule, prediction, seed) -> float:
    return 2 + SCHEDULE[schedule] + PREDICTION[prediction] + SEEDS[seed]


def means(report, key) -> dict:
    effect = next(effect for effect in report.effects if effect.axis.key == key)
    return {level.value: level.mean for level in effect.levels}


def test_means_of_an_additive_study_are_its_terms(tmp_path):
    report = study(tmp_path, additive)
    middle = 2 + np.mean(list(SEEDS.values()))
    assert means(report, "schedule") == pytest.approx({a: middle + x + 1.4 for a, x in SCHEDULE.items()})
    assert means(report, "parameterization") == pytest.approx({b: middle + x + 0.5 for b, x in PREDICTION.items()})
    assert [(effect.axis.key, effect.cells, effect.seeds, effect.balanced) for effect in report.effects] == [
        ("schedule", 3, 3, True),
        ("parameterization", 3, 3, True),
    ]


def test_what_seeds_have_in_common_is_not_in_the_intervals(tmp_path):
    """The seeds' own level moves all settings alike; paired differences do not see it."""
    for effect in study(tmp_path, additive).effects:
        assert [level.half for level in effect.levels] == pytest.approx([0] * 3, abs=1e-12)


def test_intervals_are_students_of_the_paired_differences(tmp_path):
    """Noise that falls on cosine alone, in all its cells: the deviations from the mean are 2/3 and -1/3 of it."""
    noise = {0: 0.0, 1: 0.3, 2: 0.6}
    report = study(tmp_path, lambda a, b, s: additive(a, b, s) + noise[s] * (a == "cosine"))
    half = 4.302652729911275 * 0.3 / np.sqrt(3)
    found = {level.value: level.half for level in report.effects[0].levels}
    assert found == pytest.approx({"linear": half / 3, "cosine": 2 * half / 3, "flow": half / 3})


def test_a_missing_run_leaves_the_complete_part_and_the_means_their_differences(tmp_path):
    report = study(tmp_path, additive, leave={("flow", "eps", 2)})
    effects = {effect.axis.key: effect for effect in report.effects}
    assert (effects["schedule"].cells, effects["schedule"].of, effects["schedule"].seeds) == (2, 3, 3)
    assert not effects["schedule"].balanced
    assert "not balanced: 1 of 3 cells" in report.about(effects["schedule"])
    found = means(report, "schedule")
    assert found["linear"] - found["cosine"] == pytest.approx(1)
    assert found["flow"] - found["cosine"] == pytest.approx(0.5)
    assert len(report.left) == 1


def test_a_value_that_shares_no_cell_is_left_out_and_named(tmp_path):
    only = {("linear", "x0", s) for s in SEEDS} | {("linear", "v", s) for s in SEEDS}
    only |= {("cosine", "eps", s) for s in SEEDS} | {("flow", "eps", s) for s in SEEDS}
    report = study(tmp_path, additive, leave=only)
    effect = next(effect for effect in report.effects if effect.axis.key == "schedule")
    assert effect.left_out == ("linear",)
    assert "linear left out" in report.about(effect)
    assert means(report, "schedule")["flow"] - means(report, "schedule")["cosine"] == pytest.approx(0.5)


def test_two_values_that_share_cells_are_compared_though_others_are_more_frequent(tmp_path):
    """Flow and linear each share nothing with cosine, the most frequent, and one cell with one another."""
    pairs = [("cosine", "v"), *((a, b) for a in ("linear", "flow") for b in ("eps", "x0"))]
    leave = {(*pair, seed) for pair in pairs for seed in SEEDS}
    effect = next(one for one in study(tmp_path, additive, leave).effects if one.axis.key == "schedule")
    assert {level.value for level in effect.levels} == {"linear", "flow"}
    assert effect.left_out == ("cosine",)


def test_with_one_seed_intervals_are_over_cells_and_say_so(tmp_path):
    for job, (schedule, prediction) in enumerate((a, b) for a in SCHEDULE for b in PREDICTION):
        words = {"schedule": schedule, "parameterization": prediction}
        synthetic.run(tmp_path / str(job), words, additive(schedule, prediction, 0))
    report = make([str(tmp_path)])
    assert {effect.over for effect in report.effects} == {"3 cells of one seed"}
    assert report.effects[0].levels[0].half == pytest.approx(0, abs=1e-12)


def test_an_additive_study_has_no_table_of_two_axes(tmp_path):
    assert study(tmp_path, additive).interactions == []


def test_noise_is_not_taken_for_an_interaction(tmp_path):
    noise = np.random.default_rng(1).normal(size=(9, 9, 3)) * 0.5
    code = {word: i for i, word in enumerate([*SCHEDULE, *PREDICTION])}
    report = study(tmp_path, lambda a, b, s: 5 + noise[code[a], code[b], s])
    assert report.interactions == []


def test_axes_that_only_do_something_together_are_shown_together(tmp_path):
    """flow is worse with eps, and better without it: the means of schedule are all the same."""
    effect = {("flow", "eps"): 2.0, ("flow", "x0"): -1.0, ("flow", "v"): -1.0}
    report = study(tmp_path, lambda a, b, s: 5 + effect.get((a, b), 0.0) + SEEDS[s] + 0.01 * s * (b == "v"))
    assert np.ptp(list(means(report, "schedule").values())) == pytest.approx(0, abs=1e-9)
    (found,) = report.interactions
    assert (found.first.key, found.second.key, found.p < 1e-6) == ("schedule", "parameterization", True)
    cells = dict(zip(found.first.values, found.means.tolist(), strict=True))
    level = 5 + np.mean(list(SEEDS.values()))
    assert cells["flow"] == pytest.approx([level + 2, level - 1, level - 1 + 0.01])
    heat = dict(report.heat(found))
    assert max(share for cells in heat.values() for _, share in cells) == heat["flow"][0][1] == 1
