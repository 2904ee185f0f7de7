"""What a network is told beside t: channels and tokens, in every network that hears them."""

import hashlib
import json
from functools import partial

import pytest
import torch
from test_backbones import randomised
from torch import nn
from torch.distributed.device_mesh import init_device_mesh

from cases import over
from conftest import tiny_system, two_ranks
from denoiselab.backbones import DiT, JiT, UNet
from denoiselab.backbones.layers import blocks
from denoiselab.conditioning import Cond
from denoiselab.training.sharding import shard
from denoiselab.training.trainer import Speed

SHAPE, VECTOR, CONCAT, TOKEN = (3, 8, 4), 5, 2, 7
HEAR = {
    "unet": partial(UNet, SHAPE, channels=8, multipliers=(1, 2), blocks=1, attention=(4,), heads=2),
    "dit": partial(DiT, SHAPE, patch=2, width=32, depth=2, heads=2),
    "jit": partial(JiT, SHAPE, patch=2, bottleneck=6, width=32, depth=2, heads=2),
}


def network(backbone: str, cond_dim: int = VECTOR, concat_dim: int = CONCAT, token_dim: int = TOKEN) -> nn.Module:
    return HEAR[backbone](cond_dim=cond_dim, concat_dim=concat_dim, token_dim=token_dim)


def noisy(n: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(n, *SHAPE).double(), torch.linspace(0.1, 1, n, dtype=torch.float64)


def told(n: int = 4, length: int = 6) -> Cond:
    """Sample i has all but the last i of its tokens."""
    vector, concat, tokens = torch.randn(n, VECTOR), torch.randn(n, CONCAT, *SHAPE[1:]), torch.randn(n, length, TOKEN)
    mask = torch.arange(length) < length - torch.arange(n)[:, None]
    return Cond(vector.double(), concat.double(), tokens.double(), mask=mask)


def differs(a: torch.Tensor, b: torch.Tensor) -> bool:
    """In each sample, by far more than rounding."""
    return bool(((a - b).flatten(1).norm(dim=1) > 1e-3 * b.flatten(1).norm(dim=1)).all())


@over("backbone", HEAR)
def test_a_fresh_network_does_not_hear_tokens_though_it_speaks(backbone):
    net, (x, t), cond = network(backbone).double(), noisy(), told()
    head = net.head[-1] if isinstance(net.head, nn.Sequential) else net.head
    nn.init.normal_(head.weight)
    spoken = net(x, t, cond)
    assert spoken.abs().max() > 0.1
    assert torch.equal(net(x, t, cond._replace(tokens=-3 * cond.tokens)), spoken)


@over("backbone", HEAR)
def test_the_output_depends_on_each_route_and_on_its_absence(backbone):
    net, (x, t), cond = randomised(network(backbone)), noisy(), told()
    whole = net(x, t, cond)
    for route in ("vector", "concat", "tokens"):
        assert differs(net(x, t, cond._replace(**{route: getattr(cond, route) + 0.1})), whole), route
        assert differs(net(x, t, cond._replace(**{route: None})), whole), route
    assert differs(net(x, t, cond._replace(mask=None))[1:], whole[1:])


@over("backbone", HEAR)
def test_masked_tokens_have_no_influence_at_all(backbone):
    net, (x, t), cond = randomised(network(backbone)), noisy(), told()
    tokens = cond.tokens.clone().requires_grad_()
    whole = net(x, t, cond._replace(tokens=tokens))
    other = torch.where(cond.mask[..., None], cond.tokens, 100 * torch.randn_like(cond.tokens))
    assert torch.equal(net(x, t, cond._replace(tokens=other)), whole)
    (gradient,) = torch.autograd.grad(whole.square().sum(), tokens)
    assert (gradient[~cond.mask] == 0).all()
    assert (gradient[cond.mask] != 0).all()


@over("backbone", HEAR)
def test_a_mask_is_the_same_as_leaving_tokens_out(backbone):
    net, (x, t), cond = randomised(network(backbone)), noisy(), told()
    for i in range(len(x)):
        one = Cond(*(part[i : i + 1] for part in (cond.vector, cond.concat, cond.tokens[:, : 6 - i])))
        whole = net(x, t, cond)[i : i + 1]
        # Sums over 6 terms, some of them 0, and over 6 - i: roundings of numbers of size 10.
        torch.testing.assert_close(net(x[i : i + 1], t[i : i + 1], one), whole, rtol=1e-11, atol=1e-11)


@over("backbone", HEAR)
def test_tokens_are_a_set(backbone):
    """Their order says nothing; a conditioner puts it into the tokens where it does."""
    net, (x, t), cond = randomised(network(backbone)), noisy(), told()
    order = torch.tensor([4, 1, 0, 5, 3, 2])
    found = net(x, t, cond._replace(tokens=cond.tokens[:, order], mask=cond.mask[:, order]))
    torch.testing.assert_close(found, net(x, t, cond), rtol=1e-11, atol=1e-11)


@over("backbone", HEAR)
def test_channels_are_told_place_by_place(backbone):
    net = randomised(network(backbone))
    (x, t), cond = noisy(1), told(1)
    concat = cond.concat.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(net(x, t, cond._replace(concat=concat))[0, 0, 0, 0], concat)
    assert (gradient != 0).all()
    assert torch.equal(net(x, t, cond._replace(concat=None)), net(x, t, cond._replace(concat=0 * concat)))


@over("backbone", HEAR)
def test_a_gradient_reaches_every_weight_by_all_routes(backbone):
    net, (x, t), cond = randomised(network(backbone)), noisy(), told()
    net(x, t, cond).square().sum().backward()
    assert not [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]


@over("backbone", HEAR)
def test_the_first_steps_teach_a_fresh_network_to_hear_tokens(backbone):
    """Zeros that start a network in silence must not keep it there: sgd leaves them within four steps."""
    net, (x, t), cond = network(backbone).double(), noisy(), told()
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    for _ in range(4):
        optimizer.zero_grad()
        (net(x, t, cond) - cond.tokens[:, :1, :1, None]).square().mean().backward()
        optimizer.step()
    hearing = [name for name in before if "cross" in name or "context" in name]
    assert hearing
    still = [name for name, p in net.named_parameters() if name in hearing and torch.equal(p, before[name])]
    assert not still


@over("backbone", HEAR)
def test_no_sample_sees_what_another_is_told(backbone):
    net, (x, t), cond = randomised(network(backbone)), noisy(), told()
    alone = [
        net(x[i : i + 1], t[i : i + 1], Cond(*(p[i : i + 1] for p in cond[:3]), mask=cond.mask[i : i + 1]))
        for i in range(4)
    ]
    torch.testing.assert_close(torch.cat(alone), net(x, t, cond), rtol=1e-11, atol=1e-11)


@over("backbone", HEAR)
def test_what_it_is_told_may_have_another_precision(backbone):
    net, (x, t), cond = network(backbone).to(torch.bfloat16), noisy(), told()
    cond = cond._replace(vector=cond.vector.bfloat16(), concat=cond.concat.float(), tokens=cond.tokens.float())
    assert net(x.bfloat16(), t, cond).dtype == torch.bfloat16


@over("backbone", HEAR)
def test_of_no_dims_nothing_is_made_and_what_is_told_is_not_heard(backbone):
    def names(**dims) -> dict[str, tuple[int, ...]]:
        return {name: tuple(p.shape) for name, p in network(backbone, **dims).state_dict().items()}

    plain, every = names(concat_dim=0, token_dim=0), names()
    assert {n: s for n, s in names(concat_dim=0).items() if "cross" not in n and "context" not in n} == plain
    assert {n for n in every if every[n] != plain.get(n, every[n])} <= {"stem.weight", "stem.0.weight"}
    net, (x, t), cond = randomised(network(backbone, VECTOR, 0, 0)), noisy(), told()
    assert torch.equal(net(x, t, cond), net(x, t, Cond(vector=cond.vector)))


def test_the_default_networks_have_the_names_shapes_and_first_weights_that_they_have_always_had():
    """Runs that were trained before there were tokens are read, and go on, as they were."""

    def seen(net: nn.Module) -> str:
        told = [(name, list(p.shape)) for name, p in net.state_dict().items()]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]

    torch.manual_seed(0)
    unet = UNet((1, 8, 8), 128, channels=32)
    dit = DiT((1, 8, 8), 128)
    assert (seen(unet), seen(dit)) == UNCHANGED
    first = [
        unet.middle.attention.qkv.weight[0, 0],
        unet.up[-1].residual.conv1.bias[0],
        dit.blocks[-1].qkv.weight[0, 0],
    ]
    torch.testing.assert_close(torch.stack(first), torch.tensor(FIRST), rtol=1e-6, atol=0)  # float32, as printed


UNCHANGED = ("849a8ff35a4f0a5d", "b55e83764a995b99")
FIRST = [0.0809842050075531, 0.0028623442631214857, 0.06860680878162384]


@over("backbone", HEAR)
def test_gradient_checkpointing_gives_the_same_gradients_bit_by_bit(backbone):
    net, (x, t), cond = randomised(network(backbone)), noisy(), told()

    def gradients() -> list[torch.Tensor]:
        return list(torch.autograd.grad(net(x, t, cond).square().sum(), list(net.parameters())))

    before, system = gradients(), tiny_system()
    system.pipeline.denoiser.backbone = net
    Speed(compile=False, channels_last=False, gradient_checkpointing=True).setup(None, system, "fit")
    assert all(map(torch.equal, gradients(), before))


def a_rank(rank: int, folder) -> None:
    """Sharded over two ranks, each with half of the batch, beside the whole network with the whole batch."""
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    mesh, far = init_device_mesh("cpu", (2,)), {}
    for backbone in HEAR:
        torch.manual_seed(0)
        net, (x, t), cond = randomised(network(backbone)), noisy(), told()
        net(x, t, cond).square().mean().backward()
        whole = {name: p.grad.clone() for name, p in net.named_parameters()}
        net.zero_grad()
        shard(net, blocks(net), "forward", mesh)
        half = slice(2 * rank, 2 * rank + 2)
        net(x[half], t[half], Cond(*(p[half] for p in cond[:3]), mask=cond.mask[half])).square().mean().backward()
        found = {name: p.grad.full_tensor() for name, p in net.named_parameters()}
        far[backbone] = max(float((found[n] - whole[n]).abs().max() / whole[n].abs().max()) for n in whole)
    torch.save(far, folder / f"rank_{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_in_shards_the_gradients_are_those_of_the_whole_network(tmp_path):
    for far in two_ranks(a_rank, tmp_path):
        assert list(far) == list(HEAR)
        assert max(far.values()) < 1e-10  # float64, sums in another order
