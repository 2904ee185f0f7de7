import math

import numpy as np
import pytest
import torch

from cases import SCHEDULES, SPACINGS, over
from denoiselab.analytic import Gaussian
from denoiselab.errors import ConfigError
from denoiselab.samplers import ODE
from denoiselab.schedules import EDM, VE
from denoiselab.spacings import Custom, Karras, Leading, Linspace, LogSNR, Quadratic, Sections, Trailing


def zero_based(t: torch.Tensor) -> list[int]:
    """The published numbering: index i is t = (i + 1)/1000. The final 0 is left out."""
    steps = t[:-1] * 1000 - 1
    # i/1000 times 1000 is i to a rounding.
    torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-12)
    return [int(i) for i in steps.round()]


def test_leading_visits_900_to_0():
    assert zero_based(Leading(1000)(10, SCHEDULES["linear"])) == [900, 800, 700, 600, 500, 400, 300, 200, 100, 0]


@over("T", [None, 1000])
def test_trailing_visits_999_to_99(T):
    assert zero_based(Trailing(T)(10, SCHEDULES["linear"])) == [999, 899, 799, 699, 599, 499, 399, 299, 199, 99]


def test_trailing_of_a_t_step_diffusion_visits_its_times_only():
    # Lin 2023's code: round(arange(T, 0, -T/N)) - 1, here for an N that does not divide T.
    assert zero_based(Trailing(1000)(7, SCHEDULES["linear"])) == [999, 856, 713, 570, 428, 285, 142]


def test_linspace_visits_999_to_0():
    assert zero_based(Linspace(1000)(10, SCHEDULES["linear"])) == [999, 888, 777, 666, 555, 444, 333, 222, 111, 0]


@pytest.mark.parametrize("steps", [2, 3, 7, 50, 250])
def test_linspace_is_the_one_published(steps):
    # diffusers, "linspace"; three steps have the half 499.5, which numpy rounds to 500.
    expected = np.linspace(0, 999, steps).round()[::-1].astype(int).tolist()
    assert zero_based(Linspace(1000)(steps, SCHEDULES["linear"])) == expected


def test_quadratic_visits_800_to_0():
    assert zero_based(Quadratic(1000)(10, SCHEDULES["linear"])) == [800, 632, 483, 355, 246, 158, 88, 39, 9, 0]


@pytest.mark.parametrize("steps", [2, 5, 10, 20, 28])
def test_quadratic_is_ddim_s_where_that_names_no_step_twice(steps):
    expected = [int(step) for step in np.linspace(0, np.sqrt(800), steps) ** 2]
    assert zero_based(Quadratic(1000)(steps, SCHEDULES["linear"])) == expected[::-1]


def test_one_step_of_quadratic_is_from_its_last():
    assert zero_based(Quadratic(1000)(1, SCHEDULES["linear"])) == [800]


def test_where_quadratic_names_a_step_twice_the_next_one_takes_its_place():
    # Of 50 steps DDIM's code has 0, 0, 1, 2, 5, 8, 11, 16, ...
    assert zero_based(Quadratic(1000)(50, SCHEDULES["linear"]))[:-9:-1] == [0, 1, 2, 3, 5, 8, 11, 16]


def test_sections_are_those_of_guided_diffusion():
    visited = zero_based(Sections(1000, [10, 15, 20])(45, SCHEDULES["linear"]))[::-1]
    # space_timesteps: 1000 steps in three parts are 334, 333, 333; each is visited from its first step to its last.
    assert visited[:10] == [0, 37, 74, 111, 148, 185, 222, 259, 296, 333]
    assert visited[10:25] == [334 + round(i * 332 / 14) for i in range(15)]
    assert visited[25:] == [667 + round(i * 332 / 19) for i in range(20)]


def test_a_section_of_one_step_is_visited_at_its_start():
    assert zero_based(Sections(1000, [1, 3])(4, SCHEDULES["linear"])) == [999, 750, 500, 0]


@pytest.mark.parametrize("steps", [2, 10, 250])
def test_one_section_is_linspace(steps):
    assert torch.equal(Sections(1000)(steps, SCHEDULES["linear"]), Linspace(1000)(steps, SCHEDULES["linear"]))


def test_the_times_of_custom_are_those_given_and_then_zero():
    assert Custom([1, 0.6, 0.25])(3, SCHEDULES["linear"]).tolist() == [1.0, 0.6, 0.25, 0.0]


def test_karras_is_edm_s_grid_to_the_last_digits_on_its_own_schedule():
    i = torch.arange(18, dtype=torch.float64)
    sigma = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    grid = Karras()(18, EDM())
    # The 7th power of a 7th root, and a logarithm and back: a few roundings, times 7.
    torch.testing.assert_close(80 * grid[:-1], sigma, rtol=1e-13, atol=0)


@over("schedule", SCHEDULES)
def test_karras_is_even_in_the_root_of_n_and_ends_at_sigma_min_or_the_schedule_s_own(schedule):
    schedule = SCHEDULES[schedule]
    grid = Karras(rho=5, sigma_min=0.02, sigma_max=30)(20, schedule)
    n = torch.exp(-schedule.log_snr(grid[:-1]) / 2)
    gaps = (n**0.2).diff()
    torch.testing.assert_close(gaps, gaps.mean().expand_as(gaps), rtol=1e-8, atol=0)
    assert float(n[-1]) == pytest.approx(0.02, rel=1e-10)
    end = float(torch.exp(-schedule.log_snr(1.0) / 2))
    assert float(n[0]) == pytest.approx(min(30.0, end), rel=1e-10)
    assert (grid[0] == 1) == (end <= 30)


@over("schedule", SCHEDULES)
@over("spacing", SPACINGS)
def test_wherever_a_grid_begins_noise_becomes_data_of_the_right_size(schedule, spacing):
    # Data of unit variance, by the exact flow: x is as large as the data at every time. A prior that is sigma(1) alone
    # lacks alpha(1), and E[x_0|x_t] at the end is narrower than the data.
    schedule, z = SCHEDULES[schedule], torch.tensor([[1.0], [-0.5]], dtype=torch.float64)
    sampler = ODE(2, SPACINGS[spacing], 1e-7, 1e-7)
    with torch.no_grad():
        found = sampler(Gaussian(schedule), schedule, schedule.prior_std * z)
        end = schedule(SPACINGS[spacing](2, schedule)[-2].clamp(max=sampler.t_min))
        expected = schedule.prior_std / torch.hypot(*schedule(1.0)) * end.alpha / torch.hypot(*end) * z
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


@over("schedule", SCHEDULES)
def test_log_snr_goes_on_to_a_small_sigma_where_t_min_is_not_near_the_data(schedule):
    schedule = SCHEDULES[schedule]
    last = schedule.log_snr(LogSNR(1e-3, 0.02)(20, schedule)[-2])
    at_t_min = schedule.log_snr(1e-3)
    assert float(last) == pytest.approx(max(float(at_t_min), min(-2 * math.log(0.02), float(schedule.log_snr(1e-9)))))


def test_karras_stops_where_ve_does():
    schedule = VE(0.01, 50)
    grid = Karras(sigma_min=0.002, sigma_max=80)(10, schedule)
    assert grid[-2] > 0
    # At time 1e-9 sigma is not yet larger than sigma_min by more than 1e-8 of it.
    assert float(schedule(grid[-2]).sigma) == pytest.approx(0.01, rel=1e-7)


def test_grids_without_a_meaning_are_refused_with_what_to_take():
    linear = SCHEDULES["linear"]
    for spacing, steps, told in (
        (Linspace(10), 11, r"sampler\.steps=11 is more than spacing\.T=10"),
        (Quadratic(10), 11, r"sampler\.steps=11 is more than spacing\.T=10"),
        (Sections(10), 11, "11 of the 10 steps in section 1"),
        (Sections(10, [2, 6]), 8, "6 of the 5 steps in section 2"),
        (Sections(10, [2, 3]), 8, r"take sampler\.steps=5"),
        (Custom([1.0, 0.5]), 3, r"take sampler\.steps=2"),
        (Karras(sigma_min=1000, sigma_max=2000), 3, "a range inside"),
        (Karras(sigma_min=2, sigma_max=1), 3, "the smaller one first"),
    ):
        with pytest.raises(ConfigError, match=told):
            spacing(steps, linear)
    with pytest.raises(ConfigError, match="smaller one"):
        LogSNR(t_min=0.5, sigma_min=1)(3, SCHEDULES["flow"])


@pytest.mark.parametrize("times", [[], [0.5, 0.5], [0.3, 0.6], [1.0, 0.0], [1.2, 0.5], [float("nan")]])
def test_custom_times_that_do_not_descend_inside_the_process_are_refused(times):
    with pytest.raises(ConfigError, match=r"^times must be "):
        Custom(times)


@over("spacing", ["trailing", "trailing_1000", "leading", "linspace", "quadratic", "sections"])
def test_a_thousand_steps_are_the_whole_chain(spacing):
    assert zero_based(SPACINGS[spacing](1000, SCHEDULES["linear"])) == list(range(999, -1, -1))


@over("schedule", SCHEDULES)
@over("spacing", SPACINGS)
@pytest.mark.parametrize("steps", [1, 2, 3, 10, 50, 250])
def test_a_grid_descends_strictly_to_zero_from_at_most_one(schedule, spacing, steps):
    t = SPACINGS[spacing](steps, SCHEDULES[schedule])
    assert (t.dtype, t.shape) == (torch.float64, (steps + 1,))
    assert (t.diff() < 0).all()
    assert t[0] <= 1
    assert t[-1] == 0


@over("schedule", SCHEDULES)
@over("spacing", ["trailing", "trailing_1000", "log_snr", "linspace", "sections"])
def test_sampling_starts_at_pure_noise(schedule, spacing):
    assert SPACINGS[spacing](10, SCHEDULES[schedule])[0] == 1


def test_leading_and_quadratic_never_visit_the_end():
    assert Leading(1000)(10, SCHEDULES["linear"])[0] == 0.901
    assert Quadratic(1000)(10, SCHEDULES["linear"])[0] == 0.801


@over("schedule", SCHEDULES)
def test_log_snr_spacing_is_even_in_log_snr_down_to_t_min(schedule):
    schedule = SCHEDULES[schedule]
    t = LogSNR(t_min=1e-3, sigma_min=10)(20, schedule)
    even = t[:-1] if schedule.log_snr(1.0).isfinite() else t[1:-1]
    steps = schedule.log_snr(even).diff()
    # Near t = 1 a time's rounding is that of log-SNR, amplified by its slope.
    torch.testing.assert_close(steps, steps.mean().expand_as(steps), rtol=1e-8, atol=0)
    assert float(t[-2]) == pytest.approx(1e-3, rel=1e-12)


def test_where_log_snr_is_infinite_the_even_part_begins_at_one_minus_t_min():
    flow = SCHEDULES["flow"]
    t = LogSNR(t_min=1e-3)(20, flow)
    ends = flow.log_snr(torch.tensor([1 - 1e-3, 1e-3], dtype=torch.float64))
    expected = torch.linspace(float(ends[0]), float(ends[1]), 20, dtype=torch.float64)
    torch.testing.assert_close(flow.log_snr(t[1:-1]), expected[1:], rtol=1e-12, atol=1e-12)


@over("spacing", ["trailing", "leading", "linspace", "quadratic", "sections"])
def test_even_grids_do_not_depend_on_the_schedule(spacing):
    grids = [SPACINGS[spacing](10, schedule) for schedule in SCHEDULES.values()]
    assert all(torch.equal(grids[0], other) for other in grids)
