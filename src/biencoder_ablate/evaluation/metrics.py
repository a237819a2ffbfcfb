"""From the rank of each point's counter to the figures. Ranks are 0-based, arrays (N,)."""

from __future__ import annotations

import numpy as np


def top1(ranks: np.ndarray) -> float:
    """Share of points whose counter comes first."""
    return _mean(ranks == 0)


def recall(ranks: np.ndarray, k: int) -> float:
    """Share of points whose counter is among the first k."""
    return _mean(ranks < k)


def mrr(ranks: np.ndarray) -> float:
    """Mean reciprocal rank, over the whole list."""
    return _mean(1.0 / (ranks + 1.0))


def ndcg(ranks: np.ndarray, k: int = 10) -> float:
    """nDCG@k with one relevant candidate: 1/log₂(rank + 2) within the first k, else 0 (Järvelin and Kekäläinen
    2002; the ideal gain is 1)."""
    return _mean(np.where(ranks < k, 1.0 / np.log2(ranks + 2.0), 0.0))


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
