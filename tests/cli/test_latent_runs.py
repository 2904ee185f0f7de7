"""Diffusion in the latents of another run's codec: by the real command line, with the codec's folder there and gone."""

import shutil
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from test_resume import train

from conftest import weights
from denoiselab.assembly.configuration import composed
from denoiselab.assembly.model import pipeline as model_of
from denoiselab.assembly.sampling import recipe as recipe_of
from denoiselab.codecs import KL, VQ, Latents
from denoiselab.data.source import to_float
from denoiselab.runs import codecs as frozen
from denoiselab.runs import guides
from denoiselab.runs.configuration import saved_config
from denoiselab.runs.load import open_run
from denoiselab.tools.selftest import compared
from denoiselab.training import fit
from denoiselab.training.parts import parts as assembled

QUICK = [
    *["trainer=cpu", "logger=csv", "batch_size=100", "trainer.log_every_n_steps=1", "optimizer.warmup_steps=1"],
    *["metrics=none", "callbacks.samples.n=4", "callbacks.checkpoint.monitor=null"],
]
CODEC = ["codec.channels=8", "trainer.max_steps=3"]
LATENT = [
    *["experiment=latent", "backbone=mlp", "backbone.width=16", "backbone.depth=1", "sampler.steps=2"],
    *["trainer.max_steps=4", "callbacks.denoising.n=1"],
]


def trained(folder: Path, *words: str) -> Path:
    said = train(*QUICK, *words, f"hydra.run.dir={folder}", f"cache={folder.parent / 'cache'}")
    assert said.status == 0, said.err
    return folder


def last(folder: Path) -> dict:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("latent")


@pytest.fixture(scope="module")
def kl(home) -> Path:
    return trained(home / "kl", "experiment=autoencoder", *CODEC)


@pytest.fixture(scope="module")
def run(home, kl) -> Path:
    return trained(home / "run", *LATENT, f"codec.run={kl}")


@pytest.fixture
def gone(kl):
    """Inside, the codec's folder lies elsewhere."""
    away = kl.rename(kl.with_name("away"))
    yield
    away.rename(kl)


def loaded(folder: Path | str):
    return open_run(str(folder), "last", torch.device("cpu"))


@pytest.mark.slow
def test_the_codec_is_that_of_the_other_runs_averages_scaled_to_unit_variance(kl, run):
    codec, own = loaded(run)[0].codec, loaded(kl)[0].codec
    assert isinstance(codec, Latents)
    assert all(torch.equal(a, b) for a, b in zip(codec.model.parameters(), own.parameters(), strict=True))
    images = to_float(assembled(composed("train", [])).source.train.images)
    z = codec.encode(images).double()
    # Shift and scale are of float32 latents of batches of 500, which round differently in one batch.
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(4, dtype=torch.float64), rtol=0, atol=1e-4)
    torch.testing.assert_close(z.std((0, 2, 3)), torch.ones(4, dtype=torch.float64), rtol=1e-3, atol=0)


@pytest.mark.slow
def test_nothing_of_it_is_trained_or_averaged_and_its_description_says_what_it_is(kl, run):
    state = last(run)
    assert not any("codec" in name for name in state["ema"]["weights"])
    network = [name for name in state["state_dict"] if not name.startswith("pipeline.codec")]
    assert len(state["optimizer_states"][0]["state"]) == len(network)
    told = state["denoiselab"]["config"]["codec"]
    assert told["model"]["_target_"] == "denoiselab.codecs.KL"
    assert told["model"]["image_shape"] == [1, 8, 8]
    assert told["sha256"] == frozen.digest(loaded(kl)[0].codec)


@pytest.mark.slow
def test_samples_and_an_export_need_the_codecs_folder_no_more(run, gone, tmp_path):
    pipeline, cfg, _ = loaded(run)
    recipe, labels = recipe_of(cfg), torch.arange(4)
    images = pipeline.sample(recipe, range(4), labels, seed=0).images
    assert images.shape == (4, 1, 8, 8)

    from denoiselab.runs import export as exports

    about = last(run)["denoiselab"]
    facts = {key: about[key] for key in ("config", "image_shape", "num_classes", "class_names")}
    facts |= {"step": 4, "checkpoint": "last", "ema": "decay=0.999", "code": "0"}
    facts["unresolved"] = OmegaConf.to_container(saved_config(run), resolve=False)
    exports.write(tmp_path / "model.safetensors", pipeline.state_dict(), facts)
    again = loaded(tmp_path / "model.safetensors")[0]
    assert torch.equal(again.sample(recipe, range(4), labels, seed=0).images, images)


@pytest.mark.slow
def test_a_run_goes_on_without_the_codecs_folder_and_ends_as_one_that_never_stopped(home, kl, run):
    parted = trained(home / "parted", *LATENT, f"codec.run={kl}", "trainer.max_steps=2")
    away = kl.rename(kl.with_name("away"))
    try:
        said = train(f"run={parted}", "resume=true", "trainer.max_steps=4")
    finally:
        away.rename(kl)
    assert said.status == 0, said.err
    assert compared(last(run), last(parted)) is None
    said = train(f"run={parted}", "resume=true", "trainer.max_steps=6", f"codec.run={run}")
    assert said.status == 2
    assert "this would be another one (codec.run: " in said.err


@pytest.mark.slow
def test_training_with_latents_kept_on_disk_is_training_with_latents_encoded_anew(home, kl, run):
    """Convolutions in batches of 500 and of 100 may round differently in float32, and Adam enlarges what rounds."""
    anew = trained(home / "anew", *LATENT, f"codec.run={kl}", "codec.cached=false")
    one, other = loaded(run)[0], loaded(anew)[0]
    torch.testing.assert_close(weights(one), weights(other), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(one.codec.scale, other.codec.scale, rtol=1e-5, atol=0)
    kept = sorted(path.name.split("-")[2] for path in (home / "cache").glob("digits-latents-*"))
    assert kept == ["test", "train"]


@pytest.mark.slow
def test_mirrored_images_have_the_latents_of_mirrored_images(home, kl):
    cfg = composed("train", [*QUICK, *LATENT, f"codec.run={kl}", f"cache={home / 'cache'}"])
    frozen.describe(cfg)
    source = instantiate(cfg.data)
    source.flip = True
    pipeline = model_of(cfg, source.facts)
    data = frozen.ready(pipeline.codec, cfg, source)
    batch = data.train.__getitems__(range(500))
    mirrored = pipeline.codec.encode(to_float(batch["image"].flip(-1)))
    torch.testing.assert_close(batch["mirrored_latent"], mirrored, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(batch["latent"], pipeline.codec.encode(to_float(batch["image"])), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_codebooks_run_is_a_codec_whose_latents_are_those_before_the_codes(home):
    vq = trained(home / "vq", "experiment=vq", *CODEC, "codec.codes=16")
    run = trained(home / "in_vq", *LATENT, f"codec.run={vq}")
    codec = loaded(run)[0].codec
    assert isinstance(codec.model, VQ)
    latents = torch.randn(2, 4, 4, 4)
    codes = codec.model.looked_up(codec.model.nearest(latents * codec.scale + codec.shift))
    assert torch.equal(codec.decode(latents), codec.model.decoder(codes))


@pytest.mark.slow
def test_a_classifier_of_noisy_latents_guides_a_diffusion_of_latents(home, kl, run):
    words = ["experiment=noisy_classifier", "codec=vae", "threshold=none", f"codec.run={kl}", "trainer.max_steps=2"]
    said = train(
        *(w for w in QUICK if "samples" not in w),
        *words,
        f"hydra.run.dir={home / 'classifier'}",
        f"cache={home / 'cache'}",
    )
    assert said.status == 0, said.err
    pipeline, cfg, _ = loaded(run)
    with torch.no_grad():
        for parameter in pipeline.denoiser.parameters():
            parameter.normal_(std=0.2)
    guided = composed("train", ["guidance=classifier", f"guidance.classifier.run={home / 'classifier'}"])
    made = []
    for scale in (0.0, 50.0):
        guided.guidance.scale = scale
        cfg.guidance = guided.guidance
        made.append(pipeline.sample(recipe_of(cfg), range(4), torch.arange(4), seed=0).images)
    assert not torch.equal(*made)
    assert isinstance(guides.classifier(str(home / "classifier")).pipeline.codec, Latents)


@pytest.mark.slow
def test_a_weak_model_of_other_latents_of_the_same_shape_guides_no_training(home, kl, run, tmp_path):
    """Those of images that were brighter: the same codec with another scale."""
    weak = tmp_path / "weak"
    shutil.copytree(run, weak)
    state = last(weak)
    state["state_dict"]["pipeline.codec.scale"] *= 1.5
    torch.save(state, weak / "checkpoints" / "last.ckpt")
    words = [*QUICK, *LATENT, f"codec.run={kl}", f"cache={home / 'cache'}", "trainer.max_steps=1"]
    for guide, status in ((run, 0), (weak, 2)):
        where = [f"guidance.weak.run={guide}", f"hydra.run.dir={tmp_path / guide.name / 'guided'}"]
        said = train(*words, "guidance=autoguidance", *where)
        assert said.status == status, said.err
    assert "the run that guides was trained in other latents" in said.err


@pytest.mark.slow
def test_the_game_and_the_classifiers_features_take_part_where_they_are_given_a_weight(home):
    words = ["experiment=autoencoder", *CODEC, "loss.adversarial.weight=0.1", "loss.adversarial.start=1"]
    run = trained(home / "game", *words, "loss.adversarial.channels=8")
    assert any(name.startswith("objective.adversarial.discriminator") for name in last(run)["state_dict"])
    pipeline = loaded(run)[0]
    assert isinstance(pipeline.codec, KL)
    assert not any("discriminator" in name for name in pipeline.state_dict())


SLIPS = {
    "a codec that is to be trained, with a diffusion's loss": (["codec=kl"], "trained by loss=autoencoder"),
    "an autoencoder's loss without a codec to train": (["loss=autoencoder"], "take experiment=autoencoder or vq"),
    "no network with a diffusion's loss": (["backbone=none"], "backbone=none belongs to it"),
    "a network with an autoencoder's loss": (
        ["experiment=autoencoder", "backbone=unet"],
        "backbone=none belongs to it",
    ),
    "a condition for an autoencoder": (["experiment=autoencoder", "conditioning=class"], "which is told nothing"),
    "no run": (["experiment=latent"], "codec.run must be given"),
    "no folder": (["experiment=latent", "codec=diffusers"], "codec.folder must be given"),
    "a run that is not there": (["experiment=latent", "codec.run=nowhere"], "codec.run: run=nowhere is no folder"),
    "a threshold": (["experiment=latent", "codec.run=x", "threshold=clip"], "take threshold=none"),
    "a likelihood": (["experiment=latent", "codec.run=x", "likelihood=bound"], "take likelihood=none"),
    "the bound in steps": (["experiment=latent", "codec.run=x", "loss=hybrid"], "a decoder of 256 levels"),
    "the prior of a diffusion": (["sampler=prior"], "take sampler=ddim"),
    "how nothing is denoised": (["experiment=autoencoder", "callbacks=default"], "take callbacks=autoencoder"),
    "shards": (["experiment=autoencoder", "trainer=fsdp_cpu"], "take trainer=ddp"),
    "points": (["experiment=points", "codec=vae", "codec.run=x"], "take codec=identity"),
    "sides that cannot be divided": (["experiment=autoencoder", "codec.downsample=16"], "are 8 and 8"),
}


@pytest.mark.slow
@pytest.mark.parametrize("slip", SLIPS)
def test_a_slip_is_told_in_one_line_and_leaves_nothing_behind(slip, tmp_path, monkeypatch):
    words, told = SLIPS[slip]
    monkeypatch.chdir(tmp_path)
    said = train(*words, f"hydra.run.dir={tmp_path / 'run'}", "logger=csv")
    assert said.status == 2
    assert told in said.err
    assert said.err.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_that_is_no_autoencoders_and_data_of_other_channels_are_refused(kl, run, tmp_path):
    said = train(*LATENT, f"codec.run={run}", f"hydra.run.dir={tmp_path / 'run'}")
    assert said.status == 2
    assert "is no autoencoder's run; train one with python train.py experiment=autoencoder" in said.err

    import numpy as np
    from PIL import Image

    for i in range(8):
        (tmp_path / "images" / str(i % 2)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((16, 16, 3), 20 * i, np.uint8)).save(tmp_path / "images" / str(i % 2) / f"{i}.png")
    data = ["data=image_folder", f"data.root={tmp_path / 'images'}", "data.size=16"]
    said = train(*QUICK, *LATENT, *data, f"codec.run={kl}", f"hydra.run.dir={tmp_path / 'run'}")
    assert said.status == 2
    assert "the codec is of images of 1 channels, and these have 3" in said.err


@pytest.mark.slow
def test_each_of_these_experiments_is_built_and_takes_a_step(kl, home):
    for words in (["experiment=autoencoder"], ["experiment=vq"], ["experiment=latent", f"codec.run={kl}"]):
        cfg = composed("train", [*words, f"cache={home / 'cache'}", "metrics=none"])
        parts = assembled(cfg)
        system = fit.make_system(cfg, parts)
        sampled = system.pipeline.sample(parts.recipe, range(2), torch.arange(2), seed=0)
        assert sampled.images.shape == (2, 1, 8, 8)
