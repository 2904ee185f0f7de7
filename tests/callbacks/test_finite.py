"""NaN in the data and in the weights, in real training: what stops, what is left out, and what stays as it was."""

from collections.abc import Sequence
from functools import cached_property

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins import MixedPrecision

from conftest import Specks, fit, tiny_system, weights
from denoiselab.data.datamodule import BatchStream
from denoiselab.data.source import Batch, ImageSet
from denoiselab.errors import BrokenRunError
from denoiselab.objectives import WeightedMSE
from denoiselab.time_sampling import LossSecondMoment
from denoiselab.training.callbacks import Checkpoint, Finite
from denoiselab.training.callbacks.finite import finite
from denoiselab.training.checkpoint_io import WholeFiles
from denoiselab.weightings import Simple


class Holes(Specks):
    """Specks as floats; the images `bad` are NaN."""

    def __init__(self, bad: Sequence[int]) -> None:
        super().__init__()
        self.bad = bad

    @cached_property
    def train(self) -> ImageSet:
        return _Holes(super().train, self.bad)


class _Holes(ImageSet):
    def __init__(self, whole: ImageSet, bad: Sequence[int]) -> None:
        self.whole, self.bad, self.labels = whole, torch.tensor(bad), whole.labels

    def __len__(self) -> int:
        return len(self.whole)

    def __getitems__(self, indices: Sequence[int]) -> Batch:
        batch = self.whole.__getitems__(indices)
        images = batch["image"].float() / 127.5 - 1
        images[torch.isin(torch.tensor(indices), self.bad)] = torch.nan
        return {**batch, "image": images}


def in_batch(k: int) -> list[int]:
    """The images of the k-th batch of 8, which no other batch of the first 6 has."""
    return BatchStream(48, 8, seed=0).batch(k)[:1]


class Recorder(pl.Callback):
    """Weights, the optimizer's state and the average after each batch."""

    def __init__(self) -> None:
        self.weights, self.states, self.averages = [], [], []

    def on_train_batch_end(self, trainer, system, *_) -> None:
        self.weights.append(weights(system.pipeline))
        state = trainer.optimizers[0].state_dict()["state"]
        self.states.append(torch.cat([torch.zeros(0), *(v.flatten() for s in state.values() for v in s.values())]))
        self.averages.append(torch.cat([s.flatten().clone() for s in system.ema.shadow]))


class Poison(pl.Callback):
    """Sets a weight to NaN after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer, system, *_) -> None:
        if trainer.global_step == self.step:
            with torch.no_grad():
                next(system.pipeline.parameters()).view(-1)[0] = torch.nan


def saved(folder, name="last"):
    return torch.load(folder / "checkpoints" / f"{name}.ckpt", weights_only=True)


def test_a_step_left_out_changes_no_weight_and_no_moment_and_the_steps_after_it_go_on(tmp_path):
    seen, guard, system = Recorder(), Finite("skip"), tiny_system()
    fit(system, tmp_path, steps=6, callbacks=[guard, seen, Checkpoint()], source=Holes(in_batch(3)))
    moved = [not torch.equal(a, b) for a, b in zip(seen.weights, seen.weights[1:], strict=False)]
    assert moved == [True, True, False, True, True]
    assert torch.equal(seen.states[2], seen.states[3])  # moments, and the optimizer's own count
    assert guard.skipped == system.losses["train/skipped_steps"] == 1
    assert guard.in_a_row == 0
    assert saved(tmp_path)["callbacks"]["Finite"]["skipped"] == 1


def test_the_average_takes_a_step_left_out_as_one_in_which_the_weights_stood_still(tmp_path):
    seen, system = Recorder(), tiny_system()
    fit(system, tmp_path, steps=5, callbacks=[Finite("skip"), seen], source=Holes(in_batch(3)))
    average = weights(tiny_system().pipeline)
    for k, now in enumerate(seen.weights, 1):
        average = average.lerp(now, 1 - system.ema.profiles[0].beta(k))
        assert torch.allclose(seen.averages[k - 1], average, rtol=0, atol=1e-6)
    assert finite(system.ema.shadow)


def test_of_an_accumulated_batch_the_whole_is_left_out(tmp_path):
    """Batches 2 and 3 are the second step; the first of them is bad."""
    seen, guard = Recorder(), Finite("skip")
    accumulated = {"accumulate_grad_batches": 2, "source": Holes(in_batch(2))}
    fit(tiny_system(), tmp_path, steps=3, callbacks=[guard, seen], **accumulated)
    assert torch.equal(seen.weights[1], seen.weights[3])
    assert not torch.equal(seen.weights[3], seen.weights[5])
    assert guard.skipped == 1


def test_a_time_sampler_that_learns_from_losses_forgets_those_that_are_nan(tmp_path):
    sampler = LossSecondMoment(T=4, history=1)
    system = tiny_system(objective=WeightedMSE(Simple(), sampler))
    fit(system, tmp_path, steps=6, callbacks=[Finite("skip")], source=Holes(in_batch(1)))
    assert sampler.counts.sum() == 6 * 8 - 1
    assert sampler.history.isfinite().all()


def test_the_run_stops_before_the_bad_step_with_the_checkpoint_before_it(tmp_path):
    seen = Recorder()
    told = r"step 4: the gradients are NaN.*last\.ckpt of step 3 is good; try a smaller optimizer\.lr.*on_nan=skip"
    with pytest.raises(BrokenRunError, match=told) as stopped:
        fit(tiny_system(), tmp_path, 6, [Finite(), seen, Checkpoint(1)], source=Holes(in_batch(3)))
    assert "\n" not in str(stopped.value)
    assert len(seen.weights) == 3
    assert saved(tmp_path)["global_step"] == 3
    assert saved(tmp_path, "previous")["global_step"] == 2


def test_where_no_step_is_good_leaving_out_ends_after_its_patience(tmp_path):
    guard = Finite("skip", patience=4)
    told = "step 4: the gradients were NaN or infinite 4 times in a row; no checkpoint had been written"
    with pytest.raises(BrokenRunError, match=told):
        fit(tiny_system(), tmp_path, steps=9, callbacks=[guard], source=Holes(range(48)))


@pytest.mark.parametrize("callbacks", [[Finite("skip")], []], ids=["with the callback", "without"])
def test_weights_that_are_nan_take_no_good_checkpoints_place(callbacks, tmp_path):
    told = r"step 3: the weights are NaN or infinite; .*last\.ckpt of step 2 is good"
    with pytest.raises(BrokenRunError, match=told):
        fit(tiny_system(), tmp_path, steps=6, callbacks=[Poison(3), *callbacks, Checkpoint(1)])
    assert saved(tmp_path)["global_step"] == 2
    assert all(value.isfinite().all() for value in saved(tmp_path)["state_dict"].values())
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == {"last.ckpt", "previous.ckpt"}


def test_an_average_that_is_nan_is_not_saved_either(tmp_path):
    class PoisonAverage(pl.Callback):
        def on_train_batch_end(self, trainer, system, *_) -> None:
            if trainer.global_step == 2:
                system.ema.shadow[0].view(-1)[0] = torch.inf

    with pytest.raises(BrokenRunError, match="step 2: the weights are NaN or infinite"):
        fit(tiny_system(), tmp_path, steps=3, callbacks=[Finite(), PoisonAverage(), Checkpoint(1)])
    assert saved(tmp_path)["global_step"] == 1


def test_with_a_loss_scaler_its_own_steps_left_out_are_counted_and_stop_the_run_only_in_a_row(tmp_path):
    """A real GradScaler, on the CPU."""

    def trained(source, callbacks):
        precision = MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=16.0))
        plugins = [WholeFiles(), precision]
        return fit(tiny_system(), tmp_path, steps=6, callbacks=callbacks, source=source, plugins=plugins)

    seen, guard = Recorder(), Finite("stop", patience=3)
    trained(Holes(in_batch(3)), [guard, seen])
    assert torch.equal(seen.weights[2], seen.weights[3])
    assert guard.skipped == 1
    with pytest.raises(BrokenRunError, match="3 times in a row"):
        trained(Holes(range(48)), [Finite("stop", patience=3)])


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_one_value_among_many_is_found_and_large_ones_are_no_infinity(bad):
    tensors = [torch.full((1000,), 3e38), torch.zeros(0), torch.ones(3, 3, dtype=torch.float64)]
    assert finite(tensors)
    tensors[2][1, 1] = bad
    assert not finite(tensors)
    assert finite([])
