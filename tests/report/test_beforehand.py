"""What a planned sweep can find: the least difference and margin are those at which the report's own formulas agree."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scipy.stats import norm, t
from support.report_runs import made_up_points, write_study

from biencoder_ablate.report.analysis import analyse
from biencoder_ablate.report.beforehand import Prospect, in_words, prospects
from biencoder_ablate.report.margins import Design
from biencoder_ablate.report.read import collect
from biencoder_ablate.report.statistics import Interval
from biencoder_ablate.report.study import make_studies


def prospect(by_seeds, by_debates, num_seeds=3, num_points=100_000, is_part=True, num_tests=1):
    variance = by_seeds + by_debates
    interval = Interval("", 0.0, 0.0, 0.0, num_seeds - 1.0, 1.0, variance, by_seeds, 100.0)
    return Prospect("a", Design(interval, num_seeds, 50, num_tests), 1.0, num_points, is_part)


def test_the_least_difference_is_the_quantiles_times_the_standard_error_by_hand():
    """Of 3 seeds the variance is 0.0004, all of it between seeds: of 12 seeds it is 0.0001, with 11 degrees."""
    found = prospect(0.0004, 0.0).difference(12)
    assert found == pytest.approx((t.ppf(0.975, 11) + t.ppf(0.8, 11)) * 0.01, rel=1e-6)


def test_the_least_margin_is_one_sided_and_half_a_point_more():
    found = prospect(0.0004, 0.0).margin(12)
    assert found == pytest.approx((t.ppf(0.95, 11) + t.ppf(0.8, 11)) * 0.01 + 0.5 / 100_000, rel=1e-6)
    both_sides = prospect(0.0004, 0.0, is_part=False).margin(12)
    assert both_sides == pytest.approx((t.ppf(0.95, 11) + t.ppf(0.9, 11)) * 0.01 + 0.5 / 100_000, rel=1e-6)


def test_a_pilot_without_any_difference_promises_no_more_than_its_queries_allow():
    """Of N points a difference d has a variance of d(1 − d)/N or more: from d = q √(d(1 − d)/N), d = q²/(N + q²)."""
    q = norm.ppf(0.975) + norm.ppf(0.8)
    assert prospect(0.0, 1e-12, num_points=100).difference(10) == pytest.approx(q**2 / (100 + q**2), rel=1e-4)


@pytest.mark.parametrize("num_tests", [1, 6])
def test_so_many_seeds_as_a_margin_needs_show_it_and_one_fewer_does_not(num_tests):
    one = prospect(0.0004, 0.0, num_tests=num_tests)
    seeds = one.seeds_for(0.04)
    assert one.margin(seeds) <= 0.04 < one.margin(seeds - 1)


def test_a_margin_that_the_debates_do_not_allow_is_said_to_need_more_queries():
    one = prospect(0.0, 0.0004)
    assert one.seeds_for(0.01) is None
    (prospects_line, margin_line) = in_words([one], 10, 0.01, "a pilot")
    assert prospects_line.startswith("with 10 seeds, in 4 of 5 sweeps: differences from 0.1")
    assert margin_line == "margin=0.01: no number of seeds would show it, on these queries alone"


def test_too_few_seeds_for_any_p_below_alpha_tell_nothing_apart():
    (line,) = in_words([prospect(0.0004, 0.0)], 5, None, "a pilot")
    assert "no difference told apart, margins from" in line


def test_of_a_pilot_the_comparisons_that_decide_count_where_they_have_three_seeds(tmp_path):
    heads = {"none": 0.5, "layernorm": 0.5, "relu": 0.5, "layernorm_relu": 0.5}
    write_study(tmp_path, heads, range(4), points=made_up_points(30, 8))
    (study,) = make_studies(collect([tmp_path]).runs)
    assert [each.name for each in prospects(analyse(study), 3)] == ["LayerNorm", "ReLU"]
    few = [replace(cell, runs=dict(list(cell.runs.items())[:2])) for cell in study.cells]
    assert prospects(analyse(replace(study, cells=tuple(few))), 3) == []
