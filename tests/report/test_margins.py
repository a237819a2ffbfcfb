"""Margin tests: values worked out by hand, how often they err in simulated studies, and what would decide."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t
from support.simulation import load_script

from biencoder_ablate.report.margins import NEVER, Design, as_moments, equality_p, least_variance, margin_p
from biencoder_ablate.report.statistics import Interval, crossed_moments, intervals

simulation = load_script("simulate_verdicts")
POINTS = 10_000


def interval(estimate: float, by_seeds: float, by_debates: float, num_seeds: int = 10) -> Interval:
    """One whose parts of the variance are given, with nine degrees of freedom in all."""
    variance = by_seeds + by_debates
    return Interval("", estimate, math.nan, math.nan, 9.0, 1.0, variance, by_seeds, 99.0)


def test_one_sided_p_by_hand():
    """An estimate of 0.01 with a standard error of 0.01: the margin 0.03 is two of them away, less half a point."""
    moments = as_moments(interval(0.01, 0.5e-4, 0.5e-4), 10)
    by_hand = t.sf((0.03 - 0.01 - 0.5 / POINTS) / 0.01, 9)
    assert margin_p(moments, 0.03, 1.0, POINTS)[0] == pytest.approx(by_hand, rel=1e-6)

    # At the margin itself one side in two is wrong, and beyond it the p is above 1/2.
    at_margin = margin_p(moments, 0.01 + 0.5 / POINTS, 1.0, POINTS)[0]
    assert at_margin == pytest.approx(0.5, abs=1e-6)
    assert margin_p(moments, 0.001, 1.0, POINTS)[0] == pytest.approx(t.sf((0.001 - 0.01 - 0.5 / POINTS) / 0.01, 9))


def test_a_part_that_does_harm_is_far_from_the_margin_and_systems_are_not():
    moments = as_moments(interval(-0.05, 0.5e-4, 0.5e-4), 10)
    assert margin_p(moments, 0.02, 1.0, POINTS)[0] < 0.001
    assert equality_p(moments, 0.02, 1.0, POINTS)[0] > 0.9


@settings(max_examples=30, deadline=None)
@given(st.floats(-0.1, 0.1), st.floats(0.001, 0.2))
def test_equality_is_symmetric_and_never_easier_than_one_side(estimate, margin):
    moments = as_moments(interval(estimate, 1e-4, 1e-4), 10)
    opposite = replace(moments, estimate=-moments.estimate)
    p = equality_p(moments, margin, 1.0, POINTS)[0]
    assert p == pytest.approx(equality_p(opposite, margin, 1.0, POINTS)[0])
    assert p >= margin_p(moments, margin, 1.0, POINTS)[0]


def test_seventy_points_without_a_difference_do_not_show_one_below_1_in_100():
    """All zero: no variance is seen, and 1 in 100 would show in no point of 70 in half of all studies (0.99^70)."""
    sums, sizes = np.zeros((1, 5, 10)), np.full(10, 7.0)
    moments = crossed_moments(sums, sizes)
    assert moments.variance.tolist() == [0.0]
    assert margin_p(moments, 0.01, 1.0, 70)[0] > 0.4
    assert margin_p(moments, 0.1, 1.0, 70)[0] < 0.05, "of 70 points 7 would differ"
    assert least_variance(0.01, 1.0, 70) == pytest.approx(0.01 * 0.99 / 70)


def test_scores_that_never_vary_and_a_single_seed_show_nothing():
    constant = crossed_moments(np.zeros((1, 5, 10)), np.full(10, 7.0))
    assert margin_p(constant, 0.5, 0.0, 70).tolist() == [1.0], "the range of the scores is not known"
    single = crossed_moments(np.zeros((1, 1, 10)), np.full(10, 7.0))
    assert margin_p(single, 0.5, 1.0, 70).tolist() == [1.0]


def test_an_interval_has_what_its_moments_had():
    rng = np.random.default_rng(0)
    moments = crossed_moments(rng.normal(0.3, 1, (1, 5, 12)), rng.integers(3, 9, 12).astype(float))
    again = as_moments(intervals(moments)[0], 5)
    for name in ("estimate", "variance", "by_seeds", "freedom", "noise"):
        assert getattr(again, name) == pytest.approx(getattr(moments, name))
    assert again.p == pytest.approx(moments.p)


# --- what would decide ---


def test_seeds_decide_where_seeds_vary_and_debates_where_debates_do():
    by_seeds = Design(interval(0.0, 4e-4, 1e-6), 10, 50, 1)
    enough = by_seeds.to_clear(0.03, 1.0, POINTS, both_sides=False)
    assert enough.seeds is not None
    assert 10 < enough.seeds < 100
    assert enough.debates is None

    by_debates = Design(interval(0.0, 1e-6, 4e-4), 10, 50, 1)
    enough = by_debates.to_clear(0.03, 1.0, POINTS, both_sides=False)
    assert enough.seeds is None
    assert enough.debates is not None
    assert 50 < enough.debates < 1000


def test_half_the_standard_error_takes_four_times_the_debates():
    """(t + t) standard errors are the gap: with debates alone, and t for normal, n = D·(z + z)²·V/gap²."""
    wide = Interval("", 0.0, math.nan, math.nan, 1e6, 1.0, 4e-4, 1e-12, 1e6)
    enough = Design(wide, 10, 100, 1).to_clear(0.03, 1.0, 10**9, both_sides=False)
    by_hand = 100 * (1.6449 + 0.8416) ** 2 * 4e-4 / 0.03**2
    assert enough.debates == pytest.approx(by_hand, abs=2)


def test_nothing_would_clear_a_margin_that_the_estimate_lies_beyond_nor_does_one_seed_say():
    assert Design(interval(0.04, 1e-4, 1e-4), 10, 50, 1).to_clear(0.03, 1.0, POINTS, both_sides=False) == NEVER
    assert Design(interval(-0.04, 1e-4, 1e-4), 10, 50, 1).to_clear(0.03, 1.0, POINTS, both_sides=True) == NEVER
    assert Design(interval(0.0, 0.0, 1e-4), 1, 50, 1).to_clear(0.03, 1.0, POINTS, both_sides=False) == NEVER


def test_a_family_takes_more_than_a_single_comparison():
    alone, of_six = (Design(interval(0.0, 4e-4, 1e-6), 10, 50, num) for num in (1, 6))
    needed = [design.to_clear(0.03, 1.0, POINTS, both_sides=False).seeds for design in (alone, of_six)]
    assert needed[0] < needed[1]


# --- simulated studies: docs/statistics.md has the whole table ---


@pytest.mark.parametrize(
    ("case", "num_debates", "num_seeds"),
    [
        (simulation.Case("near deterministic, ties", 0.97, 0.01), 10, 3),
        (simulation.Case("ceiling (97% right)", 0.97, 0.02), 10, 10),
        (simulation.Case("near deterministic, ties", 0.97, 0.01), 100, 5),
        (simulation.Case("seeds mostly", 0.5, 0.05), 100, 3),
    ],
)
def test_nothing_is_removable_or_equal_more_often_than_claimed_where_the_difference_is_the_margin(
    case, num_debates, num_seeds
):
    """200 studies: chance moves 0.05 by 0.015. Without the least variance the first case errs in 4 of 10 studies."""
    removed, equal, earned, _ = simulation.row(case, num_seeds, num_debates, 200)
    assert max(removed, equal) <= 0.085
    assert earned <= 0.085


def test_parts_that_bring_nothing_are_found_removable():
    """The criterion is strict, not blind."""
    case = simulation.Case("near deterministic, ties", 0.5, 0.05)
    *_, removable = simulation.row(case, 5, 100, 50)
    assert removable >= 0.8
