"""Trained runs that guide others: a noisy classifier, and a weak model."""

import hashlib
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from conftest import tiny_pipeline, tiny_recipe, trained
from denoiselab.assembly.configuration import composed as plain
from denoiselab.assembly.sampling import recipe as recipe_of
from denoiselab.codecs import KL, Identity, Latents
from denoiselab.errors import ConfigError, RunError
from denoiselab.guidance import Autoguidance, Classifier
from denoiselab.pipeline import Recipe
from denoiselab.runs import guides
from denoiselab.runs.load import open_run, requested

QUICK = "trainer=cpu logger=csv metrics=none likelihood=none callbacks=classifier batch_size=64"


def trained_run(words: str, folder) -> str:
    trained(f"{QUICK} {words}", folder)
    return str(folder)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> str:
    words = "experiment=noisy_classifier callbacks=classifier trainer.max_steps=150 optimizer.lr=0.003 schedule=linear"
    return trained_run(words, tmp_path_factory.mktemp("guides") / "classifier")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    words = "backbone=mlp backbone.width=64 backbone.depth=2 conditioning=none guidance=none trainer.max_steps=60"
    return trained_run(words, tmp_path_factory.mktemp("guides") / "model")


@pytest.mark.slow
def test_a_classifier_learns_clean_images_well_and_knows_nothing_of_pure_noise(classifier):
    guide = guides.classifier(classifier)
    source = plain("train", []).data
    test = instantiate(source).test.__getitems__(range(360))
    x0, cosine = test["image"].double() / 127.5 - 1, instantiate(plain("train", ["schedule=cosine"]).schedule)
    right = {}
    for t in (0.05, 1.0):  # asked in another schedule's terms than it was trained in
        alpha, sigma = cosine(t)
        x_t = alpha * x0 + sigma * torch.randn(x0.shape, generator=torch.Generator().manual_seed(0), dtype=x0.dtype)
        scores = guide(x_t.float(), torch.full((360,), t, dtype=torch.float64), cosine)
        right[t] = float((scores.argmax(1) == test["label"]).double().mean())
    assert right[0.05] > 0.8
    assert right[1.0] < 0.25


@pytest.mark.slow
def test_guidance_by_a_classifier_raises_what_it_thinks_of_the_images(classifier, model):
    pipeline, _, _ = open_run(model, "last", torch.device("cpu"))
    cfg = plain("train", ["sampler.steps=20", "threshold=none"])
    recipe, labels = recipe_of(cfg), torch.arange(50) % 10
    guide = guides.classifier(classifier)
    t = torch.full((50,), 1e-4, dtype=torch.float64)
    thought = {}
    for scale in (0.0, 3.0):
        made = pipeline.sample(Recipe(recipe.sampler, Classifier(guide, scale)), range(50), labels, seed=0)
        x = made.images.float() / 127.5 - 1
        scores = guide(x, t, pipeline.denoiser.schedule).log_softmax(1)
        thought[scale] = float(scores.gather(1, labels[:, None]).mean())
    assert thought[3.0] > thought[0.0] + 0.5


@pytest.mark.slow
def test_the_words_of_guided_sampling_say_by_which_run_and_which_file_of_it(classifier, model):
    pipeline, _, _ = open_run(model, "last", torch.device("cpu"))
    for words, key in (
        (["guidance=classifier", f"guidance.classifier.run={classifier}"], "guidance.classifier.run"),
        (["guidance=autoguidance", f"guidance.weak.run={model}"], "guidance.weak.run"),
    ):
        recipe = recipe_of(plain("train", [*words, "sampler.steps=3"]))
        run = recipe.words[key]
        assert run in (classifier, model)
        assert recipe.words[key.replace(".run", ".checkpoint")] == "last"
        content = (Path(run) / "checkpoints" / "last.ckpt").read_bytes()
        assert recipe.words[key.replace(".run", ".weights")] == hashlib.sha256(content).hexdigest()[:16]
        made = pipeline.sample(recipe, range(4), torch.arange(4), seed=0)
        assert made.images.shape == (4, 1, 8, 8)


@pytest.mark.slow
def test_a_run_of_the_other_kind_is_no_guide(classifier, model):
    with pytest.raises(RunError, match="is no classifier"):
        guides.classifier(model)
    with pytest.raises(RunError, match="is a classifier"):
        guides.weak_model(classifier)
    with pytest.raises(RunError, match="makes no images"):
        given = {"run": classifier, "analytic": None, "checkpoint": "last", "device": "cpu", "ema": None}
        requested(OmegaConf.create(given))


def latents(seed: int, scale: float = 2.0) -> Latents:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        codec = Latents(KL((1, 4, 4), downsample=1, latent_channels=1, channels=4))
    codec.scale.fill_(scale)
    return codec


@pytest.mark.parametrize(
    ("weak", "strong", "known"),
    [
        (None, None, True),
        (latents(0), latents(0), True),
        (latents(0, 2.001), latents(0), True),  # measured elsewhere, on the same images
        (latents(0), latents(1), False),
        (latents(0, 3.0), latents(0), False),
        (latents(0), None, False),
        (None, latents(0), False),
    ],
)
def test_a_guide_of_other_latents_of_the_same_shape_is_refused(weak, strong, known):
    one, other = tiny_pipeline(), tiny_pipeline()
    for pipeline, codec in ((one, weak), (other, strong)):
        pipeline.codec = Identity() if codec is None else codec
    recipe = tiny_recipe(guidance=Autoguidance(guides.WeakGuide(one), 2.0))
    with nullcontext() if known else pytest.raises(RunError, match="trained in other latents"):
        guides.check_codec(recipe, other)


def test_a_guide_without_a_run_is_refused_with_what_to_give():
    with pytest.raises(ConfigError, match=r"guidance\.classifier\.run must be given"):
        guides.classifier(None)
    with pytest.raises(ConfigError, match=r"guidance\.weak\.run must be given"):
        guides.weak_model(None)
