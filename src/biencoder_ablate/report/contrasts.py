"""Groups of runs and the differences between them: estimates, intervals and tests, for questions.py to conclude from.

A *group* is one configuration: for each of its seeds, which points it got right at top 1. Groups are compared on the
same points, and seed by seed where they share seeds. *Other seeds?* is the sign-flip test's question, Holm's adjustment
over a family; *other seeds and other debates?* the interval's. Points alone can answer neither: a test over the points
of one run per group (McNemar's, say) cannot tell a better head from a luckier seed (Dror et al. 2018, "The Hitchhiker's
Guide to Testing Statistical Significance in NLP", ACL; Bouthillier et al. 2021, "Accounting for Variance in Machine
Learning Benchmarks", MLSys). None is offered here, and with one seed each result says so. S seeds, N points;
figures are shares in [0, 1], not per cent.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from biencoder_ablate.report.significance import (
    NUM_SIGN_DRAWS,
    FloatArray,
    Interval,
    SignFlip,
    crossed_interval,
    holm,
    sign_flip_test,
    t_quantile,
)
from biencoder_ablate.seeding import generator

HEADS = ("none", "layernorm", "relu", "layernorm_relu")  # of the 2×2 design
DRAWN_SIGNS = f"p from {NUM_SIGN_DRAWS} sign patterns drawn at random: too many seeds to try all"
NO_COMMON_SEED = "no seed in common: these groups cannot be compared"


@dataclass(frozen=True, eq=False)
class Group:
    """One configuration's outcomes: correct[s, i] is 1 where seeds[s]'s run ranks point i's counter first.

    Shares between 0 and 1 are allowed, so that groups can be averaged (`pool`).
    """

    name: str
    seeds: tuple[int, ...]
    correct: FloatArray

    def __post_init__(self) -> None:
        shape = self.correct.shape
        assert len(shape) == 2 and shape[0] == len(set(self.seeds)) == len(self.seeds) > 0 < shape[1], (
            self.name,
            shape,
        )
        assert ((self.correct >= 0) & (self.correct <= 1)).all(), self.name

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
    """All that is known of one contrast; `p_holm` (sign flips) and `p_crossed_holm` (interval) are of `num_tests`."""

    contrast: Contrast
    seeds: tuple[int, ...]  # those all its groups share
    seed_estimates: tuple[float, ...]
    interval: Interval
    test: SignFlip
    p_holm: float
    p_crossed_holm: float
    num_tests: int
    notes: tuple[str, ...]

    @property
    def p_family(self) -> float:
        """The larger of the two adjusted p-values, shown as Holm p."""
        return max(self.p_holm, self.p_crossed_holm)

    @property
    def estimate(self) -> float:
        """The contrast over all its seeds and points."""
        return self.interval.estimate

    def told_apart(self, alpha: float = 0.05) -> bool:
        """Whether it differs from 0, both over seeds on these points and over further seeds and debates."""
        return self.p_family < alpha


def summarise(group: Group, confidence: float = 0.95) -> GroupSummary:
    """Mean over seeds, their standard deviation, and Student's t interval over seeds; nan for what one seed lacks.

    The interval treats seeds as the sample and the points as fixed. It may leave [0, 1], as t intervals do.
    """
    per_seed = group.correct.mean(axis=1)
    num_seeds, mean = len(per_seed), float(per_seed.mean())
    deviation = float(per_seed.std(ddof=1)) if num_seeds > 1 else math.nan
    half = t_quantile(num_seeds - 1, confidence) * deviation / math.sqrt(num_seeds)
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


def factorial_effects(none: str, layernorm: str, relu: str, both: str) -> tuple[Contrast, Contrast, Contrast]:
    """The 2×2 design's LayerNorm effect, ReLU effect and interaction, from the names of its four groups.

    A main effect is the mean, over the other factor's two levels, of with minus without. The interaction is the
    difference of differences, (both − relu) − (layernorm − none): how much more LayerNorm brings beside a ReLU than
    alone; not halved.
    """
    return (
        Contrast("LayerNorm", ((none, -0.5), (layernorm, 0.5), (relu, -0.5), (both, 0.5))),
        Contrast("ReLU", ((none, -0.5), (layernorm, -0.5), (relu, 0.5), (both, 0.5))),
        Contrast("LayerNorm × ReLU", ((none, 1.0), (layernorm, -1.0), (relu, -1.0), (both, 1.0))),
    )


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
    groups: Sequence[Group], debates: Sequence[object], contrasts: Sequence[Contrast], seed: int = 0
) -> tuple[ContrastResult, ...]:
    """Each contrast's estimate, 95% interval and sign-flip p; Holm's adjustment over all given here.

    So the contrasts of one call are one family: pass all of it, and nothing else. `debates` (N,) labels the points that
    all groups share. A contrast is taken over the seeds that all its groups have (others are named in `notes`); with
    none in common it has nan for figures and p 1. Signs are drawn from the stream report/signs of `seed`. Intervals are
    not adjusted for the family.
    """
    by_name = {group.name: group for group in groups}
    assert len(by_name) == len(groups), [group.name for group in groups]
    results = []
    for contrast in contrasts:
        weights = {name: weight for name, weight in contrast.weights if weight}
        assert abs(sum(weights.values())) < 1e-9, contrast
        members = [by_name[name] for name in weights]
        seeds = common_seeds(members)
        if seeds:
            values = np.sum([weights[group.name] * group.at(seeds) for group in members], axis=0)
            values = np.round(values, 12)  # rounding noise must not pass for a difference
            interval = crossed_interval(values, debates)
            estimates = values.mean(axis=1)
            test = sign_flip_test(estimates, generator(seed, "report", "signs"))
        else:
            interval = Interval(math.nan, math.nan, math.nan, math.nan, 1.0, NO_COMMON_SEED)
            estimates, test = np.empty(0), SignFlip(1.0, True, 0)
        unused = sorted({seed for group in members for seed in group.seeds} - set(seeds))
        left_out = f"seeds not in all of its groups, left out: {', '.join(map(str, unused))}" if unused else ""
        notes = tuple(note for note in (interval.note, left_out, "" if test.exact else DRAWN_SIGNS) if note)
        tests = (test, math.nan, math.nan, len(contrasts), notes)  # adjusted below
        results.append(ContrastResult(contrast, seeds, tuple(estimates.tolist()), interval, *tests))
    over_seeds = holm([result.test.p for result in results]).tolist()
    crossed = holm([result.interval.p for result in results]).tolist()
    return tuple(replace(r, p_holm=p, p_crossed_holm=q) for r, p, q in zip(results, over_seeds, crossed, strict=True))
