"""From the ranks of the right answers to the figures. Ranks are 0-based.

Points may have several right answers: arrays (E,) hold one entry for each, `rows` (E,) says whose it is, ascending.
Where the arithmetic could differ it is trec_eval's, as `ir_measures` has it.
"""

from __future__ import annotations

import numpy as np


def first_ranks(ranks: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The rank of each point's first right answer, in order of `rows`."""
    return np.minimum.reduceat(ranks, _starts(rows)) if len(ranks) else ranks


def top1(first: np.ndarray) -> float:
    """Share of points that have a right answer first, by the ranks of their first ones (N,)."""
    return _mean(first == 0)


def mrr(first: np.ndarray) -> float:
    """Mean reciprocal rank of each point's first right answer (N,), over the whole list."""
    return _mean(1.0 / (first + 1.0))


def recall(ranks: np.ndarray, k: int, rows: np.ndarray) -> float:
    """Share of a point's right answers that are among the first k, mean over points."""
    return _mean(_sums(ranks < k, rows) / _sums(np.ones(len(ranks)), rows))


def ndcg(ranks: np.ndarray, k: int, rows: np.ndarray, grades: np.ndarray) -> float:
    """nDCG@k: the sum of grade/log₂(rank + 2) within the first k, beside that of the best order; mean over points
    (Järvelin and Kekäläinen 2002, with trec_eval's gain, the grade (E,) itself)."""
    gains = np.where(ranks < k, grades / np.log2(ranks + 2.0), 0.0)
    best = np.lexsort((-grades, rows))
    place = np.arange(len(rows)) - np.repeat(_starts(rows), _sums(np.ones(len(rows)), rows).astype(np.int64))
    ideal = np.where(place < k, grades[best] / np.log2(place + 2.0), 0.0)
    return _mean(_sums(gains, rows) / _sums(ideal, rows))


def average_precision(ranks: np.ndarray, rows: np.ndarray) -> float:
    """MAP: the mean, over a point's right answers, of the share of right ones down to each; mean over points."""
    counts = _sums(np.ones(len(rows)), rows)
    place = np.arange(len(rows)) - np.repeat(_starts(rows), counts.astype(np.int64))
    in_order = ranks[np.lexsort((ranks, rows))]
    return _mean(_sums((place + 1.0) / (in_order + 1.0), rows) / counts)


def _starts(rows: np.ndarray) -> np.ndarray:
    """Where each point's entries begin."""
    return np.flatnonzero(np.diff(rows, prepend=-1))


def _sums(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Sums of entries (E,) by point."""
    values = values.astype(np.float64)
    return np.add.reduceat(values, _starts(rows)) if len(rows) else values


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
