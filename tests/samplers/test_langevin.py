import math

import pytest
import torch
from torch import Tensor

from cases import SCHEDULES, moments, over
from denoiselab.analytic import Gaussian
from denoiselab.errors import ConfigError, IncompatibleError
from denoiselab.randomness import SampleNoise
from denoiselab.samplers import Langevin
from denoiselab.schedules import VE, Flow, cosine
from denoiselab.spacings import LogSNR, Trailing

FINITE = [name for name, schedule in SCHEDULES.items() if schedule(1.0).alpha > 0]


def affine(sampler: Langevin, schedule, t: Tensor, s: Tensor, std: float) -> tuple[float, Tensor]:
    """(a, c) of a step x -> a x + sum c_k z_k for data N(0, std^2): each draw is 1 in one row of the batch, else 0."""
    draws = iter(torch.eye(sampler.inner + 1, dtype=torch.float64)[1:])
    x = torch.zeros(sampler.inner + 1, dtype=torch.float64)
    x[0] = 1
    arguments = Gaussian(schedule, 0.0, std), schedule, x, t, s, None
    out, _ = sampler.step(*arguments, lambda x: next(draws))
    return float(out[0]), out[1:]


@over("schedule", FINITE)
@pytest.mark.parametrize("epsilon", [0.1, 0.5, 1.5])
@pytest.mark.parametrize("std", [0.2, 1.0])
def test_the_inner_steps_rest_at_the_variance_that_their_size_allows(schedule, epsilon, std):
    # y <- (1 - a/(2V)) y + sqrt(a) z keeps the variance V/(1 - a/(4V)), here V = std^2 + n^2 and a = epsilon n^2.
    schedule, sampler = SCHEDULES[schedule], Langevin(1, Trailing(), inner=60, epsilon=epsilon)
    for t in torch.tensor([0.9, 0.5], dtype=torch.float64):
        s = t - 0.01
        a, c = affine(sampler, schedule, t, s, std)
        (alpha, sigma), alpha_s = schedule(t), schedule(s).alpha
        V, size = std**2 + (sigma / alpha) ** 2, epsilon * (sigma / alpha) ** 2
        rest = float(V / (1 - size / (4 * V)))
        left = float(a * alpha / alpha_s) ** 2
        # What is left of any start, `left`, is known too: then the variance is exact before it is at rest.
        # The power is 120 roundings of its base, which cancels to 1/4 at the least.
        assert left == pytest.approx(float(1 - size / (2 * V)) ** 120, rel=1e-12, abs=1e-200)
        assert float(c.square().sum() / alpha_s**2) == pytest.approx(rest * (1 - left), rel=1e-13)


@over("schedule", FINITE)
@pytest.mark.parametrize("epsilon", [0.2, 1.5])
def test_the_whole_chain_has_the_moments_that_its_levels_give_in_turn(schedule, epsilon):
    # In y - m, a level takes the mean to f^inner of it and the variance as near to its rest as f^(2 inner),
    # f = 1 - a/(2V); the end is x0_hat, std^2/V of what the last level leaves.
    schedule, (m, std), inner = SCHEDULES[schedule], (0.3, 0.5), 3
    alpha, start = float(schedule(1.0).alpha), schedule.prior_std
    mean, variance = -m, (start / alpha) ** 2
    sampler = Langevin(6, LogSNR(), inner, epsilon)
    times = LogSNR()(6, schedule)[:-1]
    found = moments(sampler, Gaussian(schedule, m, std), schedule, 0.0, start)
    for t, (s, found_mean, found_std) in zip(times, found, strict=True):
        alpha, sigma = map(float, schedule(t))
        alpha_s = float(schedule(s).alpha)
        V, size = std**2 + (sigma / alpha) ** 2, epsilon * (sigma / alpha) ** 2
        f, rest = 1 - size / (2 * V), V / (1 - size / (4 * V))
        mean, variance = f**inner * mean, rest + f ** (2 * inner) * (variance - rest)
        if s == 0:
            mean, variance = std**2 / V * mean, (std**2 / V) ** 2 * variance
        # 6 levels of roundings.
        assert found_mean == pytest.approx(alpha_s * (m + mean), abs=1e-14)
        assert found_std == pytest.approx(alpha_s * math.sqrt(variance), rel=5e-14)


def test_on_ve_it_is_ncsn_s_algorithm_1():
    # Its own symbols: alpha_i = eps sigma_i^2/sigma_L^2, x <- x + alpha_i/2 s(x, sigma_i) + sqrt(alpha_i) z.
    schedule, inner, eps, sigma_L = VE(0.01, 1.0), 3, 2e-5, 0.01
    x, draws = torch.randn(5, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    t, s = torch.tensor([0.6, 0.5], dtype=torch.float64)
    sigma, expected = schedule(t).sigma, x
    for z in draws:
        score = (0.3 - expected) / (0.5**2 + sigma**2)
        alpha = eps * sigma**2 / sigma_L**2
        expected = expected + alpha / 2 * score + torch.sqrt(alpha) * z
    sampler, each = Langevin(1, Trailing(), inner, epsilon=eps / sigma_L**2), iter(draws)
    found, _ = sampler.step(Gaussian(schedule, 0.3, 0.5), schedule, x, t, s, None, lambda x: next(each))
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-14)


@over("schedule", FINITE)
def test_in_its_own_coordinates_every_schedule_gives_the_same(schedule):
    # The same n, and the same y = x/alpha to begin with.
    def y_after(schedule):
        t, s = (schedule.time(-2 * torch.tensor(n, dtype=torch.float64).log()) for n in (0.9, 0.3))
        gen = torch.Generator().manual_seed(0)
        noise = lambda x: torch.randn(x.shape, generator=gen, dtype=x.dtype)  # noqa: E731
        x = schedule(t).alpha * torch.linspace(-3, 3, 7, dtype=torch.float64)
        x, _ = Langevin(1, Trailing()).step(Gaussian(schedule, 0.3, 0.5), schedule, x, t, s, None, noise)
        return x / schedule(s).alpha

    # time(log_snr) and back costs a few roundings.
    torch.testing.assert_close(y_after(SCHEDULES[schedule]), y_after(cosine()), rtol=0, atol=5e-14)


@over("schedule", FINITE)
def test_it_ends_with_x0_hat_after_the_last_level_s_steps(schedule):
    schedule, calls, drawn = SCHEDULES[schedule], [], []
    exact = Gaussian(schedule, 0.3, 0.5)

    def denoise(x, t):
        calls.append((x, float(t[0])))
        return exact(x, t)

    def noise(x):
        drawn.append(x)
        return torch.randn_like(x)

    x_T = schedule.prior_std * torch.randn(4, 2, dtype=torch.float64)
    x_0 = Langevin(6, LogSNR(), inner=3)(denoise, schedule, x_T, noise)
    times = LogSNR()(6, schedule)[:-1].tolist()
    assert [t for _, t in calls] == [t for t in times for _ in range(3)] + times[-1:]
    assert len(drawn) == 6 * 3
    last, t = calls[-1]
    assert torch.equal(x_0, exact(last, torch.full((4,), t, dtype=torch.float64)).x0)


def test_a_sample_does_not_depend_on_its_batch():
    schedule, x_T = cosine(), torch.randn(4, 3)
    sampler, denoise = Langevin(5, LogSNR()), Gaussian(schedule, 0.3, 0.5)
    whole = sampler(denoise, schedule, x_T, SampleNoise(0, range(4)))
    for i in range(4):
        assert torch.equal(sampler(denoise, schedule, x_T[i : i + 1], SampleNoise(0, [i])), whole[i : i + 1])


def test_a_schedule_that_ends_at_alpha_0_is_refused_in_one_line():
    with pytest.raises(IncompatibleError, match=r"alpha = 0.*schedule\.log_snr_min=-15") as caught:
        Langevin(3, LogSNR())(Gaussian(Flow()), Flow(), torch.randn(2))
    assert "\n" not in str(caught.value)
    ended = Flow(log_snr_min=-15.0)
    assert Langevin(3, LogSNR())(Gaussian(ended), ended, torch.randn(2)).isfinite().all()


@pytest.mark.parametrize("words", [{"inner": 0}, {"epsilon": 0.0}, {"epsilon": 4.0}])
def test_invalid_values_are_refused(words):
    with pytest.raises(ConfigError, match=f"^{next(iter(words))} must be "):
        Langevin(3, LogSNR(), **words)
