"""The condition that is told in words."""

from functools import partial

import pytest
import torch
from torch import nn

from denoiselab import schedules
from denoiselab.backbones import DiT, UNet
from denoiselab.codecs import Identity
from denoiselab.conditioning import Routes, Text
from denoiselab.conditioning.captions import written
from denoiselab.conditioning.encoders import Words
from denoiselab.data import Digits
from denoiselab.denoiser import Denoiser
from denoiselab.errors import ConfigError
from denoiselab.parameterizations import V
from denoiselab.pipeline import Pipeline

SHAPE = (1, 8, 8)
SMALL = partial(Words, width=16, depth=1, heads=2)


def text(**changes) -> Text:
    """No weight is 0."""
    made = Text(Digits.class_names, SMALL, **{"dim": 6, "length": 16} | changes)
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.3)
    return made


def asked(*prompts: str):
    return {"label": torch.full((len(prompts),), 3), "text": written(prompts)}


NETWORKS = {
    "unet": partial(UNet, channels=8, multipliers=[1, 2], blocks=1, attention=[4], heads=2),
    "dit": partial(DiT, width=16, depth=2, heads=2),
}


def pipeline(conditioner: Text, network: str) -> Pipeline:
    routes = conditioner.routes
    backbone = NETWORKS[network](SHAPE, routes.vector, token_dim=routes.tokens)
    made = Pipeline(Denoiser(backbone, schedules.cosine(), V()), conditioner, Identity(), SHAPE)
    for parameter in backbone.parameters():
        nn.init.normal_(parameter, std=0.2)
    return made.eval()


@pytest.mark.parametrize("route", ["tokens", "vector", "both"])
def test_what_is_told_is_as_wide_as_the_routes_say(route):
    conditioner = text(route=route)
    cond = conditioner(asked("a seven", "a thin seven"))
    assert conditioner.routes == Routes(
        vector=6 if route in ("vector", "both") else 0, tokens=6 if route in ("tokens", "both") else 0
    )
    assert (cond.tokens is not None, cond.vector is not None) == (route != "vector", route != "tokens")
    if cond.tokens is not None:
        assert cond.tokens.shape == (2, 16, 6)
        assert cond.mask.sum(1).tolist() == [2, 3]
    if cond.vector is not None:
        assert cond.vector.shape == (2, 6)


def test_the_vector_is_that_of_the_mean_state_of_the_tokens_that_are_there():
    conditioner = text(route="vector")
    states, _ = conditioner.encoder.encode(["a bold seven"])
    mean = nn.functional.layer_norm(states[0, :3], (16,)).mean(0)
    vector = conditioner(asked("a bold seven")).vector[0]
    torch.testing.assert_close(vector, conditioner.project["vector"](mean), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("route", ["tokens", "both"])
@torch.no_grad()
def test_padding_has_no_influence_and_other_words_have(network, route, float64):
    """Of the same weights with room for more tokens, and with anything at all where there are none."""
    conditioner = text(route=route, length=12)
    made, (x, t) = pipeline(conditioner, network), (torch.randn(2, 1, 8, 8), torch.tensor([0.3, 0.8]))
    cond = conditioner(asked("a thin seven", "a seven"))
    answer = made.denoiser(x, t, cond).x0
    noise = torch.randn_like(cond.tokens).where(~cond.mask[..., None], cond.tokens)
    other = made.denoiser(x, t, cond._replace(tokens=noise)).x0
    short = made.denoiser(x, t, cond._replace(tokens=cond.tokens[:, :3], mask=cond.mask[:, :3])).x0
    for same in (other, short):  # in float64, sums in another order
        torch.testing.assert_close(same, answer, rtol=1e-9, atol=1e-9)
    changed = made.denoiser(x, t, conditioner(asked("a thin seven", "a one"))).x0
    assert torch.allclose(changed[0], answer[0])
    assert (changed[1] - answer[1]).abs().max() > 1e-4


@torch.no_grad()
def test_a_token_is_read_beside_the_other_words_and_not_beside_padding():
    encoder = text(length=12).encoder.eval()
    states, mask = encoder.encode(["a thin seven"])
    assert mask.tolist() == [[True] * 3 + [False] * 9]
    other, _ = encoder.encode(["a thin one"])
    assert (states[0, 0] - other[0, 0]).abs().max() > 1e-3
    encoder.position[3:] += 10.0
    padded, _ = encoder.encode(["a thin seven"])
    assert torch.equal(padded[:, :3], states[:, :3])


@pytest.mark.parametrize("null", ["learned", "zero"])
def test_null_is_one_token_and_one_vector_whatever_was_said(null):
    conditioner = text(route="both", null=null)
    told = conditioner(asked("a seven", "a drawing of a bold digit one"))
    nothing = conditioner.null(told)
    assert nothing.mask.sum(1).tolist() == [1, 1]
    assert nothing.tokens.shape == told.tokens.shape
    assert torch.equal(nothing.tokens[0, 0], nothing.tokens[1, 0])
    assert torch.equal(nothing.vector[0], nothing.vector[1])
    assert (nothing.tokens == 0).all() == (nothing.vector == 0).all() == (null == "zero")
    assert nothing.label.tolist() == [-1, -1]
    learned = {name for name, _ in conditioner.named_parameters() if name.startswith("nothing")}
    assert learned == ({"nothing.tokens", "nothing.vector"} if null == "learned" else set())


def test_a_null_that_is_never_trained_is_zero_and_no_weight():
    assert not any(name.startswith("nothing") for name, _ in text(drop=0.0).named_parameters())


def test_each_sample_is_dropped_by_its_own_number():
    conditioner = text(drop=0.5)
    told = conditioner(asked("a seven", "a one", "a two"))
    dropped = conditioner.dropped(told, torch.tensor([0.2, 0.5, 0.49]))
    nothing = conditioner.null(told)
    for i, lost in enumerate([True, False, True]):
        kept = nothing if lost else told
        assert torch.equal(dropped.tokens[i], kept.tokens[i])
        assert torch.equal(dropped.mask[i], kept.mask[i])


def test_a_caption_is_of_its_class_and_a_given_text_of_none():
    conditioner = text()
    label = torch.tensor([7, 8])
    assert conditioner({"label": label}).label.tolist() == [7, 8]
    assert conditioner(asked("a seven")).label.tolist() == [-1]
    assert conditioner.asks_class


def test_a_prompt_is_told_as_the_caption_of_the_same_words():
    conditioner = text()
    caption = conditioner({"label": torch.tensor([7])})
    prompt = conditioner(asked("a photo of a handwritten seven"))
    assert torch.equal(caption.tokens, prompt.tokens)
    assert torch.equal(caption.mask, prompt.mask)


def test_real_digits_have_all_attributes_that_their_captions_tell_and_those_of_others_have_not():
    conditioner, digits = text(tell=1.0), Digits().test.__getitems__(range(360))
    told = digits | {"u": torch.rand(360, conditioner.draws)}
    judged = conditioner.judge(digits["image"], told)["attribute_accuracy"]
    assert judged.mean() == 1
    assert len(judged) == int((conditioner.captions.told(told) > 0).sum())
    mixed = conditioner.judge(digits["image"].flip(0), told)["attribute_accuracy"]
    assert 0.1 < mixed.mean() < 0.6
    assert conditioner.judge(digits["image"][:1], asked("a bold seven")) == {}


def test_words_that_are_no_option_are_told():
    with pytest.raises(ConfigError, match=r"route must be tokens, vector or both"):
        text(route="channels")
    with pytest.raises(ConfigError, match=r"null must be learned or zero"):
        text(null="none")
