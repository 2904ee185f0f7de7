import copy
import itertools

import pytest
import torch
from torch import nn

from denoiselab.ema import EMA, Snapshot, exponent, reconstruct
from denoiselab.errors import ConfigError


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


# Power-function profiles.


@pytest.mark.parametrize(("sigma_rel", "gamma"), [(0.05, 16.97), (0.10, 6.94)])
def test_the_published_widths_have_their_published_exponents(sigma_rel, gamma):
    assert exponent(sigma_rel) == pytest.approx(gamma, abs=5e-3)


@pytest.mark.parametrize("sigma_rel", [0.01, 0.05, 0.2, 0.28])
def test_the_width_is_the_profiles_standard_deviation(sigma_rel):
    # Of a density (gamma + 1) x^gamma on [0, 1].
    g = exponent(sigma_rel)
    mean, square = (g + 1) / (g + 2), (g + 1) / (g + 3)
    assert (square - mean**2) ** 0.5 == pytest.approx(sigma_rel, rel=1e-10)


@pytest.mark.parametrize("sigma_rel", [0.0, -0.1, 0.29, 3.0])
def test_a_width_that_no_power_function_has_is_refused(sigma_rel):
    with pytest.raises(ConfigError, match=r"sigma_rel must be above 0 and at most 0\.28"):
        EMA(None, sigma_rel)


def test_no_average_at_all_is_refused():
    with pytest.raises(ConfigError, match=r"ema\.decay=0\.999"):
        EMA(None)


def trajectory(ema, model, steps):
    """(steps, P): the weights after each of some steps of a slowing walk, float64; the averages follow it."""
    rows = []
    for k in range(steps):
        with torch.no_grad():
            for p in model.parameters():
                p.add_(torch.randn(p.shape) / (1 + k) ** 0.5)
        ema.update()
        rows.append(torch.cat([p.detach().double().flatten() for p in ema.live]))
    return torch.stack(rows)


def exact(rows, sigma_rel):
    """The average of a trajectory by the sum over all its steps."""
    part = torch.arange(len(rows) + 1, dtype=torch.float64) / len(rows)
    return (part ** (exponent(sigma_rel) + 1)).diff() @ rows


def flat(weights):
    return torch.cat([w.double().flatten() for w in weights.values()])


def test_several_averages_at_once_are_the_weighted_sums_over_the_trajectory():
    model, ema = nn.Linear(4, 3), EMA([0.9, 0.5], [0.05, 0.2])
    ema.bind(model)
    start = flat(ema.averages()["decay=0.9"])
    rows = trajectory(ema, model, 60)
    found = ema.averages()
    assert list(found) == ["decay=0.9", "decay=0.5", "sigma_rel=0.05", "sigma_rel=0.2"]
    for sigma_rel in (0.05, 0.2):
        # Sixty float32 updates.
        torch.testing.assert_close(flat(found[f"sigma_rel={sigma_rel}"]), exact(rows, sigma_rel), rtol=0, atol=2e-6)
    for decay in (0.9, 0.5):
        betas = [min(decay, k / (9 + k)) for k in range(1, 61)]
        left = [*itertools.accumulate(betas[::-1], lambda a, b: a * b, initial=1.0)][::-1]  # beta_k ... beta_60
        weights = torch.tensor([(1 - b) * after for b, after in zip(betas, left[1:], strict=True)], dtype=torch.float64)
        assert float(weights.sum()) + left[0] == pytest.approx(1, abs=1e-12)
        torch.testing.assert_close(flat(found[f"decay={decay}"]), weights @ rows + left[0] * start, rtol=0, atol=2e-6)
    assert all(map(torch.equal, ema.shadow, found["decay=0.9"].values()))


def snapshots(ema, model, steps, every):
    """Snapshots of both widths, and the trajectory."""
    stored, rows = [], []
    for end in range(every, steps + 1, every):
        rows.append(trajectory(ema, model, every))
        for name, weights in ema.averages().items():
            width = float(name.partition("=")[2])
            stored.append(Snapshot(end, width, {n: w.clone() for n, w in weights.items()}))
    return stored, torch.cat(rows)


@pytest.mark.parametrize("sigma_rel", [0.03, 0.07, 0.12, 0.25])
def test_any_width_is_reconstructed_from_snapshots_of_two(sigma_rel):
    model, ema = nn.Linear(4, 3), EMA(None, [0.05, 0.10])
    ema.bind(model)
    stored, rows = snapshots(ema, model, 2000, 100)
    found, wanted = flat(reconstruct(stored, 2000, sigma_rel)), exact(rows, sigma_rel)
    spread = (rows[1000:] - wanted).square().mean().sqrt()
    assert float((found - wanted).square().mean().sqrt() / spread) < 0.02, "two hundredths of the walk's own spread"


@pytest.mark.parametrize(("sigma_rel", "step"), [(0.05, 500), (0.10, 300)])
def test_what_was_stored_is_reconstructed_as_it_is(sigma_rel, step):
    model, ema = nn.Linear(4, 3), EMA(None, [0.05, 0.10])
    ema.bind(model)
    stored, _ = snapshots(ema, model, 500, 100)
    (kept,) = (s for s in stored if (s.step, s.sigma_rel) == (step, sigma_rel))
    torch.testing.assert_close(flat(reconstruct(stored, step, sigma_rel)), flat(kept.weights), rtol=0, atol=1e-6)


def test_several_averages_are_saved_and_go_on():
    model = nn.Linear(4, 3)
    ema, again = EMA(0.9, [0.05, 0.1]), EMA(0.9, [0.05, 0.1])
    for made in (ema, again):
        made.bind(model)
    trajectory(ema, model, 7)
    again.load_state_dict(copy.deepcopy(ema.state_dict()))
    ema.update()
    again.update()
    for a, b in zip(ema.averages().values(), again.averages().values(), strict=True):
        assert all(map(torch.equal, a.values(), b.values()))


def test_an_average_that_is_given_twice_is_refused():
    with pytest.raises(ConfigError, match=r"decay=0.9, decay=0.9 are not all different"):
        EMA([0.9, 0.9])
