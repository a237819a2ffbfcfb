"""Stage 1 of ranking: the candidates of every point by distance, for several questions at once. No loop over pairs.

N points, C candidates, b points of a block, T texts, D distinct texts among the candidates, R retrieval width, k
candidates kept. Ranks are 0-based; −1 stands for "no candidate".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch

from biencoder_ablate.evaluation.distances import (
    BLOCK,
    distances_to,
    exclude,
    exclusions_of,
    first_k,
    make_targets,
    rank_of,
    smallest,
)

SPARSE = 1 / 16
"""A mask that admits fewer of the candidates than this is ranked by list."""


@dataclass(frozen=True)
class Stage1:
    """rank (n,) of the true counter by distance; the first k candidates (n, k) and their squared distances."""

    rank: torch.Tensor
    order: torch.Tensor
    distance: torch.Tensor


@dataclass(frozen=True)
class Question:
    """Which points are asked, and who may answer them.

    rows (n,), ascending: the points. `excluded` are (rows, candidates), sorted by row, that are left out;
    `admitted` gives, for a block of rows, a mask (b, C).
    """

    rows: np.ndarray
    excluded: tuple[np.ndarray, np.ndarray]
    admitted: Callable[[np.ndarray], np.ndarray] | None = None


def stage1(
    retrieval: torch.Tensor, point: np.ndarray, candidate: np.ndarray, k: int, questions: Sequence[Question]
) -> list[Stage1]:
    """Rank candidates by distance between embeddings `retrieval` (T, R), for each question.

    point (N,) and candidate (C,) are text indices; the true answer of row i is candidate i. The first question
    must hold the rows of all others: distances are worked out once, for its rows, and between distinct texts, so
    that equal texts tie exactly. Three ways give the same Stage1: without a mask the work is done by text; under a
    mask that admits few, by list; else by candidate. Raises ValueError when a distance is not a finite number:
    nothing is smaller than NaN, so every true counter would come first.
    """
    k = min(k, len(candidate))
    texts = _group_candidates(candidate, retrieval)
    targets = make_targets(retrieval[texts.text])
    rows = questions[0].rows
    found: list[list[Stage1]] = [[_no_rows(k, retrieval.device)] for _ in questions]
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        distances = distances_to(retrieval[torch.from_numpy(point[block]).to(retrieval.device)], targets)
        if not bool(distances.amax().isfinite()):
            raise ValueError(
                "the model's embeddings are not all finite numbers, so nothing can be ranked by them; "
                "training has diverged, or the weights are damaged"
            )
        # Backwards, since ranking changes distances: all but the first question get copies.
        for number in reversed(range(len(questions))):
            question = questions[number]
            asked = np.flatnonzero(np.isin(block, question.rows, assume_unique=True))
            if len(asked):
                some = torch.from_numpy(asked).to(retrieval.device)
                own = distances.index_select(0, some) if number else distances
                found[number].append(_rank_block(own, texts, block[asked], k, question))
    return [
        Stage1(*(torch.cat([getattr(part, item.name) for part in parts]) for item in fields(Stage1))) for parts in found
    ]


def _no_rows(k: int, device: torch.device) -> Stage1:
    empty = torch.empty(0, dtype=torch.int64, device=device)
    return Stage1(empty, empty.reshape(0, k), torch.empty((0, k), device=device))


def _rank_block(
    distances: torch.Tensor, texts: _CandidateTexts, block: np.ndarray, k: int, question: Question
) -> Stage1:
    """Stage 1 of the rows `block` from distances (b, D) to the distinct texts, which are changed."""
    if question.admitted is None:
        return _rank_by_text(distances, texts, block, k, question.excluded)
    mask = question.admitted(block)
    if np.count_nonzero(mask) < SPARSE * mask.size:
        return _rank_by_list(distances, texts, block, k, question.excluded, mask)
    return _rank_by_candidate(distances, texts, block, k, question.excluded, mask)


@dataclass(frozen=True)
class _CandidateTexts:
    """The D distinct texts of C candidates: their indices (D,), the text of each candidate (C,), how many
    candidates each text has (D,), and which: members[first[t] : first[t] + copies[t]], ascending."""

    text: torch.Tensor
    place: np.ndarray
    copies: np.ndarray
    first: np.ndarray
    members: np.ndarray
    weights: torch.Tensor
    """`copies` in the type of the distances, for sums of them."""


def _group_candidates(candidate: np.ndarray, retrieval: torch.Tensor) -> _CandidateTexts:
    distinct, place, copies = np.unique(candidate, return_inverse=True, return_counts=True)
    place = place.reshape(-1)
    return _CandidateTexts(
        torch.from_numpy(distinct).to(retrieval.device),
        place,
        copies,
        np.cumsum(copies) - copies,
        np.argsort(place, kind="stable"),
        torch.from_numpy(copies).to(retrieval),
    )


def _rank_by_candidate(
    distances: torch.Tensor,
    texts: _CandidateTexts,
    block: np.ndarray,
    k: int,
    excluded: tuple[np.ndarray, np.ndarray],
    mask: np.ndarray | None = None,
) -> Stage1:
    """The plain way: distances (b, D) looked up for every candidate (b, C)."""
    device = distances.device
    distances = distances.index_select(1, torch.from_numpy(texts.place).to(device))
    if mask is not None:
        distances.masked_fill_(~torch.from_numpy(mask).to(device), torch.inf)
    exclude(distances, block, excluded)
    return Stage1(rank_of(distances, torch.from_numpy(block).to(device)), *first_k(distances, k))


def _rank_by_text(
    distances: torch.Tensor, texts: _CandidateTexts, block: np.ndarray, k: int, excluded: tuple[np.ndarray, np.ndarray]
) -> Stage1:
    """Ranks from distances to the distinct texts (b, D), each counted as often as it is a candidate.

    Rows in which a tie decides are done again by candidate.
    """
    device = distances.device
    position, left_out = exclusions_of(block, excluded)
    position, left_out = np.divmod(np.unique(position * len(texts.place) + left_out), len(texts.place))
    where = (torch.from_numpy(position).to(device), torch.from_numpy(texts.place[left_out]).to(device))
    own = distances.gather(1, torch.from_numpy(texts.place[block]).to(device)[:, None])
    compared = torch.empty_like(distances)
    # Counts are sums of floats: exact below 2^24 candidates, and several times faster than sums of bools.
    before = torch.mv(torch.lt(distances, own, out=compared), texts.weights)
    not_after = torch.mv(torch.le(distances, own, out=compared), texts.weights)
    own_of, distance_of = own[where[0], 0], distances[where]
    before.index_add_(0, where[0], (distance_of < own_of).to(before), alpha=-1)
    not_after.index_add_(0, where[0], (distance_of <= own_of).to(before), alpha=-1)
    codes, times = np.unique(position * len(texts.copies) + texts.place[left_out], return_counts=True)
    gone = codes[times == texts.copies[codes % len(texts.copies)]]
    distances.view(-1)[torch.from_numpy(gone).to(device)] = torch.inf
    nearest, places = smallest(distances, min(k + 1, distances.shape[1]))
    undecided = ~(not_after - before == 1)
    if nearest.shape[1] > k:
        undecided |= (nearest[:, k] == nearest[:, k - 1]) & nearest[:, k].isfinite()
    order, values = _expand(nearest[:, :k].cpu().numpy(), places[:, :k].cpu().numpy(), texts, k, position, left_out)
    ranked = Stage1(before.long(), torch.from_numpy(order).to(device), torch.from_numpy(values).to(device))
    again = undecided.nonzero()[:, 0]
    if len(again):
        redone = _rank_by_candidate(distances[again], texts, block[again.cpu().numpy()], k, excluded)
        ranked.rank[again], ranked.order[again], ranked.distance[again] = redone.rank, redone.order, redone.distance
    return ranked


def _expand(
    nearest: np.ndarray, places: np.ndarray, texts: _CandidateTexts, k: int, position: np.ndarray, left_out: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """From the nearest texts (b, k) to the first k candidates (b, k) and their distances, ties by candidate."""
    rows, columns = np.nonzero(np.isfinite(nearest))
    place = places[rows, columns]
    counts = texts.copies[place]
    nth = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    rows, columns = np.repeat(rows, counts), np.repeat(columns, counts)
    candidates = texts.members[np.repeat(texts.first[place], counts) + nth]
    width = len(texts.place)
    kept = ~np.isin(rows * width + candidates, position * width + left_out)
    rows, candidates, values = rows[kept], candidates[kept], nearest[rows, columns][kept]
    return _first_k_of_lists(rows, candidates, values, len(nearest), k)[:2]


def _rank_by_list(
    distances: torch.Tensor,
    texts: _CandidateTexts,
    block: np.ndarray,
    k: int,
    excluded: tuple[np.ndarray, np.ndarray],
    mask: np.ndarray,
) -> Stage1:
    """Ranks under a mask (b, C) that admits few: only the admitted candidates are looked up and sorted."""
    device = distances.device
    mask = mask.copy()
    mask[exclusions_of(block, excluded)] = False
    rows, candidates = np.nonzero(mask)
    places = torch.from_numpy(texts.place[candidates]).to(device)
    values = distances[torch.from_numpy(rows).to(device), places].cpu().numpy()
    order, nearest, place_in_list = _first_k_of_lists(rows, candidates, values, len(block), k)
    true = candidates == block[rows]
    rank = np.zeros(len(block), dtype=np.int64)
    rank[rows[true]] = place_in_list[true]
    return Stage1(*(torch.from_numpy(part).to(device) for part in (rank, order, nearest)))


def _first_k_of_lists(
    rows: np.ndarray, candidates: np.ndarray, values: np.ndarray, num_rows: int, k: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The first k candidates (b, k) of ragged lists, their values, and each entry's place in its list."""
    by_value = np.lexsort((candidates, values, rows))
    counts = np.bincount(rows, minlength=num_rows)
    place = np.empty(len(rows), dtype=np.int64)
    place[by_value] = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
    taken = place < k
    order = np.full((num_rows, k), -1, dtype=np.int64)
    nearest = np.full((num_rows, k), np.inf, dtype=values.dtype)
    order[rows[taken], place[taken]] = candidates[taken]
    nearest[rows[taken], place[taken]] = values[taken]
    return order, nearest, place
