import copy

import pytest
import torch
from torch import nn

from denoiselab.ema import EMA


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.trained = nn.Linear(3, 2)
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.norm = nn.BatchNorm1d(2)


def values(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def change(model):
    """A pretended optimizer step, on all that a model holds."""
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.add_(torch.randn(tensor.shape).to(tensor.dtype))


def bound(decay=0.999, model=None):
    model = Model() if model is None else model
    ema = EMA(decay)
    ema.bind(model)
    return model, ema


@pytest.mark.parametrize("decay", [0.0, 0.15, 0.5, 0.999])
def test_the_average_is_the_explicit_recursion_with_its_warm_up(decay):
    model, ema = bound(decay)
    expected = [p.detach().double() for p in model.parameters() if p.requires_grad]
    for k in range(40):
        change(model)
        d = min(decay, (1 + k) / (10 + k))
        live = [p.detach().double() for p in model.parameters() if p.requires_grad]
        expected = [d * mean + (1 - d) * now for mean, now in zip(expected, live, strict=True)]
        ema.update()
        for found, mean in zip(ema.shadow, expected, strict=True):
            assert found.dtype == torch.float32
            # Each of up to 40 float32 updates of numbers below 30 rounds by 2e-6 at most, and forgets in time.
            torch.testing.assert_close(found.double(), mean, rtol=0, atol=2e-5)


def test_the_first_updates_weigh_the_new_by_nine_tenths():
    model, ema = bound()
    start = ema.shadow[0].clone()
    change(model)
    ema.update()
    torch.testing.assert_close(ema.shadow[0], 0.1 * start + 0.9 * model.trained.weight.detach(), rtol=1e-6, atol=1e-6)


def test_decay_zero_is_the_live_weights_bit_for_bit():
    model, ema = bound(decay=0.0)
    for _ in range(3):
        change(model)
        ema.update()
    assert torch.equal(ema.shadow[0], model.trained.weight)


def test_small_steps_of_low_precision_weights_are_not_lost():
    # In bfloat16, 1 + 0.001 (1 - 1/128) is 1: the average must be kept in float32.
    model = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    nn.init.ones_(model.weight)
    _, ema = bound(model=model)
    ema.updates = 100_000  # past the warm-up
    nn.init.constant_(model.weight, 1.0078125)
    for _ in range(1000):
        ema.update()
    expected = 1 + 0.0078125 * (1 - 0.999**1000)
    # Each of 1000 updates rounds 1 to float32, by 6e-8 at most; a tenth of what is gained, at the very worst.
    assert float(ema.shadow[0].reshape(())) == pytest.approx(expected, abs=1e-3 * 0.0625)
    assert float(ema.shadow[0].reshape(())) > 1.004


def test_an_update_leaves_the_model_alone():
    model, ema = bound()
    before = values(model)
    ema.update()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_buffers_and_frozen_parameters_are_no_part_of_it():
    model, ema = bound()
    assert ema.names == ["trained.weight", "trained.bias", "norm.weight", "norm.bias"]
    change(model)
    ema.update()
    before = values(model)
    with ema.swapped():
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, before[name]) == (name not in ema.names)


def test_swapped_has_the_average_inside_and_restores_bit_for_bit():
    model, ema = bound()
    change(model)
    ema.update()
    change(model)
    before, average = values(model), [s.clone() for s in ema.shadow]
    with ema.swapped():
        assert all(map(torch.equal, ema.live, average))
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(map(torch.equal, ema.shadow, average))


def test_swapped_restores_after_an_exception():
    model, ema = bound()
    change(model)
    ema.update()
    before = values(model)
    with pytest.raises(KeyboardInterrupt), ema.swapped():
        raise KeyboardInterrupt
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_swapping_keeps_the_parameters_that_an_optimizer_holds():
    model, ema = bound()
    held = [id(p) for p in model.parameters()]
    with ema.swapped():
        assert [id(p) for p in model.parameters()] == held
    assert all(p.grad is None and p.requires_grad for p in ema.live)


def test_a_saved_average_goes_on_as_if_never_stopped(tmp_path):
    model, ema = bound()
    for _ in range(5):
        change(model)
        ema.update()
    torch.save(ema.state_dict(), tmp_path / "ema.pt")
    twin, resumed = bound(model=copy.deepcopy(model))
    resumed.load_state_dict(torch.load(tmp_path / "ema.pt", weights_only=True))
    assert resumed.updates == 5
    change(model)
    twin.load_state_dict(model.state_dict())
    ema.update()
    resumed.update()
    assert all(map(torch.equal, ema.shadow, resumed.shadow))


def test_what_was_loaded_is_not_shared_with_what_was_saved():
    model, ema = bound()
    _, other = bound(model=copy.deepcopy(model))
    state = copy.deepcopy(ema.state_dict())
    other.load_state_dict(state)
    other.shadow[0].zero_()
    assert torch.equal(state["weights"]["trained.weight"], ema.shadow[0])
