import pytest
import torch
from torch import nn

from cases import grid
from denoiselab.denoiser import Denoiser
from denoiselab.objectives import VariationalBound
from denoiselab.parameterizations import V
from denoiselab.schedules.learned import Learned
from denoiselab.time_sampling import Uniform


def randomised(seed=0):
    torch.manual_seed(seed)
    schedule = Learned(units=8).double()
    for parameter in (schedule.height, schedule.steepness, schedule.place):
        nn.init.normal_(parameter)
    return schedule


@pytest.mark.parametrize("seed", range(5))
def test_log_snr_falls_from_its_start_to_its_end_whatever_the_weights_are(seed):
    schedule = randomised(seed)
    t = torch.linspace(0, 1, 1001, dtype=torch.float64)
    log_snr = schedule.log_snr_of(t)
    assert (log_snr.diff() < 0).all()
    assert float(log_snr[0].detach()) == pytest.approx(13.3, rel=1e-7)  # a float32 number
    assert float(log_snr[-1].detach()) == pytest.approx(-5.0, rel=1e-12)


def test_it_begins_nearly_linear():
    t = grid(100)
    assert (Learned().log_snr(t) - (13.3 - 18.3 * t)).abs().max() < 1.2


def test_its_slope_is_the_derivative_and_carries_a_gradient():
    schedule, t = randomised(), grid(50, low=0.05, high=0.95)
    h = 1e-6
    differences = (schedule.log_snr(t + h) - schedule.log_snr(t - h)) / (2 * h)
    torch.testing.assert_close(schedule.log_snr_slope(t), differences, rtol=1e-7, atol=0)
    schedule.log_snr_slope(t).sum().backward()
    assert all((p.grad != 0).all() for p in schedule.parameters())


class Wave(nn.Module):
    """Some function of x_t and its noise level, without weights."""

    def forward(self, x_t, t, cond):
        return torch.sin(2 * x_t + t[:, None])


def gradients(schedule, t, x0, eps):
    schedule.zero_grad()
    VariationalBound(Uniform())(Denoiser(Wave(), schedule, V()), x0, t=t, eps=eps).mean().backward()
    return {name: p.grad.clone() for name, p in schedule.named_parameters()}


def loss_of(schedule, t, x0, eps):
    """-lambda'/2 |eps - eps_hat|^2 a sample, by its definition."""
    alpha, sigma = (part[:, None] for part in schedule(t))
    prediction = Denoiser(Wave(), schedule, V())(alpha * x0 + sigma * eps, t)
    return -schedule.log_snr_slope(t) / 2 * (prediction.eps - eps).square().mean(1)


def test_the_inner_network_is_trained_on_the_variance_and_the_ends_on_the_bound():
    # E[L] does not depend on g, so Var[L] falls as E[L^2] does: g's gradient is that of the mean of L^2.
    schedule, t = randomised(), grid(16, low=0.1, high=0.9)
    x0, eps = (torch.randint(256, (16, 3)).double() / 127.5 - 1), torch.randn(16, 3).double()
    found = gradients(schedule, t, x0, eps)
    schedule.zero_grad()
    loss_of(schedule, t, x0, eps).square().mean().backward()
    for name in ("height", "steepness", "place"):
        torch.testing.assert_close(found[name], getattr(schedule, name).grad, rtol=1e-9, atol=1e-12)
    schedule.zero_grad()
    loss_of(schedule, t, x0, eps).mean().backward()
    # To the ends come, besides, the prior's and the decoder's pull: more noise at the end, less at the start.
    assert float(found["end"] - schedule.end.grad) > 0
    assert float(found["start"] - schedule.start.grad) < 0


def test_the_loss_is_the_whole_bound():
    schedule, t = randomised(), grid(6, low=0.2, high=0.8)
    x0, eps = (torch.randint(256, (6, 3)).double() / 127.5 - 1), torch.randn(6, 3).double()
    alpha, sigma = schedule(1.0)
    prior = (alpha**2 * x0**2 + sigma**2 - 1 - torch.log(sigma**2)) / 2
    start, levels = (
        schedule.level(torch.zeros((), dtype=torch.float64)),
        torch.linspace(-1, 1, 256, dtype=torch.float64),
    )
    z = start.alpha * x0 + start.sigma * eps
    log_p = -(((z[..., None] - start.alpha * levels) / start.sigma) ** 2) / 2
    decoder = -torch.log_softmax(log_p, -1).gather(-1, ((x0 + 1) * 127.5).round().long()[..., None])[..., 0]
    expected = loss_of(schedule, t, x0, eps) + (prior + decoder).mean(1)
    found = VariationalBound(Uniform())(Denoiser(Wave(), schedule, V()), x0, t=t, eps=eps)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_training_lowers_the_variance_of_the_loss():
    torch.manual_seed(0)
    schedule, t = Learned().double(), grid(256, low=1 / 256)
    x0, eps = (torch.randint(256, (256, 8)).double() / 127.5 - 1), torch.randn(256, 8).double()
    inner = [schedule.height, schedule.steepness, schedule.place]
    optimizer = torch.optim.Adam(inner, lr=0.05)

    def variance():
        with torch.no_grad():
            return float(loss_of(schedule, t, x0, eps).var())

    before = variance()
    for _ in range(100):
        optimizer.zero_grad()
        VariationalBound(Uniform())(Denoiser(Wave(), schedule, V()), x0, t=t, eps=eps).mean().backward()
        optimizer.step()
    assert variance() < 0.7 * before
