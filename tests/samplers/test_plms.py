from itertools import pairwise

import pytest
import torch

from cases import SCHEDULES, over
from denoiselab.analytic import Gaussian
from denoiselab.denoiser import Prediction
from denoiselab.samplers import DDIM, PLMS
from denoiselab.samplers.plms import ADAMS_BASHFORTH
from denoiselab.spacings import Trailing


def transfer(schedule, x, eps, t, s):
    """Liu 2022, eq. 9, in n = sigma/alpha: y_s = y_t + (n_s - n_t) eps."""
    (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
    return alpha_s * (x / alpha_t + (sigma_s / alpha_s - sigma_t / alpha_t) * eps)


@pytest.mark.parametrize("k", ADAMS_BASHFORTH)
def test_the_average_of_k_values_is_exact_for_polynomials_of_degree_k_less_1(k):
    # int_0^1 u^d du = 1/(d + 1), from the values at u = 0, -1, -2, ...
    for degree in range(k):
        values = [(-float(i)) ** degree for i in range(k)]
        average = sum(w * v for w, v in zip(ADAMS_BASHFORTH[k], values, strict=True))
        assert average == pytest.approx(1 / (degree + 1), abs=1e-14)


@over("schedule", SCHEDULES)
def test_its_steps_are_improved_euler_s_then_adams_and_bashforth_s_then_ddim_s(schedule):
    schedule, x = SCHEDULES[schedule], torch.randn(7, dtype=torch.float64)
    denoise, sampler = Gaussian(schedule, 0.3, 0.5), PLMS(7, Trailing())
    eps_of = lambda x, t: denoise(x, t.expand(7)).eps  # noqa: E731
    times = torch.linspace(0.7, 0.0, 8, dtype=torch.float64)
    state, expected, past = None, x, []
    for i, (t, s) in enumerate(pairwise(times)):
        x, state = sampler.step(denoise, schedule, x, t, s, state, torch.randn_like)
        past = [eps_of(expected, t), *past]
        e = dict(enumerate(past))
        if i == 0:
            eps = (e[0] + eps_of(transfer(schedule, expected, e[0], t, s), s)) / 2
        elif i == 1:
            eps = (3 * e[0] - e[1]) / 2
        elif i == 2:
            eps = (23 * e[0] - 16 * e[1] + 5 * e[2]) / 12
        else:
            eps = (55 * e[0] - 59 * e[1] + 37 * e[2] - 9 * e[3]) / 24
        expected = transfer(schedule, expected, e[0] if s == 0 else eps, t, s)
        scale = float(schedule(t).sigma)
        torch.testing.assert_close(x, expected, rtol=1e-11, atol=1e-12 * max(1, scale))


def test_where_eps_does_not_change_every_step_is_exact():
    schedule, (x_T, eps) = SCHEDULES["linear"], torch.randn(2, 7, dtype=torch.float64)

    def denoise(x, t):
        alpha, sigma = schedule(t[0])
        return Prediction(x0=(x - sigma * eps) / alpha, eps=eps)

    states = []
    PLMS(8, Trailing())(denoise, schedule, x_T, on_step=states.append)
    start = torch.ones((), dtype=torch.float64)
    for step in states:
        # 1/alpha_T amplifies the rounding by 157.
        torch.testing.assert_close(step.x, transfer(schedule, x_T, eps, start, step.s), rtol=1e-11, atol=1e-12)


@over("name", ["flow", "linear_to_zero"])
def test_from_alpha_zero_its_step_is_ddim_s_and_counts_for_the_next(name):
    schedule, x = SCHEDULES[name], torch.randn(7, dtype=torch.float64)
    denoise = Gaussian(schedule, 0.3, 0.5)
    t, s, u = torch.tensor([1.0, 0.8, 0.6], dtype=torch.float64)
    first, state = PLMS(5, Trailing()).step(denoise, schedule, x, t, s, None, torch.randn_like)
    assert torch.equal(first, DDIM(5, Trailing()).step(denoise, schedule, x, t, s, None, torch.randn_like)[0])
    second, state = PLMS(5, Trailing()).step(denoise, schedule, first, s, u, state, torch.randn_like)
    eps = (3 * denoise(first, s.expand(7)).eps - denoise(x, t.expand(7)).eps) / 2
    torch.testing.assert_close(second, transfer(schedule, first, eps, s, u), rtol=1e-12, atol=1e-13)
    assert len(state) == 2
