"""The hierarchical bootstrap: an interval over further seeds and further debates.

Seeds and debates are crossed: every seed's run is asked every debate. Both are resampled, debates whole, as
the points of a debate are not independent. statistics.py says what the interval is for.

Shapes: S seeds, N points, D debates, B resamples, K contrasts.

- Cochran 1977, "Sampling Techniques", ch. 6: ratio estimators.
- Efron & Tibshirani 1993, "An Introduction to the Bootstrap", ch. 13: percentile intervals.
- Owen 2007, "The Pigeonhole Bootstrap", Annals of Applied Statistics 1: resampling crossed factors.
- Satterthwaite 1946, "An Approximate Distribution of Estimates of Variance Components", Biometrics 2.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import special

FloatArray = NDArray[np.float64]

ONE_SEED = "one seed: the interval is over debates only and says nothing about other seeds"
ONE_DEBATE = "one debate: the interval is over seeds only and says nothing about other debates"


@dataclass(frozen=True)
class Interval:
    """A bootstrap interval; `plain_low`, `plain_high` are the percentiles before the width is mended."""

    estimate: float
    low: float
    high: float
    plain_low: float
    plain_high: float
    degrees_of_freedom: float
    note: str


def bootstrap_interval(
    values: ArrayLike,
    debates: Sequence[object],
    rng: np.random.Generator,
    num_resamples: int = 10_000,
    confidence: float = 0.95,
) -> Interval:
    """Interval of the mean of `values` (S, N), e.g. one group's outcomes minus another's, seed by seed.

    Each resample draws S seeds and, once for all of them, D whole debates (labels `debates` (N,)), with
    replacement; its figure is the sum over the drawn points divided by their number, a ratio estimator, as
    debates differ in size. Seeds and debates are crossed (every seed is asked every debate), so a resample's
    debates must be the same for all its seeds: drawn anew per seed they would average out, and the interval
    would miss the spread between debates (Owen 2007). Taking differences first means that both groups see the
    same resamples.

    The plain percentiles err both ways. With few seeds they are too narrow: nothing in them allows for how
    little a few seeds tell of seeds' spread. Where single outcomes' noise prevails they are too wide: it is
    counted up to three times (Owen 2007). So the percentile interval is stretched, or shrunk, about the
    estimate to the half width t·√V, V the variance by seeds and debates (`_variance`); its skewness stays.
    Measured coverage of 95% intervals (1000 to 3000 simulated studies each: 3 to 20 seeds, 30 and 190
    debates, noise from debates only to seeds mostly): 0.93 to 0.99, the 0.99 where heads do not differ at
    all and outcomes are mere noise; plain percentiles 0.73 (3 seeds, mostly seed noise) to 1.00. With two
    seeds it falls to 0.90. tests/test_statistics.py repeats it.
    A debate or seed that is alone cannot be resampled: `note` says so, and says what the interval is over.
    Raises ValueError if the shapes disagree or num_resamples < 100.
    """
    sums, counts = per_debate(np.atleast_2d(np.asarray(values, dtype=np.float64)), debates)
    return shared_intervals(sums[None], counts, rng, num_resamples, confidence)[0]


def per_debate(values: FloatArray, debates: Sequence[object]) -> tuple[FloatArray, FloatArray]:
    """Sums (S, D) of values (S, N) over each debate's points, and the debates' sizes (D,)."""
    labels = np.asarray(debates)
    if values.ndim != 2 or labels.shape != values.shape[1:] or not len(labels):
        raise ValueError(f"each of the {values.shape[-1]} points needs one debate; debates: {labels.shape}")
    which = np.unique(labels, return_inverse=True)[1].reshape(-1)
    counts = np.bincount(which).astype(np.float64)
    return np.stack([np.bincount(which, row, len(counts)) for row in values]), counts


def shared_intervals(
    sums: FloatArray, counts: FloatArray, rng: np.random.Generator, num_resamples: int, confidence: float
) -> list[Interval]:
    """bootstrap_interval for sums (K, S, D), all K from the same resamples."""
    if num_resamples < 100:
        raise ValueError(f"{num_resamples} bootstrap resamples are too few for an interval; give 100 or more")
    _, num_seeds, num_debates = sums.shape
    drawn = _resampled_means(sums, counts, num_resamples, rng)
    tail = (1 - confidence) / 2
    note = "; ".join([ONE_SEED] * (num_seeds == 1) + [ONE_DEBATE] * (num_debates == 1))
    intervals = []
    for values, means in zip(sums, drawn, strict=True):
        estimate, variance, freedom = _variance(values, counts)
        plain_low, plain_high = (float(q) for q in np.quantile(means, [tail, 1 - tail]))
        low, high = plain_low, plain_high
        if math.isnan(variance):
            low = high = math.nan
        elif plain_high > plain_low:
            half = t_quantile(freedom, confidence) * math.sqrt(variance)
            stretch = 2 * half / (plain_high - plain_low)
            low, high = (estimate + stretch * (end - estimate) for end in (plain_low, plain_high))
        intervals.append(Interval(estimate, low, high, plain_low, plain_high, freedom, note))
    return intervals


def _resampled_means(sums: FloatArray, counts: FloatArray, num_resamples: int, rng: np.random.Generator) -> FloatArray:
    """Means (K, B) of B resamples of seeds and debates, from sums (K, S, D) and debate sizes (D,)."""
    num_contrasts, num_seeds, num_debates = sums.shape
    means = np.empty((num_contrasts, num_resamples))
    block = max(1, 4_000_000 // (num_seeds + num_debates))  # bounds the memory, 32 MB a table
    for start in range(0, num_resamples, block):
        stop = min(start + block, num_resamples)
        seed_times = _times_drawn(num_seeds, stop - start, rng)
        debate_times = _times_drawn(num_debates, stop - start, rng)
        sizes = num_seeds * (debate_times @ counts)
        for k in range(num_contrasts):
            means[k, start:stop] = ((seed_times @ sums[k]) * debate_times).sum(axis=1) / sizes
    return means


def _times_drawn(num: int, num_resamples: int, rng: np.random.Generator) -> FloatArray:
    """(B, num): how often each of `num` things comes up in each of B draws of `num` with replacement."""
    drawn = rng.integers(0, num, (num_resamples, num)) + num * np.arange(num_resamples)[:, None]
    times = np.bincount(drawn.ravel(), minlength=num * num_resamples)
    return times.reshape(num_resamples, num).astype(np.float64)


def _variance(sums: FloatArray, counts: FloatArray) -> tuple[float, float, float]:
    """The mean of a contrast, that mean's variance over seeds and debates, and its degrees of freedom.

    Two-way random effects, seeds × debates, unbalanced as debates differ in size (linearised ratio, Cochran
    1977, ch. 6): the variance by seeds plus that by debates each hold the outcomes' own noise, so it is taken
    off once. Never less than either alone. Degrees of freedom by Satterthwaite (1946), at least the smaller
    factor's. sums (S, D), counts (D,); nan where there is one seed and one debate.
    """
    num_seeds, num_debates = sums.shape
    num_points = counts.sum()
    per_seed = sums.sum(axis=1) / num_points
    estimate = per_seed.mean()
    by_debate = sums.mean(axis=0) - counts * estimate
    rest = sums - counts * per_seed[:, None] - by_debate
    seed_freedom, debate_freedom = num_seeds - 1, num_debates - 1
    if seed_freedom == 0 and debate_freedom == 0:
        return float(estimate), math.nan, math.nan
    debate_part = (by_debate**2).sum() / num_points**2 * num_debates / max(1, debate_freedom)
    if seed_freedom == 0:
        return float(estimate), float(debate_part), float(debate_freedom)
    seed_part = per_seed.var(ddof=1) / num_seeds
    if debate_freedom == 0:
        return float(estimate), float(seed_part), float(seed_freedom)
    both = seed_freedom * debate_freedom
    noise = (rest**2).sum() / (num_seeds * num_points) ** 2 * num_seeds * num_debates / both
    variance = max(seed_part + debate_part - noise, seed_part, debate_part)
    smaller = float(min(seed_freedom, debate_freedom))
    if variance == 0:
        return float(estimate), 0.0, smaller
    spread = seed_part**2 / seed_freedom + debate_part**2 / debate_freedom + noise**2 / both
    return float(estimate), float(variance), max(float(variance**2 / spread), smaller)


def t_quantile(degrees_of_freedom: float, confidence: float) -> float:
    return float(special.stdtrit(degrees_of_freedom, (1 + confidence) / 2))
