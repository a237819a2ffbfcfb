"""The final ranking: stage 1 as it is, or its first k re-ordered by the head.

n points, k re-ranked candidates, M pairs. Ranks are 0-based; −1 stands for "no candidate".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from biencoder_ablate.evaluation.stage1 import Stage1

LogitsFunction = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""Text indices of points (M,) and of candidates (M,) → (margin (M,) float32, dead (M,) bool)."""


@dataclass(frozen=True)
class Ranking:
    """For each of n points: the rank of its counter in stage 1 and in the final list, the first candidate,
    whether a tie decided who is first, and how many pairs the head scored and left dead."""

    stage1_rank: np.ndarray
    final_rank: np.ndarray
    first: np.ndarray
    tied: np.ndarray
    num_scored: np.ndarray
    num_dead: np.ndarray


def final_by_distance(found: Stage1, rows: np.ndarray) -> Ranking:
    """The ranking without a head: stage 1 is final."""
    order, distance = found.order.cpu().numpy(), found.distance.cpu().numpy()
    rank = found.rank.cpu().numpy()
    nothing = np.zeros(len(rows), dtype=np.int64)
    return Ranking(rank, rank, order[:, 0], _first_two_equal(order, distance), nothing, nothing)


def _first_two_equal(order: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Whether the first two of lists of candidates (n, k) have equal values (n,)."""
    if order.shape[1] < 2:
        return np.zeros(len(order), dtype=bool)
    return (order[:, 1] >= 0) & (values[:, 0] == values[:, 1])


def final_by_head(
    found: Stage1, rows: np.ndarray, k: int, point: np.ndarray, candidate: np.ndarray, score: LogitsFunction
) -> Ranking:
    """Re-order the first k by the head's margin, equal margins keeping stage-1 order (design §2, stage 2).

    `found` should hold two candidates even where k is 1, since there distances decide who is first.
    """
    order = found.order[:, :k].cpu().numpy()
    margins, dead = score_lists(order, point[rows], candidate, score)
    scored = order >= 0
    by_margin = np.argsort(-margins, axis=1, kind="stable")
    final = np.take_along_axis(order, by_margin, axis=1)
    sorted_margins = np.take_along_axis(margins, by_margin, axis=1)
    stage1_rank = found.rank.cpu().numpy()
    hit = final == rows[:, None]
    final_rank = np.where(hit.any(axis=1), hit.argmax(axis=1), stage1_rank)
    tied = _first_two_equal(final, sorted_margins) if k > 1 else final_by_distance(found, rows).tied
    return Ranking(stage1_rank, final_rank, final[:, 0], tied, scored.sum(1), (dead & scored).sum(1))


def score_lists(
    order: np.ndarray, point_text: np.ndarray, candidate: np.ndarray, score: LogitsFunction
) -> tuple[np.ndarray, np.ndarray]:
    """Margins and dead flags (n, k) of lists of candidates (n, k); −inf where there is none.

    Each distinct pair of texts is scored once, so that equal texts get exactly equal margins.
    """
    rows, columns = np.nonzero(order >= 0)
    points, answers = point_text[rows], candidate[order[rows, columns]]
    width = int(candidate.max()) + 1 if len(candidate) else 1
    distinct, back = np.unique(points * width + answers, return_inverse=True)
    margins = np.full(order.shape, -np.inf, dtype=np.float32)
    dead = np.zeros(order.shape, dtype=bool)
    if len(distinct):
        values, flags = score(torch.from_numpy(distinct // width), torch.from_numpy(distinct % width))
        margins[rows, columns] = values.cpu().numpy()[back.reshape(-1)]
        dead[rows, columns] = flags.cpu().numpy()[back.reshape(-1)]
    return margins, dead
