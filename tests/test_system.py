"""Training is a function of the seed and the batch number; validation of the averaged weights and the images."""

import copy
from functools import partial

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from conftest import Projection, Specks, composed, fit, tiny_pipeline, tiny_recipe, tiny_system, tiny_trainer, weights
from denoiselab.assembly.configuration import plain
from denoiselab.assembly.sampling import recipe as recipe_of
from denoiselab.data import BatchStream, ImageDataModule
from denoiselab.data.source import to_float
from denoiselab.ema import EMA
from denoiselab.metrics import Evaluation
from denoiselab.objectives import Objective, WeightedMSE
from denoiselab.optimizers import adamw, rate
from denoiselab.randomness import SampleNoise, generator
from denoiselab.runs.load import open_run
from denoiselab.samplers import DDPM
from denoiselab.spacings import Trailing
from denoiselab.time_sampling import Uniform
from denoiselab.training.callbacks import Checkpoint, DenoisingStrip, Evaluate, SampleGrid
from denoiselab.training.fit import make_system
from denoiselab.training.parts import parts as assembled
from denoiselab.training.system import DiffusionSystem
from denoiselab.weightings import MinSNR, Simple


class Spendthrift(pl.Callback):
    """Draws from torch's global generator wherever it can, and before each batch and validation."""

    def on_train_batch_start(self, *_) -> None:
        torch.randn(17)

    on_validation_start = on_validation_batch_start = on_train_batch_end = on_train_batch_start


class Keeper(pl.Callback):
    """Keeps what the system has after each batch: the number of the step, the weights, the learning rate next."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.weights: list[Tensor] = []
        self.rates: list[float] = []
        self.losses: list[float] = []

    def on_train_batch_start(self, trainer, system, *_) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(self, trainer, system, outputs, *_) -> None:
        self.steps.append(trainer.global_step)
        self.weights.append(weights(system.pipeline))
        self.losses.append(float(outputs["loss"]))


class Seen(Objective):
    """The simple objective, which keeps the images and the conditions that it was handed."""

    names = ("loss", "eps_mse")

    def __init__(self) -> None:
        super().__init__(Uniform(stratified=True))
        self.inner = WeightedMSE(Simple(), self.time_sampler)
        self.images: list[Tensor] = []
        self.times: list[Tensor] = []

    def figures(self, denoiser, x0, cond, t, eps):
        self.images.append(x0.detach())
        self.times.append(t)
        return self.inner.figures(denoiser, x0, cond, t, eps)


def validated(system: DiffusionSystem, folder, batch_size: int = 8, source: Specks | None = None) -> dict[str, float]:
    data = ImageDataModule(source or Specks(), batch_size, 0)
    trainer = tiny_trainer(folder)
    trainer.validate(system, datamodule=data, verbose=False)
    return trainer.callback_metrics


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_nothing_that_happens_beside_training_changes_a_single_bit_of_it(dropout, tmp_path):
    """Neither validation, pictures and figures after each step, nor someone who draws random numbers."""
    quiet = tiny_system(tiny_pipeline(unet=True, dropout=dropout), seed=3)
    fit(quiet, tmp_path / "quiet", steps=5)
    busy = tiny_system(tiny_pipeline(unet=True, dropout=dropout), seed=3, recipe=tiny_recipe(DDPM(3, Trailing())))
    beside = [
        Spendthrift(),
        SampleGrid(n=4, columns=2, every=1, batch_size=3),
        DenoisingStrip(n=2, moments=2, every=2),
        Evaluate(lambda: Evaluation(Specks(), Projection(), tmp_path / "cache"), n=4, every=2),
        Checkpoint(every_n_train_steps=1),
    ]
    torch.manual_seed(99)
    fit(busy, tmp_path / "busy", steps=5, callbacks=beside, validate_every=2)
    assert busy.figures["step"] == 5
    assert "val/loss" in busy.trainer.callback_metrics
    assert torch.equal(weights(busy.pipeline), weights(quiet.pipeline))
    assert all(torch.equal(a, b) for a, b in zip(busy.ema.shadow, quiet.ema.shadow, strict=True))


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_the_loss_of_a_step_is_a_function_of_the_seed_and_the_batch_number(dropout, tmp_path):
    system = tiny_system(tiny_pipeline(unet=True, dropout=dropout))
    fit(system, tmp_path, steps=1)
    system.log = lambda *_: None  # there is no loop to log to
    batch, losses = Specks().train.__getitems__(range(8)), {}
    for seed, batch_idx in ((0, 5), (0, 6), (1, 5), (0, 5)):
        torch.randn(13)
        system.seed = seed
        with torch.no_grad():
            loss = float(system.training_step(batch, batch_idx))
        assert losses.setdefault((seed, batch_idx), loss) == loss
    assert len(set(losses.values())) == 3


def test_two_seeds_train_to_other_weights(tmp_path):
    made = [tiny_system(seed=seed) for seed in (0, 1)]
    for system in made:
        fit(system, tmp_path, steps=2)
    assert not torch.equal(*(weights(system.pipeline) for system in made))


def test_a_stratified_batch_is_spread_evenly_over_time_also_in_training(tmp_path):
    objective = Seen()
    fit(tiny_system(objective=objective), tmp_path, steps=3, batch_size=8)
    for k, times in enumerate(objective.times):
        own = Uniform(stratified=True)(8, generator(0, "time", k))
        assert torch.equal(times, own), "a shift of its own for each batch"
        assert torch.equal((times * 8).ceil().sort().values, torch.arange(1.0, 9, dtype=torch.float64))


def test_training_lowers_the_validation_loss(tmp_path):
    system = tiny_system(tiny_pipeline(unet=True))
    before = validated(system, tmp_path)["val/loss"]
    fit(system, tmp_path, steps=60)
    assert validated(system, tmp_path)["val/loss"] < 0.7 * before


@pytest.mark.parametrize("accumulate", [1, 2, 3])
def test_the_average_moves_once_for_each_optimizer_step(accumulate, tmp_path):
    """By hand, in float64: theta_ema <- d theta_ema + (1 - d) theta, d = min(0.3, (1 + k)/(10 + k)), k = 0, 1 ..."""
    system, keeper = tiny_system(ema=EMA(0.3)), Keeper()
    average, k = weights(system.pipeline).double(), 0
    fit(system, tmp_path, steps=5, callbacks=[keeper], accumulate_grad_batches=accumulate)
    assert keeper.steps == [(i + 1) // accumulate for i in range(5 * accumulate)]
    for theta, step in zip(keeper.weights, keeper.steps, strict=True):
        if step > k:
            d = min(0.3, (1 + k) / (10 + k))
            average, k = d * average + (1 - d) * theta.double(), k + 1
    assert system.ema.updates == 5
    shadow = torch.cat([s.flatten() for s in system.ema.shadow])
    torch.testing.assert_close(shadow.double(), average, rtol=1e-6, atol=1e-7)


def test_validation_tells_the_same_bits_each_time(tmp_path):
    system = tiny_system(tiny_pipeline(unet=True, dropout=0.5))
    assert validated(system, tmp_path) == validated(system, tmp_path)


@pytest.mark.parametrize("batch_size", [1, 4, 20, 100])
def test_the_validation_loss_is_the_mean_over_the_images_whatever_the_batches(batch_size, tmp_path):
    """By hand, image by image: t_i = 1 - frac((i + 1/2) phi), phi the golden ratio's fraction, and eps_i of its own."""
    pipeline, source, objective = tiny_pipeline(), Specks(), WeightedMSE(MinSNR(5.0), Uniform(stratified=True))
    plain, total, eps_total = WeightedMSE(Simple(), Uniform(stratified=True)), 0.0, 0.0
    for i in range(21):
        batch = source.test.__getitems__([i])
        x0, cond = to_float(batch["image"]), pipeline.conditioner(batch)
        t = torch.tensor([1 - (i + 0.5) * 0.6180339887498949 % 1], dtype=torch.float64)
        drawn = {"t": t, "eps": SampleNoise(0, [i], "validation")(x0)}
        with torch.no_grad():
            total += float(objective(pipeline.denoiser, x0, cond, **drawn))
            eps_total += float(plain(pipeline.denoiser, x0, cond, **drawn))
    figures = validated(tiny_system(pipeline, objective=objective), tmp_path, batch_size)
    assert figures["val/loss"] == pytest.approx(total / 21, rel=1e-6)
    assert figures["val/eps_mse"] == pytest.approx(eps_total / 21, rel=1e-6)


def test_validation_is_of_the_averaged_weights_and_gives_the_others_back(tmp_path):
    live, averaged = tiny_pipeline(seed=1), tiny_pipeline(seed=2)
    system = tiny_system(copy.deepcopy(live))
    system.ema.shadows = [[p.detach().clone() for p in averaged.parameters()]]
    assert validated(system, tmp_path) == validated(tiny_system(averaged), tmp_path)
    assert validated(system, tmp_path) != validated(tiny_system(live), tmp_path)
    assert torch.equal(weights(system.pipeline), weights(live))


def test_runs_of_other_seeds_are_validated_on_the_same_noise_and_times(tmp_path):
    one, other = (tiny_system(tiny_pipeline(), seed=seed) for seed in (0, 1))
    assert validated(one, tmp_path) == validated(other, tmp_path)


def test_dropout_is_off_in_validation(tmp_path):
    dropping, plain = (tiny_system(tiny_pipeline(unet=True, dropout=p)) for p in (0.5, 0.0))
    assert validated(dropping, tmp_path) == validated(plain, tmp_path)


@pytest.mark.parametrize("flip", [False, True])
def test_images_are_mirrored_only_if_flip_is_on_and_then_half_of_them(flip, tmp_path):
    source, objective = Specks(flip=flip), Seen()
    known = {tuple(x.flatten().tolist()) for x in to_float(source.train.images)}
    mirrored = {tuple(x.flatten().tolist()) for x in to_float(source.train.images.flip(-1))}
    assert not known & mirrored
    system = tiny_system(objective=objective, flip=source.flip)
    fit(system, tmp_path, steps=25, batch_size=16, source=source)
    seen = [tuple(x.flatten().tolist()) for x in torch.cat(objective.images)]
    assert set(seen) <= known | mirrored
    count = sum(x in mirrored for x in seen)
    assert abs(count - 200) < 4 * (400 / 4) ** 0.5 if flip else count == 0, "4 standard deviations of 400 fair coins"


def test_validation_images_are_never_mirrored(tmp_path):
    source, objective = Specks(flip=True), Seen()
    validated(tiny_system(objective=objective, flip=True), tmp_path, source=source)
    assert torch.equal(torch.cat(objective.images), to_float(source.test.images))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_learning_rate_rises_linearly_and_ends_at_0(accumulate, tmp_path):
    decaying = partial(adamw, lr=1e-2, warmup_steps=2, decay="cosine")
    keeper, system = Keeper(), tiny_system(optimizer=decaying)
    trainer = fit(system, tmp_path, steps=6, callbacks=[keeper], accumulate_grad_batches=accumulate)
    share = torch.tensor(keeper.rates[::accumulate], dtype=torch.float64) / 1e-2
    cosine = (1 + torch.cos(torch.pi * torch.arange(4, dtype=torch.float64) / 4)) / 2
    torch.testing.assert_close(share, torch.cat([torch.tensor([0.5, 1.0], dtype=torch.float64), cosine]))
    assert trainer.optimizers[0].param_groups[0]["lr"] == 0


def test_a_constant_learning_rate_stays_where_the_warm_up_has_left_it():
    assert [rate(step, 8, 2, "constant") for step in range(8)] == [0.5, *[1.0] * 7]


def test_a_step_takes_in_the_batch_of_the_stream_and_nothing_else(tmp_path):
    objective, source = Seen(), Specks()
    fit(tiny_system(objective=objective, seed=4), tmp_path, steps=8, batch_size=8, source=source)
    stream = BatchStream(48, 8, seed=4)
    for k, images in enumerate(objective.images):
        assert torch.equal(images, to_float(source.train.images[stream.batch(k)]))


@pytest.fixture
def command_line_run(tmp_path):
    """A system as the command line makes it, trained for a few steps with a checkpoint at the end."""
    words = "backbone=mlp backbone.width=16 backbone.depth=1 trainer.max_steps=4 optimizer.warmup_steps=1 seed=5"
    cfg = composed(f"{words} sampler.steps=3 data=digits", tmp_path / "run")
    parts = assembled(cfg)
    system = make_system(cfg, parts)
    fit(system, tmp_path, steps=4, callbacks=[Checkpoint()], source=parts.source)
    return system, tmp_path, cfg


def test_a_checkpoint_holds_plain_containers_and_loads_as_weights_only(command_line_run):
    system, folder, cfg = command_line_run
    state = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)

    def check(value) -> None:
        assert type(value).__module__ in ("builtins", "collections", "torch"), type(value)
        for part in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
            check(part)

    check(state)
    assert state["denoiselab"] == system.description
    assert state["denoiselab"]["config"] == plain(cfg)
    assert state["global_step"] == 4
    assert state["ema"]["updates"] == 4


def test_a_loaded_run_has_exactly_the_averaged_weights_and_is_ready_to_sample(command_line_run):
    system, folder, cfg = command_line_run
    pipeline, saved, about = open_run(str(folder), "last", torch.device("cpu"))
    loaded = dict(pipeline.named_parameters())
    assert list(loaded) == system.ema.names
    assert all(torch.equal(loaded[n], s) for n, s in zip(system.ema.names, system.ema.shadow, strict=True))
    assert not torch.equal(weights(pipeline), weights(system.pipeline))
    assert not any(part.training for part in pipeline.modules())
    assert saved == plain(cfg)
    assert about["step"] == 4

    recipe, labels = recipe_of(saved), torch.arange(4)
    with system.ema.swapped():
        (mine,) = system.pipeline.generate(recipe, range(4), labels, 0, 4)
    (again,) = pipeline.generate(recipe, range(4), labels, 0, 4)
    assert torch.equal(mine.images, again.images)


def test_a_run_that_is_loaded_into_a_system_goes_on_with_its_average(command_line_run, tmp_path):
    _, folder, cfg = command_line_run
    parts = assembled(cfg)
    again = make_system(cfg, parts)
    trainer = tiny_trainer(tmp_path / "again", max_steps=6, val_check_interval=1000)
    data = ImageDataModule(parts.source, 8, seed=5)
    trainer.fit(again, datamodule=data, ckpt_path=folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert trainer.global_step == 6
    assert again.ema.updates == 6


@pytest.mark.parametrize("accumulate", [1, 2])
def test_what_is_done_after_a_step_sees_the_average_of_that_step(accumulate, tmp_path):
    """Pictures, figures and checkpoints: else the average in a checkpoint would lag its weights by one step."""

    class Watch(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, *_) -> None:
            seen.append((trainer.global_step, pl_module.ema.updates))

    seen: list[tuple[int, int]] = []
    fit(tiny_system(), tmp_path, steps=3, callbacks=[Watch()], accumulate_grad_batches=accumulate)
    assert len(seen) == 3 * accumulate
    assert all(step == updates for step, updates in seen)
