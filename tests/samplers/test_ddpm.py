import pytest
import torch

from cases import SCHEDULES, SPACINGS, VP, moments, over
from denoiselab.analytic import Gaussian
from denoiselab.errors import ConfigError
from denoiselab.samplers import DDPM
from denoiselab.schedules import linear
from denoiselab.spacings import Trailing


@over("schedule", SCHEDULES)
@over("spacing", SPACINGS)
def test_with_small_variance_the_chain_is_exact_for_data_of_one_point(schedule, spacing):
    # From q(x_t|x_0) at the grid's first time, every state has the law q(x_s|x_0).
    schedule, spacing, point = SCHEDULES[schedule], SPACINGS[spacing], 0.3
    alpha, sigma = schedule(spacing(10, schedule)[0])
    denoise = Gaussian(schedule, point, std=0.0)
    for s, mean, std in moments(DDPM(10, spacing), denoise, schedule, float(alpha) * point, float(sigma)):
        alpha, sigma = map(float, schedule(s))
        # The mean is a difference of two affine values of size 1; the variance loses what sigma_s/sigma_t amplifies.
        assert mean == pytest.approx(alpha * point, abs=1e-14)
        assert std == pytest.approx(sigma, rel=1e-11, abs=1e-15)


@over("schedule", VP)
@over("spacing", SPACINGS)
def test_with_large_variance_the_chain_is_exact_for_standard_normal_data(schedule, spacing):
    # On a VP schedule every x_t is then N(0, I); the last step adds no noise, and leaves E[x0|x_t] = alpha_t x_t.
    schedule, spacing = SCHEDULES[schedule], SPACINGS[spacing]
    *states, last = moments(DDPM(10, spacing, variance="large"), Gaussian(schedule), schedule, 0.0, 1.0)
    for _, mean, std in states:
        assert mean == 0
        assert std == pytest.approx(1, rel=1e-14)
    assert last[2] == pytest.approx(float(schedule(spacing(10, schedule)[-2]).alpha), rel=1e-14)


@pytest.mark.parametrize("variance", ["small", "large"])
def test_both_variances_tend_to_the_data_s_own_with_more_steps(variance):
    # First order in the step: four times the steps leave a quarter of the error.
    schedule, errors = SCHEDULES["linear_continuous"], []
    for steps in (400, 1600):
        sampler = DDPM(steps, Trailing(), variance)
        *_, (_, _, std) = moments(sampler, Gaussian(schedule, std=0.5), schedule, 0.0, 1.0)
        errors.append(abs(std - 0.5))
    assert errors[1] < 0.01
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)


def test_a_step_of_the_whole_chain_is_ddpm_s_algorithm_2():
    # x_{t-1} = (x_t - beta_t/sqrt(1 - abar_t) eps_hat)/sqrt(1 - beta_t) + sigma_t z.
    T, schedule = 50, linear(50)
    beta = torch.linspace(0.1 / T, 20 / T, T, dtype=torch.float64)
    alpha_bar = (1 - beta).cumprod(0)
    denoise, x, z = Gaussian(schedule, 0.3, 0.5), *torch.randn(2, 7, dtype=torch.float64)
    for i in range(2, T + 1):
        t, s = torch.tensor([i / T, (i - 1) / T], dtype=torch.float64)
        b, eps = beta[i - 1], denoise(x, t.expand(7)).eps
        mean = (x - b / torch.sqrt(1 - alpha_bar[i - 1]) * eps) / torch.sqrt(1 - b)
        for variance, expected in (
            ("large", b),
            ("small", (1 - alpha_bar[i - 2]) / (1 - alpha_bar[i - 1]) * b),
        ):
            found, _ = DDPM(T, Trailing(), variance).step(denoise, schedule, x, t, s, None, lambda x: z)
            # 1/alpha_t amplifies the rounding of x by 50 at most.
            torch.testing.assert_close(found, mean + torch.sqrt(expected) * z, rtol=0, atol=1e-13)


def test_another_variance_is_refused_with_what_is_allowed():
    with pytest.raises(ConfigError, match=r"sampler\.variance is 'medium'; allowed are small and large"):
        DDPM(10, Trailing(), variance="medium")
