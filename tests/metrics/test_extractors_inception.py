"""Our figures through Inception-v3 are torch-fidelity's own, of the same images and the same weights.

The network is the real one, its weights random. It needs the extra [inception], whose torchvision imports beside no CPU
build of torch: `make test-inception` makes an environment of its own for these tests, and so does CI.
"""

import hashlib
import io
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as nnf

from conftest import REPOSITORY, Specks, tiny_recipe
from denoiselab.assembly.configuration import composed
from denoiselab.codecs import Identity
from denoiselab.conditioning import Unconditional
from denoiselab.data.source import InMemory
from denoiselab.errors import ConfigError
from denoiselab.metrics import FID, KID, Evaluation, InceptionScore
from denoiselab.metrics.extractors import Inception, inception
from denoiselab.metrics.extractors.inception_v3 import WEIGHTS
from denoiselab.pipeline import Generated
from denoiselab.training.parts import parts as assembled

pytestmark = pytest.mark.skipif(
    find_spec("torch_fidelity") is None,
    reason="the extra [inception] is not installed here; make test-inception runs these in an environment of their own",
)


def fresh(path: Path) -> Any:
    """torch-fidelity's network with the weights of a file, as it reads them itself."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    return FeatureExtractorInceptionV3("theirs", ["2048", "logits_unbiased"], feature_extractor_weights_path=str(path))


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    """A file of random weights, such that what goes through a ReLU keeps its size from layer to layer."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Untrained(FeatureExtractorInceptionV3):
        def load_state_dict(self, state: dict[str, Tensor]) -> None:  # it is made with weights or not at all
            assert state == {}

    nothing, path = io.BytesIO(), tmp_path_factory.mktemp("weights") / "random.pth"
    torch.save({}, nothing)
    nothing.seek(0)
    torch.manual_seed(0)
    network = Untrained("untrained", ["2048"], feature_extractor_weights_path=nothing)
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.8, 1.2)
            nn.init.normal_(module.bias, std=0.1)
    nn.init.normal_(network.fc.weight, std=0.5)  # scores that differ from image to image
    torch.save(network.state_dict(), path)
    return path


class Blobs(Specks):
    """Smooth random images of some side, of one channel or three; those to test with are brighter."""

    name, class_names = "blobs", ()

    def __init__(self, channels: int, side: int, n: int = 40) -> None:
        super().__init__(n, n)
        self.shape = (channels, side, side)

    def _random(self, split: int) -> InMemory:
        rng = torch.Generator().manual_seed(split)
        coarse = torch.rand(self.sizes[split], self.shape[0], 4, 4, generator=rng)
        smooth = nnf.interpolate(coarse, self.shape[1:], mode="bilinear") * 200 + 30 * split
        return InMemory(smooth.round().to(torch.uint8), torch.zeros(self.sizes[split], dtype=torch.int64))


class Shown(nn.Module):
    """A pipeline that "generates" the test images."""

    def __init__(self, source: Blobs) -> None:
        super().__init__()
        self.images, self.device = source.test.images, torch.device("cpu")
        self.conditioner, self.codec = Unconditional(), Identity()

    def generate(self, recipe, indices, asked, seed, batch_size):
        for part in torch.tensor(list(indices)).split(batch_size):
            yield Generated(self.images[part], {"label": torch.zeros(len(part), dtype=torch.int64)}, part.tolist(), 1)


def saved(images: Tensor, folder: Path) -> str:
    """A folder of these images as PNGs, grey ones in one channel."""
    folder.mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).squeeze(-1).numpy()).save(folder / f"{i:03}.png")
    return str(folder)


@pytest.fixture(scope="module")
def ours(weights) -> Inception:
    return inception(Specks(), weights)


@pytest.mark.parametrize(("channels", "side"), [(3, 32), (1, 28)], ids=["32 x 32 in colour", "28 x 28 in grey"])
def test_fid_kid_and_inception_score_are_torch_fidelitys_of_the_same_images(ours, weights, tmp_path, channels, side):
    """Of images that lie in folders, from the pixels on. One subset of all images, and one part of them."""
    import torch_fidelity

    source = Blobs(channels, side)
    theirs = torch_fidelity.calculate_metrics(
        input1=saved(source.test.images, tmp_path / "generated"),
        input2=saved(source.train.images, tmp_path / "real"),
        feature_extractor_weights_path=str(weights),
        fid=True,
        kid=True,
        kid_subsets=1,
        kid_subset_size=len(source.test),
        isc=True,
        isc_splits=1,
        cuda=False,
        cache=False,
        verbose=False,
    )
    figures = {"fid": FID(resamples=2), "kid": KID(), "inception_score": InceptionScore(splits=1)}
    found = Evaluation(source, ours, tmp_path, figures)(Shown(source), tiny_recipe())
    assert (found["n"], found["extractor"]) == (40, ours.name)
    assert found["fid"] == pytest.approx(theirs["frechet_inception_distance"], rel=1e-3)
    assert found["kid"] == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-3)
    assert found["inception_score"] == pytest.approx(theirs["inception_score_mean"], rel=1e-5)
    assert min(found["fid"], found["kid"], found["inception_score"] - 1) > 1e-3, "or rounding is all that is compared"


@torch.no_grad()
def test_features_and_scores_are_those_of_torch_fidelity_and_spatial_features_those_of_openais_evaluator(ours, weights):
    """mixed_6/conv of TensorFlow's graph is the 1 x 1 branch of the block that is Mixed_6d here."""
    images, branch = Blobs(3, 32).test.images[:6], []
    network = fresh(weights)
    network.Mixed_6d.branch1x1.register_forward_hook(lambda _module, _inputs, seen: branch.append(seen))
    features, logits = network(images)
    seen = ours.look(images)
    # Rounding is in another order here, as these weights lie in memory with the channels last.
    torch.testing.assert_close(seen.features, features, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(seen.logits, logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(seen.spatial, branch[0][:, :7].flatten(1), rtol=1e-4, atol=1e-4)
    assert [tuple(part.shape) for part in seen] == [(6, 2048), (6, 7 * 17 * 17), (6, 1008)]
    assert features.std(0).median() > 1e-3, "or there would be nothing to tell apart"


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 32), (3, 400, 350)])
def test_images_are_resized_as_tensorflow_1_does_it_and_not_as_pytorch(ours, shape):
    """Pixel i of 299 is read at i * side/299, between its two neighbours, the last of which is the edge."""
    image, seen = torch.randint(256, (2, *shape)).to(torch.uint8), []
    hook = ours.network.Conv2d_1a_3x3.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    ours.look(image)
    hook.remove()

    def read(pixels: Tensor, side: int) -> Tensor:
        """Along the last dimension."""
        place = torch.arange(299, dtype=torch.float64) * side / 299
        low = place.long()
        return pixels[..., low].lerp(pixels[..., (low + 1).clamp(max=side - 1)], place - low)

    _, height, width = shape
    expected = read(read(image.double(), width).mT, height).mT.expand(-1, 3, -1, -1)
    torch.testing.assert_close(seen[0].double() * 128 + 128, expected, rtol=0, atol=0.02)  # places in float32
    if height < 299:
        pytorchs = nnf.interpolate(image.double(), (299, 299), mode="bilinear").expand(-1, 3, -1, -1)
        assert (pytorchs - expected).abs().max() > 10


def test_an_image_is_seen_alike_alone_and_among_others_and_grey_as_in_colour(ours):
    images = Blobs(1, 28).test.images[:3]
    together = ours.features(images)
    assert torch.equal(ours.features(images.repeat(1, 3, 1, 1)), together)
    torch.testing.assert_close(ours.features(images[1:2]), together[1:2], rtol=1e-4, atol=1e-4)


def test_it_is_frozen_and_named_by_its_files_sha256(ours, weights):
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert (ours.name, ours.digest, ours.dim) == (f"inception-v3-{digest[:8]}", digest[:16], 2048)
    assert "299 x 299 as TensorFlow 1" in ours.resize
    assert not ours.training
    assert not any(p.requires_grad for p in ours.parameters())
    assert not ours.knows_classes, "its classes are ImageNet's"


def test_reading_weights_draws_no_random_numbers(weights):
    before = torch.get_rng_state()
    inception(Specks(), weights)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("other", ["torchvision's", "a layer less", "another size"])
def test_another_networks_weights_are_refused_in_one_line(weights, tmp_path, other):
    state = torch.load(weights, weights_only=True)
    if other == "torchvision's":
        from torchvision.models import inception_v3

        state = inception_v3(weights=None, init_weights=False).state_dict()
    elif other == "a layer less":
        del state["Mixed_7c.branch1x1.conv.weight"]
    else:
        state["fc.weight"] = state["fc.weight"][:1000]
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(ConfigError, match="another network than torch-fidelity's") as refusal:
        inception(Specks(), tmp_path / "other.pth")
    assert "\n" not in str(refusal.value)


def test_where_there_is_no_network_the_missing_weights_are_told_before_training(tmp_path, monkeypatch):
    remote = WEIGHTS._replace(url="http://127.0.0.1:1/weights.pth")
    monkeypatch.setattr("denoiselab.metrics.extractors.inception_v3.WEIGHTS", remote)
    with pytest.raises(ConfigError, match="cannot be reached") as refusal:
        assembled(composed("train", ["metrics=fid", "extractor=inception", f"cache={tmp_path}"]))
    assert "\n" not in str(refusal.value)


def test_the_address_and_checksum_are_those_that_torch_fidelity_has():
    """It writes the beginning of the sha256 into the file's name."""
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    assert WEIGHTS.url == URL_INCEPTION_V3
    assert WEIGHTS.name.removesuffix(".pth").endswith(WEIGHTS.sha256[:8])


def test_a_run_is_trained_and_judged_through_it(weights, tmp_path):
    saved(Blobs(1, 12, 30).train.images, tmp_path / "images")
    words = f"""data=image_folder data.root={tmp_path / "images"} data.size=12 data.test_fraction=0.2 batch_size=4
        extractor=inception metrics.weights={weights} metrics.n=6 cache={tmp_path} hydra.run.dir={tmp_path / "run"}
        trainer=cpu trainer.max_steps=2 backbone=mlp backbone.width=16 backbone.depth=1 sampler.steps=2 logger=csv
        conditioning=none guidance=none likelihood=none"""
    done = subprocess.run([sys.executable, "train.py", *words.split()], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "enlarges images" in done.stderr, "images of 12 x 12 pixels"
    figures = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert figures["extractor"] == inception(Specks(), weights).name
    assert figures["fid"] > 0
