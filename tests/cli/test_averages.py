"""Averages of a run's weights, chosen after its training."""

import pytest
import pytorch_lightning as pl
import torch

from conftest import fit, tiny_system
from denoiselab.ema import EMA, exponent
from denoiselab.errors import RunError
from denoiselab.runs import checkpoint
from denoiselab.training.callbacks import Checkpoint, Snapshots


class Trajectory(pl.Callback):
    """Keeps the weights after each step, as rows."""

    def __init__(self) -> None:
        self.rows: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer, system, *_) -> None:
        self.rows.append(torch.cat([p.detach().double().flatten() for p in system.ema.live]))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run's folder, its checkpoint's averages and its weights after each step."""
    folder, trajectory = tmp_path_factory.mktemp("run"), Trajectory()
    system = tiny_system(ema=EMA([0.5, 0.9], [0.05, 0.1], snapshot_every=10))
    fit(system, folder, steps=200, callbacks=[trajectory, Snapshots(10), Checkpoint()])
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return folder, state["ema"], torch.stack(trajectory.rows)


def flat(weights):
    return torch.cat([w.double().flatten() for w in weights.values()])


@pytest.mark.slow
def test_with_nothing_asked_it_is_the_one_that_the_run_was_judged_by(run):
    folder, state, _ = run
    for asked in (None, {"decay": None, "sigma_rel": None}, {"decay": 0.5}):
        name, weights = checkpoint.averaged({"ema": state}, folder, asked)
        assert name == "decay=0.5"
        assert weights is state["weights"]


@pytest.mark.slow
@pytest.mark.parametrize("asked", [{"decay": 0.9}, {"sigma_rel": 0.05}, {"sigma_rel": 0.1}])
def test_an_average_that_was_kept_is_taken_as_it_is(run, asked):
    folder, state, _ = run
    ((key, value),) = asked.items()
    assert checkpoint.averaged({"ema": state}, folder, asked) == (
        f"{key}={value:g}",
        state["others"][f"{key}={value:g}"],
    )


@pytest.mark.slow
@pytest.mark.parametrize("sigma_rel", [0.06, 0.075, 0.12, 0.15])
def test_any_width_is_near_the_weighted_sum_over_the_training(run, sigma_rel):
    folder, state, rows = run
    part = torch.arange(201, dtype=torch.float64) / 200
    exact = (part ** (exponent(sigma_rel) + 1)).diff() @ rows
    name, weights = checkpoint.averaged({"ema": state}, folder, {"sigma_rel": sigma_rel})
    assert name == f"sigma_rel={sigma_rel:g}"
    off = (flat(weights) - exact).norm() / (rows[-1] - exact).norm()
    assert off < 0.03, "of twenty snapshots"


@pytest.mark.slow
def test_what_was_not_kept_is_refused_with_what_there_is(run, tmp_path):
    folder, state, _ = run
    with pytest.raises(RunError, match=r"decay=0\.99 is not .*there is decay=0\.5, decay=0\.9, sigma_rel=0\.05"):
        checkpoint.averaged({"ema": state}, folder, {"decay": 0.99})
    with pytest.raises(RunError, match=r"kept none; train with ema=power"):
        checkpoint.averaged({"ema": state}, tmp_path, {"sigma_rel": 0.2})
    with pytest.raises(RunError, match="give one of them"):
        checkpoint.averaged({"ema": state}, folder, {"decay": 0.9, "sigma_rel": 0.2})
