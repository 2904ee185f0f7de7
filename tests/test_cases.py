"""What the tests' own parts promise: a smaller table of cases leaves out no pair."""

from itertools import combinations, product

from cases import MEANINGLESS, PARAMETERIZATIONS, SCHEDULES, WEIGHTINGS, pairwise


def test_any_two_options_of_a_product_meet_in_its_pairwise_cases_and_none_without_a_meaning():
    axes = [list(axis) for axis in (SCHEDULES, WEIGHTINGS, PARAMETERIZATIONS)]
    cases = pairwise(axes, MEANINGLESS)
    assert len(set(cases)) == len(cases) < 1.1 * len(SCHEDULES) * len(WEIGHTINGS)
    for first, second in combinations(range(3), 2):
        met = {(case[first], case[second]) for case in cases}
        expected = set(product(axes[first], axes[second]))
        assert met == (expected - MEANINGLESS if (first, second) == (0, 2) else expected)
