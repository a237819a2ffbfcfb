"""Ranks the candidates of every point: stage 1 by distance, stage 2 by the head. No loop over pairs.

N points, C candidates, b points of a block, T texts, R retrieval width, k re-ranked candidates. Ranks are
0-based; −1 stands for "no candidate".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

BLOCK = 256
LogitsFunction = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
"""Text indices of points (M,) and of candidates (M,) → (margin (M,) float32, dead (M,) bool)."""


@dataclass(frozen=True)
class Stage1:
    """rank (n,) of the true counter by distance; the first k candidates (n, k) and their squared distances."""

    rank: torch.Tensor
    order: torch.Tensor
    distance: torch.Tensor


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


def squared_distances(points: torch.Tensor, candidates: torch.Tensor) -> torch.Tensor:
    """Squared Euclidean distances (b, T) of points (b, R) to candidates (T, R), float32.

    As |a|² + |b|² − 2ab, after moving the candidates' mean to the origin: embeddings of one encoder share a
    large common part, and leaving it in would cost the digits that order the candidates. The square root is
    left out, since it would only merge distances that differ.
    """
    centre = candidates.mean(dim=0)
    a, b = points - centre, candidates - centre
    squares = torch.addmm((b * b).sum(1)[None, :], a, b.T, alpha=-2.0)
    return squares.add_((a * a).sum(1)[:, None]).clamp_(min=0.0)


def first_k(distances: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k nearest finite candidates (b, k) in order of distance, ties by candidate order, and their distances.

    Rows with fewer end in −1 and inf. topk alone would leave ties to chance, so it only finds the k-th distance.
    """
    b, c = distances.shape
    kth = torch.topk(distances, min(k, c), dim=1, largest=False, sorted=False).values.amax(dim=1)
    kept = (distances <= kth[:, None]) & distances.isfinite()
    rows, columns = kept.nonzero(as_tuple=True)
    values = distances[rows, columns]
    by_value = torch.argsort(values, stable=True)
    in_order = by_value[torch.argsort(rows[by_value], stable=True)]
    rows, columns, values = rows[in_order], columns[in_order], values[in_order]
    counts = torch.bincount(rows, minlength=b)
    position = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
    taken = position < k
    order = torch.full((b, k), -1, dtype=torch.int64, device=distances.device)
    nearest = torch.full((b, k), torch.inf, dtype=distances.dtype, device=distances.device)
    order[rows[taken], position[taken]] = columns[taken]
    nearest[rows[taken], position[taken]] = values[taken]
    return order, nearest


def rank_of(scores: torch.Tensor, true: torch.Tensor) -> torch.Tensor:
    """How many candidates come before the true one (b,): smaller scores (b, C), or equal and earlier."""
    own = scores.gather(1, true[:, None])
    before = (scores < own).sum(1)
    not_after = (scores <= own).sum(1)
    tied = (not_after - before > 1).nonzero(as_tuple=True)[0]
    if len(tied):
        earlier = torch.arange(scores.shape[1], device=scores.device)[None, :] < true[tied, None]
        before[tied] += ((scores[tied] == own[tied]) & earlier).sum(1)
    return before


def stage1(retrieval: torch.Tensor, point: np.ndarray, candidate: np.ndarray, rows: np.ndarray, k: int,
           excluded: tuple[np.ndarray, np.ndarray],
           admitted: Callable[[np.ndarray], np.ndarray] | None = None) -> Stage1:
    """Rank the candidates of the points `rows` (n,) by distance between embeddings `retrieval` (T, R).

    point (N,) and candidate (C,) are text indices; the true answer of row i is candidate i. `excluded` are
    (rows, candidates) sorted by row that are left out; `admitted` gives, for a block of rows, a mask (b, C).
    Distances are taken between distinct texts and then looked up, so that equal texts tie exactly.
    """
    device = retrieval.device
    distinct, lookup = np.unique(candidate, return_inverse=True)
    distinct_r = retrieval[torch.from_numpy(distinct).to(device)]
    lookup_t = torch.from_numpy(lookup.reshape(-1)).to(device)
    ranks, orders, nearest = [], [], []
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        points = retrieval[torch.from_numpy(point[block]).to(device)]
        distances = squared_distances(points, distinct_r).index_select(1, lookup_t)
        if admitted is not None:
            distances.masked_fill_(~torch.from_numpy(admitted(block)).to(device), torch.inf)
        exclude(distances, block, excluded)
        true = torch.from_numpy(block).to(device)
        ranks.append(rank_of(distances, true))
        order, values = first_k(distances, k)
        orders.append(order)
        nearest.append(values)
    if not orders:
        empty = torch.empty(0, dtype=torch.int64, device=device)
        return Stage1(empty, empty.reshape(0, k), torch.empty((0, k), device=device))
    return Stage1(torch.cat(ranks), torch.cat(orders), torch.cat(nearest))


def exclude(scores: torch.Tensor, block: np.ndarray, excluded: tuple[np.ndarray, np.ndarray]) -> None:
    """Set the excluded candidates of the rows `block` (ascending) to inf in scores (b, C), in place."""
    rows, candidates = excluded
    low, high = np.searchsorted(rows, block), np.searchsorted(rows, block, side="right")
    counts = high - low
    position = np.repeat(np.arange(len(block)), counts)
    flat = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts) + np.repeat(low, counts)
    scores[torch.from_numpy(position).to(scores.device), torch.from_numpy(candidates[flat]).to(scores.device)] = torch.inf


def final_by_distance(found: Stage1, rows: np.ndarray) -> Ranking:
    """The ranking without a head: stage 1 is final."""
    order, distance = found.order.cpu().numpy(), found.distance.cpu().numpy()
    tied = np.zeros(len(rows), dtype=bool)
    if order.shape[1] > 1:
        tied = (order[:, 1] >= 0) & (distance[:, 0] == distance[:, 1])
    rank = found.rank.cpu().numpy()
    nothing = np.zeros(len(rows), dtype=np.int64)
    return Ranking(rank, rank, order[:, 0], tied, nothing, nothing)


def final_by_head(found: Stage1, rows: np.ndarray, point: np.ndarray, candidate: np.ndarray,
                  score: LogitsFunction) -> Ranking:
    """Re-order the first k by the head's margin, equal margins keeping stage-1 order (design §2, stage 2)."""
    order = found.order.cpu().numpy()
    margins, dead = score_lists(order, point[rows], candidate, score)
    scored = order >= 0
    by_margin = np.argsort(-margins, axis=1, kind="stable")
    final = np.take_along_axis(order, by_margin, axis=1)
    sorted_margins = np.take_along_axis(margins, by_margin, axis=1)
    stage1_rank = found.rank.cpu().numpy()
    hit = final == rows[:, None]
    final_rank = np.where(hit.any(axis=1), hit.argmax(axis=1), stage1_rank)
    tied = np.zeros(len(rows), dtype=bool)
    if order.shape[1] > 1:
        tied = (final[:, 1] >= 0) & (sorted_margins[:, 0] == sorted_margins[:, 1])
    return Ranking(stage1_rank, final_rank, final[:, 0], tied, scored.sum(1), (dead & scored).sum(1))


def score_lists(order: np.ndarray, point_text: np.ndarray, candidate: np.ndarray, score: LogitsFunction
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
