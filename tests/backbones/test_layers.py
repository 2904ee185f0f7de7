import math

import torch
from torch import nn

from denoiselab.backbones.layers import CrossAttention, TimeEmbedding, attention, with_concat, zeroed
from denoiselab.conditioning import Cond


def waves(embedding, t):
    """What the MLP of a time embedding is given."""
    seen = []
    embedding.mlp.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    embedding(t, Cond())
    return seen[0]


def test_attention_is_softmax_of_queries_and_keys_over_the_root_of_the_width():
    B, L, heads, width = 2, 5, 3, 4
    qkv = torch.randn(B, L, 3 * heads * width, dtype=torch.float64)
    q, k, v = (part.reshape(B, L, heads, width) for part in qkv.chunk(3, dim=-1))
    expected = torch.empty(B, L, heads, width, dtype=torch.float64)
    for b in range(B):
        for h in range(heads):
            weights = torch.softmax(q[b, :, h] @ k[b, :, h].T / math.sqrt(width), dim=1)
            expected[b, :, h] = weights @ v[b, :, h]
    torch.testing.assert_close(attention(qkv, heads), expected.flatten(2), rtol=1e-13, atol=1e-14)


def test_attention_moves_with_its_tokens():
    qkv, order = torch.randn(2, 5, 12, dtype=torch.float64), torch.tensor([4, 1, 0, 3, 2])
    torch.testing.assert_close(attention(qkv[:, order], 2), attention(qkv, 2)[:, order], rtol=1e-13, atol=1e-14)


def test_cross_attention_is_softmax_over_the_tokens_that_are_there():
    B, L, M, heads, d = 2, 5, 4, 3, 4
    layer = CrossAttention(heads * d, 7, heads).double()
    nn.init.normal_(layer.out.weight)
    x, tokens = torch.randn(B, L, heads * d, dtype=torch.float64), torch.randn(B, M, 7, dtype=torch.float64)
    mask = torch.tensor([[True, False, True, True], [False, True, False, False]])
    k, v = layer.kv(tokens).chunk(2, dim=-1)
    expected = torch.empty(B, L, heads * d, dtype=torch.float64)
    for b in range(B):
        there = mask[b]
        for h in range(heads):
            own = slice(h * d, h * d + d)
            weights = torch.softmax(layer.q(x)[b, :, own] @ k[b, there, own].T / math.sqrt(d), dim=1)
            expected[b, :, own] = weights @ v[b, there, own]
    torch.testing.assert_close(layer(x, tokens, mask), layer.out(expected), rtol=1e-12, atol=1e-13)


def test_channels_come_after_those_of_x_and_are_zeros_where_nothing_is_told():
    x, concat = torch.randn(2, 3, 4, 4), torch.randn(2, 1, 4, 4)
    assert torch.equal(with_concat(x, Cond(concat=concat), 1), torch.cat([x, concat], 1))
    assert torch.equal(with_concat(x, Cond(), 1)[:, 3:], torch.zeros_like(concat))
    assert with_concat(x, Cond(concat=concat), 0) is x


def test_the_waves_are_sines_and_cosines_of_a_thousand_t():
    # As those of DDPM for its 1000 steps: frequencies 10,000^(-i/64).
    t = torch.tensor([0.0, 0.25, 0.75, 1.0])
    angles = 1000 * t[:, None].double() * 10_000.0 ** (-torch.arange(64, dtype=torch.float64) / 64)
    expected = torch.cat([angles.sin(), angles.cos()], dim=1)
    # float32 angles up to 1000 are rounded by 3e-5, and their frequencies by 6e-8 of 1000 more.
    torch.testing.assert_close(waves(TimeEmbedding(8, 0), t).double(), expected, rtol=0, atol=2e-4)


def test_a_quarter_and_three_quarters_are_far_apart():
    early, late = waves(TimeEmbedding(8, 0), torch.tensor([0.25, 0.75]))
    # Independent waves would differ by 128 in the square; with t itself it is about 1.
    assert float((early - late).square().sum()) > 32


def test_neighbouring_steps_of_a_thousand_are_told_apart():
    t = torch.arange(1, 1001) / 1000
    found = waves(TimeEmbedding(8, 0), t)
    assert float(torch.cdist(found, found).fill_diagonal_(math.inf).min()) > 0.5


def test_times_in_float64_and_float32_mean_the_same():
    embedding, t = TimeEmbedding(8, 0), torch.tensor([0.125, 0.5])  # exact in both
    assert torch.equal(embedding(t.double(), Cond()), embedding(t, Cond()))


def test_the_condition_is_added_before_the_last_nonlinearity():
    embedding, t, vector = TimeEmbedding(8, 3), torch.tensor([0.3, 0.6]), torch.randn(2, 3)
    expected = nn.functional.silu(embedding.mlp(waves(embedding, t)) + embedding.cond(vector))
    torch.testing.assert_close(embedding(t, Cond(vector=vector)), expected, rtol=0, atol=0)


def test_the_waves_are_no_part_of_a_checkpoint():
    assert not any("periods" in name for name in TimeEmbedding(8, 3).state_dict())


def test_a_zeroed_layer_gives_zero():
    assert torch.equal(zeroed(nn.Linear(3, 2))(torch.randn(4, 3)), torch.zeros(4, 2))
    assert torch.equal(zeroed(nn.Conv2d(3, 2, 3))(torch.randn(1, 3, 4, 4)), torch.zeros(1, 2, 2, 2))


def test_weights_in_half_precision_are_told_the_times_that_the_same_weights_in_full_precision_are():
    """A network that is trained in half precision is loaded in full; rounded periods would be other times."""
    half, full = TimeEmbedding(32, 0).bfloat16(), TimeEmbedding(32, 0)
    full.load_state_dict(half.state_dict())
    t = torch.linspace(0.01, 1, 50)
    told = full(t, Cond())
    # Activations of half precision have 8 bits; times that are off by radians are as far apart as any two are.
    torch.testing.assert_close(half(t, Cond()).float(), told, rtol=0, atol=0.02 * float(told.detach().abs().max()))
