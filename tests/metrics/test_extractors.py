"""Extractors that others have trained: what they see is what their networks see; what does not fit is one line.

The networks are real, small and of random weights. Through Inception-v3, test_extractors_inception.py looks.
"""

import hashlib
import http.server
import json
import pickle
import re
import shutil
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from conftest import Specks
from denoiselab.assembly import rules
from denoiselab.assembly.configuration import CONF, Loader, composed
from denoiselab.cli import checks
from denoiselab.data.source import InMemory
from denoiselab.errors import ConfigError
from denoiselab.metrics import Evaluation, Extractor
from denoiselab.metrics.extractors import clip, dinov2, inception, weights
from denoiselab.metrics.extractors.pretrained import TOGETHER
from denoiselab.training.parts import parts as assembled

TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
TINY_CLIP = TINY | {"image_size": 32, "patch_size": 8, "intermediate_size": 64, "projection_dim": 16}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Models as transformers saves them: dinov2, clip (both halves), and its vision half alone."""
    from transformers import CLIPConfig, CLIPModel, CLIPVisionModelWithProjection, Dinov2Config, Dinov2Model

    folder = tmp_path_factory.mktemp("models")
    torch.manual_seed(1)
    Dinov2Model(Dinov2Config(**TINY, image_size=518, patch_size=56)).save_pretrained(folder / "dinov2")
    text = {"vocab_size": 8, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "projection_dim": 16}
    whole = CLIPModel(CLIPConfig(vision_config=TINY_CLIP, text_config=text, projection_dim=16))
    whole.save_pretrained(folder / "clip")
    half = CLIPVisionModelWithProjection(whole.config.vision_config)
    half.load_state_dict({k: v for k, v in whole.state_dict().items() if k in half.state_dict()})
    half.save_pretrained(folder / "clip_vision")
    return folder


@pytest.fixture(scope="module")
def by_name(folder) -> dict[str, Extractor]:
    return {"dinov2": dinov2(Specks(), folder / "dinov2"), "clip": clip(Specks(), folder / "clip")}


both = pytest.mark.parametrize("option", ["dinov2", "clip"])


def random_images(*shape: int) -> Tensor:
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(7)).to(torch.uint8)


def standardised(pixels: Tensor, mean: list[float], std: list[float]) -> Tensor:
    """pixels: (B, 3, H, W) in 0 ... 255."""
    return (pixels / 255 - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


@pytest.mark.parametrize("shape", [(5, 3, 28, 28), (5, 1, 8, 8), (3, 3, 300, 260)], ids=["colour", "grey", "larger"])
@torch.no_grad()
def test_dinov2_sees_the_class_token_of_images_that_pillow_has_resized(folder, by_name, shape):
    """Channel by channel in floats, clipped, as dgm-eval does it; images larger than 224 are made smaller."""
    from transformers import Dinov2Model
    from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

    def resized(channel: Tensor) -> Tensor:
        image = Image.fromarray(channel.float().numpy()).resize((224, 224), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(image)).clamp(0, 255)

    images = random_images(*shape)
    pixels = torch.stack([torch.stack([resized(c) for c in image.expand(3, -1, -1)]) for image in images])
    network = Dinov2Model.from_pretrained(folder / "dinov2").eval()
    seen = network(standardised(pixels, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)).last_hidden_state[:, 0]
    features = by_name["dinov2"].features(images)
    assert seen.std(0).min() > 1e-3, "or there would be nothing to tell apart"
    torch.testing.assert_close(features, seen, rtol=1e-4, atol=1e-4)  # Pillow rounds its kernel's weights
    assert by_name["dinov2"].dim == features.shape[1] == 32


@torch.no_grad()
def test_clip_sees_the_normalised_embedding(folder, by_name):
    """Of images that need no resizing, so that there is nothing but the network."""
    from transformers import CLIPModel
    from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    images = random_images(6, 3, 32, 32)
    network = CLIPModel.from_pretrained(folder / "clip").eval()
    seen = network.get_image_features(standardised(images, OPENAI_CLIP_MEAN, OPENAI_CLIP_STD)).pooler_output
    features = by_name["clip"].features(images)
    torch.testing.assert_close(features, seen / seen.norm(dim=1, keepdim=True), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(6))
    assert by_name["clip"].dim == features.shape[1] == 16


def test_the_vision_half_of_clip_alone_sees_the_same(folder, by_name):
    half, images = clip(Specks(), folder / "clip_vision"), random_images(4, 1, 9, 9)
    assert torch.equal(half.features(images), by_name["clip"].features(images))
    assert half.name != by_name["clip"].name, "another file is another name, whatever is in it"


@both
def test_an_image_is_seen_alike_alone_and_among_many_and_grey_as_in_colour(by_name, option):
    images = random_images(TOGETHER + 3, 1, 8, 8)
    together = by_name[option].features(images)
    alone = torch.cat([by_name[option].features(images[i : i + 1]) for i in (0, TOGETHER - 1, TOGETHER + 2)])
    torch.testing.assert_close(together[[0, TOGETHER - 1, TOGETHER + 2]], alone, rtol=1e-5, atol=1e-5)
    assert torch.equal(by_name[option].features(images.repeat(1, 3, 1, 1)), together)


@both
def test_what_the_trainer_has_switched_on_changes_nothing(by_name, option):
    images = random_images(3, 3, 16, 16)
    features = by_name[option].features(images)
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.enable_grad():
        seen = by_name[option].features(images)
    assert torch.equal(seen, features)
    assert not seen.requires_grad
    assert not by_name[option].training


@both
def test_half_precision_weights_are_looked_through_in_float32(folder, tmp_path, option):
    shutil.copytree(folder / option, tmp_path / option)
    state = load_file(tmp_path / option / "model.safetensors")
    save_file({k: v.half() for k, v in state.items()}, tmp_path / option / "model.safetensors", {"format": "pt"})
    made = {"dinov2": dinov2, "clip": clip}[option](Specks(), tmp_path / option)
    assert {p.dtype for p in made.parameters()} == {torch.float32}
    assert made.features(random_images(2, 1, 8, 8)).dtype == torch.float32


@both
def test_the_name_carries_a_hash_that_sha256sum_gives_too(folder, by_name, tmp_path, option):
    files = [folder / option / name for name in ("config.json", "model.safetensors")]
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    assert by_name[option].digest == digest[:16]
    assert by_name[option].name == f"{option}-{digest[:8]}"
    assert by_name[option].resize.startswith(f"bicubic to {by_name[option].side} x ")


@both
def test_reading_weights_draws_no_random_numbers_and_says_nothing(folder, capfd, option):
    before = torch.get_rng_state()
    {"dinov2": dinov2, "clip": clip}[option](Specks(), folder / option)
    assert torch.equal(torch.get_rng_state(), before)
    assert capfd.readouterr() == ("", "")


def changed(folder: Path, **config: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | config))


def less(folder: Path) -> None:
    state = load_file(folder / "model.safetensors")
    del state["layernorm.weight"]
    save_file(state, folder / "model.safetensors", {"format": "pt"})


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "not there": (shutil.rmtree, "is not there"),
    "a pickle": (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "model.safetensors"),
    "no configuration": (lambda f: (f / "config.json").unlink(), "has no config.json"),
    "another kind": (partial(changed, model_type="vit"), r"another network \(vit\)"),
    "a configuration that is a list": (lambda f: (f / "config.json").write_text("[]"), "names no model_type"),
    "another size": (partial(changed, hidden_size=64), "cannot be read"),
    "another depth": (partial(changed, num_hidden_layers=3), "is not whole: it lacks"),
    "a tensor less": (less, "lacks 1 of the network's tensors, layernorm.weight"),
    "half a file": (lambda f: (f / "model.safetensors").write_bytes(b"x" * 100), "cannot be read"),
}


def refused(make: Callable[[], object]) -> str:
    """What it is refused with, in one line."""
    with pytest.raises(ConfigError) as refusal:
        make()
    assert "\n" not in str(refusal.value)
    return str(refusal.value)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_folder_that_holds_no_such_network_is_refused_in_one_line(folder, tmp_path, damage):
    work, told = DAMAGES[damage]
    shutil.copytree(folder / "dinov2", tmp_path / "model")
    work(tmp_path / "model")
    message = refused(lambda: dinov2(Specks(), tmp_path / "model"))
    assert f"metrics.weights={tmp_path / 'model'}" in message
    assert re.search(told, message), message


def test_the_other_option_s_folder_is_refused(folder):
    assert "another network (clip)" in refused(lambda: dinov2(Specks(), folder / "clip"))
    assert "another network (dinov2)" in refused(lambda: clip(Specks(), folder / "dinov2"))


class Colours(Specks):
    shape = (4, 4, 4)


class Flat(Specks):
    shape = (2,)


@pytest.mark.parametrize("source", [Colours(), Flat()], ids=["four channels", "points"])
@pytest.mark.parametrize("make", [dinov2, clip, inception])
def test_data_that_are_no_images_are_refused(source, make, tmp_path):
    told = refused(lambda: make(source, tmp_path))
    assert ("points" if source.shape == (2,) else "4 channels") in told


@pytest.mark.parametrize(
    ("make", "extra"), [(dinov2, "transformers"), (clip, "transformers"), (inception, "inception")]
)
def test_a_missing_extra_is_told_with_what_to_install(make, extra, tmp_path, monkeypatch):
    monkeypatch.setattr("denoiselab.metrics.extractors.pretrained.find_spec", lambda name: None)
    assert f"pip install 'denoiselab[{extra}]'" in refused(lambda: make(Specks(), tmp_path))


def test_a_torchvision_that_does_not_fit_its_torch_is_told(tmp_path, monkeypatch):
    for name in ("torch_fidelity", "torchvision"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    told = refused(lambda: inception(Specks()))
    assert "operator torchvision::nms does not exist" in told
    assert "pip install 'denoiselab[inception]'" in told


class Planted:
    """What runs a command when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_a_weights_file_is_read_without_running_what_is_in_it(tmp_path):
    path, proof = tmp_path / "weights.pth", tmp_path / "run"
    torch.save({"fc.weight": torch.ones(2), "more": Planted(proof)}, path)
    assert "holds more than tensors" in refused(lambda: weights.read(path))
    path.write_bytes(pickle.dumps(Planted(proof), protocol=2))
    assert "is not read" in refused(lambda: weights.read(path))
    assert not proof.exists()


@pytest.mark.parametrize(
    ("content", "told"),
    [([torch.ones(2)], "a tensor for each name"), ({"a": 1}, "a tensor for each name"), (None, "is not there")],
    ids=["a list", "a number", "no file"],
)
def test_a_file_that_is_no_network_is_refused(tmp_path, content, told):
    path = tmp_path / "weights.pth"
    if content is not None:
        torch.save(content, path)
    message = refused(lambda: weights.read(path))
    assert told in message
    assert f"metrics.weights={path}" in message
    assert "is a folder" in refused(lambda: weights.read(tmp_path))


def test_a_files_tensors_are_read_with_its_sha256(tmp_path):
    torch.save({"a": torch.arange(3)}, tmp_path / "weights.pth")
    state, digest = weights.read(tmp_path / "weights.pth")
    assert state["a"].tolist() == [0, 1, 2]
    assert digest == hashlib.sha256((tmp_path / "weights.pth").read_bytes()).hexdigest()


CONTENT = b"weights " * 1_000_000
REMOTE = weights.Remote("", hashlib.sha256(CONTENT).hexdigest())


class Server(http.server.ThreadingHTTPServer):
    """Gives out `content`, but says that it were `length` bytes; counts what it was asked for."""

    content, length, asked = CONTENT, len(CONTENT), 0

    class Answer(http.server.BaseHTTPRequestHandler):
        server: "Server"

        def do_GET(self) -> None:
            self.server.asked += 1
            self.send_response(200 if self.path == "/w.pth" else 404)
            self.send_header("Content-Length", str(self.server.length))
            self.end_headers()
            self.wfile.write(self.server.content)

        def log_message(self, format: str, *args: object) -> None: ...


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(("127.0.0.1", 0), Server.Answer) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        yield server
        server.shutdown()


def at(server: Server, name: str = "w.pth") -> weights.Remote:
    return REMOTE._replace(url=f"http://127.0.0.1:{server.server_port}/{name}")


def test_weights_are_fetched_once_and_kept(server, tmp_path):
    path = weights.fetched(at(server), tmp_path / "cache")
    assert path.read_bytes() == CONTENT
    assert weights.fetched(at(server), tmp_path / "cache") == path
    assert server.asked == 1
    assert list(path.parent.iterdir()) == [path], "no temporary file beside it"


def test_a_kept_file_that_is_damaged_is_fetched_again(server, tmp_path):
    (tmp_path / "w.pth").write_bytes(CONTENT[:-1])
    assert weights.fetched(at(server), tmp_path).read_bytes() == CONTENT


@pytest.mark.parametrize("fault", ["other content", "cut off", "no such file", "no server"])
def test_weights_that_cannot_be_had_are_told_in_one_line_and_nothing_is_kept(server, tmp_path, fault):
    remote = at(server, "none" if fault == "no such file" else "w.pth")
    if fault == "other content":
        server.content, server.length = b"something else", 14
    elif fault == "cut off":
        server.content = CONTENT[: len(CONTENT) // 2]
    elif fault == "no server":
        server.server_close()
    told = refused(lambda: weights.fetched(remote, tmp_path))
    assert remote.url in told
    assert "metrics.weights=<file>" in told
    assert ("another file than it should" if fault in ("other content", "cut off") else "cannot be reached") in told
    assert not list(tmp_path.iterdir())


def words(option: str, *more: str) -> list[str]:
    return ["metrics=fid", f"extractor={option}", "backbone=mlp", "backbone.width=16", "backbone.depth=1", *more]


@pytest.mark.slow
@both
def test_the_option_is_built_and_gives_figures_that_name_it(folder, tmp_path, option):
    cfg = composed("train", words(option, f"metrics.weights={folder / option}", f"cache={tmp_path}", "sampler.steps=1"))
    checks.check_job(Loader("train"), words(option, f"metrics.weights={folder / option}"))
    parts = assembled(cfg)
    extractor = instantiate(cfg.metrics.extractor)(parts.source)
    some = InMemory(parts.source.train.images[:40], parts.source.train.labels[:40])

    class Few(type(parts.source)):
        train = test = some

    figures = Evaluation(Few(), extractor, tmp_path)(parts.pipeline, parts.recipe, n=6)
    assert figures["extractor"] == extractor.name
    assert figures["fid"] > 0
    assert "class_accuracy" not in figures, "its classes, if it has any, are not the data's"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (words("dinov2", "metrics.weights=nowhere"), "metrics.weights=nowhere is not there"),
        (words("clip", "metrics.weights=conf"), "metrics.weights=conf is no such folder"),
    ],
)
def test_weights_that_are_not_there_are_refused_before_training(given, told, monkeypatch):
    monkeypatch.chdir(CONF.parent)
    assert told in refused(lambda: assembled(composed("train", given)))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (words("dinov2"), "metrics.weights must be given"),
        (words("clip"), "metrics.weights must be given"),
        (words("classifier", "metrics.weights=file"), "take extractor=inception, dinov2 or clip"),
    ],
)
def test_weights_that_do_not_go_with_the_option_are_refused_by_the_words_alone(given, told):
    assert told in refused(lambda: checks.check_job(Loader("train"), given))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (words("inception"), True),
        (words("classifier"), False),
        (words("inception", "data=fashion_mnist"), False),
        (words("inception", "data=image_folder", "data.size=8"), True),
        (words("inception", "data=image_folder"), False),
        (["metrics=none", "extractor=inception"], False),
    ],
)
def test_looking_at_tiny_images_through_an_extractor_that_enlarges_them_is_advised_against(given, said):
    assert any("enlarges" in told for told in rules.advice(composed("train", given))) == said
