"""Is a difference smaller than a margin that was declared beforehand? Non-inferiority, equivalence, and what they need.

A part may be removed if the metric loses less than the margin without it: the null hypothesis is that the part is
worth the margin or more (non-inferiority). Two systems are equal if neither is better than the other by the margin (two
one-sided tests). Each test is one-sided at ALPHA, over the family by Holm, on the same crossed variance as the
intervals. docs/statistics.md has its error rates by simulation.

Shapes: m tests of a family.

- Farrington & Manning 1990, "Test Statistics and Sample Size Formulae for Comparative Binomial Trials with Null
  Hypothesis of Non-Zero Risk Difference or Non-Unity Relative Risk", Statistics in Medicine 9: the variance under the
  null hypothesis.
- Schuirmann 1987, "A Comparison of the Two One-Sided Tests Procedure and the Power Approach", J. Pharmacokinetics and
  Biopharmaceutics 15.
- Yates 1934, "Contingency Tables Involving Small Numbers and the χ² Test", Suppl. to the J. of the Royal Statistical
  Society 1: the correction by half a unit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from scipy import special

from biencoder_ablate.report.statistics import ALPHA, MOST_SEEDS, POWER, FloatArray, Interval, Moments

MOST_TIMES = 100
"""How many times the debates are tried at most before it is said that no number of them would do."""


def as_moments(interval: Interval, num_seeds: int, sign: float = 1.0) -> Moments:
    """The moments (1,) that an interval over `num_seeds` seeds was made of, of `sign` times the difference."""
    columns = (
        sign * interval.estimate,
        interval.variance,
        interval.by_seeds,
        interval.degrees_of_freedom,
        interval.noise,
    )
    estimate, variance, by_seeds, freedom, noise = (np.array([value]) for value in columns)
    return Moments(
        estimate,
        variance,
        by_seeds,
        freedom,
        float(num_seeds - 1),
        interval.debates_freedom,
        noise,
    )


def least_variance(margin: float, span: float, num_points: int) -> float:
    """The least variance of a mean over `num_points` that is `margin`, where a point's value is 0 or ±`span`.

    Where systems differ by d in the share of points that are right, at least a share d of the points differ, so that
    their variance is at least d·(span − d). What is seen may lie far below that, down to 0: of 70 points not one may
    differ although 1 in 100 would (Farrington & Manning 1990).
    """
    return max(margin * (span - margin), 0.0) / num_points


def margin_p(moments: Moments, margin: float, span: float, num_points: int) -> FloatArray:
    """One-sided p (m,) that the mean is `margin` or more, over further seeds and debates; 1 with a single seed.

    `span` is how far a point's value can lie from 0. The variance is no less than least_variance(), and the estimate
    is half a point (of `span`) nearer to the margin than it was (Yates 1934): both against differences that hardly a
    point shows.
    """
    if not moments.seeds_freedom or np.isnan(moments.variance).any():
        return np.ones_like(moments.estimate)
    least = least_variance(margin, span, num_points)
    gap = margin - moments.estimate - span / num_points / 2
    variance = np.maximum(moments.variance, least)
    two_sided = replace(moments, estimate=gap, variance=variance).p
    one_sided: FloatArray = np.where(gap > 0, two_sided / 2, 1 - two_sided / 2)
    return np.where(variance > 0, one_sided, 1.0)


def equality_p(moments: Moments, margin: float, span: float, num_points: int) -> FloatArray:
    """p (m,) that the mean is `margin` or more to either side: the larger of the two one-sided ones."""
    opposite = replace(moments, estimate=-moments.estimate)
    return np.maximum(
        margin_p(moments, margin, span, num_points),
        margin_p(opposite, margin, span, num_points),
    )


@dataclass(frozen=True)
class Enough:
    """How many seeds, on these debates, or how many debates, with these seeds, decide with probability POWER.

    `times_both` is how many times both numbers decide together. None where no number would: up to MOST_SEEDS seeds, and
    MOST_TIMES as many debates.
    """

    seeds: int | None
    debates: int | None
    times_both: int | None


NEVER = Enough(None, None, None)


@dataclass(frozen=True)
class Design:
    """What a comparison's test has: its interval, over so many seeds and debates; it is one of `num_tests`."""

    interval: Interval
    num_seeds: int
    num_debates: int
    num_tests: int

    def detectable(
        self,
        seeds: int,
        times: float,
        tail: float,
        power: float,
        least: float,
    ) -> float:
        """The least gap that so many seeds, and `times` as many debates, find with `power`.

        `tail` is the share of alpha on the side that is tested. All of the variance but the seeds' part is the
        debates', and the noise within the seeds' part falls with either. `least` is how large the variance is at least,
        on the debates that there are.
        """
        by_seeds = self.interval.by_seeds
        by_debates = max(self.interval.variance - by_seeds, 0.0)
        of_seeds = by_seeds**2 / (self.num_seeds - 1)
        denominator = self.interval.variance**2 / self.interval.degrees_of_freedom
        of_debates = max(denominator - of_seeds, 0.0)

        # Satterthwaite's degrees of freedom, with each part as large as it would be.
        noise = self.interval.noise
        seeds_part = (by_seeds - noise + noise / times) * self.num_seeds / seeds
        total = max(seeds_part + by_debates / times, least / times)
        denominator = seeds_part**2 / (seeds - 1) + of_debates / times**3
        freedom = total**2 / denominator if denominator > 0 else seeds - 1
        quantiles = special.stdtrit(freedom, [1 - tail / self.num_tests, power])
        return float(quantiles.sum()) * math.sqrt(total)

    def enough(
        self,
        gap: float,
        tail: float,
        power: float = POWER,
        least: float = 0.0,
        fewest_seeds: int = 2,
    ) -> Enough:
        """How many seeds, or debates, find a gap of this size; `fewest_seeds` are needed whatever its size."""
        if self.num_seeds < 2 or not math.isfinite(self.interval.variance) or not gap > 0:
            return NEVER

        def found(seeds: int, times: float = 1.0) -> bool:
            return self.detectable(seeds, times, tail, power, least) <= gap

        fewest = max(2, fewest_seeds)
        seeds = next((n for n in range(fewest, MOST_SEEDS + 1) if found(n)), None)
        with_these = max(self.num_seeds, fewest)
        times_both = next((k for k in range(2, MOST_TIMES + 1) if found(max(fewest, k * self.num_seeds), k)), None)
        if not found(with_these, MOST_TIMES):
            return Enough(seeds, None, times_both)

        # More debates are never worse: the fewest by bisection.
        low, high = 0, MOST_TIMES * self.num_debates
        while high - low > 1:
            middle = (low + high) // 2
            if found(with_these, middle / self.num_debates):
                high = middle
            else:
                low = middle
        return Enough(seeds, high, times_both)

    def to_tell_apart(self, fewest_seeds: int) -> Enough:
        """What tells a difference as large as the one seen from 0."""
        return self.enough(abs(self.interval.estimate), ALPHA / 2, fewest_seeds=fewest_seeds)

    def to_clear(self, margin: float, span: float, num_points: int, both_sides: bool) -> Enough:
        """What shows that a difference like the one seen is below the margin, or within it to both sides."""
        estimate = self.interval.estimate
        size = abs(estimate) if both_sides else estimate
        gap = margin - size - span / num_points / 2
        power = (1 + POWER) / 2 if both_sides else POWER  # each side may miss half as often
        least = least_variance(margin, span, num_points)
        return self.enough(gap, ALPHA, power, least)
