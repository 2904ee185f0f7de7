import math

import pytest
import torch

from cases import TIME_SAMPLERS, over
from denoiselab.time_sampling import Discrete, Stratified, Uniform


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
        t = Stratified()(n)
        assert torch.equal(torch.ceil(t * n).sort().values, torch.arange(1, n + 1, dtype=torch.float64))
        torch.testing.assert_close(
            t.sort().values.diff(), torch.full((n - 1,), 1 / n, dtype=torch.float64), rtol=0, atol=1e-15
        )


def test_stratified_times_estimate_a_mean_far_better_than_independent_ones():
    # The mean of t over a lattice is within 1/(2n) of 1/2; of independent times, only within about 1/sqrt(12 n).
    n = 256
    assert max(abs(float(Stratified()(n).mean()) - 0.5) for _ in range(100)) <= 1 / (2 * n)
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
