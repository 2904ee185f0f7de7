"""The likelihood of the probability-flow ODE against exact densities."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from cases import SCHEDULES, over
from denoiselab.analytic import Gaussian, Mixture
from denoiselab.denoiser import Prediction
from denoiselab.errors import ConfigError
from denoiselab.likelihood import HALF_BIN, FlowODE, Nats
from denoiselab.likelihood.flow import velocity
from denoiselab.schedules import Flow, Schedule, as_time, linear

MEAN, STD = 0.3, 0.6


def mixture(schedule: Schedule, D: int = 2) -> Mixture:
    """Three tight clusters in the first two dimensions, N(0, 1) in the others; mean 0 and covariance I.

    So x_1 is N(0, I) up to alpha_1^3, and the exact density is that of the ODE to as much.
    """
    std = 0.3
    angle, radius = 2 * torch.pi * torch.arange(3, dtype=torch.float64) / 3, math.sqrt(2 * (1 - std**2))
    means = torch.zeros(3, D, dtype=torch.float64)
    means[:, 0], means[:, 1] = radius * angle.cos(), radius * angle.sin()
    spread = torch.ones(D, dtype=torch.float64)
    spread[:2] = std**2
    return Mixture(schedule, torch.ones(3), means, covariances=torch.diag(spread).expand(3, D, D))


def points(n: int = 8, D: int = 2) -> Tensor:
    return mixture(linear(), D).sample(n, torch.Generator().manual_seed(1))


def nats(method: FlowODE, model: Mixture | Gaussian, x0: Tensor, first: int = 0, quantised: bool = False) -> Nats:
    return method(model, model.schedule, x0, range(first, first + len(x0)), quantised)


def blurred(model: Mixture | Gaussian, x0: Tensor, t: float) -> Tensor:
    """-log density of x_0 + (sigma_t/alpha_t) eps at x0."""
    alpha, _ = model.schedule(t)
    return -model.log_density(alpha * x0, as_time(t)) - x0[0].numel() * torch.log(alpha)


def of_the_ode(model: Gaussian, x0: Tensor, t: float) -> Tensor:
    """-log density of the exact ODE, whose flow is known in closed form, from whatever x_1 the schedule leaves."""
    (alpha, sigma), (alpha_1, sigma_1) = model.schedule(t), model.schedule(1.0)
    z = model.flow(alpha * x0, t, 1.0) / model.schedule.prior_std
    stretch = torch.sqrt((alpha_1**2 * STD**2 + sigma_1**2) / (alpha**2 * STD**2 + sigma**2))
    return (z.square() / 2 + math.log(2 * math.pi) / 2 - torch.log(alpha * stretch / model.schedule.prior_std)).sum(1)


@pytest.mark.slow
@over("name", SCHEDULES)
def test_a_gaussians_nats_are_exact_on_every_schedule(name):
    model, x0 = Gaussian(SCHEDULES[name], MEAN, STD), torch.linspace(-2, 2, 10, dtype=torch.float64)[:, None]
    told = nats(FlowODE(40, None, 0.01), model, x0)
    assert float(told.biases["solver"].max()) < 1e-3
    # The step's error is 2^4 times smaller than the difference to half as many. Where alpha_1 = 0 the path ends at
    # log-SNR -20, and x_0 is e^{-10} = 5e-5 of z there.
    error = 1e-7 + float(told.biases["solver"].max()) / 10 + (2e-4 if float(model.schedule(1.0).alpha) < 1e-5 else 0)
    torch.testing.assert_close(told.total, of_the_ode(model, x0, 0.01), rtol=0, atol=error)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", [linear(T=None), Flow()])
def test_a_mixtures_nats_are_exact(schedule):
    model = mixture(schedule)
    told = nats(FlowODE(80, None, 0.01), model, points())
    assert float(told.biases["solver"].max()) < 3e-4
    error = 3e-7 + float(told.biases["solver"].max()) / 10  # alpha_1^3 = 3e-7 of linear
    torch.testing.assert_close(told.total, blurred(model, points(), 0.01), rtol=0, atol=error)


@pytest.mark.slow
def test_the_solver_is_of_order_four_and_says_more_than_its_error():
    model, x0 = Gaussian(linear(T=None), MEAN, STD), torch.linspace(-2, 2, 4, dtype=torch.float64)[:, None]
    known, errors = of_the_ode(model, x0, 0.01), []
    for steps in (30, 60, 120):
        told = nats(FlowODE(steps, None, 0.01), model, x0)
        errors.append(float((told.total - known).abs().mean()))
        assert errors[-1] < float(told.biases["solver"].mean())
    orders = [math.log2(a / b) for a, b in itertools.pairwise(errors)]
    assert min(orders) > 3.8, orders


@pytest.mark.slow
def test_starting_at_t_min_is_off_by_the_square_of_the_noise_there():
    """x_0 is taken as it is: the density told is of x_0 + n eps, and log p changes by n^2/2 of its heat equation."""
    model, x0 = mixture(linear(T=None)), points()
    true = -model.log_density(x0, as_time(0.0))
    rates = []
    for t_min in (0.01, 0.005):
        told = nats(FlowODE(50, None, t_min), model, x0)
        square = float(torch.exp(-model.schedule.log_snr(t_min)))
        rates.append((told.total - true) / square)
    assert float(rates[0].abs().mean()) > 1
    torch.testing.assert_close(rates[0], rates[1], rtol=0.05, atol=0.1)


@pytest.mark.parametrize("log_snr", [3.0, 1.0, -3.0])
def test_the_divergence_is_the_jacobians_trace_and_all_probes_together_give_it(log_snr):
    model, x0 = mixture(linear()), points()
    at = as_time(log_snr)
    z = points(6)
    rate, exact = velocity(model, model.schedule, z, at, [])
    h, traces = 1e-5, torch.zeros(6, dtype=torch.float64)
    for i in range(2):
        step = torch.zeros(2, dtype=torch.float64)
        step[i] = h
        ahead, behind = (velocity(model, model.schedule, z + sign * step, at, [])[0] for sign in (1, -1))
        traces += ((ahead - behind) / (2 * h))[:, i]
    torch.testing.assert_close(exact[:, 0], traces, rtol=1e-6, atol=1e-8)
    signs = [torch.tensor(pair, dtype=torch.float64).expand(6, 2) for pair in itertools.product((-1, 1), repeat=2)]
    _, drawn = velocity(model, model.schedule, z, at, signs)
    torch.testing.assert_close(drawn.mean(1), exact[:, 0], rtol=1e-12, atol=1e-14)
    assert (drawn.std(1) > 1e-6).any()
    assert rate.shape == x0[:6].shape


def test_the_error_that_probes_tell_covers_their_error():
    n, D = 60, 4
    x0 = points(n, D) @ torch.linalg.qr(torch.randn(D, D, dtype=torch.float64)).Q  # no probe is exact by symmetry
    turned = mixture(linear(), D)
    exact = nats(FlowODE(10, None, 0.01), turned, x0)
    drawn = nats(FlowODE(10, 8, 0.01), turned, x0)
    errors, variances = drawn.total - exact.total, drawn.variances["probes"]
    assert torch.equal(drawn.parts["prior"], exact.parts["prior"]), "the path is the same"
    # The mean of 60 errors is within 3 standard errors of 0, and their mean square is the mean variance.
    assert abs(float(errors.mean())) < 3 * math.sqrt(float(variances.mean()) / n)
    assert float(errors.square().mean() / variances.mean()) == pytest.approx(1, abs=3 * math.sqrt(2 / n))


def test_an_images_nats_depend_on_the_seed_and_its_index_alone():
    model, x0 = mixture(linear()), torch.round(127.5 * points(5).clamp(-1, 1)) / 127.5
    method = FlowODE(4, 2, 0.01, seed=1)
    one, two, three = (nats(method, model, x0[a:b], a, True).total for a, b in ((0, 5), (0, 3), (3, 5)))
    torch.testing.assert_close(one, torch.cat([two, three]), rtol=1e-13, atol=0)
    assert (nats(FlowODE(4, 2, 0.01, seed=2), model, x0, 0, True).total != one).all()


def test_levels_are_told_as_probabilities_of_their_bins():
    """A density times 2/255 each dimension, at a point in the bin: off by no more than its slope across half of it."""
    model = Gaussian(linear(), MEAN, STD)
    x0 = torch.arange(0, 252, 4).double().reshape(-1, 3) * 2 / 255 - 1
    method = FlowODE(20, None)
    bins, density = nats(method, model, x0, quantised=True), nats(method, model, x0)
    assert bins.parts["bins"].tolist() == pytest.approx([3 * math.log(127.5)] * len(x0))
    slope = HALF_BIN * (((x0 - MEAN) / STD**2).abs() + HALF_BIN / STD**2).sum(1)
    moved = bins.total - density.total - 3 * math.log(127.5)
    assert (moved.abs() <= 1.01 * slope).all()
    assert (moved != 0).all()


def test_a_networks_likelihood_is_taken_inside_of_no_grad_and_leaves_no_gradient():
    layer = torch.nn.Linear(2, 2, dtype=torch.float64)

    def denoise(x_t: Tensor, t: Tensor) -> Prediction:
        return Prediction(layer(x_t), layer(x_t))

    with torch.no_grad():
        told = FlowODE(4, 1)(denoise, linear(), torch.zeros(3, 2, dtype=torch.float64), range(3), False)
    assert told.total.isfinite().all()
    assert not told.total.requires_grad
    assert layer.weight.grad is None


@pytest.mark.parametrize("changes", [{"steps": 5}, {"steps": 0}, {"probes": 0}])
def test_invalid_numbers_are_refused(changes):
    with pytest.raises(ConfigError, match="must be"):
        FlowODE(**changes)
