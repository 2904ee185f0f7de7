import pytest
import torch

from cases import SCHEDULES, over
from denoiselab.analytic import Gaussian
from denoiselab.samplers import Euler, Heun
from denoiselab.samplers.edm import Churn
from denoiselab.schedules import linear
from denoiselab.spacings import LogSNR


@over("name", SCHEDULES)
def test_churn_moves_a_gaussian_along_its_own_marginals(name):
    """x_t of variance alpha^2 s^2 + sigma^2 becomes one of that variance later: read off exactly."""
    schedule, std, churn = SCHEDULES[name], 0.5, Churn(steps=10, s_churn=2.0)
    for t in torch.tensor([0.1, 0.5, 0.6], dtype=torch.float64):
        one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
        scale, later = churn(schedule, one, t, torch.zeros_like)
        added, _ = churn(schedule, zero, t, torch.ones_like)
        (alpha_t, sigma_t), (alpha, sigma) = schedule(t), schedule(later)
        assert later > t
        torch.testing.assert_close(sigma / alpha, 1.2 * sigma_t / alpha_t, rtol=1e-9, atol=0)  # gamma = 2/10
        before, after = alpha_t**2 * std**2 + sigma_t**2, alpha**2 * std**2 + sigma**2
        torch.testing.assert_close(scale**2 * before + added**2, after[None], rtol=1e-9, atol=0)


@over("sampler", [Euler, Heun])
def test_churn_draws_once_a_step_inside_its_range_and_never_at_the_schedule_s_end(sampler):
    schedule, drawn = SCHEDULES["cosine"], []

    def noise(x):
        drawn.append(x)
        return torch.randn_like(x)

    x = torch.randn(2, 3, dtype=torch.float64)
    sampler(8, LogSNR(), s_churn=1.0)(Gaussian(schedule), schedule, x, noise)
    assert len(drawn) == 7  # all steps but the first, which is at t = 1
    for outside in {"s_min": 1e9}, {"s_max": 0.0}, {"s_churn": 0.0}:
        sampler(8, LogSNR(), **{"s_churn": 1.0} | outside)(Gaussian(schedule), schedule, x, noise)
        assert len(drawn) == 7


def test_gamma_is_at_most_the_square_root_of_2_less_1():
    schedule, t = linear(T=None), torch.tensor(0.3, dtype=torch.float64)
    _, later = Churn(steps=1, s_churn=1e6)(schedule, torch.zeros(1), t, torch.randn_like)
    assert float(schedule.log_snr(t) - schedule.log_snr(later)) == pytest.approx(2 * torch.log(torch.tensor(2.0)) / 2)


def test_s_noise_scales_what_is_added():
    schedule, t, x = linear(T=None), torch.tensor(0.3, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    once, thrice = (Churn(10, 1.0, s_noise=factor)(schedule, x, t, torch.ones_like)[0] for factor in (1.0, 3.0))
    torch.testing.assert_close(thrice, 3 * once, rtol=1e-15, atol=0)
