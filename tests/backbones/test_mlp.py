import pytest
import torch
from test_backbones import randomised

from denoiselab.backbones import MLP
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
