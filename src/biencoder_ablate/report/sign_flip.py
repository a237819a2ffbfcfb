"""Tests over seeds: the sign-flip test, Holm's adjustment of a family, and how many seeds a test needs.

Shapes: S seeds, m tests of a family.

- Fisher 1935, "The Design of Experiments", sec. 21: the sign-flip test.
- Holm 1979, "A Simple Sequentially Rejective Multiple Test Procedure", Scand. J. Statistics 6.
- Phipson & Smyth 2010, "Permutation P-values Should Never Be Zero", SAGMB 9.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

MAX_EXACT_SEEDS = 20  # 2^20 sign patterns take milliseconds; each seed more doubles that
NUM_SIGN_DRAWS = 99_999  # beyond that; one less than a round number, for the observed signs count as a draw


@dataclass(frozen=True)
class SignFlip:
    """Two-sided p of the sign-flip test; `exact` if over all sign patterns, else over seeded draws."""

    p: float
    exact: bool
    num_patterns: int


def sign_flip_test(differences: ArrayLike, rng: np.random.Generator | None = None) -> SignFlip:
    """Two-sided p that per-seed differences (S,) are centred on 0, over all 2^S patterns of their signs.

    If a contrast's groups are alike, each seed's difference is as likely as its negative; p is the share of
    sign patterns whose |sum| is at least the observed one (Fisher 1935, sec. 21), so never below 2/2^S. Sums
    equal but for rounding count as ties, in p's favour. Beyond 20 seeds the patterns are NUM_SIGN_DRAWS drawn
    from `rng` and the observed one (Phipson & Smyth 2010); `exact` says which. Raises ValueError for no
    difference, one that is not finite, or more than 20 without an rng.
    """
    values = np.asarray(differences, dtype=np.float64)
    if values.ndim != 1 or len(values) == 0 or not np.isfinite(values).all():
        raise ValueError("the sign-flip test needs one finite difference per seed, and at least one seed")
    # The absolute part is for differences that are 0 but for rounding; one point of 10^6 is 1e-6.
    least = abs(values.sum()) - (1e-9 * np.abs(values).sum() + 1e-11)
    if len(values) <= MAX_EXACT_SEEDS:
        sums = values[:1]  # the first sign stays: the mirrored half has the same |sum|
        for value in values[1:]:
            sums = np.concatenate([sums + value, sums - value])
        num_patterns = 2 * len(sums)
        return SignFlip(2 * int((np.abs(sums) >= least).sum()) / num_patterns, True, num_patterns)
    if rng is None:
        raise ValueError(f"{len(values)} seeds are too many for every sign pattern; give a Generator to draw from")
    num_extreme = 1
    for start in range(0, NUM_SIGN_DRAWS, 10_000):
        signs = 1.0 - 2.0 * rng.integers(0, 2, (min(10_000, NUM_SIGN_DRAWS - start), len(values)))
        num_extreme += int((np.abs(signs @ values) >= least).sum())
    return SignFlip(num_extreme / (NUM_SIGN_DRAWS + 1), False, NUM_SIGN_DRAWS + 1)


def smallest_p(num_seeds: int) -> float:
    """The smallest p that sign_flip_test can give: 2/2^S, or 1 over the draws beyond 20 seeds."""
    if num_seeds > MAX_EXACT_SEEDS:
        return 1 / (NUM_SIGN_DRAWS + 1)
    return min(1.0, 2 / 2**num_seeds)


def seeds_needed(num_tests: int, alpha: float = 0.05) -> int:
    """The fewest seeds for which a winner is within reach: Holm p < alpha possible over num_tests tests.

    Holm multiplies the smallest p by num_tests and lets no larger p fall below that, so with equal seeds
    num_tests · 2/2^S < alpha is both necessary and enough: 8 for the six pairs of four heads. Raises
    ValueError unless num_tests ≥ 1 and 0 < alpha ≤ 1.
    """
    if num_tests < 1 or not 0 < alpha <= 1:
        raise ValueError(f"seeds_needed wants at least one test and 0 < alpha <= 1; got {num_tests}, {alpha}")
    return next(seeds for seeds in itertools.count(1) if num_tests * 2 / 2**seeds < alpha)


def holm(p_values: ArrayLike) -> NDArray[np.float64]:
    """Holm's (1979) step-down adjustment of a family's p-values (m,), in the order given.

    The i-th smallest of m is multiplied by m − i + 1, then made no smaller than those before it, and at most
    1. Rejecting where the result is below alpha keeps the chance of any false rejection in the family below
    alpha, however the tests depend on each other. Raises ValueError for a p outside [0, 1].
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError("Holm's adjustment needs a flat list of p-values between 0 and 1")
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted
