"""Ranks the candidates of points: stage 1 by distance, stage 2 the first of them by the head. No loop over pairs.

Training, `evaluate` and `retrieve` all rank by this: `stage1` and `rerank` to a depth, `rank_matrix` where every
candidate has a score (evaluation.rerank=all, and baselines), and `rank` by either. Several candidate sets are ranked
at once.

N points, n of them in a candidate set, b of a block, e right answers of theirs (one each, or more), C candidates, D
distinct texts among them, k candidates kept, M pairs.
Ranks are 0-based; −1 stands for "no candidate".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from biencoder_ablate.evaluation.candidates import Candidates, CandidateSet
from biencoder_ablate.evaluation.distances import (
    block_size,
    check_finite,
    chunks,
    distances_to,
    first_k,
    first_k_of_lists,
    make_targets,
    rank_of,
    smallest,
)
from biencoder_ablate.evaluation.pair_scores import PairScorer
from biencoder_ablate.model.biencoder import Embeddings
from biencoder_ablate.utils.arrays import concatenate_fields, ragged_take, take_rows

PAIRS_AT_ONCE = 262_144
"""How many pairs are scored at a time where all are."""


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
class TopK:
    """The first k candidates of n points, each (n, k): which, squared distance, the head's score (−inf where it scored
    none) and whether the pair is dead; and the rank (e,) of the points' right answers by distance.

    `stage1` gives them in order of distance, `rerank` in their final order.
    """

    order: np.ndarray
    distance: np.ndarray
    score: np.ndarray
    dead: np.ndarray
    stage1_rank: np.ndarray

    @classmethod
    def unscored(cls, order: Tensor, distance: Tensor, stage1_rank: Tensor) -> TopK:
        """Candidates by distance alone."""
        score = np.full(order.shape, -np.inf, dtype=np.float32)
        dead = np.zeros(order.shape, dtype=bool)
        return cls(
            order.cpu().numpy(),
            distance.cpu().numpy(),
            score,
            dead,
            stage1_rank.cpu().numpy(),
        )

    def ranking(self, candidate_set: CandidateSet) -> Ranking:
        """The ranking of the set's points; k must be 2 or more, or all candidates, for ties to be seen."""
        position, right = take_rows(candidate_set.rows, candidate_set.right)
        is_right = self.order[position] == right[:, None]  # (e, k)
        is_kept = is_right.any(axis=1)
        final_rank = np.where(is_kept, is_right.argmax(axis=1), self.stage1_rank)

        # The second candidate ties with the first by score, or by distance where the head scored neither.
        scored = np.isfinite(self.score)
        tied = np.zeros(len(self.order), dtype=bool)
        if self.order.shape[1] > 1:
            same_score = self.score[:, 0] == self.score[:, 1]
            same_distance = self.distance[:, 0] == self.distance[:, 1]
            has_second = self.order[:, 1] >= 0
            tied = has_second & np.where(scored[:, 1], same_score, same_distance)

        return Ranking(
            self.stage1_rank,
            final_rank,
            first=self.order[:, 0],
            tied=tied,
            num_scored=scored.sum(1),
            num_dead=self.dead.sum(1),
        )


def rerank_depth(depth: int | str, num_candidates: int) -> int:
    """How many candidates evaluation.rerank has the head score: the number itself, `all` of them, or `none`."""
    if isinstance(depth, int):
        return depth
    return {"all": num_candidates, "none": 0}[depth]


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
        score_rows = all_scores(embeddings, point, candidates, score)
        return rank_matrix(sets, score_rows, len(candidates))

    kept = kept_depth(depth, len(candidates))
    nearest = stage1(embeddings, point, candidates, sets, kept)
    return rank_lists(nearest, point, candidates, sets, score, depth)


def kept_depth(depth: int | str, num_candidates: int) -> int:
    """How many candidates stage 1 keeps: those of stage 2, and two at least, as the second tells of a tie."""
    return max(2, rerank_depth(depth, num_candidates))


def rank_lists(
    nearest: Sequence[TopK],
    point: np.ndarray,
    candidates: Candidates,
    sets: Sequence[CandidateSet],
    score: PairScorer | None,
    depth: int | str,
) -> list[Ranking]:
    """Rank from what `stage1` has kept for each candidate set, to a depth or by distance alone."""
    num = rerank_depth(depth, len(candidates))
    rankings = []
    for candidate_set, by_distance in zip(sets, nearest, strict=True):
        top_k = rerank(by_distance, num, point[candidate_set.rows], candidates, score)
        rankings.append(top_k.ranking(candidate_set))
    return rankings


def stage1(
    embeddings: Embeddings,
    point: np.ndarray,
    candidates: Candidates,
    sets: Sequence[CandidateSet],
    k: int,
) -> list[TopK]:
    """The nearest k candidates, for each candidate set.

    Arguments as for `rank`. Distances are computed once, for the rows of the first set, and between distinct texts, so
    that equal texts tie exactly. Where a set admits all but a few candidates the ranking is by text, else by candidate.
    Raises ValueError when a distance is not finite.
    """
    device = embeddings.candidate.device
    k = min(k, len(candidates))
    distinct = torch.as_tensor(candidates.distinct, device=device)
    targets = make_targets(embeddings.candidate[distinct])
    no_rank = distinct.new_empty(0)
    nothing = TopK.unscored(distinct.new_empty(0, k), targets.extended.new_empty(0, k), no_rank)
    blocks = [[nothing] for _ in sets]

    for rows, members in _blocks(sets, len(candidates)):
        points = torch.as_tensor(point[rows], device=device)
        distances = distances_to(embeddings.point[points], targets)  # (b, D)
        check_finite(distances)

        for number, positions in members:
            of_set = distances[torch.as_tensor(positions, device=device)]  # a copy, which ranking by text may change
            rank_block = _rank_by_candidate if sets[number].admitted else _rank_by_text
            ranked = rank_block(of_set, candidates, rows[positions], sets[number], k)
            blocks[number].append(TopK.unscored(*ranked))

    return [concatenate_fields(parts) for parts in blocks]


def _blocks(
    sets: Sequence[CandidateSet],
    num_candidates: int,
) -> Iterator[tuple[np.ndarray, list[tuple[int, np.ndarray]]]]:
    """The rows of the first set a block at a time; with each block the numbers of the sets that have any of its rows,
    and the positions in the block of those rows."""
    size = block_size(num_candidates)
    every_row = sets[0].rows
    for start in range(0, len(every_row), size):
        block = every_row[start : start + size]
        members = []
        for number, candidate_set in enumerate(sets):
            is_member = np.isin(block, candidate_set.rows, assume_unique=True)
            if is_member.any():
                members.append((number, np.flatnonzero(is_member)))
        yield block, members


def _rank_block(
    distances: Tensor,
    rows: np.ndarray,
    candidate_set: CandidateSet,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Set the distances (b, C) of the points `rows` to what a set does not have to inf, in place.

    Returns what it has (b, C) bool, and of the right answers their positions in `rows`, their columns and their ranks,
    each (e,).
    """
    device = distances.device
    if candidate_set.admitted is None:
        mask = np.ones(distances.shape, dtype=bool)
    else:
        mask = candidate_set.admitted(rows).copy()
    mask[take_rows(rows, candidate_set.excluded)] = False
    allowed = torch.as_tensor(mask, device=device)
    distances.masked_fill_(~allowed, torch.inf)

    position, right = map(torch.from_numpy, take_rows(rows, candidate_set.right))
    position, right = position.to(device), right.to(device)
    return allowed, position, right, rank_of(distances, right, position)


def _rank_by_candidate(
    distances: Tensor,
    candidates: Candidates,
    rows: np.ndarray,
    candidate_set: CandidateSet,
    k: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The plain way, from distances to the distinct texts (b, D) looked up for every candidate (b, C): the first k and
    their distances, both (b, k), and the ranks of the right answers (e,)."""
    place = torch.as_tensor(candidates.place, device=distances.device)
    distances = distances.index_select(1, place)  # (b, C)
    *_, right_rank = _rank_block(distances, rows, candidate_set)
    order, nearest = first_k(distances, k)
    return order, nearest, right_rank


def _rank_by_text(
    distances: Tensor,
    candidates: Candidates,
    rows: np.ndarray,
    candidate_set: CandidateSet,
    k: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The same as `_rank_by_candidate`, faster where few candidates are excluded: distances (b, D), which are changed,
    are ranked as they are, each text counting as often as it is a candidate.

    Rows in which a tie decides are ranked again by candidate.
    """
    device = distances.device
    num_texts = distances.shape[1]

    # What is excluded, each pair of row and candidate once.
    excluded_row, excluded_candidate = take_rows(rows, candidate_set.excluded)
    excluded = np.unique(excluded_row * len(candidates) + excluded_candidate)
    excluded_row, excluded_candidate = np.divmod(excluded, len(candidates))
    excluded_text = candidates.place[excluded_candidate]

    position, right = take_rows(rows, candidate_set.right)
    right_row = torch.as_tensor(position, device=device)
    right_text = torch.as_tensor(candidates.place[right], device=device)
    before, not_after = _count_candidates(distances, right_row, right_text, candidates)

    # Both counts have the excluded in them: those of its row are taken off beside each right answer.
    beside, text = map(torch.from_numpy, take_rows(position, (excluded_row, excluded_text)))
    beside = beside.to(device)
    right_distance = distances[right_row, right_text][beside]
    excluded_distance = distances[right_row[beside], text.to(device)]
    nearer = excluded_distance < right_distance
    as_near = excluded_distance <= right_distance
    before.index_add_(0, beside, nearer.to(before), alpha=-1)
    not_after.index_add_(0, beside, as_near.to(before), alpha=-1)

    # A text has no place in the list where all its copies are excluded.
    pairs, num_excluded = np.unique(excluded_row * num_texts + excluded_text, return_counts=True)
    is_gone = num_excluded == candidates.copies[pairs % num_texts]
    gone = torch.as_tensor(pairs[is_gone], device=device)
    distances.view(-1)[gone] = torch.inf

    # The nearest texts, one more than wanted: it tells whether a tie decides who is the last.
    nearest, texts = smallest(distances, min(k + 1, num_texts))
    order, distance = _candidates_of_texts(nearest[:, :k], texts[:, :k], candidates, excluded, k)

    undecided = torch.zeros(len(rows), dtype=torch.bool, device=device)
    is_alone = not_after - before == 1
    undecided[right_row[~is_alone]] = True
    if nearest.shape[1] > k:
        last, next_one = nearest[:, k - 1], nearest[:, k]
        undecided |= (next_one == last) & next_one.isfinite()

    right_rank = before.long()
    order, distance = order.to(device), distance.to(device)
    again = undecided.nonzero()[:, 0]
    if len(again):
        of_again = undecided[right_row]
        order[again], distance[again], right_rank[of_again] = _rank_by_candidate(
            distances[again],
            candidates,
            rows[again.cpu().numpy()],
            candidate_set,
            k,
        )
    return order, distance, right_rank


def _count_candidates(
    distances: Tensor,
    rows: Tensor,
    texts: Tensor,
    candidates: Candidates,
) -> tuple[Tensor, Tensor]:
    """How many candidates are nearer than each of the texts (e,) of given rows, and how many are as near or nearer."""
    # Sums of floats are exact below 2^24 candidates, and several times faster than sums of bools.
    copies = torch.as_tensor(candidates.copies).to(distances)
    compared = torch.empty_like(distances)
    threshold = distances[rows, texts]

    nearer, as_near = [], []
    for chunk, limit in chunks(rows, threshold, len(distances)):
        values = distances[chunk]
        out = compared[: len(values)]
        nearer.append(torch.mv(torch.lt(values, limit[:, None], out=out), copies))
        as_near.append(torch.mv(torch.le(values, limit[:, None], out=out), copies))
    return torch.cat(nearer), torch.cat(as_near)


def _candidates_of_texts(
    distances: Tensor,
    texts: Tensor,
    candidates: Candidates,
    excluded: np.ndarray,
    k: int,
) -> tuple[Tensor, Tensor]:
    """The first k candidates (b, k) and their distances, from the nearest texts (b, k).

    `excluded` are the numbers row · C + candidate, ascending, of what has no place in the lists.
    """
    num_candidates = len(candidates)
    values = distances.cpu().numpy()
    is_there = np.isfinite(values)
    row = np.nonzero(is_there)[0]
    value = values[is_there]
    text = texts.cpu().numpy()[is_there]

    # Each text gives way to all candidates that have it.
    copies = candidates.copies[text]
    members = ragged_take(candidates.members, candidates.first[text], copies)
    codes = np.repeat(row, copies) * num_candidates + members
    value = np.repeat(value, copies)

    in_order = np.argsort(codes)
    in_order = in_order[~np.isin(codes[in_order], excluded)]
    row, candidate = np.divmod(codes[in_order], num_candidates)
    return first_k_of_lists(
        torch.from_numpy(row),
        torch.from_numpy(candidate),
        torch.from_numpy(value[in_order]),
        len(values),
        k,
    )


def rerank(
    nearest: TopK,
    depth: int,
    point: np.ndarray,
    candidates: Candidates,
    score: PairScorer | None,
) -> TopK:
    """Re-order the first `depth` candidates of n points by their scores, equal ones keeping stage-1 order; with depth 0
    all stay as they are.

    point (n,) are the points' text indices. Each distinct pair of texts is scored once, so that equal texts get
    exactly equal scores. Raises ValueError when a score is not finite.
    """
    scores, dead = nearest.score.copy(), nearest.dead.copy()
    rows, columns = np.nonzero(nearest.order[:, :depth] >= 0)
    if len(rows):
        assert score is not None
        num_texts = int(candidates.distinct[-1]) + 1
        text = candidates.text[nearest.order[rows, columns]]
        pairs, back = np.unique(point[rows] * num_texts + text, return_inverse=True)
        points, texts = np.divmod(pairs, num_texts)

        values, is_dead = score(torch.from_numpy(points), torch.from_numpy(texts))  # (M,)
        check_finite(values)
        back = back.reshape(-1)
        scores[rows, columns] = values.cpu().numpy()[back]
        dead[rows, columns] = is_dead.cpu().numpy()[back]

    by_score = np.argsort(-scores, axis=1, kind="stable")
    return TopK(
        np.take_along_axis(nearest.order, by_score, axis=1),
        np.take_along_axis(nearest.distance, by_score, axis=1),
        np.take_along_axis(scores, by_score, axis=1),
        np.take_along_axis(dead, by_score, axis=1),
        nearest.stage1_rank,
    )


@dataclass(frozen=True)
class Scores:
    """Of b points to all C candidates, each (b, C): distance (smaller is nearer), and the head's score and whether the
    pair is dead. Without scores the ranking by distance is final."""

    distance: Tensor
    score: Tensor | None = None
    dead: Tensor | None = None


ScoreRows = Callable[[np.ndarray], Scores]
"""Rows (b,), ascending → their scores."""


def all_scores(
    embeddings: Embeddings,
    point: np.ndarray,
    candidates: Candidates,
    score: PairScorer,
) -> ScoreRows:
    """Distance and head score of every candidate; each distinct pair of a block's texts is scored once.

    Memory: some 40 bytes for each pair of a block's points and the C candidates, and 32 for each of PAIRS_AT_ONCE;
    nothing grows with N × C.
    """
    device = embeddings.candidate.device
    distinct = torch.as_tensor(candidates.distinct, device=device)
    place = torch.as_tensor(candidates.place, device=device)
    targets = make_targets(embeddings.candidate[distinct])
    num_texts = len(distinct)

    def score_rows(rows: np.ndarray) -> Scores:
        points = torch.as_tensor(point[rows], device=device)
        texts, back = torch.unique(points, return_inverse=True)

        scores, dead = [], []
        for chunk in texts.split(max(1, PAIRS_AT_ONCE // num_texts)):
            each_with_all = chunk.repeat_interleave(num_texts), distinct.repeat(len(chunk))
            values, is_dead = score(*each_with_all)
            scores.append(values.view(len(chunk), num_texts))
            dead.append(is_dead.view(len(chunk), num_texts))

        # From distinct texts to the block's points and to candidates: (b, D), then (b, C).
        by_text = (
            distances_to(embeddings.point[points], targets),
            torch.cat(scores)[back],
            torch.cat(dead)[back],
        )
        return Scores(*(values.index_select(1, place) for values in by_text))

    return score_rows


def rank_matrix(
    sets: Sequence[CandidateSet],
    score_rows: ScoreRows,
    num_candidates: int,
) -> list[Ranking]:
    """Rank where all C candidates have scores, for each candidate set: by score, then by distance, then in order.

    `score_rows` is called once for each block of the first set's rows. Raises ValueError when a distance or a score is
    not finite.
    """
    no_row = np.empty(0, dtype=np.int64)
    nothing = Ranking(no_row, no_row, no_row, no_row.astype(bool), no_row, no_row)
    blocks = [[nothing] for _ in sets]

    for rows, members in _blocks(sets, num_candidates):
        scores = score_rows(rows)
        check_finite(scores.distance)
        if scores.score is not None:
            check_finite(scores.score)
        for number, positions in members:
            ranking = _rank_rows(scores, positions, rows[positions], sets[number])
            blocks[number].append(ranking)

    return [concatenate_fields(parts) for parts in blocks]


def _rank_rows(
    scores: Scores,
    positions: np.ndarray,
    rows: np.ndarray,
    candidate_set: CandidateSet,
) -> Ranking:
    """The ranking of the points `rows`, whose scores stand at `positions` of the block."""
    member = torch.as_tensor(positions, device=scores.distance.device)
    distance = scores.distance[member]  # (b, C)
    allowed, position, right, stage1_rank = _rank_block(distance, rows, candidate_set)
    final_rank, best = stage1_rank, allowed
    num_scored = num_dead = torch.zeros_like(member)

    if scores.score is not None:
        score = scores.score[member].masked_fill_(~allowed, -torch.inf)
        final_ranks = []
        for chunk, columns in chunks(position, right, len(rows)):
            chunk_score = score[chunk]
            right_score = chunk_score.gather(1, columns[:, None])
            num_higher = (chunk_score > right_score).sum(1)
            # Among equal scores stage-1 order decides: the same count as in stage 1, over fewer candidates.
            among_equal = distance[chunk].masked_fill(chunk_score != right_score, torch.inf)
            final_ranks.append(num_higher + rank_of(among_equal, columns))
        final_rank = torch.cat(final_ranks)
        best = score == score.amax(1, keepdim=True)
        num_scored = allowed.sum(1)
        if scores.dead is not None:
            num_dead = (scores.dead[member] & allowed).sum(1)

    # The first is the nearest of those with the best score, which are all candidates where there are no scores.
    distance.masked_fill_(~best, torch.inf)
    is_first = distance == distance.amin(1, keepdim=True)
    is_tied = is_first if scores.score is None else best

    # argmax of a mask: torch does not promise which of several equal values it finds, numpy finds the first.
    return Ranking(
        stage1_rank.cpu().numpy(),
        final_rank.cpu().numpy(),
        first=is_first.cpu().numpy().argmax(axis=1),
        tied=(is_tied.sum(1) > 1).cpu().numpy(),
        num_scored=num_scored.cpu().numpy(),
        num_dead=num_dead.cpu().numpy(),
    )
