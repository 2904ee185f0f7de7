import numpy as np
import pytest
import torch

from cases import SCHEDULES, EvenInLogSNR, over, starting
from denoiselab.analytic import Gaussian
from denoiselab.samplers import DDIM, Heun
from denoiselab.spacings import Trailing


@over("schedule", SCHEDULES)
def test_it_converges_to_the_flow_with_order_two(schedule):
    schedule, x = SCHEDULES[schedule], torch.linspace(-2, 2, 5, dtype=torch.float64)
    gaussian, counts = Gaussian(schedule, 0.3, 0.5), [64, 128, 256, 512]
    exact = gaussian.flow(x, 0.98, 0.02)
    x_T = starting(Heun(1, EvenInLogSNR()), schedule, x)
    errors = [float((Heun(n, EvenInLogSNR())(gaussian, schedule, x_T) - exact).abs().max()) for n in counts]
    slope = np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert slope == pytest.approx(-2, abs=0.1)
    assert errors[-1] < 1e-3


@pytest.mark.parametrize("steps", [1, 2, 10])
@over("schedule", SCHEDULES)
def test_it_evaluates_the_denoiser_twice_a_step_but_once_at_either_singular_end(schedule, steps):
    schedule, count = SCHEDULES[schedule], 0

    def denoise(x, t):
        nonlocal count
        count += 1
        return Gaussian(schedule)(x, t)

    Heun(steps, Trailing())(denoise, schedule, torch.randn(2))
    # The last step is Euler's; so is the first where alpha = 0. With one step they are the same.
    assert count == 2 * steps - 1 - (1 if schedule(1.0).alpha == 0 and steps > 1 else 0)


@over("schedule", SCHEDULES)
def test_a_step_is_algorithm_2_of_edm_in_its_coordinates(schedule):
    # Karras 2022: y = x/alpha, n = sigma/alpha, d = (y - D)/n, d' at the Euler point, y + (n' - n)(d + d')/2.
    schedule, x = SCHEDULES[schedule], torch.randn(7, dtype=torch.float64)
    denoise = Gaussian(schedule, 0.3, 0.5)
    t, s = torch.tensor([0.6, 0.45], dtype=torch.float64)
    (alpha_t, sigma_t), (alpha_s, sigma_s) = schedule(t), schedule(s)
    y, n, n_next = x / alpha_t, sigma_t / alpha_t, sigma_s / alpha_s
    d = (y - denoise(x, t.expand(7)).x0) / n
    euler = y + (n_next - n) * d
    d_next = (euler - denoise(alpha_s * euler, s.expand(7)).x0) / n_next
    expected = alpha_s * (y + (n_next - n) * (d + d_next) / 2)
    found, _ = Heun(1, Trailing()).step(denoise, schedule, x, t, s, None, torch.randn_like)
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-14)


@over("schedule", SCHEDULES)
def test_at_the_ends_it_is_the_euler_step(schedule):
    schedule, x = SCHEDULES[schedule], torch.randn(7, dtype=torch.float64)
    denoise, heun, ddim = Gaussian(schedule, 0.3, 0.5), Heun(1, Trailing()), DDIM(1, Trailing())
    ends = [(0.1, 0.0)] + ([(1.0, 0.9)] if schedule(1.0).alpha == 0 else [])
    for t, s in torch.tensor(ends, dtype=torch.float64):
        arguments = denoise, schedule, x, t, s, None, torch.randn_like
        assert torch.equal(heun.step(*arguments)[0], ddim.step(*arguments)[0])
