"""What every backbone is: zero at first, then a function of x, t and the condition, sample by sample."""

import torch
from torch import nn

from cases import over
from denoiselab.backbones import MLP, DiT, JiT, ReLUMLP, UNet
from denoiselab.conditioning import Cond

SHAPE, DIM = (3, 8, 4), 5
BACKBONES = {
    "mlp": lambda dim=DIM: MLP(SHAPE, dim, width=32, depth=2),
    "relu_mlp": lambda dim=DIM: ReLUMLP(SHAPE, dim, width=32, depth=3),
    "unet": lambda dim=DIM: UNet(SHAPE, dim, channels=8, multipliers=(1, 2), blocks=1, attention=(4,), heads=2),
    "dit": lambda dim=DIM: DiT(SHAPE, dim, patch=2, width=32, depth=2, heads=2),
    "jit": lambda dim=DIM: JiT(SHAPE, dim, patch=2, bottleneck=6, width=32, depth=2, heads=2),
}


def randomised(backbone: nn.Module) -> nn.Module:
    """In float64, with no parameter left at 0: in a fresh network the zeros silence what comes before them."""
    for parameter in backbone.parameters():
        nn.init.normal_(parameter, std=0.2)
    return backbone.double()


def inputs(n=6):
    t = torch.linspace(0.05, 1, n, dtype=torch.float64)
    return torch.randn(n, *SHAPE).double(), t, Cond(vector=torch.randn(n, DIM).double())


def relative(a, b):
    return float(((a - b).norm() / b.norm()).detach())


@over("backbone", BACKBONES)
def test_the_output_is_exactly_zero_at_first(backbone):
    x, t, cond = inputs()
    assert torch.equal(BACKBONES[backbone]().double()(x, t, cond), torch.zeros_like(x))


@over("backbone", BACKBONES)
def test_a_batch_of_none_gives_none(backbone):
    """It is what a process validates where there are fewer images than processes."""
    assert BACKBONES[backbone]().double()(*inputs(0)).shape == (0, *SHAPE)


@over("backbone", BACKBONES)
def test_the_first_gradient_reaches_the_head(backbone):
    x, t, cond = inputs()
    network = BACKBONES[backbone]().double()
    (network(x, t, cond) - x).square().sum().backward()
    assert sum(float(p.grad.norm()) for p in network.parameters() if p.grad is not None) > 0


@over("backbone", BACKBONES)
def test_every_parameter_is_used(backbone):
    x, t, cond = inputs()
    network = randomised(BACKBONES[backbone]())
    network(x, t, cond).square().sum().backward()
    unused = [name for name, p in network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert not unused


@over("backbone", BACKBONES)
def test_the_output_depends_on_x_on_t_and_on_the_condition(backbone):
    x, t, cond = inputs()
    network = randomised(BACKBONES[backbone]())
    whole = network(x, t, cond)
    for changed in (
        network(x + 0.1, t, cond),
        network(x, t - 0.01, cond),
        network(x, t, Cond(vector=cond.vector + 0.1)),
        network(x, t, Cond()),
    ):
        assert all(relative(a, b) > 1e-3 for a, b in zip(changed, whole, strict=True))


@over("backbone", BACKBONES)
def test_a_quarter_and_three_quarters_of_the_way_are_told_apart(backbone):
    # Trap 4: a sinusoidal embedding of t itself, with periods up to 10,000, gives nearly the same for both.
    x, _, cond = inputs()
    network = randomised(BACKBONES[backbone]())
    early, late = (network(x, torch.full((6,), t, dtype=torch.float64), cond) for t in (0.25, 0.75))
    assert relative(early, late) > 0.1


@over("backbone", BACKBONES)
def test_a_batch_in_another_order_gives_the_outputs_in_that_order(backbone):
    x, t, cond = inputs()
    network, order = randomised(BACKBONES[backbone]()), torch.tensor([3, 0, 5, 1, 4, 2])
    found = network(x[order], t[order], Cond(vector=cond.vector[order]))
    # Batched sums may be taken in another order: roundings of numbers of size 10.
    torch.testing.assert_close(found, network(x, t, cond)[order], rtol=1e-12, atol=1e-12)


@over("backbone", BACKBONES)
def test_no_sample_sees_another(backbone):
    x, t, cond = inputs()
    network = randomised(BACKBONES[backbone]())
    alone = [network(x[i : i + 1], t[i : i + 1], Cond(vector=cond.vector[i : i + 1])) for i in range(6)]
    torch.testing.assert_close(torch.cat(alone), network(x, t, cond), rtol=1e-12, atol=1e-12)


@over("backbone", BACKBONES)
def test_every_output_number_may_depend_on_every_input_number(backbone):
    # By attention, by the layers between, or by the U-Net's middle.
    network = randomised(BACKBONES[backbone]())
    x, t, cond = inputs(1)
    x.requires_grad_()
    output = network(x, t, cond).flatten()
    for i in (0, len(output) // 2, len(output) - 1):
        (gradient,) = torch.autograd.grad(output[i], x, retain_graph=True)
        assert (gradient != 0).all()


@over("backbone", BACKBONES)
def test_without_a_condition_the_network_has_no_weights_for_one(backbone):
    (x, t, _), network = inputs(), randomised(BACKBONES[backbone](0))
    assert not any("cond" in name for name, _ in network.named_parameters())
    assert relative(network(x, t - 0.01, Cond()), network(x, t, Cond())) > 1e-3


@over("backbone", BACKBONES)
def test_two_outputs_are_two_tensors_like_x_one_after_the_other_in_its_first_dimension(backbone):
    kinds = {"mlp": MLP, "relu_mlp": ReLUMLP, "unet": UNet, "dit": DiT, "jit": JiT}
    small = {"unet": {"channels": 8, "attention": (4,), "heads": 2, "blocks": 1}}.get(
        backbone, {"width": 32, "depth": 2}
    )
    network = randomised(kinds[backbone](SHAPE, DIM, outputs=2, **small))
    x, t, cond = inputs()
    first, second = network(x, t, cond).chunk(2, dim=1)
    assert first.shape == second.shape == x.shape
    assert relative(first, second) > 1e-3
