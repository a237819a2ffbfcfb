"""Groups of runs and the differences between them: estimates, intervals and tests, for verdicts.py to conclude from.

A *group* is one configuration: for each of its seeds, what each point got: 1 where it is right at top 1, or any other
score. Groups are compared on the same points, and seed by seed where they share seeds. *Other seeds?* is the sign-flip
test's question; *other seeds and other debates?* the interval's; Holm adjusts both over a family. Points alone can
answer neither: a test over the points of one run per group (McNemar's, say) cannot tell a better head from a luckier
seed (Dror et al. 2018, "The Hitchhiker's Guide to Testing Statistical Significance in NLP", ACL; Bouthillier et al.
2021, "Accounting for Variance in Machine Learning Benchmarks", MLSys). With one seed that test is given, by whole
debates, and the result says what it cannot show. S seeds, N points, D debates; figures are shares, not per cent.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
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
    """One configuration's outcomes: correct[s, i] is 1 where seeds[s]'s run ranks point i's counter first, or whatever
    else point i scores there."""

    name: str
    seeds: tuple[int, ...]
    correct: FloatArray

    def __post_init__(self) -> None:
        shape = self.correct.shape
        assert len(shape) == 2 and shape[0] == len(set(self.seeds)) == len(self.seeds) > 0 < shape[1], (
            self.name,
            shape,
        )
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
    """All that is known of one contrast. `p` is of the sign-flip test over seeds; adjusted, it is `p_holm`, and the
    interval's `p_crossed_holm`: of `num_tests`, and of `num_looks` where looks were declared.

    `family_low` and `family_high` hold all the family's contrasts at once (Dunn 1961). `p_debates` is of the sign-flip
    test over debates, of two trained models rather than two groups: None unless there is one seed alone.
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
        return power_analysis(self.interval, len(self.seeds), self.num_tests * self.num_looks)


def summarise(group: Group) -> GroupSummary:
    """Mean over seeds, their standard deviation, and Student's t interval over seeds; nan for what one seed lacks, or
    seeds that are all alike: an interval of no width would claim to be certain.

    The interval treats seeds as the sample and the points as fixed. It may leave [0, 1], as t intervals do.
    """
    per_seed = group.correct.mean(axis=1)
    num_seeds, mean = len(per_seed), float(per_seed.mean())
    deviation = float(per_seed.std(ddof=1)) if num_seeds > 1 else math.nan
    half = t_quantile(num_seeds - 1, 0.95) * (deviation or math.nan) / math.sqrt(num_seeds)
    return GroupSummary(num_seeds, mean, deviation, mean - half, mean + half)


def pool(name: str, groups: Sequence[Group]) -> Group:
    """The average of several groups, e.g. one head over all negative ratios, on the seeds they share: at least one."""
    seeds = common_seeds(groups)
    return Group(name, seeds, np.mean([group.at(seeds) for group in groups], axis=0))


def common_seeds(groups: Sequence[Group]) -> tuple[int, ...]:
    """The seeds that every one of the groups has, ascending."""
    return tuple(sorted(set.intersection(*(set(group.seeds) for group in groups)))) if groups else ()


def every_pair(groups: Sequence[str], labels: Sequence[str] | None = None) -> tuple[Contrast, ...]:
    """Every pair of groups as a difference, first named minus second (by their `labels`, if any): six for four."""
    pairs = itertools.combinations(zip(groups, labels or groups, strict=True), 2)
    return tuple(Contrast(f"{a_label} − {b_label}", ((a, 1.0), (b, -1.0))) for (a, a_label), (b, b_label) in pairs)


def against(baseline: str, others: Sequence[str], labels: Sequence[str] | None = None) -> tuple[Contrast, ...]:
    """Each of the others minus the baseline, named by `labels` if any."""
    return tuple(
        Contrast(label, ((other, 1.0), (baseline, -1.0))) for other, label in zip(others, labels or others, strict=True)
    )


def factorial_effects(factors: Sequence[str], groups: Sequence[str]) -> tuple[Contrast, ...]:
    """Main effects and interactions of a complete 2^k design, from the k factors' names and the 2^k groups' names.

    `groups` are in counting order, the first factor's bit the lowest: none, A, B, A and B, C, … A main effect is the
    mean, over the other factors' levels, of with minus without. An interaction is the difference of differences, e.g.
    (both − B) − (A − none): how much more A brings beside B than alone, averaged over the other factors' levels; not
    halved. (Wu & Hamada 2009, "Experiments", sec. 4.3, halve it at each order.)
    """
    assert len(groups) == 2 ** len(factors), (factors, groups)
    bits = np.arange(len(groups))[:, None] >> np.arange(len(factors)) & 1
    contrasts = []
    for order in range(1, len(factors) + 1):
        for chosen in itertools.combinations(range(len(factors)), order):
            weights = np.prod(2.0 * bits[:, chosen] - 1, axis=1) / 2 ** (len(factors) - order)
            name = " × ".join(factors[k] for k in chosen)
            contrasts.append(Contrast(name, tuple(zip(groups, weights.tolist(), strict=True))))
    return tuple(contrasts)


def setting_interactions(effects: Mapping[str, Sequence[Contrast]]) -> tuple[Contrast, ...]:
    """Does an effect differ by setting? `effects` are the same ones per setting, such as a negative ratio.

    Each effect (of the 2×2, or each pair of heads) in each further setting minus itself in the first, the reference:
    with the 2×2's three effects and R ratios one family of 3(R−1) tests. Comparing all pairs of ratios instead would
    need more seeds for no clearer answer.
    """
    (first, reference), *others = effects.items()
    contrasts = []
    for setting, here in others:
        for effect, base in zip(here, reference, strict=True):
            weights = dict(effect.weights)
            for group, weight in base.weights:
                weights[group] = weights.get(group, 0.0) - weight
            contrasts.append(Contrast(f"{effect.name}: {setting} − {first}", tuple(weights.items())))
    return tuple(contrasts)


def compare(
    groups: Sequence[Group],
    debates: Sequence[object],
    contrasts: Sequence[Contrast],
    looks: Sequence[int] = (),
) -> tuple[ContrastResult, ...]:
    """Each contrast's estimate, intervals and sign-flip p; Holm's adjustment over all given here.

    So the contrasts of one call are one family: pass all of it, and nothing else. `debates` (N,) labels the points that
    all groups share. A contrast is taken over the seeds that all its groups have (others are named in `notes`); with
    none in common it has nan for figures and p 1.

    `looks` are numbers of seeds declared beforehand at which the family is looked at: only the first so many seeds are
    used, by their number, as the last look reached allows, and each look spends an equal part of alpha (p-values are
    multiplied by the number of looks, Bonferroni), so that the family's error rate holds over all of them together.
    """
    by_name = {group.name: group for group in groups}
    assert len(by_name) == len(groups), [group.name for group in groups]
    members = [[by_name[name] for name, weight in contrast.weights if weight] for contrast in contrasts]
    shared = [common_seeds(groups_of_one) for groups_of_one in members]
    look = max((n for n in looks if n <= min(map(len, shared), default=0)), default=None)
    early, num_looks = bool(looks) and look is None, max(1, len(looks))
    alike: dict[tuple[int, ...], list[int]] = defaultdict(list)  # seeds used → contrasts
    for k, seeds in enumerate(shared):
        alike[seeds[:look]].append(k)
    found: dict[int, ContrastResult] = {}
    for seeds, ks in alike.items():
        alpha = ALPHA / (len(contrasts) * num_looks)
        found |= zip(ks, _on_seeds(seeds, groups, debates, [contrasts[k] for k in ks], alpha), strict=True)
    in_order = [found[k] for k in range(len(contrasts))]
    over_seeds, crossed = (
        np.minimum(1, np.maximum(num_looks * holm(p), early)).tolist()
        for p in ([one.p for one in in_order], [one.interval.p for one in in_order])
    )
    results = []
    for k, one in enumerate(in_order):
        notes = [one.interval.note, DRAWN_SIGNS if len(one.seeds) > MAX_EXACT_SEEDS else ""]
        notes += [BEFORE_LOOKS.format(looks[0])] if early else []
        for some, why in (
            ({s for group in members[k] for s in group.seeds} - set(shared[k]), "not in all of its groups, left out"),
            (set(shared[k][look:]) if look else set[int](), f"after the look at {look}, left out until the next"),
        ):
            notes += [f"seeds {why}: {', '.join(map(str, sorted(some)))}"] if some else []
        results.append(
            replace(
                one,
                p_holm=over_seeds[k],
                p_crossed_holm=crossed[k],
                num_tests=len(contrasts),
                num_looks=num_looks,
                notes=tuple(filter(None, notes)),
            )
        )
    return tuple(results)


def _on_seeds(
    seeds: tuple[int, ...],
    groups: Sequence[Group],
    debates: Sequence[object],
    contrasts: Sequence[Contrast],
    alpha: float,
) -> list[ContrastResult]:
    """Contrasts that share their seeds, worked out at once, but for what hangs on the rest of the family's p-values.

    They are linear, so sums over debates are enough.
    """
    if not seeds:
        nan = math.nan
        nothing = Interval(NO_COMMON_SEED, nan, nan, nan, nan, 1.0, nan, nan)
        return [ContrastResult(contrast, (), (), nothing, nan, nan, 1.0, None) for contrast in contrasts]
    used = {name for contrast in contrasts for name, weight in contrast.weights if weight}
    sums = {group.name: sums_by_debate(group.at(seeds), debates) for group in groups if group.name in used}
    sizes = next(iter(sums.values()))[1]
    assert all(abs(sum(weight for _, weight in contrast.weights)) < 1e-9 for contrast in contrasts), contrasts
    table = np.array([np.sum([w * sums[name][0] for name, w in c.weights if w], axis=0) for c in contrasts])
    table = np.round(table, 10)  # (m, S, D); rounding noise must not pass for a difference
    moments, per_seed = crossed_moments(table, sizes), table.sum(axis=2) / sizes.sum()
    half = moments.half_widths(alpha)
    p = sign_flip_p(per_seed, generator(0, "report", "signs")).tolist()
    p_debates: list[float | None] = [None] * len(contrasts)
    if len(seeds) == 1:
        p_debates = holm(sign_flip_p(table[:, 0], generator(0, "report", "debates"))).tolist()
    ends = (moments.estimate - half).tolist(), (moments.estimate + half).tolist()
    columns = contrasts, map(tuple, per_seed.tolist()), intervals(moments), *ends, p, p_debates
    return [ContrastResult(contrast, seeds, *row) for contrast, *row in zip(*columns, strict=True)]


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
    shared = common_seeds(groups)
    means = {group.name: float(group.at(shared or group.seeds).mean()) for group in groups}
    best = max(means, key=lambda name: means[name])
    num_tests, num_looks = results[0].num_tests, results[0].num_looks
    reachable = num_looks * holm([smallest_p(len(result.seeds)) for result in results])
    pairs: dict[str, tuple[int, float]] = {}  # other group → which result, and the sign that makes it best minus other
    for k, weights in enumerate(dict(result.contrast.weights) for result in results):
        pairs |= {other: (k, weights[best]) for other in weights if best in weights and other != best}
    assert set(pairs) == set(means) - {best}, "every pair of the groups must have been compared"
    tests = "one test" if num_tests == 1 else f"{num_tests} tests"
    tests += f" at each of {num_looks} looks" if num_looks > 1 else ""
    num_seeds = min(len(results[k].seeds) for k, _ in pairs.values())
    leads = {other: sign * results[k].estimate for other, (k, sign) in pairs.items()}
    others = tuple(other for other, (k, _) in pairs.items() if not (results[k].is_significant() and leads[other] > 0))
    if any(reachable[k] >= ALPHA for k, _ in pairs.values()):
        status = "too_few_seeds"
        own = "" if shared else ", each group over its own seeds"
        sentence = (
            f"Too few seeds to name a winner: with {num_seeds or 'no seed in common'}, the sign-flip test cannot reach "
            f"Holm p < {ALPHA:g} over {tests}; {seeds_needed(num_tests * num_looks)} are needed. "
            f"The highest mean so far is that of {quoted(best)} ({means[best]:.3f}{own})."
        )
    elif others:
        status = "no_clear_winner"
        sentence = (
            f"No clear winner: {quoted(best)} has the highest mean ({means[best]:.3f}), but over {num_seeds} seeds "
            f"it cannot be told apart from {quoted(*others)}."
        )
    else:
        status = "winner"
        than = "each of the others by at least" if len(pairs) > 1 else f"{quoted(*pairs)} by"
        sentence = (
            f"{quoted(best)} wins: mean {means[best]:.3f}, higher than {than} {min(leads.values()):.3f} "
            f"(Holm p < {ALPHA:g} over {tests}; {num_seeds} seeds)."
        )
    return Verdict(status, best, (best, *others), sentence)


def quoted(*names: str) -> str:
    """Names of groups in a sentence: without quotes, "none wins" would say that there is no winner."""
    marked = [f"“{name}”" for name in names]
    return " and ".join([", ".join(marked[:-1]), marked[-1]] if len(marked) > 1 else marked)
