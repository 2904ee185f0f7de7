import math

import pytest
import torch

from cases import SCHEDULES, TIME_SAMPLERS, over
from denoiselab.time_sampling import Discrete, LogitNormal, LogNormal, LossSecondMoment, Uniform


def distance_to_uniform(t: torch.Tensor) -> float:
    """Kolmogorov's sup |F_n - F|, times sqrt(n)."""
    n = len(t)
    steps = torch.arange(n + 1, dtype=torch.float64) / n
    t = t.sort().values
    return math.sqrt(n) * float(torch.maximum((steps[1:] - t).abs(), (steps[:-1] - t).abs()).max())


@over("sampler", TIME_SAMPLERS)
def test_times_are_float64_in_the_half_open_interval(sampler):
    t = TIME_SAMPLERS[sampler](10_000)
    assert (t.dtype, t.shape) == (torch.float64, (10_000,))
    assert t.min() > 0
    assert t.max() <= 1


@over("sampler", TIME_SAMPLERS)
@pytest.mark.parametrize("extreme", [0.0, 1 - 2**-53])
def test_no_draw_gives_time_zero(sampler, extreme, monkeypatch):
    # What torch.rand may return at its ends; schedule(0) would have no noise to learn from.
    monkeypatch.setattr(torch, "rand", lambda *shape, **kwargs: torch.full(shape, extreme, dtype=torch.float64))
    t = TIME_SAMPLERS[sampler](100)
    assert t.min() > 0
    assert t.max() <= 1


@over("sampler", TIME_SAMPLERS)
def test_times_are_uniform(sampler):
    # Kolmogorov: sup |F_n - F| sqrt(n) exceeds 1.95 once in a thousand; discrete times add sqrt(n)/T = 0.14.
    times = TIME_SAMPLERS[sampler](20_000, torch.Generator().manual_seed(1))
    assert distance_to_uniform(times) < 1.95 + 0.15


@over("sampler", TIME_SAMPLERS)
def test_each_place_in_the_batch_is_uniform(sampler):
    gen = torch.Generator().manual_seed(2)
    batches = torch.stack([TIME_SAMPLERS[sampler](4, gen) for _ in range(4000)])
    for place in batches.unbind(1):
        assert distance_to_uniform(place) < 1.95 + 0.07


@over("sampler", TIME_SAMPLERS)
def test_a_generator_says_what_is_drawn(sampler):
    draw = lambda seed: TIME_SAMPLERS[sampler](16, torch.Generator().manual_seed(seed))  # noqa: E731
    first = draw(3)
    torch.rand(7)  # the global generator has no say
    assert torch.equal(draw(3), first)
    assert not torch.equal(draw(4), first)


@pytest.mark.parametrize("n", [1, 2, 7, 128])
def test_stratified_times_fall_one_into_each_stratum(n):
    for _ in range(50):
        t = Uniform(stratified=True)(n)
        assert torch.equal(torch.ceil(t * n).sort().values, torch.arange(1, n + 1, dtype=torch.float64))
        torch.testing.assert_close(
            t.sort().values.diff(), torch.full((n - 1,), 1 / n, dtype=torch.float64), rtol=0, atol=1e-15
        )


def test_stratified_times_estimate_a_mean_far_better_than_independent_ones():
    # The mean of t over a lattice is within 1/(2n) of 1/2; of independent times, only within about 1/sqrt(12 n).
    n = 256
    assert max(abs(float(Uniform(stratified=True)(n).mean()) - 0.5) for _ in range(100)) <= 1 / (2 * n)
    assert max(abs(float(Uniform()(n).mean()) - 0.5) for _ in range(100)) > 1 / (2 * n)


@pytest.mark.parametrize("T", [1, 4, 1000])
def test_discrete_times_are_those_of_the_t_step_diffusion_with_its_last(T):
    t = Discrete(T)(20 * T)
    assert torch.equal(t, torch.round(t * T) / T)
    assert t.max() == 1
    assert t.min() == 1 / T


def test_discrete_times_are_equally_likely():
    counts = (Discrete(10)(100_000) * 10).round().long().bincount(minlength=11)
    assert counts[0] == 0
    chi_squared = float(((counts[1:] - 10_000.0) ** 2 / 10_000).sum())
    assert chi_squared < 27.9  # 9 degrees of freedom: exceeded once in a thousand


# Those that think in noise levels, or in losses.


def normal_cdf(z):
    return torch.special.ndtr(z)


@pytest.mark.parametrize("stratified", [False, True])
@over("schedule", ["edm", "ve_sqrt", "linear", "flow", "cosine_shifted"])
def test_log_normal_times_have_a_normal_log_of_sigma_over_alpha(schedule, stratified):
    schedule = SCHEDULES[schedule]
    times = LogNormal(-1.2, 1.2, stratified)(20_000, torch.Generator().manual_seed(1), schedule=schedule)
    z = (-schedule.log_snr(times) / 2 + 1.2) / 1.2
    assert distance_to_uniform(normal_cdf(z)) < 1.95


def test_log_normal_times_beyond_the_schedule_are_its_ends():
    ve = SCHEDULES["ve"]  # sigma from 0.01 to 50
    times = LogNormal(-4.0, 3.0)(10_000, schedule=ve)
    assert times.min() > 0
    assert times.max() == 1
    assert 0.009 < float(ve(times).sigma.min()) < 0.0101


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.8, 0.8)])
def test_logit_normal_times_have_a_normal_logit(mean, std):
    times = LogitNormal(mean, std, stratified=False)(20_000, torch.Generator().manual_seed(1))
    assert distance_to_uniform(normal_cdf((torch.logit(times) - mean) / std)) < 1.95


def test_what_thinks_in_noise_levels_asks_for_the_schedule():
    with pytest.raises(TypeError, match="LogNormal draws noise levels"):
        LogNormal()(4)


@pytest.mark.parametrize(
    "sampler",
    [Uniform(), Discrete(1000), LogNormal(-1.2, 1.2), LogitNormal(), LogitNormal(0.8, 0.8), LossSecondMoment()],
)
def test_the_density_is_the_slope_of_the_distribution(sampler):
    # t(u) is the quantile: its density at t is du/dt, over stretches that are long against a discrete sampler's steps.
    schedule, u = SCHEDULES["edm"], torch.linspace(0.02, 0.98, 97, dtype=torch.float64)
    t = sampler.quantile(u, schedule)
    edges = torch.stack([t[:-1] + (t[1:] - t[:-1]) * (k + 0.5) / 200 for k in range(200)])
    mass = sampler.density(edges, schedule).mean(0) * t.diff()
    torch.testing.assert_close(
        mass, u.diff(), rtol=0.11 if isinstance(sampler, Discrete | LossSecondMoment) else 2e-4, atol=0
    )


def test_loss_second_moment_is_uniform_until_each_time_has_its_history():
    sampler = LossSecondMoment(T=4, history=2)
    assert torch.equal(sampler.probabilities(), torch.full((4,), 0.25).double())
    every = torch.arange(1, 5).double() / 4
    sampler.update(every, torch.ones(4).double())
    assert torch.equal(sampler.importance(every), torch.ones(4).double())
    sampler.update(every, torch.tensor([1.0, 2.0, 3.0, 4.0]).double())
    assert not torch.equal(sampler.importance(every), torch.ones(4).double())


def test_loss_second_moment_draws_in_proportion_to_the_root_of_the_mean_square_of_the_last_losses():
    sampler, T = LossSecondMoment(T=4, history=2, uniform=0.01, stratified=False), 4
    every = torch.arange(1, 5).double() / T
    for losses in ([9.0, 9.0, 9.0, 9.0], [1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 6.0]):  # the first is forgotten
        sampler.update(every, torch.tensor(losses).double())
    root = torch.tensor([1.0, 2.0, 3.0, 26**0.5], dtype=torch.float64)
    expected = 0.99 * root / root.sum() + 0.01 / 4
    torch.testing.assert_close(sampler.probabilities(), expected, rtol=1e-14, atol=0)
    times = sampler(100_000, torch.Generator().manual_seed(0))
    counts = (times * T).round().long().bincount(minlength=5)[1:]
    chi_squared = float(((counts - 1e5 * expected) ** 2 / (1e5 * expected)).sum())
    assert chi_squared < 16.3  # 3 degrees of freedom: exceeded once in a thousand
    # The weight undoes the draw: any figure of t has its mean under uniform t.
    figure = torch.tensor([0.3, -1.0, 5.0, 2.0]).double()
    weighted = (sampler.importance(every) * expected * figure).sum()
    assert float(weighted) == pytest.approx(float(figure.mean()), rel=1e-14)


def test_the_history_of_losses_is_saved_and_read_back():
    sampler, other = LossSecondMoment(T=4, history=1), LossSecondMoment(T=4, history=1)
    sampler.update(torch.arange(1, 5).double() / 4, torch.tensor([1.0, 2.0, 3.0, 4.0]).double())
    other.load_state_dict(sampler.state_dict())
    assert torch.equal(other.probabilities(), sampler.probabilities())
