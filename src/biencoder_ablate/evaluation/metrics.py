"""Metrics from the ranks of right answers, in numpy. Ranks are 0-based: the first candidate has rank 0.

A query may have several right answers. Arrays (E,) hold one entry for each of them, and `rows` (E,), ascending, says
whose it is; arrays (N,) hold one entry for each query. Every metric is a mean over queries, NaN where there are none.
Where the arithmetic could differ it is trec_eval's, as `ir_measures` has it (tests/evaluation/test_metrics.py).

`hits`, `reciprocal_rank` and `discounted_gain` are the formulas for a single right answer. The report scores points by
the same three; a rank of NaN, of a point that does not count, stays NaN.
"""

from __future__ import annotations

import numpy as np

from biencoder_ablate.utils.arrays import group_starts, ragged_arange


def hits(rank: np.ndarray, k: int) -> np.ndarray:
    """1 where a right answer is among the first k, else 0 (float64).

    >>> hits(np.array([0, 2, 9, 10]), 10).tolist()
    [1.0, 1.0, 1.0, 0.0]
    """
    is_hit = rank < k
    return np.where(np.isnan(rank), np.nan, is_hit)


def reciprocal_rank(rank: np.ndarray) -> np.ndarray:
    """1 / (rank + 1), over the whole list (Voorhees 1999, "The TREC-8 Question Answering Track Report").

    >>> reciprocal_rank(np.array([0, 1, 3])).tolist()
    [1.0, 0.5, 0.25]
    """
    return 1.0 / (rank + 1.0)


def discounted_gain(
    rank: np.ndarray,
    k: int,
    grade: np.ndarray | float = 1.0,
) -> np.ndarray:
    """grade / log₂(rank + 2) within the first k, else 0: a term of DCG@k.

    Järvelin and Kekäläinen 2002, "Cumulated gain-based evaluation of IR techniques", with trec_eval's gain, which is
    the grade itself. A single right answer with grade 1 has this as its nDCG.

    >>> discounted_gain(np.array([0, 2, 10]), 10).tolist()
    [1.0, 0.5, 0.0]
    """
    gain = grade / np.log2(rank + 2.0)
    return np.where(rank >= k, 0.0, gain)


def first_ranks(ranks: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The rank (N,) of each query's first right answer.

    >>> first_ranks(np.array([4, 1, 0]), np.array([0, 0, 1])).tolist()
    [1, 0]
    """
    if not len(ranks):
        return ranks
    starts = group_starts(rows)
    return np.minimum.reduceat(ranks, starts)


def top1(first: np.ndarray) -> float:
    """The share of queries with a right answer in the first place (Success@1), from `first_ranks` (N,).

    >>> top1(np.array([0, 1, 9, 0]))
    0.5
    """
    return mean(hits(first, 1))


def mrr(first: np.ndarray) -> float:
    """The mean reciprocal rank of each query's first right answer, from `first_ranks` (N,).

    >>> mrr(np.array([0, 1, 3, 3]))
    0.5
    """
    return mean(reciprocal_rank(first))


def recall(
    ranks: np.ndarray,
    k: int,
    rows: np.ndarray,
) -> float:
    """Recall@k: the share of a query's right answers that are among the first k.

    >>> recall(np.array([0, 12, 3]), 10, np.array([0, 0, 1]))
    0.75
    """
    num_found = _sums(hits(ranks, k), rows)
    return mean(num_found / _sizes(rows))


def ndcg(
    ranks: np.ndarray,
    k: int,
    rows: np.ndarray,
    grades: np.ndarray,
) -> float:
    """nDCG@k: the sum of `discounted_gain` over a query's right answers, divided by that of their best order.

    >>> round(ndcg(np.array([1, 0]), 10, np.array([0, 0]), np.array([3, 1])), 4)
    0.7967
    """
    gains = discounted_gain(ranks, k, grades)

    # In the best order a query's right answers come first, from the highest grade down.
    best_first = np.lexsort((-grades, rows))
    ideal_ranks = ragged_arange(_sizes(rows))
    ideal_gains = discounted_gain(ideal_ranks, k, grades[best_first])
    return mean(_sums(gains, rows) / _sums(ideal_gains, rows))


def average_precision(ranks: np.ndarray, rows: np.ndarray) -> float:
    """MAP: the precision at the rank of each right answer, averaged over a query's right answers.

    Buckley and Voorhees 2000, "Evaluating evaluation measure stability".

    >>> average_precision(np.array([0, 3]), np.array([0, 0]))
    0.75
    """
    sizes = _sizes(rows)
    by_rank = np.lexsort((ranks, rows))
    num_right = ragged_arange(sizes) + 1.0
    num_seen = ranks[by_rank] + 1.0
    precision = num_right / num_seen
    return mean(_sums(precision, rows) / sizes)


def _sizes(rows: np.ndarray) -> np.ndarray:
    """How many right answers each query has (N,)."""
    starts = group_starts(rows)
    return np.diff(starts, append=len(rows))


def _sums(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Sums of entries (E,) by query (N,)."""
    if not len(rows):
        return values
    return np.add.reduceat(values, group_starts(rows))


def mean(values: np.ndarray) -> float:
    """The mean over queries (N,), NaN where there are none."""
    if not len(values):
        return np.nan
    return float(np.mean(values))
