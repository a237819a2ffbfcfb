"""Groups of runs and the differences between them: estimates, intervals, tests, and the verdict they lead to.

A *group* is one configuration: for each of its seeds, what each point got: 1 where it is right at top 1, or any other
score. Groups are compared on the same points, and seed by seed where they share seeds. *Other seeds?* is the sign-flip
test's question; *other seeds and other debates?* the interval's; Holm adjusts both over a family. Points alone can
answer neither: a test over the points of one run per group (McNemar's, say) cannot tell a better head from a luckier
seed (Dror et al. 2018, "The Hitchhiker's Guide to Testing Statistical Significance in NLP", ACL; Bouthillier et al.
2021, "Accounting for Variance in Machine Learning Benchmarks", MLSys). With one seed that test is given, by whole
debates, and the result says what it cannot show. S seeds, N points, D debates; scores are shares, not per cent.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from biencoder_ablate.report.statistics import (
    ALPHA,
    MAX_EXACT_SEEDS,
    NUM_SIGN_DRAWS,
    FloatArray,
    Interval,
    Power,
    crossed_moments,
    holm,
    intervals,
    power_analysis,
    seeds_needed,
    sign_flip_p,
    smallest_p,
    sums_by_debate,
    t_quantile,
)
from biencoder_ablate.utils.seeding import generator

HEADS = ("none", "layernorm", "relu", "layernorm_relu")  # of the 2×2 design
DRAWN_SIGNS = f"p from {NUM_SIGN_DRAWS} sign patterns drawn at random: too many seeds to try all"
NO_COMMON_SEED = "no seed in common: these groups cannot be compared"
BEFORE_LOOKS = "before the first declared look, which is at {} seeds: nothing is decided yet"


@dataclass(frozen=True, eq=False)
class Group:
    """One configuration's outcomes: correct[s, i] is 1 where the run with seeds[s] ranks point i's counter first, or
    whatever other score point i has there."""

    name: str
    seeds: tuple[int, ...]
    correct: FloatArray

    def __post_init__(self) -> None:
        shape = self.correct.shape
        num_seeds = len(set(self.seeds))
        assert len(shape) == 2 and shape[0] == num_seeds == len(self.seeds) and self.correct.size, (self.name, shape)
        assert np.isfinite(self.correct).all(), self.name

    def at(self, seeds: Sequence[int]) -> FloatArray:
        """Outcomes of these seeds, in this order: (len(seeds), N)."""
        return self.correct[[self.seeds.index(seed) for seed in seeds]]


@dataclass(frozen=True)
class GroupSummary:
    """Top-1 of a group over its seeds; the interval is for the mean over further seeds, on these points."""

    num_seeds: int
    mean: float
    standard_deviation: float  # over seeds, n-1; nan for one seed
    low: float
    high: float


@dataclass(frozen=True)
class Contrast:
    """A weighted sum of groups' means, such as layernorm − none; the weights sum to 0."""

    name: str
    weights: tuple[tuple[str, float], ...]  # (group, weight), each group once


@dataclass(frozen=True)
class ContrastResult:
    """All that is known of one contrast.

    `p` is that of the sign-flip test over seeds, and `p_holm` the same adjusted for the family's `num_tests`, and for
    `num_looks` where looks were declared; `p_crossed_holm` is the interval's p so adjusted. The intervals `family_low`
    to `family_high` hold for all of the family's contrasts at once (Dunn 1961). `p_debates` is that of the sign-flip
    test over debates, which compares two trained models rather than two groups: None unless there is only one seed.
    """

    contrast: Contrast
    seeds: tuple[int, ...]  # those all its groups share
    seed_estimates: tuple[float, ...]
    interval: Interval
    family_low: float
    family_high: float
    p: float
    p_debates: float | None
    p_holm: float = 1.0
    p_crossed_holm: float = 1.0
    num_tests: int = 1
    num_looks: int = 1
    notes: tuple[str, ...] = ()

    @property
    def p_family(self) -> float:
        """The larger of the two adjusted p-values, shown as Holm p."""
        return max(self.p_holm, self.p_crossed_holm)

    @property
    def estimate(self) -> float:
        """The contrast over all its seeds and points."""
        return self.interval.estimate

    def is_significant(self) -> bool:
        """Whether it differs from 0, both over seeds on these points and over further seeds and debates."""
        return self.p_family < ALPHA

    @property
    def power(self) -> Power:
        """What more seeds would show, as a member of its family and its looks."""
        return power_analysis(
            self.interval,
            len(self.seeds),
            self.num_tests * self.num_looks,
        )


def summarise(group: Group) -> GroupSummary:
    """Mean over seeds, their standard deviation, and Student's t interval over seeds.

    The interval treats seeds as the sample and the points as fixed. It may leave [0, 1], as t intervals do. One seed
    has neither deviation nor interval (nan), and seeds that are all alike have no interval.
    """
    per_seed = group.correct.mean(axis=1)  # (S,)
    num_seeds = len(per_seed)
    mean = float(per_seed.mean())
    deviation = float(per_seed.std(ddof=1)) if num_seeds > 1 else math.nan
    spread = deviation or math.nan  # an interval of no width would claim to be certain
    half = t_quantile(num_seeds - 1, 0.95) * spread / math.sqrt(num_seeds)
    return GroupSummary(num_seeds, mean, deviation, mean - half, mean + half)


def pool(name: str, groups: Sequence[Group]) -> Group:
    """The average of several groups, e.g. one head over all negative ratios, on the seeds they share: at least one."""
    seeds = common_seeds(groups)
    return Group(
        name,
        seeds,
        np.mean([group.at(seeds) for group in groups], axis=0),
    )


def common_seeds(groups: Sequence[Group]) -> tuple[int, ...]:
    """The seeds that every one of the groups has, ascending."""
    if not groups:
        return ()
    first, *others = groups
    return tuple(sorted(set(first.seeds).intersection(*(group.seeds for group in others))))


def every_pair(
    groups: Sequence[str],
    labels: Sequence[str] | None = None,
) -> tuple[Contrast, ...]:
    """Every pair of groups as a difference, first named minus second (by their `labels`, if any): six for four."""
    labelled = zip(groups, labels or groups, strict=True)
    contrasts = []
    for (a, a_label), (b, b_label) in itertools.combinations(labelled, 2):
        contrasts.append(
            Contrast(
                f"{a_label} − {b_label}",
                ((a, 1.0), (b, -1.0)),
            )
        )
    return tuple(contrasts)


def against(
    baseline: str,
    others: Sequence[str],
    labels: Sequence[str] | None = None,
) -> tuple[Contrast, ...]:
    """Each of the others minus the baseline, named by `labels` if any."""
    contrasts = []
    for other, label in zip(others, labels or others, strict=True):
        contrasts.append(
            Contrast(
                label,
                ((other, 1.0), (baseline, -1.0)),
            )
        )
    return tuple(contrasts)


def factorial_effects(factors: Sequence[str], groups: Sequence[str]) -> tuple[Contrast, ...]:
    """Main effects and interactions of a complete 2^k design, from the k factors' names and the 2^k groups' names.

    `groups` are in counting order, the first factor's bit the lowest: none, A, B, A and B, C, … A main effect is the
    mean, over the other factors' levels, of with minus without. An interaction is the difference of differences, e.g.
    (both − B) − (A − none): how much more A brings beside B than alone, averaged over the other factors' levels; not
    halved. (Wu & Hamada 2009, "Experiments", sec. 4.3, halve it at each order.)
    """
    assert len(groups) == 2 ** len(factors), (factors, groups)
    num_factors = len(factors)
    bits = np.arange(len(groups))[:, None] >> np.arange(num_factors) & 1  # (2^k, k)
    signs = 2.0 * bits - 1
    contrasts = []
    for order in range(1, num_factors + 1):
        for chosen in itertools.combinations(range(num_factors), order):
            name = " × ".join(factors[k] for k in chosen)
            weights = signs[:, chosen].prod(axis=1) / 2 ** (num_factors - order)
            contrasts.append(
                Contrast(
                    name,
                    tuple(zip(groups, weights.tolist(), strict=True)),
                )
            )
    return tuple(contrasts)


def setting_interactions(effects: Mapping[str, Sequence[Contrast]]) -> tuple[Contrast, ...]:
    """Does an effect differ by setting? `effects` are the same ones per setting, such as a negative ratio.

    Each effect (of the 2×2, or each pair of heads) in each further setting minus itself in the first, the reference:
    with the 2×2's three effects and R ratios one family of 3(R−1) tests. Comparing all pairs of ratios instead would
    need more seeds for no clearer answer.
    """
    (first, reference_effects), *others = effects.items()
    contrasts = []
    for setting, setting_effects in others:
        for effect, reference in zip(setting_effects, reference_effects, strict=True):
            weights = dict(effect.weights)
            for group, weight in reference.weights:
                weights[group] = weights.get(group, 0.0) - weight
            name = f"{effect.name}: {setting} − {first}"
            contrasts.append(Contrast(name, tuple(weights.items())))
    return tuple(contrasts)


def compare(
    groups: Sequence[Group],
    debates: Sequence[object],
    contrasts: Sequence[Contrast],
    looks: Sequence[int] = (),
    until: int | None = None,
    settled: Mapping[str, ContrastResult] | None = None,
) -> tuple[ContrastResult, ...]:
    """Each contrast's estimate, intervals and sign-flip p; Holm's adjustment over all given here.

    So the contrasts of one call are one family: pass all of it, and nothing else. `debates` (N,) labels the points that
    all groups share. A contrast is taken over the seeds that all its groups have (others are named in `notes`); with
    none in common it has nan for figures and p 1.

    `looks` are numbers of seeds declared beforehand at which the family is looked at: of a contrast only the first so
    many seeds are used, by their number, as the last look that it has reached allows (none after `until`), and each
    look spends an equal part of alpha (p-values are multiplied by the number of looks, Bonferroni). So the family's
    error rate holds over all looks together, whichever look each contrast is at: of K looks and m contrasts that are
    truly 0, one is rejected only where one of its p at one of the looks is at most alpha/(K·m). What an earlier look
    has `settled`, by the contrast's name, stays as it was then, and its p are among the family's.
    """
    kept = settled or {}
    by_name = {group.name: group for group in groups}
    assert len(by_name) == len(groups), [group.name for group in groups]
    members = []  # the groups of each contrast
    for contrast in contrasts:
        members.append([by_name[name] for name, weight in contrast.weights if weight])
    shared = [common_seeds(compared) for compared in members]

    # The last look that each contrast has reached; before the first, it cannot be significant.
    last = [last_look(looks, len(seeds), until) for seeds in shared]
    too_early = [bool(looks) and look is None for look in last]
    num_looks = max(1, len(looks))

    # Contrasts that use the same seeds are worked out together.
    by_seeds: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for k, seeds in enumerate(shared):
        if contrasts[k].name not in kept:
            by_seeds[seeds[: last[k] or until]].append(k)
    unadjusted: dict[int, ContrastResult] = {}
    for seeds, places in by_seeds.items():
        alpha = ALPHA / (len(contrasts) * num_looks)
        alike = [contrasts[k] for k in places]
        unadjusted |= zip(places, _on_seeds(seeds, groups, debates, alike, alpha), strict=True)
    in_order = [kept.get(contrast.name) or unadjusted[k] for k, contrast in enumerate(contrasts)]

    def adjusted(p_values: list[float]) -> list[float]:
        """Holm's adjustment, shared among the looks."""
        p = np.where(too_early, 1.0, p_values)
        adjusted_values: list[float] = np.minimum(1, num_looks * holm(p)).tolist()
        return adjusted_values

    p_holm = adjusted([result.p for result in in_order])
    p_crossed_holm = adjusted([result.interval.p for result in in_order])
    results = []
    for k, result in enumerate(in_order):
        if result.contrast.name in kept:
            results.append(result)
            continue
        notes = [result.interval.note]
        if len(result.seeds) > MAX_EXACT_SEEDS:
            notes.append(DRAWN_SIGNS)
        if too_early[k]:
            notes.append(BEFORE_LOOKS.format(looks[0]))
        every_seed = {seed for group in members[k] for seed in group.seeds}
        notes.append(_left_out(every_seed.difference(shared[k]), "not in all of its groups, left out"))
        look = last[k]
        if look:
            notes.append(
                _left_out(
                    shared[k][look:],
                    f"after the look at {look}, left out until the next",
                )
            )
        results.append(
            replace(
                result,
                p_holm=p_holm[k],
                p_crossed_holm=p_crossed_holm[k],
                num_tests=len(contrasts),
                num_looks=num_looks,
                notes=tuple(filter(None, notes)),
            )
        )
    return tuple(results)


def last_look(looks: Sequence[int], num_seeds: int, until: int | None = None) -> int | None:
    """The last of the looks that so many seeds have reached, none after `until`; None before the first."""
    reached = [look for look in looks if look <= num_seeds and (until is None or look <= until)]
    return max(reached, default=None)


def _left_out(seeds: Collection[int], why: str) -> str:
    """A note on seeds that a contrast does without; nothing where there are none."""
    return f"seeds {why}: {', '.join(map(str, sorted(seeds)))}" if seeds else ""


def _on_seeds(
    seeds: tuple[int, ...],
    groups: Sequence[Group],
    debates: Sequence[object],
    contrasts: Sequence[Contrast],
    alpha: float,
) -> list[ContrastResult]:
    """The results of m contrasts that share their seeds, all but what depends on the rest of the family's p-values."""
    if not seeds:
        nan = math.nan
        unknown = Interval(NO_COMMON_SEED, nan, nan, nan, nan, 1.0, nan, nan)
        return [ContrastResult(contrast, (), (), unknown, nan, nan, 1.0, None) for contrast in contrasts]

    # Contrasts are linear, so sums over debates are enough. Only groups that have a weight have all of these seeds.
    used = {name for contrast in contrasts for name, weight in contrast.weights if weight}
    sums: dict[str, FloatArray] = {}  # group → (S, D)
    for group in groups:
        if group.name in used:
            sums[group.name], sizes = sums_by_debate(
                group.at(seeds),
                debates,
            )
    rows = []
    for contrast in contrasts:
        assert abs(sum(weight for _, weight in contrast.weights)) < 1e-9, contrast
        rows.append(
            np.sum(
                [weight * sums[name] for name, weight in contrast.weights if weight],
                axis=0,
            )
        )
    table = np.round(rows, 10)  # (m, S, D); rounding noise must not pass for a difference

    moments = crossed_moments(table, sizes)
    half = moments.half_widths(alpha)
    per_seed = table.sum(axis=2) / sizes.sum()  # (m, S)
    p_debates: list[float | None] = [None] * len(contrasts)
    if len(seeds) == 1:
        p_debates = holm(sign_flip_p(table[:, 0], generator(0, "report", "debates"))).tolist()
    columns = [
        map(tuple, per_seed.tolist()),
        intervals(moments),
        (moments.estimate - half).tolist(),
        (moments.estimate + half).tolist(),
        sign_flip_p(per_seed, generator(0, "report", "signs")).tolist(),
        p_debates,
    ]
    return [ContrastResult(contrast, seeds, *row) for contrast, *row in zip(contrasts, *columns, strict=True)]


MOST_NAMED = 3  # pairs in a sentence; the table has all


@dataclass(frozen=True)
class Verdict:
    """`status` is winner, no_clear_winner or too_few_seeds; `best` has the highest mean, whatever that means.

    `not_told_apart` names `best` and every group that cannot be told apart from it.
    """

    status: str
    best: str
    not_told_apart: tuple[str, ...]
    sentence: str

    @property
    def winner(self) -> str | None:
        return self.best if self.status == "winner" else None


def verdict(groups: Sequence[Group], results: Sequence[ContrastResult]) -> Verdict:
    """Which group wins, if any: `results` are compare()'s, a family that holds every pair of the groups.

    A winner is higher than each other group with Holm p < ALPHA. Otherwise the best is
    named with all that cannot be told apart from it, which is not to say that they are equal. If its comparisons could
    not reach Holm p < ALPHA whatever the figures (p is at least 2/2^S), the verdict is too_few_seeds. The best is by
    mean over the seeds that all groups share, or, where there are none, over each group's own.
    """
    # Means over common seeds, or over each group's own where there are none, are what "best" goes by.
    shared = common_seeds(groups)
    means = {group.name: float(group.at(shared or group.seeds).mean()) for group in groups}
    best = max(means, key=lambda name: means[name])

    # Which results compare the best with another group, and by how much it leads there.
    num_tests, num_looks = results[0].num_tests, results[0].num_looks
    least_p = num_looks * holm([smallest_p(len(result.seeds)) for result in results])
    compared: list[ContrastResult] = []
    leads: dict[str, float] = {}
    others = []
    in_reach = True
    for result, reachable in zip(results, least_p, strict=True):
        weights = dict(result.contrast.weights)
        if best not in weights:
            continue
        (other,) = weights.keys() - {best}
        compared.append(result)
        leads[other] = weights[best] * result.estimate
        in_reach = in_reach and reachable < ALPHA
        if not (result.is_significant() and leads[other] > 0):
            others.append(other)
    assert leads.keys() == means.keys() - {best}, "every pair of the groups must have been compared"

    # A verdict needs p-values that can get below ALPHA whatever the scores.
    num_seeds = min(len(result.seeds) for result in compared)
    tests = "one test" if num_tests == 1 else f"{num_tests} tests"
    if num_looks > 1:
        tests += f" at each of {num_looks} looks"
    if not in_reach:
        status = "too_few_seeds"
        basis = "" if shared else ", each group over its own seeds"
        sentence = (
            f"Too few seeds to name a winner: with {num_seeds or 'no seed in common'}, the sign-flip test cannot reach "
            f"Holm p < {ALPHA:g} over {tests}; {seeds_needed(num_tests * num_looks)} are needed. "
            f"The highest mean so far is that of {quoted(best)} ({means[best]:.3f}{basis})."
        )
    elif others:
        status = "no_clear_winner"
        sentence = (
            f"No clear winner: {quoted(best)} has the highest mean ({means[best]:.3f}), but over {num_seeds} seeds "
            f"it cannot be told apart from {quoted(*others)}."
        )
    else:
        status = "winner"
        than = "each of the others by at least" if len(leads) > 1 else f"{quoted(*leads)} by"
        sentence = (
            f"{quoted(best)} wins: mean {means[best]:.3f}, higher than {than} {min(leads.values()):.3f} "
            f"(Holm p < {ALPHA:g} over {tests}; {num_seeds} seeds)."
        )
    return Verdict(status, best, (best, *others), sentence)


def quoted(*names: str) -> str:
    """Names of groups in a sentence: without quotes, "none wins" would say that there is no winner."""
    *first, last = [f"“{name}”" for name in names]
    return f"{', '.join(first)} and {last}" if first else last
