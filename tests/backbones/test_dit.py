import pytest
import torch
from test_backbones import randomised
from torch import nn

from denoiselab.backbones import DiT
from denoiselab.backbones.dit import Block
from denoiselab.conditioning import Cond
from denoiselab.errors import ConfigError

SHAPE, PATCH = (2, 6, 4), 2  # not square, so that rows and columns cannot be mistaken for one another


def run(network, x):
    return network(x, torch.full((len(x),), 0.3, dtype=torch.float64), Cond())


def test_with_identity_weights_an_image_is_cut_and_put_together_again():
    width = SHAPE[0] * PATCH**2
    network = DiT(SHAPE, 0, patch=PATCH, width=width, depth=0, heads=1).double()
    network.norm = nn.Identity()
    with torch.no_grad():
        network.stem.weight.copy_(torch.eye(width).reshape(width, SHAPE[0], PATCH, PATCH))
        network.stem.bias.zero_()
        network.position.zero_()
        network.head.weight.copy_(torch.eye(width))
    x = torch.randn(3, *SHAPE, dtype=torch.float64)
    assert torch.equal(run(network, x), x)  # products with 1 and 0 are exact


@pytest.mark.parametrize("patch", [1, 2])
def test_without_blocks_a_patch_of_the_input_changes_that_patch_of_the_output_alone(patch):
    network = randomised(DiT(SHAPE, 0, patch=patch, width=16, depth=0))
    x = torch.randn(1, *SHAPE, dtype=torch.float64)
    for top in range(0, SHAPE[1], patch):
        for left in range(0, SHAPE[2], patch):
            other = x.clone()
            other[..., top : top + patch, left : left + patch] += torch.randn(patch, patch)
            changed = (run(network, other) - run(network, x)).abs() > 1e-12
            inside = torch.zeros_like(changed)
            inside[..., top : top + patch, left : left + patch] = True
            assert torch.equal(changed, inside)


def test_with_blocks_a_patch_changes_all_of_the_output():
    network, x = randomised(DiT(SHAPE, 0, patch=PATCH, width=16, depth=1)), torch.randn(1, *SHAPE, dtype=torch.float64)
    other = x.clone()
    other[..., :2, :2] += 1
    assert ((run(network, other) - run(network, x)).abs() > 1e-12).all()


def test_places_are_told_apart():
    # Without positions, an image with two patches exchanged would give the output with these exchanged.
    network, x = randomised(DiT(SHAPE, 0, patch=PATCH, width=16, depth=1)), torch.randn(1, *SHAPE, dtype=torch.float64)

    def exchanged(image):
        other = image.clone()
        other[..., :2, :2], other[..., 4:, 2:] = image[..., 4:, 2:], image[..., :2, :2]
        return other

    assert not torch.allclose(run(network, exchanged(x)), exchanged(run(network, x)), atol=1e-3)
    nn.init.zeros_(network.position)
    torch.testing.assert_close(run(network, exchanged(x)), exchanged(run(network, x)), rtol=1e-12, atol=1e-12)


def test_at_first_every_block_is_the_identity():
    # adaLN-zero: with the head alone set free, blocks make no difference.
    network, x = DiT(SHAPE, 0, patch=PATCH, width=16, depth=3).double(), torch.randn(2, *SHAPE, dtype=torch.float64)
    nn.init.normal_(network.head.weight)
    with_blocks = run(network, x)
    network.blocks = nn.ModuleList()
    assert with_blocks.abs().max() > 0.1
    assert torch.equal(run(network, x), with_blocks)


def test_a_fresh_block_is_the_identity_with_tokens_too():
    block, x = Block(16, 2, 16, 4, token_dim=5), torch.randn(3, 6, 16)
    assert torch.equal(block(x, torch.randn(3, 16), torch.randn(3, 4, 5)), x)


def test_with_open_gates_a_block_is_that_of_a_transformer_with_its_norms_first():
    # adaLN-zero (Peebles & Xie, §3.2) with gates 1, scales and shifts 0: torch's own layer is what is left.
    block, known = Block(16, 2, 8, 4), nn.TransformerEncoderLayer(16, 2, 64, 0.0, norm_first=True, batch_first=True)
    known.activation = nn.GELU("tanh")
    with torch.no_grad():
        block.modulation.bias.copy_(torch.tensor([0.0, 0, 1, 0, 0, 1]).repeat_interleave(16))
        for own, part in zip(
            [block.qkv.weight, block.qkv.bias, *block.out.parameters(), *block.mlp.parameters()],
            [*known.self_attn.parameters(), *known.linear1.parameters(), *known.linear2.parameters()],
            strict=True,
        ):
            part.copy_(own)
    x = torch.randn(3, 6, 16, dtype=torch.float64)
    found = block.double()(x, torch.randn(3, 8, dtype=torch.float64))
    torch.testing.assert_close(found, known.double()(x), rtol=1e-12, atol=1e-12)


def test_scales_and_shifts_come_after_the_norms_and_gates_after_the_layers():
    # With a shift of 1 on normed numbers that a scale of -1 has made 0, the MLP sees ones alone, whatever x is.
    block, x = Block(16, 2, 8, 4), torch.randn(3, 6, 16)
    with torch.no_grad():
        block.modulation.bias.copy_(torch.tensor([0.0, 0, 0, -1, 1, 0.5]).repeat_interleave(16))
    expected = x + 0.5 * block.mlp(torch.ones(16))
    torch.testing.assert_close(block(x, torch.randn(3, 8)), expected, rtol=1e-6, atol=1e-6)  # float32


@pytest.mark.parametrize("shape", [(1, 7, 8), (1, 8, 7)])
def test_a_patch_that_does_not_divide_the_image_is_refused(shape):
    with pytest.raises(ConfigError, match=r"^patch must be a divisor of .* \d and \d \(got 2\)$"):
        DiT(shape, 0, patch=2)


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(ConfigError, match=r"^heads must be a divisor of width=16 \(got 3\)$"):
        DiT(SHAPE, 0, width=16, heads=3)
