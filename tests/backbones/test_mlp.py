import pytest
import torch
from test_backbones import randomised

from denoiselab.backbones import MLP, ReLUMLP
from denoiselab.conditioning import Cond


@pytest.mark.parametrize("shape", [(2,), (3, 8, 8), (1, 2, 3, 4)])
def test_the_event_s_shape_is_only_a_way_to_write_it(shape):
    network = randomised(MLP(shape, 0, width=16, depth=1))
    flat = randomised(MLP((int(torch.tensor(shape).prod()),), 0, width=16, depth=1))
    flat.load_state_dict(network.state_dict())
    x, t = torch.randn(4, *shape, dtype=torch.float64), torch.linspace(0.1, 1, 4, dtype=torch.float64)
    assert torch.equal(network(x, t, Cond()).flatten(1), flat(x.flatten(1), t, Cond()))


def test_at_first_every_block_is_the_identity():
    network = MLP((2,), 0, width=16, depth=3).double()
    torch.nn.init.normal_(network.head.weight)
    x, t = torch.randn(4, 2, dtype=torch.float64), torch.linspace(0.1, 1, 4, dtype=torch.float64)
    expected = network.head(network.stem(x))
    assert expected.abs().max() > 0.1
    assert torch.equal(network(x, t, Cond()), expected)


def test_a_relu_mlp_is_linear_layers_with_relu_between_and_nothing_else():
    network = randomised(ReLUMLP((2,), 0, width=16, depth=5))
    linear = [layer for layer in network.modules() if isinstance(layer, torch.nn.Linear)]
    assert len(linear) == 5
    x, t = torch.randn(4, 2, dtype=torch.float64), torch.linspace(0.1, 1, 4, dtype=torch.float64)
    h = torch.cat([x, 6 * t[:, None] - 3], 1)
    for layer in (network.stem, *network.layers):
        h = torch.relu(h @ layer.weight.T + layer.bias)
    # The same sums, perhaps in another order: roundings of numbers of size 10.
    known = h @ network.head.weight.T + network.head.bias
    torch.testing.assert_close(network(x, t, Cond()), known, rtol=1e-12, atol=1e-12)
