"""The bound of a chain, where its exact value is known: for Gaussian data and their exact denoiser.

All of its terms are then quadratic in (x_0, eps), so that the mean over x_0 = mean +- std and eps = +-1, four points,
is the expectation without error.
"""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from cases import SCHEDULES, over
from denoiselab.analytic import Gaussian
from denoiselab.denoiser import Prediction
from denoiselab.errors import ConfigError
from denoiselab.likelihood import (
    Nats,
    VariationalBound,
    decoder_log_std,
    decoder_nats,
    density_nats,
    prior_nats,
    step_nats,
)
from denoiselab.randomness import SampleNoise
from denoiselab.schedules import VE, Flow, Schedule, linear
from denoiselab.spacings import Custom, Leading, LogSNR, Spacing

MEAN, STD = 0.2, 0.7
X0 = MEAN + STD * torch.tensor([[1.0], [1.0], [-1.0], [-1.0]], dtype=torch.float64)
EPS = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]], dtype=torch.float64)


def expected(bound: VariationalBound, denoise: Callable, schedule: Schedule) -> float:
    """The bound's expectation over Gaussian data, in nats."""
    places = torch.zeros(4, dtype=torch.float64)
    return float(bound.terms(denoise, schedule, X0, places, lambda x: EPS, quantised=False).total.mean())


def entropy(std: float) -> float:
    return math.log(std * math.sqrt(2 * math.pi * math.e))


def gap_of_the_prior(schedule: Schedule) -> float:
    """KL(q(x_1) || p) for the data above."""
    alpha, sigma = (float(part) for part in schedule(1.0))
    mean, variance = alpha * MEAN / schedule.prior_std, (alpha**2 * STD**2 + sigma**2) / schedule.prior_std**2
    return (variance + mean**2 - 1 - math.log(variance)) / 2


def knowing_the_variance(schedule: Schedule, times: Tensor) -> Callable[[Tensor, Tensor], Prediction]:
    """The exact denoiser, with the f of the exact reverse variance, beta-tilde + (d mean/d x0)^2 Var(x_0|x_t)."""
    exact = Gaussian(schedule, MEAN, STD)

    def denoise(x_t: Tensor, t: Tensor) -> Prediction:
        i = int(torch.searchsorted(times, t[0]))
        alpha, sigma = schedule(t)
        left = STD**2 * sigma**2 / (alpha**2 * STD**2 + sigma**2)  # Var(x_0|x_t)
        if i == 1:
            small, large = (2 * decoder_log_std(schedule, t, times[2].expand_as(t), f) for f in (0.0, 1.0))
            log_variance = torch.log(left)
        else:
            alpha_s, sigma_s = schedule(times[i - 1])
            beta = sigma**2 - (alpha / alpha_s * sigma_s) ** 2
            small, large = torch.log(beta * sigma_s**2 / sigma**2), torch.log(beta)
            log_variance = torch.log(beta * sigma_s**2 / sigma**2 + (alpha_s * beta / sigma**2) ** 2 * left)
        f = (log_variance - small) / (large - small)
        return exact(x_t, t)._replace(variance=f[:, None].expand_as(x_t))

    return denoise


@over("name", SCHEDULES)
@pytest.mark.parametrize("T", [3, 40])
@pytest.mark.parametrize("spacing", [None, LogSNR(1e-3)])
def test_with_the_exact_reverse_variance_the_bound_is_off_by_the_prior_alone_at_any_number_of_steps(name, T, spacing):
    schedule, bound = SCHEDULES[name], VariationalBound(T, T, spacing=spacing)
    times = bound.times(schedule)
    if (schedule.log_snr(times[2:]) == schedule.log_snr(times[1:-1])).any():
        times = times[schedule.log_snr(times) > schedule.log_snr(1.0)]  # past its end nothing moves, and f is free
        times = torch.cat([times, torch.ones(1, dtype=torch.float64)])
        T, spacing = len(times) - 1, Custom(times[1:].flip(0).tolist())
        bound = VariationalBound(T, T, spacing=spacing)
    told = expected(bound, knowing_the_variance(schedule, times), schedule)
    # f is a ratio of differences of logarithms, which leave it 1e-16 T/1e-3 of its digits.
    assert told - entropy(STD) == pytest.approx(gap_of_the_prior(schedule), abs=1e-9)


def gap_of_a_fixed_variance(T: int, fraction: float) -> float:
    """How far from -log p the bound of the continuous linear schedule is, less the prior's part: all steps at once."""
    schedule = linear(T=None)
    t = torch.arange(1, T + 1, dtype=torch.float64) / T
    total = float(prior_nats(schedule, X0).mean()) - gap_of_the_prior(schedule) - entropy(STD)
    alpha, sigma = (part[:, None] for part in schedule(t))
    for x0, eps in zip(X0, EPS, strict=True):
        x_t = alpha * x0 + sigma * eps
        said, x0 = Gaussian(schedule, MEAN, STD)(x_t, t), x0.expand(T, 1)
        first = density_nats(x0[:1], said.x0[:1], decoder_log_std(schedule, t[:1], t[1:2], fraction))
        rest = Prediction(said.x0[1:], said.eps[1:])
        steps = step_nats(schedule, x0[1:], x_t[1:], rest, t[1:], t[:-1], fraction)
        total += float(first.sum() + steps.sum()) / 4
    return total


def test_all_steps_at_once_are_the_bound():
    for f, variance in ((0.0, "small"), (1.0, "large")):
        schedule = linear(T=None)
        told = expected(VariationalBound(50, 50, variance), Gaussian(schedule, MEAN, STD), schedule)
        known = gap_of_a_fixed_variance(50, f) + gap_of_the_prior(schedule)
        assert told - entropy(STD) == pytest.approx(known, rel=1e-12)


def test_with_beta_tilde_the_gap_of_the_linear_schedule_tends_to_a_constant():
    """(C + 1 - log 2)/2 nats a dimension, C = 0.5772 Euler's, whatever the data's variance is.

    Near the data sigma_i^2 is in proportion to i, and the exact reverse variance is beta-tilde_i i/(i - 1) at any T:
    each step i >= 2 is off by (1/k - log(1 + 1/k))/2, k = i - 1, of which the sum is C/2. The decoder, whose
    beta-tilde_2 is half of beta_1, is off by (1 - log 2)/2.
    """
    plateau = (0.57721566490153286 + 1 - math.log(2)) / 2
    errors = [gap_of_a_fixed_variance(T, 0.0) - plateau for T in (100_000, 200_000, 400_000)]
    assert plateau == pytest.approx(0.44203, abs=1e-5)
    assert 0 < errors[2] < 1.1e-3
    for one, other in pairwise(errors):  # they fall as log T/T
        assert 0.5 < other / one < 0.56


def test_with_beta_the_gap_of_the_linear_schedule_falls_as_one_over_the_number_of_steps():
    """For data of any spread: near the data, beta is the exact reverse variance."""
    gaps = [gap_of_a_fixed_variance(T, 1.0) for T in (20_000, 40_000, 80_000)]
    assert 0 < gaps[2] < 1e-5
    for one, other in pairwise(gaps):
        assert other == pytest.approx(one / 2, rel=0.02)


def whole(schedule: Schedule, n: int = 6, D: int = 5, **changes: object) -> Callable[..., Nats]:
    x0 = torch.round(127.5 * torch.rand(n, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))) / 127.5
    bound = VariationalBound(**{"T": 40, "K": 7, "bins": 7, "seed": 3} | changes)
    return lambda part=slice(None): bound(
        Gaussian(schedule, MEAN, STD), schedule, x0[part], range(100, 100 + n)[part], quantised=True
    )


def test_an_images_nats_depend_on_the_seed_and_its_index_alone():
    """To the last bit, for a denoiser that keeps its samples apart to the last bit."""
    take, other = whole(linear()), whole(linear(), seed=4)
    one, two, three = take(), take(slice(0, 4)), take(slice(4, 6))
    for name in ("prior", "diffusion", "decoder"):
        assert torch.equal(one.parts[name], torch.cat([two.parts[name], three.parts[name]]))
    assert torch.equal(one.by_log_snr.nats[4:], three.by_log_snr.nats)
    assert not (one.parts["diffusion"] == other().parts["diffusion"]).any()
    assert not (one.parts["decoder"] == other().parts["decoder"]).any()


@pytest.mark.parametrize("schedule", [linear(), Flow(), VE()])
def test_bins_of_log_snr_add_up_to_the_diffusion_and_hold_all_evaluations(schedule):
    for K in (7, 40):
        nats = whole(schedule, K=K)()
        binned = nats.by_log_snr
        torch.testing.assert_close(binned.nats.sum(1), nats.parts["diffusion"], rtol=1e-14, atol=0)
        assert (binned.evaluations.sum(1) == K - 1).all()
        assert (binned.nats[binned.evaluations == 0] == 0).all()
        assert (binned.edges.diff() > 0).all()
        assert binned.edges.isfinite().all()
    steps = schedule.log_snr(torch.arange(2, 41, dtype=torch.float64) / 40)
    within = [((steps >= a) & (steps < b)).sum() for a, b in zip(binned.edges[:-1], binned.edges[1:], strict=True)]
    within[0] += (steps < binned.edges[0]).sum()
    assert binned.evaluations[0].tolist() == [int(n) for n in within]


@pytest.mark.parametrize("variance", ["small", "large"])
def test_all_steps_together_are_the_sum_that_the_formula_says(variance):
    """Written out for DDPM's chain, with the noise of an image in the order of the steps."""
    schedule, x0, indices = linear(), torch.tensor([[0.2, -1.0], [1.0, 3 / 255]], dtype=torch.float64), [5, 9]
    exact, f = Gaussian(schedule, MEAN, STD), {"small": 0.0, "large": 1.0}[variance]
    T, noise = 12, SampleNoise(2, indices, "bound")
    t = torch.arange(T + 1, dtype=torch.float64)[:, None].expand(-1, 2) / T

    def noisy(i: int) -> tuple[Tensor, Prediction]:
        alpha, sigma = schedule(t[i])
        x_t = alpha[:, None] * x0 + sigma[:, None] * noise(x0)
        return x_t, exact(x_t, t[i])

    decoder = decoder_nats(x0, noisy(1)[1].x0, decoder_log_std(schedule, t[1], t[2], f))
    steps = [step_nats(schedule, x0, *noisy(i), t[i], t[i - 1], f) for i in range(2, T + 1)]
    told = VariationalBound(T, T, variance, seed=2)(exact, schedule, x0, indices, quantised=True)
    known = (prior_nats(schedule, x0) + decoder + sum(steps)).sum(1)
    # The grid's i/T by linspace is 1e-16 off.
    torch.testing.assert_close(told.total, known, rtol=1e-11, atol=0)


@pytest.mark.parametrize("schedule", [linear(), Flow(), VE()])
def test_drawn_steps_weigh_as_much_as_all_of_them(schedule):
    """The weight that a step gets, averaged over the places in the strata, is 1: so the sum is unbiased."""
    bound, n = VariationalBound(20, 5), 20_000
    places = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    steps, weights = bound.drawn(schedule, bound.times(schedule), places)
    assert steps.shape == weights.shape == (4, n)
    assert (int(steps.min()), int(steps.max())) == (2, 20)
    mean = torch.zeros(21, dtype=torch.float64).index_add_(0, steps.flatten(), weights.flatten()) / n
    # A step has at least 0.1/19 of the 4 n places, and each of its two borders is off by one place of each stratum.
    torch.testing.assert_close(mean[2:], torch.ones(19, dtype=torch.float64), rtol=0, atol=8 / (4 * n * 0.1 / 19))
    assert float(weights.max()) <= 19 / 0.1 / 4 + 1e-9


@pytest.mark.slow
def test_for_standard_normal_data_it_hardly_matters_which_steps_are_drawn():
    """They are drawn where such data have their information: 9 of 999 steps leave a tenth of its value uncertain."""
    schedule = linear(T=None)
    x0 = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]], dtype=torch.float64)
    exact, totals = Gaussian(schedule), []
    for place in (0.0, 0.2, 0.4, 0.6, 0.8):
        places = torch.full((4,), place, dtype=torch.float64)
        nats = VariationalBound(1000, 10).terms(exact, schedule, x0, places, lambda x: EPS, quantised=False)
        totals.append(float(nats.parts["diffusion"].mean()))
    known = float(
        VariationalBound(1000, 1000)
        .terms(exact, schedule, x0, places, lambda x: EPS, quantised=False)
        .parts["diffusion"]
        .mean()
    )
    assert max(abs(total / known - 1) for total in totals) < 0.1


def test_a_variance_that_the_network_says_counts_in_place_of_the_fixed_one():
    schedule = linear()
    exact = Gaussian(schedule, MEAN, STD)
    small, large = (expected(VariationalBound(9, 9, name), exact, schedule) for name in ("small", "large"))
    for f, known in ((0.0, small), (1.0, large)):
        saying = lambda x_t, t, f=f: exact(x_t, t)._replace(variance=torch.full_like(x_t, f))  # noqa: E731
        for name in ("small", "large"):
            assert expected(VariationalBound(9, 9, name), saying, schedule) == pytest.approx(known, rel=1e-13)
            told = VariationalBound(9, 9, name)(saying, schedule, X0, range(4), quantised=False)
            assert told.words == {"variance": "learned"}
    assert small != pytest.approx(large, rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"T": 1, "K": 1}, "T must be at least 2"),
        ({"K": 1}, "K must be at least 2"),
        ({"K": 1001}, "K must be at most T=1000"),
        ({"variance": "x"}, "variance must be small or large"),
    ],
)
def test_a_chain_without_meaning_is_refused(changes, told):
    with pytest.raises(ConfigError, match=told):
        VariationalBound(**changes)


def test_a_chain_that_does_not_begin_at_the_prior_is_refused():
    spacing: Spacing = Leading(1000)
    with pytest.raises(ConfigError, match="begins at t = 1"):
        expected(VariationalBound(10, 10, spacing=spacing), Gaussian(linear()), linear())
