"""How sure is a mean over seeds and debates? Its variance and intervals, the sign-flip test, Holm's adjustment.

Seeds and debates are crossed: every seed's run is asked every debate. The points of a debate are not independent (they
share a topic, an author's style, often a counter's words), so a debate counts as one draw.

Shapes: S seeds, N points, D debates, m tests of a family.

- Bell & McCaffrey 2002, "Bias Reduction in Standard Errors for Linear Regression with Multi-Stage Samples", Survey
  Methodology 28; Imbens & Kolesár 2016, "Robust Standard Errors in Small Samples", Rev. of Economics and Statistics 98.
- Cochran 1977, "Sampling Techniques", ch. 6: ratio estimators.
- Cochran 1964, "Approximate Significance Levels of the Behrens-Fisher Test", Biometrics 20.
- Dunn 1961, "Multiple Comparisons among Means", JASA 56: simultaneous intervals by Bonferroni's inequality.
- Fisher 1935, "The Design of Experiments", sec. 21: the sign-flip test.
- Holm 1979, "A Simple Sequentially Rejective Multiple Test Procedure", Scand. J. Statistics 6.
- Owen 2007, "The Pigeonhole Bootstrap", Annals of Applied Statistics 1: variance with crossed factors.
- Phipson & Smyth 2010, "Permutation P-values Should Never Be Zero", SAGMB 9.
- Satterthwaite 1946, "An Approximate Distribution of Estimates of Variance Components", Biometrics 2.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

FloatArray = NDArray[np.float64]

ALPHA = 0.05
ONE_SEED = "one seed: the interval is over debates only and says nothing about other seeds"
ONE_DEBATE = "one debate: the interval is over seeds only and says nothing about other debates"
MAX_EXACT_SEEDS = 15  # 2^15 sign patterns take milliseconds; each seed more doubles that
NUM_SIGN_DRAWS = 99_999  # beyond that; one less than a round number, for the observed signs count as a draw
FEW_SEEDS = 8
_PATTERNS_AT_ONCE = 2**14


@dataclass(frozen=True)
class Interval:
    """An estimate, its interval and the p of the same t; `note` says what a lone seed or debate leaves unsaid.

    `variance` is the estimate's; `by_seeds` is the part of it that more seeds would make smaller. `debates_freedom` are
    the degrees of freedom of the debates, 0 for one alone. `noise` is the part of `by_seeds` that more debates would
    make smaller as well.
    """

    note: str
    estimate: float
    low: float
    high: float
    degrees_of_freedom: float
    p: float
    variance: float
    by_seeds: float
    debates_freedom: float = 0.0
    noise: float = 0.0


@dataclass(frozen=True, eq=False)
class Moments:
    """Of m tables (m, S, D): `estimate`, `variance`, its part `by_seeds`, and Satterthwaite's `freedom`, each (m,).

    `seeds_freedom` and `debates_freedom` are the degrees of freedom of the two factors, 0 for one that is alone.
    `noise` (m,) is what neither explains, divided by seeds and debates: a part of `by_seeds`.
    """

    estimate: FloatArray
    variance: FloatArray
    by_seeds: FloatArray
    freedom: FloatArray
    seeds_freedom: float
    debates_freedom: float
    noise: FloatArray

    def half_widths(self, alpha: FloatArray | float) -> FloatArray:
        """How far two-sided intervals reach to either side (m,): Student's t times √variance.

        Satterthwaite's degrees of freedom are themselves estimated, too badly so with few seeds: below
        FEW_SEEDS each part of the variance has its own t (Cochran 1964): √(t²·V_seeds + t²·V_rest), never too narrow.
        """

        def squared(freedom: FloatArray | float, variance: FloatArray) -> FloatArray:
            # From the lower tail, where tiny alphas keep their digits; 1e9 errors are as good as infinitely many.
            num_errors = np.minimum(
                -special.stdtrit(freedom, alpha / 2),
                1e9,
            )
            squares: FloatArray = num_errors**2 * variance
            return squares

        few_seeds = 0 < self.seeds_freedom < FEW_SEEDS - 1
        if few_seeds and self.debates_freedom:
            by_debates = np.maximum(self.variance - self.by_seeds, 0)
            total = squared(self.seeds_freedom, self.by_seeds) + squared(self.debates_freedom, by_debates)
        else:
            total = squared(self.freedom, self.variance)
        return np.sqrt(total)

    @property
    def p(self) -> FloatArray:
        """The alpha (m,) whose interval ends at 0; 1 for no difference at all, 0 for one that never varies."""
        if np.isnan(self.variance).any():
            return np.ones_like(self.estimate)

        # By bisection, of alpha's logarithm.
        low = np.full_like(self.estimate, -40.0)
        high = np.zeros_like(self.estimate)
        for _ in range(50):
            middle = (low + high) / 2
            excludes_zero = self.half_widths(np.exp(middle)) < abs(self.estimate)
            low = np.where(excludes_zero, low, middle)
            high = np.where(excludes_zero, middle, high)
        p = np.where(
            self.variance > 0,
            np.exp(high),
            0.0,
        )
        return np.where(self.estimate == 0, 1.0, p)


def sums_by_debate(values: ArrayLike, debates: Sequence[object]) -> tuple[FloatArray, FloatArray]:
    """Sums (S, D) of `values` (S, N) over the points of each debate, and the debates' numbers of points (D,)."""
    table = np.atleast_2d(np.asarray(values, dtype=np.float64))
    labels = np.asarray(debates)
    assert labels.shape == table.shape[1:] and len(labels), (labels.shape, table.shape)

    debate_of_point = np.unique(labels, return_inverse=True)[1].reshape(-1)  # (N,)
    sizes = np.bincount(debate_of_point).astype(np.float64)
    sums = [np.bincount(debate_of_point, row, len(sizes)) for row in table]
    return np.array(sums, dtype=np.float64), sizes


def intervals(moments: Moments) -> list[Interval]:
    """The m intervals, 1 − ALPHA: the estimate plus and minus t·√V, V its variance over further seeds and debates.

    A debate or seed that is alone shows no spread: the interval is then over the other factor, or nan, and `note` says
    so. docs/statistics.md has its coverage by simulation.
    """
    notes = []
    if not moments.seeds_freedom:
        notes.append(ONE_SEED)
    if not moments.debates_freedom:
        notes.append(ONE_DEBATE)

    half = moments.half_widths(ALPHA)
    columns = [
        moments.estimate,
        moments.estimate - half,
        moments.estimate + half,
        moments.freedom,
        moments.p,
        moments.variance,
        moments.by_seeds,
        np.full_like(half, moments.debates_freedom),
        moments.noise,
    ]
    return [Interval("; ".join(notes), *row) for row in np.transpose(columns).tolist()]


def crossed_moments(sums: FloatArray, sizes: FloatArray) -> Moments:
    """Mean over points, its variance and degrees of freedom, from sums (…, S, D) over debates of `sizes` (D,) points.

    Two-way random effects, seeds × debates, unbalanced as debates differ in size (linearised ratio, Cochran 1977,
    ch. 6): the variance by seeds plus that by debates each hold the outcomes' own noise, so it is taken off once (Owen
    2007). Never less than either alone. Degrees of freedom by Satterthwaite (1946), at least the smaller factor's.
    Where debates differ in size the large ones decide, so that there are fewer degrees of freedom than debates and the
    deviations fall short by more than 1/D: both as if a debate's points were all one (Bell & McCaffrey 2002; Imbens &
    Kolesár 2016), and D − 1 and 1/D where sizes are equal. With one seed or one debate the variance is the other
    factor's; with one of both, nan.
    """
    num_seeds, num_debates = sums.shape[-2:]
    num_points = sizes.sum()
    per_seed = sums.sum(axis=-1) / num_points  # (…, S)
    estimate = per_seed.mean(axis=-1)
    zero = np.zeros_like(estimate)
    if num_seeds == num_debates == 1:
        nan = zero + math.nan
        return Moments(estimate, nan, zero, nan, 0.0, 0.0, zero)

    share = sizes / num_points
    squares = (share**2).sum()
    seeds_freedom = float(num_seeds - 1)
    debates_freedom = squares**2 / (share**4).sum() * (1 - 1 / num_debates)

    # Deviations of the debates (…, D), and of what neither seed nor debate explains (…, S, D).
    by_debate = sums.mean(axis=-2) - sizes * estimate[..., None]
    residual = sums - sizes * per_seed[..., None] - by_debate[..., None, :]

    # Each variance is divided by the part of it that deviations from an estimated mean keep.
    seeds = debates = noise = zero
    if seeds_freedom:
        seeds = per_seed.var(axis=-1, ddof=1) / num_seeds
    if debates_freedom:
        kept = 1 - 2 * (share**3).sum() / squares + squares
        debates = (by_debate**2).sum(axis=-1) / num_points**2 / kept
    if seeds_freedom and debates_freedom:
        kept = (1 - squares) * seeds_freedom
        noise = (residual**2).sum(axis=(-2, -1)) / num_points**2 / num_seeds / kept
    variance = np.maximum(
        seeds + debates - noise,
        np.maximum(seeds, debates),
    )

    parts = [
        (seeds, seeds_freedom),
        (debates, debates_freedom),
        (noise, seeds_freedom * debates_freedom),
    ]
    denominator = np.sum(
        [part**2 / freedom for part, freedom in parts if freedom],
        axis=0,
    )
    smaller = min(freedom for _, freedom in parts[:2] if freedom)
    satterthwaite = np.divide(
        variance**2,
        denominator,
        out=zero + smaller,
        where=denominator > 0,
    )
    freedom = np.maximum(satterthwaite, smaller)
    return Moments(estimate, variance, seeds, freedom, seeds_freedom, debates_freedom, np.minimum(noise, seeds))


def t_quantile(degrees_of_freedom: float, confidence: float) -> float:
    """How many standard errors a two-sided Student's t interval reaches to either side."""
    return float(special.stdtrit(degrees_of_freedom, (1 + confidence) / 2))


def sign_flip_p(
    differences: FloatArray, rng: np.random.Generator | None = None, num_draws: int = NUM_SIGN_DRAWS
) -> FloatArray:
    """Two-sided p (m,) that per-seed differences (m, S) are centred on 0, over all 2^S patterns of their signs.

    If a contrast's groups are alike, each seed's difference is as likely as its negative; p is the share of sign
    patterns whose |sum| is at least the observed one (Fisher 1935, sec. 21), so never below 2/2^S. Sums equal but for
    rounding count as ties, in p's favour. Beyond MAX_EXACT_SEEDS the patterns are `num_draws` drawn from `rng`, the
    same for all m, and the observed one (Phipson & Smyth 2010).
    """
    assert differences.ndim == 2 and differences.shape[1] and np.isfinite(differences).all(), differences
    num_seeds = differences.shape[1]

    # A pattern and its opposite have the same |sum|, so half of all patterns are enough.
    exact = num_seeds <= MAX_EXACT_SEEDS
    num_patterns = 2 ** (num_seeds - 1) if exact else num_draws

    # Sums that are equal but for rounding are ties. The absolute part is for differences that are 0 but for rounding;
    # one point of 10^6 is 1e-6.
    rounding = 1e-9 * np.abs(differences).sum(axis=1) + 1e-11
    least = np.abs(differences.sum(axis=1)) - rounding

    num_as_far = np.zeros(len(differences), dtype=np.int64)
    for start in range(0, num_patterns, _PATTERNS_AT_ONCE):
        num = min(_PATTERNS_AT_ONCE, num_patterns - start)
        if exact:
            minus = np.arange(start, start + num)[:, None] >> np.arange(num_seeds) & 1  # (patterns, S)
        else:
            assert rng is not None, "too many seeds for every sign pattern: a Generator is needed to draw from"
            minus = rng.integers(
                0,
                2,
                (num, num_seeds),
                dtype=np.int8,
            )
        sums = (1.0 - 2.0 * minus) @ differences.T  # (patterns, m)
        num_as_far += (np.abs(sums) >= least).sum(axis=0)

    # The observed signs are among all patterns, and one draw more beside those drawn.
    observed = 0 if exact else 1
    return (num_as_far + observed) / (num_patterns + observed)


def smallest_p(num_seeds: int) -> float:
    """The smallest p that sign_flip_p can give: 2/2^S, or 1 over the draws beyond MAX_EXACT_SEEDS."""
    if num_seeds > MAX_EXACT_SEEDS:
        return 1 / (NUM_SIGN_DRAWS + 1)
    return min(1.0, 2 / 2**num_seeds)


def seeds_needed(num_tests: int) -> int:
    """The fewest seeds for which a winner is within reach, as Holm multiplies the least p by num_tests: 8 for six."""
    return next(seeds for seeds in itertools.count(1) if num_tests * 2 / 2**seeds < ALPHA)


def holm(p_values: ArrayLike) -> FloatArray:
    """Holm's (1979) step-down adjustment of a family's p-values, or of many families' (…, m), in the order given.

    The i-th smallest of m is multiplied by m − i + 1, then made no smaller than those before it, and at most 1.
    Rejecting where the result is below alpha keeps the chance of any false rejection in the family below alpha, however
    the tests depend on each other.
    """
    p = np.asarray(p_values, dtype=np.float64)
    assert p.ndim and ((p >= 0) & (p <= 1)).all(), p
    order = np.argsort(p, axis=-1, kind="stable")
    factors = np.arange(
        p.shape[-1],
        0,
        -1,
    )
    stepped = np.take_along_axis(p, order, axis=-1) * factors
    in_steps = np.maximum.accumulate(stepped, axis=-1)

    # Back into the order given.
    adjusted = np.empty_like(p)
    np.put_along_axis(
        adjusted,
        order,
        np.minimum(in_steps, 1),
        axis=-1,
    )
    return adjusted


POWER = 0.8
"""The probability with which a difference is to be found."""

MOST_SEEDS = 200
"""How many seeds are tried before it is said that no number of them would do."""


@dataclass(frozen=True)
class Power:
    """What a design like this one can find, at ALPHA; nan or None where a lone seed shows no spread.

    `detectable`: the least difference that a design with this variance finds with POWER. `seeds_to_decide`: how many
    seeds find a difference as large as the one seen with POWER, if all of it but the seeds' part of the variance stays;
    None where no MOST_SEEDS would, as debates are too few for it. `p_first_better`: the probability that one more seed,
    on these points, favours the side with the positive weight.
    """

    detectable: float
    seeds_to_decide: int | None
    p_first_better: float


def power_analysis(interval: Interval, num_seeds: int, num_tests: int) -> Power:
    """The power of a difference's test over `num_seeds` seeds, one of `num_tests` that share ALPHA by Bonferroni.

    With S seeds the variance is V; with S′ it would be V(S′) = V − V_seeds + V_seeds·S/S′, where V_seeds is the part
    that seeds bring. `p_first_better` is T(d̄ / (s·√(1 + 1/S))) with Student's T of S − 1 degrees of freedom (Hahn &
    Meeker 1991), d̄ and s the mean and standard deviation of the S seeds' differences.
    """
    if num_seeds < 2 or math.isnan(interval.variance):
        return Power(math.nan, None, math.nan)
    confidence = 1 - ALPHA / num_tests
    variance, by_seeds = interval.variance, interval.by_seeds

    # What debates add to the variance, and to the denominator of Satterthwaite's degrees of freedom.
    by_debates = max(variance - by_seeds, 0.0)
    seeds_denominator = by_seeds**2 / (num_seeds - 1)
    debates_denominator = max(variance**2 / interval.degrees_of_freedom - seeds_denominator, 0.0)

    def detectable(seeds: int) -> float:
        """The least difference that so many seeds find with POWER."""
        seeds_part = by_seeds * num_seeds / seeds
        total = by_debates + seeds_part
        denominator = seeds_part**2 / (seeds - 1) + debates_denominator
        freedom = total**2 / denominator if denominator > 0 else seeds - 1
        num_errors = t_quantile(freedom, confidence) + float(special.stdtrit(freedom, POWER))
        return num_errors * math.sqrt(total)

    estimate = interval.estimate
    seeds_to_decide = None
    for seeds in range(max(2, seeds_needed(num_tests)), MOST_SEEDS + 1):
        if detectable(seeds) <= abs(estimate) and estimate != 0:
            seeds_to_decide = seeds
            break

    one_more_seed = math.sqrt(by_seeds * num_seeds * (1 + 1 / num_seeds))
    if one_more_seed > 0:
        p_first_better = float(special.stdtr(num_seeds - 1, estimate / one_more_seed))
    else:
        p_first_better = 0.5 + 0.5 * ((estimate > 0) - (estimate < 0))
    return Power(detectable(num_seeds), seeds_to_decide, p_first_better)
