import pytest
import torch
from test_backbones import randomised
from torch import nn

from denoiselab.backbones import JiT
from denoiselab.backbones.jit import Block, SwiGLU, turned, turns
from denoiselab.conditioning import Cond
from denoiselab.errors import ConfigError

SHAPE, PATCH = (2, 6, 4), 2  # not square, so that rows and columns cannot be mistaken for one another


def run(network, x):
    return network(x, torch.full((len(x),), 0.3, dtype=torch.float64), Cond())


def test_the_product_of_a_turned_query_and_key_depends_on_how_they_stand_to_one_another_alone():
    rows, columns, dim = 4, 5, 8
    q, k = torch.randn(2, dim, dtype=torch.float64)
    places = turns(rows, columns, dim)
    at_q, at_k = (turned(x.expand(1, 1, rows * columns, dim), places)[0, 0] for x in (q, k))
    product = (at_q @ at_k.T).reshape(rows, columns, rows, columns)
    by_distance: dict[tuple[int, int], float] = {}
    for r, c, s, d in torch.cartesian_prod(*map(torch.arange, product.shape)).tolist():
        known = by_distance.setdefault((r - s, c - d), float(product[r, c, s, d]))
        assert float(product[r, c, s, d]) == pytest.approx(known, rel=1e-12, abs=1e-12)
    assert len(set(by_distance.values())) == (2 * rows - 1) * (2 * columns - 1)
    assert by_distance[0, 0] == pytest.approx(float(q @ k), rel=1e-12)


def test_turning_keeps_lengths_and_leaves_what_is_no_patch_as_it_is():
    x = torch.randn(2, 3, 9, 8, dtype=torch.float64)
    found = turned(x, turns(2, 3, 8))
    torch.testing.assert_close(found.norm(dim=-1), x.norm(dim=-1), rtol=1e-13, atol=0)
    assert torch.equal(found[:, :, 6:], x[:, :, 6:])
    assert torch.equal(found[:, :, 0], x[:, :, 0])  # the first place is row 0, column 0
    assert (found[:, :, 1:6] != x[:, :, 1:6]).any(-1).all()


def test_rows_turn_the_first_half_of_the_pairs_and_columns_the_second():
    cos, sin = turns(3, 4, 8).reshape(2, 3, 4, 4)
    f = torch.tensor([1, 0.01], dtype=torch.float64)
    for row in range(3):
        for column in range(4):
            angles = torch.cat([row * f, column * f])
            torch.testing.assert_close(cos[row, column], angles.cos(), rtol=0, atol=1e-15)
            torch.testing.assert_close(sin[row, column], angles.sin(), rtol=0, atol=1e-15)


def test_queries_and_keys_are_normalised():
    # Whatever their size, the products stay within the root of a head's width, and attention does not saturate.
    block, x, embedding = Block(16, 2, 8, 4).double(), torch.randn(2, 6, 16).double(), torch.randn(2, 8).double()
    with torch.no_grad():
        block.modulation.bias.fill_(1.0)
        block.qkv.bias.zero_()
    places = turns(2, 3, 8)
    before = block(x, embedding, places)
    with torch.no_grad():
        block.qkv.weight[:32] *= 1000  # queries and keys, not values
    # RMSNorm's epsilon, 1e-6 beside a mean square of about 0.3, is what a thousand times larger numbers do not see.
    torch.testing.assert_close(block(x, embedding, places), before, rtol=0, atol=1e-4)


def test_swiglu_is_a_gated_product_with_the_weights_of_a_plain_mlp():
    layer, x = SwiGLU(12, 4), torch.randn(5, 12)
    a, b = (layer.both.weight @ x.T + layer.both.bias[:, None]).T.chunk(2, dim=1)
    torch.testing.assert_close(layer(x), layer.out(a * torch.sigmoid(a) * b), rtol=1e-5, atol=1e-6)  # float32
    assert layer.both.weight.numel() + layer.out.weight.numel() == 2 * 4 * 12 * 12


def test_at_first_every_block_is_the_identity():
    block, x = Block(16, 2, 8, 4), torch.randn(3, 6, 16)
    assert torch.equal(block(x, torch.randn(3, 8), turns(2, 3, 8).float()), x)


def test_a_patch_is_seen_through_the_bottleneck():
    """Images that its few directions do not tell apart are one image to the network."""
    network = randomised(JiT(SHAPE, 0, patch=PATCH, bottleneck=3, width=16, depth=1, heads=2))
    x = torch.randn(1, *SHAPE, dtype=torch.float64)
    directions = network.stem[0].weight.detach().flatten(1)  # (3, C p p)
    assert torch.linalg.matrix_rank(directions) == 3
    change = torch.linalg.svd(directions).Vh[3:].T @ torch.randn(5, dtype=torch.float64)
    other = x.clone()
    other[0, :, 2:4, :2] += change.reshape(2, PATCH, PATCH)
    assert float((other - x).norm()) > 1
    torch.testing.assert_close(run(network, other), run(network, x), rtol=1e-11, atol=1e-11)
    other[0, :, 2:4, :2] += directions[0].reshape(2, PATCH, PATCH)
    assert not torch.allclose(run(network, other), run(network, x), atol=1e-3)


def test_without_blocks_a_patch_of_the_input_changes_that_patch_of_the_output_alone():
    network, x = randomised(JiT(SHAPE, 0, patch=PATCH, width=16, depth=0)), torch.randn(1, *SHAPE, dtype=torch.float64)
    for top in range(0, SHAPE[1], PATCH):
        for left in range(0, SHAPE[2], PATCH):
            other = x.clone()
            other[..., top : top + PATCH, left : left + PATCH] += torch.randn(PATCH, PATCH)
            changed = (run(network, other) - run(network, x)).abs() > 1e-12
            inside = torch.zeros_like(changed)
            inside[..., top : top + PATCH, left : left + PATCH] = True
            assert torch.equal(changed, inside)


def test_without_learned_positions_rotation_alone_tells_places_apart():
    network = randomised(JiT(SHAPE, 0, patch=PATCH, width=16, depth=1, heads=2))
    x = torch.randn(1, *SHAPE, dtype=torch.float64)

    def exchanged(image):
        other = image.clone()
        other[..., :2, :2], other[..., 2:4, 2:] = image[..., 2:4, 2:], image[..., :2, :2]
        return other

    nn.init.zeros_(network.position)
    assert not torch.allclose(run(network, exchanged(x)), exchanged(run(network, x)), atol=1e-3)
    network.turns[0], network.turns[1] = 1, 0
    torch.testing.assert_close(run(network, exchanged(x)), exchanged(run(network, x)), rtol=1e-12, atol=1e-12)


def test_the_turns_are_no_part_of_a_checkpoint():
    assert not any("turns" in name for name in JiT(SHAPE, 0, patch=PATCH, width=16).state_dict())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"patch": 4}, r"^patch must be a divisor of .* 6 and 4 \(got 4\)$"),
        ({"heads": 3}, r"^heads must be a divisor of width=16 \(got 3\)$"),
        ({"heads": 8}, r"^width must be a multiple of 4 heads, 32 \(got 16\)"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(options, said):
    with pytest.raises(ConfigError, match=said):
        JiT(SHAPE, 0, **{"patch": PATCH, "width": 16} | options)
