"""Ranks the candidates of points: stage 1 by distance, stage 2 by the head (design §2). No loop over pairs.

Training, `evaluate` and `retrieve` all rank by this: `stage1` and `rerank` to a depth, `rank_matrix` where every
candidate has a score (evaluation.rerank=all, and baselines), and `rank` by either. Several candidate sets are ranked
at once.

N points, n of them asked, b of a block, e right answers of theirs (one each, or more), C candidates, D distinct texts
among them, k candidates kept, M pairs.
Ranks are 0-based; −1 stands for "no candidate".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch

from biencoder_ablate.evaluation.candidates import Candidates, CandidateSet
from biencoder_ablate.evaluation.distances import (
    block_size,
    check_finite,
    chunks,
    distances_to,
    first_k,
    first_k_of_lists,
    make_targets,
    ragged_arange,
    rank_of,
    smallest,
    take_rows,
)
from biencoder_ablate.evaluation.pair_scores import PairScorer
from biencoder_ablate.model.biencoder import Embeddings

PIECE = 262_144
"""So many pairs at a time are scored where all are."""


@dataclass(frozen=True)
class Ranking:
    """The ranks of n points' right answers (e,), in order of the points, in stage 1 and in the final list; and for each
    point the first candidate, whether a tie decided who is first, and how many pairs the head scored and left dead."""

    stage1_rank: np.ndarray
    final_rank: np.ndarray
    first: np.ndarray
    tied: np.ndarray
    num_scored: np.ndarray
    num_dead: np.ndarray


@dataclass(frozen=True)
class FirstStage:
    """rank (e,) of the right answers by distance; the first k candidates (n, k) and their squared distances."""

    rank: torch.Tensor
    order: torch.Tensor
    distance: torch.Tensor


@dataclass(frozen=True)
class TopK:
    """The first k candidates of n points in their final order, each (n, k): which, squared distance, the score (−inf
    where there is none) and whether the pair is dead; and the rank (e,) of the right answers by distance."""

    order: np.ndarray
    distance: np.ndarray
    score: np.ndarray
    dead: np.ndarray
    stage1_rank: np.ndarray

    def ranking(self, asking: CandidateSet) -> Ranking:
        """The ranking of the set's points, of whose lists at least two candidates should be kept."""
        position, right = take_rows(asking.rows, asking.right)
        hit, scored = self.order[position] == right[:, None], np.isfinite(self.score)
        final_rank = np.where(hit.any(axis=1), hit.argmax(axis=1), self.stage1_rank)
        tied = np.zeros(len(self.order), dtype=bool)
        if self.order.shape[1] > 1:
            by_score, by_distance = (values[:, 0] == values[:, 1] for values in (self.score, self.distance))
            tied = (self.order[:, 1] >= 0) & np.where(scored[:, 1], by_score, by_distance)
        return Ranking(self.stage1_rank, final_rank, self.order[:, 0], tied, scored.sum(1), self.dead.sum(1))


def rank(
    embeddings: Embeddings,
    point: np.ndarray,
    candidates: Candidates,
    sets: Sequence[CandidateSet],
    score: PairScorer | None,
    depth: int | str,
) -> list[Ranking]:
    """Rank by evaluation.rerank, for each candidate set: to a depth, by distance alone (`none`), or with the head
    scoring `all`.

    point (N,) are text indices; the first set must hold the rows of all others. `embeddings` are of all texts, and
    `score` scores pairs of them (None with `none`). Raises ValueError when a distance or a score is not finite.
    """
    if depth == "all":
        assert score is not None
        return rank_matrix(sets, all_scores(embeddings, point, candidates, score), len(candidates))
    num = depth if isinstance(depth, int) else 0
    found = stage1(embeddings, point, candidates, sets, max(2, num))
    return [
        rerank(part, num, point[asking.rows], candidates, score).ranking(asking)
        for part, asking in zip(found, sets, strict=True)
    ]


def stage1(
    embeddings: Embeddings, point: np.ndarray, candidates: Candidates, sets: Sequence[CandidateSet], k: int
) -> list[FirstStage]:
    """Rank candidates by distance, for each candidate set.

    Arguments as for `rank`. Distances are worked out once, for the rows of the first set, and between distinct
    texts, so that equal texts tie exactly. Where a set admits all but a few candidates the work is done by text,
    else by candidate. Raises ValueError when a distance is not a finite number.
    """
    k, device = min(k, len(candidates)), embeddings.candidate.device
    targets = make_targets(embeddings.candidate[torch.from_numpy(candidates.distinct).to(device)])
    empty = torch.empty(0, dtype=torch.int64, device=device)
    found = [[FirstStage(empty, empty.reshape(0, k), targets.extended.new_empty(0, k))] for _ in sets]
    for block, asked in _blocks(sets, len(candidates)):
        distances = distances_to(embeddings.point[torch.from_numpy(point[block]).to(device)], targets)
        check_finite(distances)
        # Backwards, since ranking by text changes distances: all but the first set get copies.
        for number, some in reversed(asked):
            own = distances.index_select(0, torch.from_numpy(some).to(device)) if number else distances
            rank = _rank_by_candidate if sets[number].admitted else _rank_by_text
            found[number].append(rank(own, candidates, block[some], sets[number], k))
    return [
        FirstStage(*(torch.cat([getattr(part, item.name) for part in parts]) for item in fields(FirstStage)))
        for parts in found
    ]


def _blocks(
    sets: Sequence[CandidateSet], num_candidates: int
) -> Iterator[tuple[np.ndarray, list[tuple[int, np.ndarray]]]]:
    """The rows of the first set a block at a time, and which of them (positions in the block) each set asks."""
    rows, size = sets[0].rows, block_size(num_candidates)
    for start in range(0, len(rows), size):
        block = rows[start : start + size]
        asked = [np.flatnonzero(np.isin(block, asking.rows, assume_unique=True)) for asking in sets]
        yield block, [(number, some) for number, some in enumerate(asked) if len(some)]


def _allowed(asking: CandidateSet, rows: np.ndarray, num_candidates: int, device: torch.device) -> torch.Tensor:
    """Which candidates a set has for the points `rows`, (b, C) bool."""
    mask = np.ones((len(rows), num_candidates), dtype=bool) if asking.admitted is None else asking.admitted(rows).copy()
    mask[take_rows(rows, asking.excluded)] = False
    return torch.from_numpy(mask).to(device)


def _rank_by_candidate(
    distances: torch.Tensor, candidates: Candidates, rows: np.ndarray, asking: CandidateSet, k: int
) -> FirstStage:
    """The plain way: distances (b, D) looked up for every candidate (b, C)."""
    device = distances.device
    distances = distances.index_select(1, torch.from_numpy(candidates.place).to(device))
    distances.masked_fill_(~_allowed(asking, rows, len(candidates), device), torch.inf)
    position, right = (torch.from_numpy(of).to(device) for of in take_rows(rows, asking.right))
    return FirstStage(rank_of(distances, right, position), *first_k(distances, k))


def _rank_by_text(
    distances: torch.Tensor, candidates: Candidates, rows: np.ndarray, asking: CandidateSet, k: int
) -> FirstStage:
    """Ranks from distances to the distinct texts (b, D), which are changed, each counted as often as it is a candidate.

    Rows in which a tie decides are done again by candidate.
    """
    device, num_texts, num_candidates = distances.device, len(candidates.copies), len(candidates)
    left_out = np.unique(np.ravel_multi_index(take_rows(rows, asking.excluded), (len(rows), num_candidates)))
    position, candidate = np.divmod(left_out, num_candidates)
    # How many candidates come before a right answer, and how many not after it. Sums of floats are exact below 2^24
    # candidates, and several times faster than sums of bools.
    copies = torch.from_numpy(candidates.copies).to(distances)
    asked, right = take_rows(rows, asking.right)
    of_row, of_text = (torch.from_numpy(of).to(device) for of in (asked, candidates.place[right]))
    own = distances[of_row, of_text]
    compared = torch.empty_like(distances)
    counted = []
    for some, its in chunks(of_row, own, len(rows)):
        these = distances[some]
        out = compared[: len(these)]
        counted.append([torch.mv(sign(these, its[:, None], out=out), copies) for sign in (torch.lt, torch.le)])
    before, not_after = (torch.cat(list(of)) for of in zip(*counted, strict=True))
    # What is left out, beside each right answer of its point.
    beside, gone = (torch.from_numpy(of).to(device) for of in take_rows(asked, (position, candidates.place[candidate])))
    own_of, distance_of = own[beside], distances[of_row[beside], gone]
    before.index_add_(0, beside, (distance_of < own_of).to(before), alpha=-1)
    not_after.index_add_(0, beside, (distance_of <= own_of).to(before), alpha=-1)
    # The nearest texts of which a candidate is left, then their candidates without those left out.
    codes, times = np.unique(position * num_texts + candidates.place[candidate], return_counts=True)
    gone = codes[times == candidates.copies[codes % num_texts]]
    distances.view(-1)[torch.from_numpy(gone).to(device)] = torch.inf
    nearest, places = smallest(distances, min(k + 1, num_texts))
    values, place = nearest[:, :k].cpu().numpy(), places[:, :k].cpu().numpy()
    row, column = np.nonzero(np.isfinite(values))
    text = place[row, column]
    counts = candidates.copies[text]
    members = candidates.members[np.repeat(candidates.first[text], counts) + ragged_arange(counts)]
    codes, values = np.repeat(row, counts) * num_candidates + members, np.repeat(values[row, column], counts)
    kept = ~np.isin(codes, left_out)
    codes, values = codes[kept], values[kept]
    in_order = np.argsort(codes)
    entries = [torch.from_numpy(of[in_order]) for of in (codes // num_candidates, codes % num_candidates, values)]
    order, distance = first_k_of_lists(entries[0], entries[1], entries[2], len(rows), k)
    ranked = FirstStage(before.long(), order.to(device), distance.to(device))
    undecided = torch.zeros(len(rows), dtype=torch.bool, device=device)
    undecided[of_row[~(not_after - before == 1)]] = True
    if nearest.shape[1] > k:
        undecided |= (nearest[:, k] == nearest[:, k - 1]) & nearest[:, k].isfinite()
    again = undecided.nonzero()[:, 0]
    if len(again):
        redone = _rank_by_candidate(distances[again], candidates, rows[again.cpu().numpy()], asking, k)
        ranked.rank[undecided[of_row]] = redone.rank
        ranked.order[again], ranked.distance[again] = redone.order, redone.distance
    return ranked


def rerank(found: FirstStage, depth: int, point: np.ndarray, candidates: Candidates, score: PairScorer | None) -> TopK:
    """Re-order the first `depth` candidates of n points by their scores, equal ones keeping stage-1 order; 0 leaves
    all as they are.

    point (n,) are the points' text indices. Each distinct pair of texts is scored once, so that equal texts get
    exactly equal scores. Raises ValueError when a score is not a finite number.
    """
    order, distance = found.order.cpu().numpy(), found.distance.cpu().numpy()
    scores, dead = np.full(order.shape, -np.inf, dtype=np.float32), np.zeros(order.shape, dtype=bool)
    rows, columns = np.nonzero(order[:, :depth] >= 0)
    if len(rows):
        assert score is not None
        num_texts = int(candidates.distinct[-1]) + 1
        pairs = point[rows] * num_texts + candidates.text[order[rows, columns]]
        distinct, back = np.unique(pairs, return_inverse=True)
        values, flags = score(*map(torch.from_numpy, np.divmod(distinct, num_texts)))
        check_finite(values)
        scores[rows, columns], dead[rows, columns] = (of.cpu().numpy()[back.reshape(-1)] for of in (values, flags))
    by_score = np.argsort(-scores, axis=1, kind="stable")
    order, distance, scores, dead = (np.take_along_axis(of, by_score, axis=1) for of in (order, distance, scores, dead))
    return TopK(order, distance, scores, dead, found.rank.cpu().numpy())


@dataclass(frozen=True)
class Scores:
    """Of b points to all C candidates, each (b, C): distance (smaller is nearer), and what the head says.

    Without scores the ranking by distance is final.
    """

    distance: torch.Tensor
    score: torch.Tensor | None = None
    dead: torch.Tensor | None = None


ScoreRows = Callable[[np.ndarray], Scores]
"""Rows (b,), ascending → their scores."""


def all_scores(embeddings: Embeddings, point: np.ndarray, candidates: Candidates, score: PairScorer) -> ScoreRows:
    """Distance and head score of every candidate; each distinct pair of a block's texts is scored once.

    Memory: some 40 bytes for each pair of a block's points and the C candidates, and 32 for PIECE more; nothing grows
    with N × C.
    """
    device = embeddings.candidate.device
    distinct, places = (torch.from_numpy(of).to(device) for of in (candidates.distinct, candidates.place))
    targets = make_targets(embeddings.candidate[distinct])

    def score_rows(rows: np.ndarray) -> Scores:
        points = torch.from_numpy(point[rows]).to(device)
        texts, back = torch.unique(points, return_inverse=True)
        scored = [
            score(some.repeat_interleave(len(distinct)), distinct.repeat(len(some)))
            for some in texts.split(max(1, PIECE // len(distinct)))
        ]
        scores, dead = (torch.cat(parts).view(len(texts), -1) for parts in zip(*scored, strict=True))
        each = (distances_to(embeddings.point[points], targets), scores[back], dead[back])
        return Scores(*(values.index_select(1, places) for values in each))

    return score_rows


def rank_matrix(sets: Sequence[CandidateSet], score_rows: ScoreRows, num_candidates: int) -> list[Ranking]:
    """Rank where all C candidates have scores, for each candidate set: by score, then by distance, then in order.

    Scores are asked for once, a block of the first set's rows at a time. Raises ValueError when one that there is
    is not a finite number.
    """
    nothing = np.empty(0, dtype=np.int64)
    found = [[Ranking(nothing, nothing, nothing, nothing.astype(bool), nothing, nothing)] for _ in sets]
    for block, asked in _blocks(sets, num_candidates):
        scores = score_rows(block)
        for values in (scores.distance, scores.score):
            if values is not None:
                check_finite(values)
        for number, some in asked:
            own = torch.from_numpy(some).to(scores.distance.device)
            found[number].append(_rank_rows(scores, own, block[some], sets[number]))
    return [
        Ranking(*(np.concatenate([getattr(part, item.name) for part in parts]) for item in fields(Ranking)))
        for parts in found
    ]


def _rank_rows(scores: Scores, some: torch.Tensor, rows: np.ndarray, asking: CandidateSet) -> Ranking:
    """The ranking of the points `rows`, whose scores are those at `some`."""
    distance = scores.distance[some]
    allowed = _allowed(asking, rows, distance.shape[1], distance.device)
    distance.masked_fill_(~allowed, torch.inf)
    of_row, right = (torch.from_numpy(of).to(some.device) for of in take_rows(rows, asking.right))
    stage1_rank = final_rank = rank_of(distance, right, of_row)
    best, num_scored = allowed, torch.zeros(len(rows), dtype=torch.int64, device=some.device)
    num_dead = num_scored
    if scores.score is not None:
        score = scores.score[some].masked_fill_(~allowed, -torch.inf)
        final = []
        for its_rows, its in chunks(of_row, right, len(rows)):
            own = score[its_rows].gather(1, its[:, None])
            # Among equal scores stage-1 order decides: the same count as in stage 1, over fewer candidates.
            nearer = rank_of(distance[its_rows].masked_fill(score[its_rows] != own, torch.inf), its)
            final.append((score[its_rows] > own).sum(1) + nearer)
        final_rank = torch.cat(final)
        best, num_scored = score == score.amax(1, keepdim=True), allowed.sum(1)
        if scores.dead is not None:
            num_dead = (scores.dead[some] & allowed).sum(1)
    distance.masked_fill_(~best, torch.inf)
    first = distance == distance.amin(1, keepdim=True)
    tied = (best if scores.score is not None else first).sum(1) > 1
    # argmax of a mask: torch promises the first of equal values to no one, numpy does.
    columns = (stage1_rank, final_rank, first, tied, num_scored, num_dead)
    arrays = [column.cpu().numpy() for column in columns]
    arrays[2] = arrays[2].argmax(axis=1)
    return Ranking(*arrays)
