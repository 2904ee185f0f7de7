"""python -m denoiselab.tools.selftest finds the first bit that differs, and says so where there is none."""

import signal
import tempfile

import pytest
import torch

from denoiselab.tools import selftest
from denoiselab.tools.selftest import compared, compared_logs, figures, leaves

SMALL = """
    data=digits batch_size=32 backbone=mlp backbone.width=16 backbone.depth=1 trainer=cpu optimizer.decay=constant
    optimizer.warmup_steps=1 callbacks.samples=null callbacks.denoising=null sampler.steps=2
"""
WORDS = SMALL.split()


def state(**changes: object) -> dict:
    others, moments = {"decay=0.5": {"weight": torch.ones(3)}}, {"exp_avg": torch.zeros(2, dtype=torch.bfloat16)}
    return {
        "epoch": 0,
        "global_step": 4,
        "state_dict": {"weight": torch.arange(6.0).reshape(2, 3), "bias": torch.tensor(1.0)},
        "ema": {"updates": 4, "weights": {"weight": torch.zeros(3)}, "others": others},
        "optimizer_states": [{"state": {0: moments}, "param_groups": [{"lr": 0.1}]}],
        "denoiselab": {"config": {"seed": 0}},
        **changes,
    }


def test_equal_checkpoints_are_equal_whatever_the_run_is_called_and_however_often_it_was_ended():
    assert compared(state(), state()) is None
    assert compared(state(), state(denoiselab={"wandb_id": "abc"}, epoch=3)) is None
    nan = {"weight": torch.tensor([torch.nan, 1.0])}
    assert compared(state(state_dict=nan), state(state_dict={"weight": nan["weight"].clone()})) is None


def test_the_leaves_are_named_by_their_place():
    assert [key for key, _ in leaves(state())] == [
        "global_step",
        "state_dict.weight",
        "state_dict.bias",
        "ema.updates",
        "ema.weights.weight",
        "ema.others.decay=0.5.weight",
        "optimizer_states.0.state.0.exp_avg",
        "optimizer_states.0.param_groups.0.lr",
    ]


def test_the_last_bit_of_one_element_is_a_difference_and_the_first_tensor_is_named():
    other = state()
    other["state_dict"]["weight"][1, 1] = torch.nextafter(torch.tensor(4.0), torch.tensor(5.0))
    other["ema"]["others"]["decay=0.5"]["weight"] += 1
    difference = compared(state(), other)
    assert str(difference) == "state_dict.weight: 1 of 6 elements differ, by 4.77e-07 at most"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"global_step": 5}, "global_step: 4 and 5"),
        ({"state_dict": {"weight": torch.arange(6.0), "bias": torch.tensor(1.0)}}, "torch.float32 (2, 3) and "),
        ({"state_dict": {"weight": torch.arange(6).reshape(2, 3), "bias": torch.tensor(1.0)}}, "torch.int64 (2, 3)"),
        ({"state_dict": {"weight": torch.arange(6.0).reshape(2, 3)}}, "state_dict.bias: is in the first checkpoint"),
        ({"callbacks": {"best": 1.0}}, "callbacks.best: is in the second checkpoint alone"),
        ({"optimizer_states": []}, "optimizer_states.0.state.0.exp_avg: is in the first checkpoint alone"),
    ],
)
def test_what_is_of_another_kind_or_missing_is_a_difference(change, told):
    difference = compared(state(), state(**change))
    assert difference is not None
    assert told in str(difference)


def test_a_zero_with_another_sign_is_another_number():
    one, other = (state(ema={"weight": torch.tensor([value])}) for value in (0.0, -0.0))
    assert str(compared(one, other)) == "ema.weight: 1 of 1 elements differ, by 0 at most"


def test_a_log_is_read_by_step_and_name_without_what_the_clock_says(tmp_path):
    (tmp_path / "metrics.csv").write_text(
        "step,train/images_per_second,train/loss,val/loss\n2,99,0.25,\n1,98,0.5,\n2,,,0.125\n2,97,0.25,\n"
    )
    assert figures(tmp_path / "metrics.csv") == {
        (1, "train/loss"): ["0.5"],
        (2, "train/loss"): ["0.25", "0.25"],
        (2, "val/loss"): ["0.125"],
    }


def test_logs_differ_where_a_step_is_missing_or_repeated_or_another():
    one = {(1, "train/loss"): ["0.5"], (2, "train/loss"): ["0.25"], (2, "val/loss"): ["1"]}
    assert compared_logs(one, dict(one)) is None
    assert compared_logs(one, {**one, (1, "val/loss"): ["2"]}) is None, "it ended there once, and was judged"
    for change, told in (
        ({(2, "train/loss"): ["0.25", "0.25"]}, "step 2, train/loss: 0.25 in one go, 0.25 and 0.25 in two"),
        ({(1, "train/loss"): []}, "step 1, train/loss: 0.5 in one go, nothing in two"),
        ({(3, "train/loss"): ["0.1"]}, "step 3, train/loss: nothing in one go, 0.1 in two"),
        ({(2, "val/loss"): ["1.5"]}, "step 2, val/loss: 1 in one go, 1.5 in two"),
    ):
        assert str(compared_logs(one, {**one, **change})) == f"metrics.csv, {told}"


@pytest.fixture
def here(monkeypatch, tmp_path):
    """What train.py does is done in this process, which has imported everything; the folders are ours."""
    from cli.test_resume import train

    def trained(words) -> None:
        said = train(*words)
        assert said.status == 0, said.err

    monkeypatch.setattr(selftest, "train", trained)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.slow
def test_going_on_is_shown_to_be_exact(here, capsys):
    assert selftest.main(["resume", "how=stop", "trainer.max_steps=6", *WORDS]) == 0
    out = capsys.readouterr().out
    assert "going on from step 3 ... " in out
    last = out.splitlines()[-1]
    assert last.startswith("equal: ")
    assert last.endswith(" figures of 6 steps in metrics.csv")
    assert not list(here.iterdir())


@pytest.mark.slow
def test_it_is_shown_after_a_real_sigterm_too(here, capsys):
    assert selftest.main(["resume", "trainer.max_steps=40", "batch_size=1000", *WORDS[2:]]) == 0
    assert "ended by sigterm ... " in capsys.readouterr().out


@pytest.mark.slow
def test_what_is_not_saved_with_a_run_is_found_out(here, capsys, monkeypatch):
    """Noise that depends on how many steps this process has done, which one that goes on does not know."""
    from denoiselab.training.system import DiffusionSystem

    real, steps = DiffusionSystem.training_step, [0]

    def forgetful(self, batch, batch_idx):
        steps[0] = steps[0] + 1 if batch_idx != self.begun else 1
        return real(self, {**batch, "image": batch["image"].roll(steps[0], -1)}, batch_idx)

    monkeypatch.setattr(DiffusionSystem, "training_step", forgetful)
    monkeypatch.setattr(DiffusionSystem, "on_train_start", lambda self: setattr(self, "begun", self.global_step))
    assert selftest.main(["resume", "how=stop", "trainer.max_steps=6", *WORDS]) == 1
    first, tensor, row, place = capsys.readouterr().err.splitlines()
    assert first == "not equal:"
    assert tensor.startswith("  state_dict.pipeline.")
    assert " elements differ, by " in tensor
    assert row.startswith("  metrics.csv, step 4, train/loss: ")
    assert place == f"  both runs lie in {next(here.glob('denoiselab-selftest-*'))}"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "what is to be tested?"),
        (["resume", "how=prayer"], "how=prayer is not known; allowed: sigterm, sigkill or stop"),
        (["resume", "trainer.max_steps=3"], "cannot be done in two parts; take 4 or more"),
        (["resume", "trainer.max_steps=many"], "cannot be done in two parts"),
    ],
)
def test_a_slip_is_told_in_one_line(words, told, capsys):
    assert selftest.main(words) == 2
    err = capsys.readouterr().err
    assert told in err
    assert err.count("\n") == 1


@pytest.mark.slow
def test_a_stop_by_max_steps_needs_a_learning_rate_that_does_not_depend_on_it(here, capsys):
    words = ["optimizer.decay=cosine" if word.startswith("optimizer.decay") else word for word in WORDS]
    assert selftest.main(["resume", "how=stop", "trainer.max_steps=4", *words]) == 2
    assert "add optimizer.decay=constant, or take how=sigterm" in capsys.readouterr().err
    assert not list(here.iterdir())


@pytest.mark.slow
def test_a_run_that_ends_before_the_signal_comes_is_no_test(tmp_path):
    from denoiselab.errors import UserError

    with pytest.raises(UserError, match=r"had ended with status 2 before SIGTERM came"):
        selftest.stopped(["schedule=cosin"], tmp_path, signal.SIGTERM)
