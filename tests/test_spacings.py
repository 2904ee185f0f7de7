import pytest
import torch

from cases import SCHEDULES, SPACINGS, over
from denoiselab.spacings import Leading, LogSNR, Trailing


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


@over("spacing", ["trailing", "trailing_1000", "leading"])
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
@over("spacing", ["trailing", "trailing_1000", "log_snr"])
def test_sampling_starts_at_pure_noise(schedule, spacing):
    assert SPACINGS[spacing](10, SCHEDULES[schedule])[0] == 1


def test_leading_never_visits_the_end():
    assert Leading(1000)(10, SCHEDULES["linear"])[0] == 0.901


@over("schedule", SCHEDULES)
def test_log_snr_spacing_is_even_in_log_snr_down_to_t_min(schedule):
    name, schedule = schedule, SCHEDULES[schedule]
    t = LogSNR(t_min=1e-3)(20, schedule)
    even = t[1:-1] if name == "flow" else t[:-1]  # t = 1 of flow has no log-SNR
    steps = schedule.log_snr(even).diff()
    torch.testing.assert_close(steps, steps.mean().expand_as(steps), rtol=1e-10, atol=0)
    assert float(t[-2]) == pytest.approx(1e-3, rel=1e-12)


def test_where_log_snr_is_infinite_the_even_part_begins_at_one_minus_t_min():
    flow = SCHEDULES["flow"]
    t = LogSNR(t_min=1e-3)(20, flow)
    ends = flow.log_snr(torch.tensor([1 - 1e-3, 1e-3], dtype=torch.float64))
    expected = torch.linspace(float(ends[0]), float(ends[1]), 20, dtype=torch.float64)
    torch.testing.assert_close(flow.log_snr(t[1:-1]), expected[1:], rtol=1e-12, atol=1e-12)


@over("spacing", ["trailing", "leading"])
def test_even_grids_do_not_depend_on_the_schedule(spacing):
    grids = [SPACINGS[spacing](10, schedule) for schedule in SCHEDULES.values()]
    assert all(torch.equal(grids[0], other) for other in grids)
