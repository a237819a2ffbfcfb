"""The report's statistics: values worked by hand, slow plain references, and simulated studies."""

from __future__ import annotations

import importlib.util
import itertools
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t

from biencoder_ablate.report import comparisons as contrasts
from biencoder_ablate.report import statistics as significance
from biencoder_ablate.report.comparisons import HEADS, Contrast, Group, compare, every_pair, factorial_effects, verdict
from biencoder_ablate.report.statistics import (
    MAX_EXACT_SEEDS,
    NUM_SIGN_DRAWS,
    Interval,
    crossed_moments,
    holm,
    intervals,
    power_analysis,
    seeds_needed,
    sign_flip_p,
    smallest_p,
    sums_by_debate,
)
from biencoder_ablate.utils.seeding import generator

SCRIPT = Path(__file__).parents[2] / "scripts" / "simulate_statistics.py"
_spec = importlib.util.spec_from_file_location("simulate_statistics", SCRIPT)
simulation = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = simulation  # dataclasses look their module up
_spec.loader.exec_module(simulation)

differences = st.lists(st.integers(-5, 5).map(lambda n: n / 10), min_size=1, max_size=9)
p_values = st.lists(st.floats(0, 1), min_size=1, max_size=8)


def group(name, means, num_points=10, seeds=None) -> Group:
    """A group whose run of seed s gets the share means[s] of the points right, the first ones."""
    correct = [[float(i < round(mean * num_points)) for i in range(num_points)] for mean in means]
    return Group(name, tuple(range(len(means))) if seeds is None else seeds, np.array(correct))


def estimate_of(contrast: Contrast, means: dict[str, float]) -> float:
    return sum(weight * means[name] for name, weight in contrast.weights)


# --- groups ---


def test_summary_by_hand():
    summary = contrasts.summarise(group("relu", [0.5, 0.6, 0.7]))
    assert summary.mean == pytest.approx(0.6)
    assert summary.standard_deviation == pytest.approx(0.1)
    half = 4.302653 * 0.1 / math.sqrt(3)  # t of 2 degrees of freedom at 0.975
    assert (summary.low, summary.high) == pytest.approx((0.6 - half, 0.6 + half), abs=1e-6)


def test_one_seed_has_a_mean_and_no_spread():
    summary = contrasts.summarise(group("relu", [0.5]))
    assert summary.mean == 0.5
    assert all(math.isnan(x) for x in (summary.standard_deviation, summary.low, summary.high))


def test_pool_averages_on_the_seeds_all_share():
    pooled = contrasts.pool("relu", [group("a", [0.2, 0.4], seeds=(3, 1)), group("b", [0.8, 0.6], seeds=(1, 2))])
    assert pooled.seeds == (1,)
    assert pooled.correct.mean() == pytest.approx((0.4 + 0.8) / 2)


# --- contrasts ---


def test_factorial_effects_by_hand():
    means = {"none": 0.1, "layernorm": 0.3, "relu": 0.2, "layernorm_relu": 0.6}
    effects = [estimate_of(contrast, means) for contrast in factorial_effects(("LayerNorm", "ReLU"), HEADS)]
    assert effects == pytest.approx([0.3, 0.2, 0.2])


def test_six_pairs_of_heads():
    pairs = every_pair(HEADS)
    assert len(pairs) == len({contrast.name for contrast in pairs}) == 6
    assert estimate_of(pairs[0], {"none": 0.3, "layernorm": 0.5}) == pytest.approx(-0.2)


def test_interactions_with_the_ratio_by_hand():
    ratios = {
        ratio: factorial_effects(("LayerNorm", "ReLU"), [f"{head} {ratio}" for head in HEADS])
        for ratio in ("0.01", "0.2")
    }
    interactions = contrasts.setting_interactions(ratios)
    assert interactions[0].name == "LayerNorm: 0.2 − 0.01"
    means = {f"{head} {ratio}": 0.3 for head in HEADS for ratio in ratios} | {"layernorm 0.2": 0.5}
    assert [estimate_of(contrast, means) for contrast in interactions] == pytest.approx([0.1, -0.1, -0.2])
    assert all(sum(weight for _, weight in contrast.weights) == 0 for contrast in interactions)


# --- the sign-flip test ---


def p_of(values, rng=None) -> float:
    """Of one contrast, by its differences (S,)."""
    return float(sign_flip_p(np.array([values], dtype=np.float64), rng)[0])


@pytest.mark.parametrize(
    ("values", "p"),
    [
        ([1, 2, 3], 2 / 8),
        ([1, 1, -1], 1.0),  # |sum| is 1 or 3, and 1 was seen
        ([1, 1, 1, 1, 1, 0], 4 / 64),  # a zero's sign makes no difference: ties
        ([2, 3, -1], 4 / 8),  # ±6 and ±4
        ([0.1, 0.2, -0.3], 1.0),  # 0 but for rounding
        ([1e-17, 1e-17, 1e-17], 1.0),
        ([0.3], 1.0),
        ([0, 0, 0, 0], 1.0),
    ],
)
def test_sign_flips_by_hand(values, p):
    assert p_of(values) == p


@given(differences)
def test_sign_flips_against_every_pattern_one_by_one(values):
    tenths = [round(10 * value) for value in values]  # whole numbers: exact ties
    patterns = itertools.product((1, -1), repeat=len(values))
    sums = [abs(sum(sign * n for sign, n in zip(signs, tenths, strict=True))) for signs in patterns]
    p = p_of(values)
    assert p == sum(total >= abs(sum(tenths)) for total in sums) / len(sums)
    assert p >= smallest_p(len(values))
    assert p_of([-value for value in values]) == p


def test_beyond_so_many_seeds_signs_are_drawn_and_the_result_says_so():
    values = np.r_[np.full(14, 0.01), np.full(8, -0.01)]
    p = p_of(values, np.random.default_rng(0))
    assert p == p_of(values, np.random.default_rng(0))
    exact = sum(math.comb(22, k) for k in range(23) if abs(22 - 2 * k) >= 6) / 2**22
    assert p == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / NUM_SIGN_DRAWS))
    assert p_of(np.ones(30), np.random.default_rng(0)) == smallest_p(30) == 1e-5
    many = [Group("a", range(22), values[:, None] + np.zeros((22, 4))), Group("b", range(22), np.zeros((22, 4)))]
    (result,) = compare(many, range(4), every_pair("ab"))
    assert contrasts.DRAWN_SIGNS in result.notes


@given(st.lists(st.floats(0.01, 1), min_size=1, max_size=MAX_EXACT_SEEDS // 2))
def test_seeds_that_all_agree_reach_the_smallest_p(values):
    assert p_of(values) == smallest_p(len(values))


# --- Holm ---


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == pytest.approx([1, 1])
    assert holm([]).shape == (0,)


@given(p_values, st.floats(0.001, 0.999))
def test_holm_rejects_what_the_step_down_rule_rejects(p, alpha):
    """Holm's own wording: from the smallest p up while p(i) < alpha / (m − i + 1), stop at the first not."""
    rejected = set()
    for i, k in enumerate(sorted(range(len(p)), key=lambda k: p[k])):
        if p[k] * (len(p) - i) >= alpha:
            break
        rejected.add(k)
    assert {k for k, adjusted in enumerate(holm(p)) if adjusted < alpha} == rejected


@given(p_values, st.randoms())
def test_holm_keeps_order_and_never_lowers(p, random):
    adjusted = holm(p)
    assert (adjusted >= p).all()
    assert (adjusted <= 1).all()
    assert (np.diff(adjusted[np.argsort(p, kind="stable")]) >= 0).all()
    order = random.sample(range(len(p)), len(p))
    assert (holm([p[k] for k in order]) == adjusted[order]).all()


@pytest.mark.parametrize(("num_tests", "needed"), [(1, 6), (3, 7), (6, 8), (12, 9), (24, 10)])
def test_seeds_needed_is_where_a_winner_comes_within_reach(num_tests, needed):
    assert seeds_needed(num_tests) == needed
    assert holm([smallest_p(needed)] * num_tests).max() < 0.05
    assert holm([smallest_p(needed - 1)] * num_tests).min() >= 0.05


# --- the interval ---


def crossed_interval(values, debates) -> Interval:
    """Of the mean of `values` (S, N), e.g. one group's outcomes minus another's, seed by seed."""
    sums, sizes = sums_by_debate(values, debates)
    return intervals(crossed_moments(sums[None], sizes))[0]


def variance_of(interval) -> float:
    assert interval.high - interval.estimate == pytest.approx(interval.estimate - interval.low)
    return interval.variance


def test_sums_over_debates_keep_every_digit():
    sums, sizes = sums_by_debate([[1 / 3, 1 / 7, 1 / 9], [0.1, 0.2, 0.3]], ["x", "y", "x"])
    assert sums.tolist() == [[1 / 3 + 1 / 9, 1 / 7], [0.1 + 0.3, 0.2]]
    assert sizes.tolist() == [2, 1]


def test_variance_by_hand():
    """Seeds 0, 0.1, 0.2 and debates −0.3, 0.3 of one size, adding up without noise."""
    values = np.array([[seed + debate for debate in (-0.3, 0.3)] for seed in (0, 0.1, 0.2)])
    interval = crossed_interval(values, ["a", "b"])
    assert interval.estimate == pytest.approx(0.1)
    assert variance_of(interval) == pytest.approx(0.01 / 3 + 0.18 / 2)


def test_variance_takes_the_noise_off_once():
    """A two-way layout, one debate a point: seed and debate mean squares less the rest's, over S·D."""
    values = np.random.default_rng(2).random((4, 5)) + np.arange(5) + np.arange(4)[:, None] / 2
    rows, columns = values.mean(axis=1, keepdims=True), values.mean(axis=0)
    seeds = 5 * rows.var(ddof=1)
    debates = 4 * columns.var(ddof=1)
    rest = ((values - rows - columns + values.mean()) ** 2).sum() / (3 * 4)
    interval = crossed_interval(values, range(5))
    assert variance_of(interval) == pytest.approx((seeds + debates - rest) / 20)
    expected = (seeds + debates - rest) ** 2 / (seeds**2 / 3 + debates**2 / 4 + rest**2 / 12)
    assert interval.degrees_of_freedom == pytest.approx(expected)


def test_variance_of_debates_of_unequal_size_against_a_point_by_point_reference():
    """What each debate adds to or takes from the mean, over what is left of a debate's whole effect in that; degrees of
    freedom of debates that each are one draw, weighed by their points."""
    debates = ["a", "b", "b", "c", "c", "c", "c", "d", "d"]
    values = (
        np.random.default_rng(4).random((3, 9))
        + np.arange(3)[:, None] / 4
        + np.array([list("abcd").index(d) for d in debates]) / 3
    )
    n = np.array([debates.count(d) for d in "abcd"])
    centring = np.eye(4) - np.outer(n, np.ones(4)) / 9
    holds = np.array([[d == e for e in debates] for d in "abcd"], dtype=float)
    mean, per_seed = values.mean(), values.mean(axis=1)
    deviations = holds @ (values - mean).mean(axis=0)
    left = (centring @ np.diag(n)) ** 2
    of_debates = (deviations**2).sum() / 9**2 * (n**2).sum() / left.sum()
    rest = (values - per_seed[:, None] - values.mean(axis=0) + mean) @ holds.T
    left = (centring @ np.diag(np.sqrt(n))) ** 2
    noise = (rest**2).sum() / 9**2 / 3 * n.sum() / left.sum() / 2
    seeds = per_seed.var(ddof=1) / 3
    freedom = (n**2).sum() ** 2 / (n**4).sum() * 3 / 4
    interval = crossed_interval(values, debates)
    assert interval.estimate == pytest.approx(mean)
    assert variance_of(interval) == pytest.approx(seeds + of_debates - noise)
    assert interval.degrees_of_freedom == pytest.approx(
        (seeds + of_debates - noise) ** 2 / (seeds**2 / 2 + of_debates**2 / freedom + noise**2 / (2 * freedom))
    )


@pytest.mark.parametrize("num_seeds", [3, 7, 8])
def test_ends_of_an_interval_by_hand(num_seeds):
    """Five debates of one size: one t by Satterthwaite, or below eight seeds t of S − 1 and of 4 degrees of freedom."""
    values = np.random.default_rng(3).random((num_seeds, 20)) + np.arange(num_seeds)[:, None] / 9
    interval = crossed_interval(values, np.arange(20) // 4)
    half = t.ppf(0.975, interval.degrees_of_freedom) * math.sqrt(interval.variance)
    if num_seeds < 8:
        assert interval.by_seeds == pytest.approx(values.mean(axis=1).var(ddof=1) / num_seeds)
        rest = interval.variance - interval.by_seeds
        of_seeds = {3: 4.302653, 7: 2.446912}[num_seeds]
        half = math.sqrt(of_seeds**2 * interval.by_seeds + 2.776445**2 * rest)
    assert (interval.low, interval.high) == pytest.approx((interval.estimate - half, interval.estimate + half))
    there = crossed_interval(values - interval.low, np.arange(20) // 4)
    assert there.p == pytest.approx(0.05), "the p whose interval ends at 0"


@pytest.mark.parametrize("scale", [0.0, 0.25])
def test_identical_groups_differ_by_exactly_nothing(scale):
    correct = np.full((8, 6), scale)
    results = compare([Group("a", range(8), correct), Group("b", range(8), correct)], range(6), every_pair("ab"))
    assert (results[0].interval.low, results[0].interval.high, results[0].p) == (0, 0, 1)
    assert not results[0].is_significant()


def test_rounding_is_no_difference():
    parts = [Group(str(share), range(8), np.full((8, 6), share)) for share in (0.1, 0.2, 0.3)]
    pooled = contrasts.pool("pooled", parts)
    assert pooled.correct[0, 0] != 0.2
    (result,) = compare([pooled, parts[1]], range(6), every_pair(["pooled", "0.2"]))
    assert (result.interval.low, result.interval.high, result.p) == (0, 0, 1)


def test_a_lone_seed_or_debate_is_confessed():
    rng = np.random.default_rng(0)
    values = rng.random((4, 20))
    several = crossed_interval(values, np.arange(20) // 4)
    one_seed = crossed_interval(values[0], np.arange(20) // 4)
    one_debate = crossed_interval(values, ["a"] * 20)
    neither = crossed_interval(values[0], ["a"] * 20)
    assert (several.note, one_seed.note, one_debate.note) == ("", significance.ONE_SEED, significance.ONE_DEBATE)
    assert one_seed.low < values[0].mean() < one_seed.high
    assert one_debate.low < values.mean() < one_debate.high
    assert math.isnan(neither.low)
    assert math.isnan(neither.high)


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 6), st.integers(2, 6), st.integers(0, 2**32))
def test_an_interval_turns_over_with_its_contrast(num_seeds, num_debates, seed):
    values = np.random.default_rng(seed).integers(-1, 2, (num_seeds, 3 * num_debates)) / 1
    debates = np.arange(3 * num_debates) % num_debates
    there = crossed_interval(values, debates)
    back = crossed_interval(-values, debates)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))
    assert there.low - 1e-12 <= there.high
    assert there.degrees_of_freedom >= min(num_seeds, num_debates) - 1


# --- compare and verdict ---


def heads(*means_per_head, num_seeds=10) -> list[Group]:
    """Four heads of these mean shares of 60 points right, with a little noise by seed and point."""
    rng = np.random.default_rng(0)
    return [
        Group(head, range(num_seeds), rng.random((num_seeds, 60)) < mean)
        for head, mean in zip(HEADS, means_per_head, strict=True)
    ]


DEBATES = [f"debate {i // 3}" for i in range(60)]


def test_compare_gives_a_whole_family():
    groups = heads(0.2, 0.8, 0.2, 0.2)
    results = compare(groups, DEBATES, every_pair(HEADS))
    assert results == compare(groups, DEBATES, every_pair(HEADS))  # the same seed, the same draws
    means = {head.name: head.correct.mean() for head in groups}
    for result in results:
        assert result.estimate == pytest.approx(estimate_of(result.contrast, means))
        assert np.mean(result.seed_estimates) == pytest.approx(result.estimate)
        assert result.interval.low < result.estimate < result.interval.high
        assert result.num_tests == 6
        assert result.is_significant() == ("layernorm" in dict(result.contrast.weights))
    assert [result.p_holm for result in results] == pytest.approx(holm([result.p for result in results]))


def test_compare_pairs_the_seeds_that_all_its_groups_have():
    a, b = group("a", [0.1, 0.9, 0.5], seeds=(7, 1, 64)), group("b", [0.2, 0.2], seeds=(64, 1))
    (result,) = compare([a, b], range(10), every_pair("ab"))
    assert result.seeds == (1, 64)
    assert result.seed_estimates == pytest.approx((0.7, 0.3))
    assert result.notes == ("seeds not in all of its groups, left out: 7",)
    (result,) = compare([a, group("b", [0.2], seeds=(9,))], range(10), every_pair("ab"))
    assert math.isnan(result.estimate)
    assert result.p_holm == 1
    assert contrasts.NO_COMMON_SEED in result.notes
    (result,) = compare([a, group("b", [0.2], seeds=(64,))], range(10), every_pair("ab"))
    assert significance.ONE_SEED in result.notes


def test_a_difference_in_one_debate_only_is_not_told_apart():
    """Every seed agrees, on these debates; other debates might not hold the one that matters."""
    a, b = np.zeros((10, 12)), np.zeros((10, 12))
    a[:, :3] = 1
    (result,) = compare([Group("a", range(10), a), Group("b", range(10), b)], np.arange(12) // 3, every_pair("ab"))
    assert result.p_holm == 2 / 2**10
    assert result.interval.low < 0 < result.interval.high
    assert not result.is_significant()


def test_a_clear_winner_is_named():
    groups = heads(0.2, 0.3, 0.3, 0.8)
    answer = verdict(groups, compare(groups, DEBATES, every_pair(HEADS)))
    assert (answer.status, answer.winner) == ("winner", "layernorm_relu")
    assert answer.not_told_apart == ("layernorm_relu",)
    assert answer.sentence.startswith("“layernorm_relu” wins: mean 0.8")


def test_no_clear_winner_names_all_that_may_be_best():
    groups = heads(0.2, 0.8, 0.2, 0.8)
    answer = verdict(groups, compare(groups, DEBATES, every_pair(HEADS)))
    assert (answer.status, answer.winner) == ("no_clear_winner", None)
    assert set(answer.not_told_apart) == {"layernorm", "layernorm_relu"}
    assert answer.not_told_apart[0] == answer.best
    assert answer.sentence.startswith("No clear winner")


def test_too_few_seeds_however_large_the_difference():
    groups = heads(0.0, 0.0, 0.0, 1.0, num_seeds=7)
    answer = verdict(groups, compare(groups, DEBATES, every_pair(HEADS)))
    assert (answer.status, answer.winner, answer.best) == ("too_few_seeds", None, "layernorm_relu")
    assert set(answer.not_told_apart) == set(HEADS)
    assert "with 7, the" in answer.sentence and "8 are needed" in answer.sentence


def test_one_head_short_of_seeds_keeps_its_place_among_the_possible():
    groups = heads(0.2, 0.2, 0.2, 0.8)
    groups[1] = Group("layernorm", (0, 1, 2), groups[1].correct[:3])
    answer = verdict(groups, compare(groups, DEBATES, every_pair(HEADS)))
    assert (answer.status, answer.not_told_apart) == ("too_few_seeds", ("layernorm_relu", "layernorm"))
    groups[1] = Group("layernorm", (99,), groups[1].correct[:1])
    assert "with no seed in common" in verdict(groups, compare(groups, DEBATES, every_pair(HEADS))).sentence


def test_a_group_that_loses_on_further_seeds_is_no_winner():
    """b leads on the seeds all have, but a leads it, beyond doubt, on those the two share."""
    a, b = [1.0] * 10 + [0.5] * 10, [0.0] * 10 + [0.6] * 10
    groups = [group("a", a), group("b", b), group("c", [0.0] * 10, seeds=tuple(range(10, 20)))]
    results = compare(groups, range(10), every_pair("abc"))
    assert results[0].estimate == pytest.approx(0.45)
    assert results[0].is_significant()
    answer = verdict(groups, results)
    assert (answer.best, answer.winner, answer.not_told_apart) == ("b", None, ("b", "a"))


@pytest.mark.parametrize(("names", "tests"), [("ab", "one test"), ("abc", "3 tests")])
def test_a_verdict_says_over_how_many_tests(names, tests):
    groups = [group(name, [0.1 * (1 + k)] * 3) for k, name in enumerate(names)]
    answer = verdict(groups, compare(groups, range(10), every_pair(names)))
    assert f"over {tests}; " in answer.sentence, "which three seeds are too few for"


def test_signs_are_drawn_from_streams_of_their_own():
    """Beyond what can be tried one by one: over seeds, and over debates where there is one seed."""
    rng = np.random.default_rng(1)
    values = rng.random((2, 18, 40))
    several = [Group(name, range(18), of) for name, of in zip("ab", values, strict=True)]
    (result,) = compare(several, range(40), every_pair("ab"))
    per_seed = np.round(values[0] - values[1], 10).sum(axis=1) / 40
    assert result.p == sign_flip_p(per_seed[None], generator(0, "report", "signs"))[0]
    alone = [Group(name, range(1), of[:1]) for name, of in zip("ab", values, strict=True)]
    (result,) = compare(alone, range(40), every_pair("ab"))
    by_debate = np.round(values[0, 0] - values[1, 0], 10)
    assert result.p_debates == sign_flip_p(by_debate[None], generator(0, "report", "debates"))[0]


# --- looks, one seed, power ---


def test_declared_looks_use_the_first_seeds_and_share_alpha():
    groups = heads(0.2, 0.8, 0.2, 0.2, num_seeds=15)
    plain = compare([Group(g.name, range(12), g.correct[:12]) for g in groups], DEBATES, every_pair(HEADS))
    looked = compare(groups, DEBATES, every_pair(HEADS), looks=(8, 12, 20))
    for one, other in zip(plain, looked, strict=True):
        assert other.seeds == tuple(range(12))
        assert other.interval == one.interval
        assert other.p_holm == pytest.approx(min(1, 3 * one.p_holm))
        assert other.p_crossed_holm == pytest.approx(min(1, 3 * one.p_crossed_holm))
        assert other.family_low < one.family_low
        assert "seeds after the look at 12, left out until the next: 12, 13, 14" in other.notes
    assert any(result.is_significant() for result in looked)
    early = compare(groups, DEBATES, every_pair(HEADS), looks=(16, 20))
    assert {result.p_family for result in early} == {1.0}
    assert "nothing is decided yet" in early[0].notes[0]
    at_one_look, at_three = (result[0].power.detectable for result in (plain, looked))
    moments = looked[0].interval
    alone = power_analysis(moments, 12, 18).detectable
    assert at_one_look < at_three == pytest.approx(alone), "as one of 6 tests at each of 3 looks"
    few = [Group(g.name, range(9), g.correct[:9]) for g in groups]
    said = verdict(few, compare(few, DEBATES, every_pair(HEADS), looks=(8, 12, 20))).sentence
    assert "10 are needed" in said, "3·6·2/2^10 < 0.05"


def test_family_intervals_by_hand():
    """Dunn: each at 1 − 0.05/6."""
    (result, *_) = compare(heads(0.2, 0.8, 0.2, 0.2), DEBATES, every_pair(HEADS))
    half = t.ppf(1 - 0.05 / 12, result.interval.degrees_of_freedom) * math.sqrt(result.interval.variance)
    ends = (result.estimate - half, result.estimate + half)
    assert (result.family_low, result.family_high) == pytest.approx(ends)


def test_what_more_seeds_would_show_by_hand():
    """Nine seeds' differences, the same in every debate: all variance is the seeds'."""
    differences = np.array([0.3, 0.1, 0.2, 0.4, 0.0, 0.2, 0.3, 0.1, 0.2])
    zero = Group("b", range(9), np.zeros((9, 30)))
    (result,) = compare([Group("a", range(9), differences[:, None] + zero.correct), zero], range(30), every_pair("ab"))
    seen = result.power
    error = differences.std(ddof=1) / 3
    assert seen.detectable == pytest.approx((t.ppf(0.975, 8) + t.ppf(0.8, 8)) * error)
    assert seen.p_first_better == pytest.approx(t.cdf(0.2 / (3 * error * math.sqrt(10 / 9)), 8))
    assert seen.seeds_to_decide == 6, "the sign-flip test needs six, and six would find 0.2"
    reached = (t.ppf(0.975, 5) + t.ppf(0.8, 5)) * error * 3 / math.sqrt(6)
    assert reached < 0.2


@pytest.mark.parametrize(("difference", "probability"), [(0.2, 1.0), (0.0, 0.5), (-0.2, 0.0)])
def test_where_seeds_never_differ_the_next_one_does_as_they_do(difference, probability):
    zero = Group("b", range(4), np.zeros((4, 12)))
    (result,) = compare([Group("a", range(4), zero.correct + difference), zero], np.arange(12) // 3, every_pair("ab"))
    assert result.power.p_first_better == probability


def test_debates_that_few_seeds_cannot_make_up_for_need_more_debates():
    a = np.tile(np.repeat([0.5, -0.4, 0.5, -0.4], 3), (8, 1)) + np.linspace(0, 0.01, 8)[:, None]
    groups = [Group("a", range(8), a), Group("b", range(8), np.zeros((8, 12)))]
    (result,) = compare(groups, np.arange(12) // 3, every_pair("ab"))
    assert result.power.seeds_to_decide is None


# --- simulated studies ---


def test_the_simulation_decides_as_the_report_does():
    rng = np.random.default_rng(5)
    sizes = np.array([3, 5, 2, 9, 6, 4])
    scenario = replace(simulation.SCENARIOS["realistic mix"], means=(0.0, 0.6, 0.0, 1.5))
    sums, truth, _ = simulation.simulate(scenario, 4, 9, sizes, rng)
    found = simulation.decide(sums, sizes, simulation.PAIRS, truth, rng, num_looks=2)
    assert found.is_significant.any()
    assert not found.is_significant.all()
    for study, of_heads in enumerate(sums):
        groups = [
            Group(name, range(9), np.repeat(each / sizes, sizes, axis=1))
            for name, each in zip("abcd", of_heads, strict=True)
        ]
        results = compare(groups, np.repeat(np.arange(6), sizes), every_pair("abcd"), looks=(9, 99))
        assert [result.is_significant() for result in results] == found.is_significant[study].tolist()
        assert [result.estimate for result in results] == pytest.approx(found.estimate[study].tolist())
        true = simulation.PAIRS @ truth
        assert [r.interval.low <= x <= r.interval.high for r, x in zip(results, true, strict=True)] == list(
            found.single[study]
        )
        assert [r.family_low <= x <= r.family_high for r, x in zip(results, true, strict=True)] == list(
            found.family[study]
        )


# docs/statistics.md has the whole table. 300 studies: chance moves 0.95 by 0.013 (one standard error).
@pytest.mark.parametrize(
    ("scenario", "num_debates", "num_seeds"),
    [("realistic mix", 74, 3), ("pure seed luck", 5, 5), ("group × debate", 12, 8), ("mean of 5 settings", 74, 8)],
)
def test_intervals_cover_and_verdicts_err_as_they_claim(scenario, num_debates, num_seeds):
    single, family, pair, effect, winner, over_seeds = simulation.row(scenario, num_seeds, num_debates, 300)
    assert single >= 0.93
    assert family >= 0.92
    assert max(pair, effect) <= 0.085
    assert winner <= 0.05
    assert 0.92 <= over_seeds <= 0.98


@pytest.mark.slow
@pytest.mark.parametrize("scenario", simulation.SCENARIOS)
@pytest.mark.parametrize("num_seeds", [3, 8, 10])
def test_the_simulation_holds_in_every_scenario(scenario, num_seeds):
    """1000 studies: chance moves 0.05 by 0.007."""
    single, family, pair, effect, winner, _ = simulation.row(scenario, num_seeds, 74, 1000)
    assert single >= 0.935
    assert family >= 0.93
    assert not max(pair, effect, winner) > 0.07


def test_looking_until_something_is_found_finds_too_much_and_declared_looks_do_not():
    last, naive, declared = simulation.looked_at("seeds mostly", 74, 300, (8, 10, 12))
    assert naive > last
    assert declared <= 0.05


def test_a_head_that_is_better_is_found():
    """The criterion is strict, not blind: an effect of 0.13 with little seed noise wins most studies."""
    rng = np.random.default_rng(0)
    scenario = simulation.Scenario(means=(0.0, 0.0, 0.0, 0.4), by_debate=0.1, luck=0.1)
    sizes = simulation.debate_sizes(74, rng)
    sums, truth, _ = simulation.simulate(scenario, 50, 10, sizes, rng)
    won = simulation.winners(simulation.decide(sums, sizes, simulation.PAIRS, truth, rng))
    assert won.mean() >= 0.8
