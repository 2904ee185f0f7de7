"""Training an autoencoder by the real trainer: what is trained and averaged, going on, and two processes."""

from functools import partial
from pathlib import Path

import pytest
import torch

from conftest import Projection, Specks, fit, tiny_trainer, two_ranks, weights
from denoiselab import schedules
from denoiselab.codecs import KL, VQ, StandardNormal
from denoiselab.conditioning import Unconditional
from denoiselab.data import ImageDataModule
from denoiselab.data.source import to_float
from denoiselab.denoiser import Denoiser
from denoiselab.ema import EMA
from denoiselab.guidance import ClassifierFree
from denoiselab.metrics import Evaluation
from denoiselab.metrics.moments import Moments, frechet_distance
from denoiselab.norms import L2
from denoiselab.objectives import Adversarial, Autoencoding
from denoiselab.optimizers import adamw
from denoiselab.parameterizations import V
from denoiselab.pipeline import Pipeline, Recipe
from denoiselab.randomness import SampleNoise
from denoiselab.samplers import Prior
from denoiselab.spacings import Trailing
from denoiselab.training.callbacks import Checkpoint, RankSafety, Reconstructions, SampleGrid
from denoiselab.training.system import AutoencoderSystem

SHAPE = Specks.shape
RECIPE = Recipe(Prior(1, Trailing()), ClassifierFree(1.0), None, {"sampler": "Prior"})


def pipeline(kind: type[KL] | type[VQ] = KL) -> Pipeline:
    torch.manual_seed(0)
    denoiser = Denoiser(StandardNormal((2, 2, 2), 0), schedules.cosine(), V())
    return Pipeline(denoiser, Unconditional(), kind(SHAPE, latent_channels=2, channels=8), SHAPE)


def system(kind: type[KL] | type[VQ] = KL, game: bool = True, seed: int = 0, flip: bool = False) -> AutoencoderSystem:
    made = pipeline(kind)  # which seeds the discriminator's weights too
    adversarial = Adversarial(SHAPE, 0.5, start=2, channels=8, halvings=1) if game else None
    return AutoencoderSystem(
        made,
        Autoencoding(L2(), adversarial=adversarial),
        RECIPE,
        partial(adamw, lr=1e-2, warmup_steps=2),
        EMA(0.5),
        seed,
        flip,
        {"image_shape": list(SHAPE), "num_classes": 0},
    )


def test_training_lowers_the_validation_loss_and_tells_what_the_latents_are_like(tmp_path):
    made = system(game=False)
    figures = []
    for _ in range(2):
        data = ImageDataModule(Specks(), 8, 0)
        trainer = tiny_trainer(tmp_path)
        trainer.validate(made, datamodule=data, verbose=False)
        figures.append({name: float(value) for name, value in trainer.callback_metrics.items()})
        fit(made, tmp_path, steps=60)
    assert figures[1]["val/loss"] < 0.5 * figures[0]["val/loss"]
    assert {"val/reconstruction", "val/psnr", "val/kl", "val/latent_scale"} < set(figures[1])


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
@pytest.mark.parametrize("kind", [KL, VQ])
def test_every_precision_trains_both_networks(kind, precision, tmp_path):
    made = system(kind)
    before = weights(made).double()
    fit(made, tmp_path, steps=4, precision=precision)
    after = weights(made).double()
    assert after.isfinite().all()
    assert not torch.equal(after, before)
    data = ImageDataModule(Specks(), 8, 0)
    tiny_trainer(tmp_path, precision=precision).validate(made, datamodule=data, verbose=False)
    assert made.losses["val/psnr"] > 0


def test_a_step_of_accumulated_parts_and_of_flips_is_a_function_of_the_seed(tmp_path):
    one, same, other = (system(seed=seed, flip=True) for seed in (1, 1, 2))
    for made in (one, same, other):
        torch.randn(7)
        fit(made, tmp_path, steps=3, accumulate_grad_batches=2)
    assert torch.equal(weights(one), weights(same))
    assert not torch.equal(weights(one), weights(other))


def test_the_average_is_of_the_codec_and_the_optimizer_has_the_discriminator_too(tmp_path):
    made = system()
    before = weights(made.objective)
    trainer = fit(made, tmp_path, steps=4)
    assert all(name.startswith("codec.") for name in made.ema.names)
    assert len(made.ema.names) == len(list(made.pipeline.codec.parameters()))
    count = len(made.ema.names) + len(list(made.objective.parameters()))
    assert len(trainer.optimizers[0].param_groups[0]["params"]) == count
    assert trainer.global_step == 4, "one step of one optimizer a batch"
    assert not torch.equal(weights(made.objective), before)


def test_the_discriminator_stands_still_until_the_game_begins(tmp_path):
    made = system()
    before = weights(made.objective)
    fit(made, tmp_path, steps=2)
    assert torch.equal(weights(made.objective), before)


@pytest.mark.parametrize("kind", [KL, VQ])
def test_a_run_that_goes_on_ends_as_one_that_never_stopped_bit_by_bit(kind, tmp_path):
    whole, first, rest = system(kind), system(kind), system(kind)
    fit(whole, tmp_path / "whole", steps=6, callbacks=[Checkpoint()])
    fit(first, tmp_path / "parted", steps=3, callbacks=[Checkpoint()])
    trainer = tiny_trainer(tmp_path / "parted", max_steps=6, val_check_interval=1000, callbacks=[Checkpoint()])
    path = tmp_path / "parted" / "checkpoints" / "last.ckpt"
    trainer.fit(rest, datamodule=ImageDataModule(Specks(), 8, seed=0), ckpt_path=path, weights_only=True)
    one, other = (
        torch.load(tmp_path / name / "checkpoints" / "last.ckpt", weights_only=True) for name in ("whole", "parted")
    )
    assert torch.equal(weights(whole), weights(rest))
    assert all(torch.equal(a, b) for a, b in zip(whole.ema.shadow, rest.ema.shadow, strict=True))
    moments = [[s["exp_avg_sq"] for s in state["optimizer_states"][0]["state"].values()] for state in (one, other)]
    assert all(torch.equal(a, b) for a, b in zip(*moments, strict=True))


def test_pictures_are_made_of_images_and_reconstructions_and_of_the_prior(tmp_path):
    fit(system(), tmp_path, steps=2, callbacks=[SampleGrid(n=4, columns=2), Reconstructions(n=3, columns=4)])
    made = {path.name for path in (tmp_path / "samples").iterdir()}
    assert made == {"step_2.png", "reconstruction_2.png"}


def test_a_sample_of_the_prior_is_its_decoded_noise_and_takes_no_network_evaluation():
    made, indices = pipeline(), range(5)
    sampled = made.sample(RECIPE, indices, torch.zeros(5, dtype=torch.int64), seed=3)
    noise = SampleNoise(3, indices)(torch.empty(5, 2, 2, 2))
    with torch.no_grad():
        expected = made.codec.decode(noise)
    assert torch.equal(sampled.images, ((expected.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8))
    assert sampled.evaluations == 0


def test_the_network_in_its_place_is_the_exact_denoiser_of_the_prior():
    """For x_0 and eps ~ N(0, I), E[x_0|x_t] = alpha x_t and E[eps|x_t] = sigma x_t where alpha^2 + sigma^2 = 1."""
    denoiser, x = pipeline().denoiser, torch.randn(3, 2, 2, 2, dtype=torch.float64)
    t = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    alpha, sigma = (part[:, None, None, None] for part in denoiser.schedule(t))
    torch.testing.assert_close(denoiser(x, t).x0, alpha * x, rtol=1e-9, atol=0)
    torch.testing.assert_close(denoiser(x, t).eps, sigma * x, rtol=1e-9, atol=0)


def test_rfid_is_the_fid_of_the_reconstructed_test_images_and_stands_beside_that_of_real_ones(tmp_path):
    made, source, extractor = pipeline(), Specks(), Projection()
    figures = Evaluation(source, extractor, tmp_path)(made, RECIPE, n=21)
    again = made.reconstructed(source.test.images)
    of = [Moments.of(extractor.features(images)) for images in (again, source.train.images)]
    assert figures["rfid"] == pytest.approx(frechet_distance(*of), rel=1e-9)
    assert figures["floor.rfid"] == figures["floor"]
    mse = (to_float(again) - to_float(source.test.images)).square().mean((1, 2, 3))
    assert figures["rpsnr"] == pytest.approx(float((10 * torch.log10(4 / mse)).mean()), rel=1e-5)


def trained_by_two(rank: int, folder: Path) -> None:
    made = system()
    callbacks = [RankSafety(every=1), Reconstructions(n=5, columns=2, batch_size=2)]
    fit(made, folder / str(rank), steps=5, callbacks=callbacks, devices=2, strategy="ddp", validate_every=5)
    evaluation = Evaluation(Specks(), Projection(), folder / "cache")
    found = evaluation(made.pipeline, RECIPE, n=21, batch_size=4)
    figures = {name: found[name] for name in ("rfid", "rpsnr", "fid")} | made.losses
    torch.save({"weights": weights(made), "figures": figures}, folder / f"rank_{rank}.pt")


@pytest.mark.slow
def test_two_processes_train_the_autoencoder_of_one_and_find_its_figures(tmp_path):
    """With the adaptive weight of the adversarial loss, which is of the global batch."""
    ranks = two_ranks(trained_by_two, tmp_path)
    whole = system()
    fit(whole, tmp_path / "whole", steps=5, validate_every=5)
    found = Evaluation(Specks(), Projection(), tmp_path / "cache")(whole.pipeline, RECIPE, n=21, batch_size=4)
    for rank in ranks:
        # Sums over 8 images rather than over 4 twice round differently; Adam's first steps enlarge what rounds.
        torch.testing.assert_close(rank["weights"], weights(whole), rtol=1e-3, atol=1e-4)
        for name, value in rank["figures"].items():
            assert value == pytest.approx(found.get(name, whole.losses.get(name)), rel=2e-2), name
    assert ranks[0]["figures"] == ranks[1]["figures"]
