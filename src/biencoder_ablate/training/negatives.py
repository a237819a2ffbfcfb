"""Draws the negatives of an epoch: hard or uniform, several a pair, and never a right answer.

N pairs, P negatives a pair, A right answers of a point at most, M texts of the pool, T texts of the corpus.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from biencoder_ablate.data.corpus import DataError
from biencoder_ablate.data.text_table import SplitArrays, answers_of
from biencoder_ablate.encoder.tokens import to_device
from biencoder_ablate.evaluation.distances import (
    block_size,
    distances_to,
    exclude,
    first_k,
    make_targets,
    smallest,
)
from biencoder_ablate.model.biencoder import Embeddings
from biencoder_ablate.utils.arrays import ragged_arange
from biencoder_ablate.utils.seeding import generator


@dataclass(frozen=True)
class NegativePool:
    """The texts that may be negatives, and which of them a pair must never get.

    text (M,): text indices, one per distinct text (equal after folding counts as one), in order of first use: a tie
    goes to the lower position. point and counter (N,): where each pair's own two texts stand in the pool; texts that
    are not in it, as points are where only answers are, stand behind its end, from M on. answers (N, A): for each pair
    the positions of the point itself and of every right answer that the point's text has anywhere in the split,
    ascending, −1 where there are fewer.
    """

    text: np.ndarray
    point: np.ndarray
    counter: np.ndarray
    answers: np.ndarray

    @property
    def size(self) -> int:
        return len(self.text)

    @property
    def excluded(self) -> tuple[np.ndarray, np.ndarray]:
        """`answers` in the pool as (rows, positions), sorted by row."""
        in_pool = (self.answers >= 0) & (self.answers < self.size)
        rows, columns = np.nonzero(in_pool)
        return rows, self.answers[rows, columns]

    def positions_of(self, texts: np.ndarray) -> np.ndarray:
        """Where texts of the pool (…,), by text index, stand in it."""
        order = np.argsort(self.text)
        return order[np.searchsorted(self.text, texts, sorter=order)]

    def are_excluded(self, rows: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Which of the texts at `positions` (C,) must not be negatives of the pairs `rows` (B,): (B, C) bool. What is
        not in the pool is nobody's negative."""
        answers = self.answers[rows]  # (B, A)
        right = (answers[:, :, None] == positions).any(axis=1)
        return right | (positions >= self.size)


def build_pool(train: SplitArrays, among: str | None = None) -> NegativePool:
    """The pool of a training split (negatives.pool): with "answers" its documents, or else its counters, whatever
    their grade; with "all" its points too; None for the corpus's own choice.

    Raises DataError when a point has no possible negative.
    """
    num_pairs = len(train)
    documents = train.documents
    if among is None:
        among = "answers" if documents is not None else train.candidates
    # (text, key) of what may be negatives; `own` are points and counters (2N,) in order of use.
    own = (np.ravel([train.point, train.counter], order="F"), np.ravel([train.point_key, train.counter_key], order="F"))
    if documents is not None:
        negatives = [(documents.text, documents.key)]
        if among == "all":
            negatives.append((train.point, train.point_key))
    elif among == "all":
        negatives = [own]
    else:
        negatives = [(train.counter, train.counter_key)]
    size = len(np.unique(np.concatenate([key for _, key in negatives])))

    # They come first, so that what is no negative stands behind the end of the pool.
    texts = np.concatenate([text for text, _ in [*negatives, own]])
    keys = np.concatenate([key for _, key in [*negatives, own]])

    # Each distinct key has a position, in order of first use; its first spelling stands for all.
    distinct, first = np.unique(keys, return_index=True)
    order = np.argsort(first)
    text = texts[first[order[:size]]]
    position_of = np.argsort(order)
    point = position_of[np.searchsorted(distinct, train.point_key)]
    counter = position_of[np.searchsorted(distinct, train.counter_key)]

    # What a pair must not get: its point and every right answer of its point's text, each once, by row.
    answered, answer_keys = answers_of(train)
    answer = position_of[np.searchsorted(distinct, answer_keys)]
    rows = np.concatenate([np.arange(num_pairs), answered])
    positions = np.concatenate([point, answer])
    rows, positions = np.unique([rows, positions], axis=1)

    num_excluded = np.bincount(rows[positions < size], minlength=num_pairs)
    if num_excluded.max(initial=-1) >= size:
        impossible = train.pairs[num_excluded.argmax()]
        raise DataError(
            f"train pair {impossible.id} has no possible negative: every text of the training split that may be one "
            f"(negatives.pool={among}) is its point or one of its counters"
        )
    # Lists of several lengths as a matrix, −1 where a row has ended.
    counts = np.bincount(rows, minlength=num_pairs)
    width = counts.max(initial=0)
    answers = np.full((num_pairs, width), -1)
    answers[rows, ragged_arange(counts)] = positions
    return NegativePool(text, point, counter, answers)


def hard_ratio(schedule: str, epoch: int, ratio: float, start: float | None) -> float:
    """Probability that a negative of `epoch` (from 0) is hard: `ratio` (constant), or min(1, start + epoch·ratio)."""
    if schedule == "constant":
        return ratio
    assert start is not None
    return min(1.0, start + epoch * ratio)


def draw_negatives(
    pool: NegativePool,
    ratio: float,
    seed: int,
    epoch: int,
    embeddings: Embeddings,
    train: SplitArrays,
    per_pair: int = 1,
    skip: int = 0,
    depth: int | None = None,
    relative_margin: float | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Negatives of an epoch: text indices (N, P), and which of them are hard (N, P).

    `embeddings` are of all texts (T, …) before the epoch. Each of a pair's `per_pair` negatives is hard with
    probability `ratio`; the draws come from the stream "negatives" of (seed, epoch), whatever the ratio. A pair's
    negatives differ from each other where the pool has enough texts.

    Hard ones are the nearest texts after the `skip` nearest, or are drawn from the `depth` nearest after them; with
    `relative_margin` m only from those whose cosine is at most that of the counter, c, less m |c|.
    """
    random = generator(seed, "negatives", epoch)
    shape = (len(train), per_pair)
    # Every place is drawn uniformly first, so that another ratio leaves the uniform ones as they are.
    hard = random.random(shape) < ratio
    chosen = random.integers(pool.size, size=shape)  # positions in the pool
    _redraw(pool, random, chosen, np.ones(shape, dtype=bool), distinct=False)

    rows = np.flatnonzero(hard.any(axis=1))
    if len(rows):
        wanted = hard[rows]  # (n, P)
        num_of_rows = wanted.sum(axis=1)
        num_wanted = int(num_of_rows.max())
        k = skip + (depth or num_wanted)
        nearest = mine_nearest(pool, rows, embeddings, train, k, relative_margin)
        nearest = nearest[:, skip:]
        if depth is not None:
            # Random keys shuffle every row; places without a text go last.
            keys = np.where(nearest >= 0, random.random(nearest.shape), 2.0)
            order = np.argsort(keys, axis=1)
            nearest = np.take_along_axis(nearest, order, axis=1)
        # A small pool has fewer texts than are wanted.
        width = nearest.shape[1]
        missing = max(0, num_wanted - width)
        nearest = np.pad(nearest, ((0, 0), (0, missing)), constant_values=-1)

        # The first hard place of a row takes its first mined text, and so on; where none is left a uniform one stays.
        turn = wanted.cumsum(axis=1) - 1
        turn = np.maximum(turn, 0)
        mined = np.take_along_axis(nearest, turn, axis=1)  # (n, P)
        hard[rows] = wanted & (mined >= 0)
        uniform = chosen[rows]
        chosen[rows] = np.where(hard[rows], mined, uniform)

    if per_pair > 1:
        _redraw(pool, random, chosen, ~hard, distinct=True)
    return pool.text[chosen], hard


def _redraw(
    pool: NegativePool,
    random: np.random.Generator,
    chosen: np.ndarray,
    free: np.ndarray,
    distinct: bool,
) -> None:
    """Draw those of `chosen` (N, P) that are `free` again, in place, until none is excluded.

    With `distinct`, nor equal to another of its pair, for pairs that have enough texts.
    """
    per_pair = chosen.shape[1]
    num_excluded = np.bincount(pool.excluded[0], minlength=len(chosen))
    can_differ = pool.size - num_excluded >= per_pair  # (N,)
    earlier = np.tri(per_pair, k=-1, dtype=bool)  # [p, q]: q comes before p

    pending = np.arange(len(chosen))
    while len(pending):
        drawn = chosen[pending][:, :, None]  # (n, P, 1)
        is_free = free[pending]  # (n, P)
        answers = pool.answers[pending]  # (n, A)
        wrong = (drawn == answers[:, None, :]).any(axis=2)
        if distinct:
            # Of two equal free ones the later is drawn again; beside a mined one, the free one is.
            same = drawn == drawn.transpose(0, 2, 1)  # (n, P, P)
            gives_way = earlier | ~is_free[:, None, :]
            repeated = (same & gives_way).any(axis=2)
            wrong |= repeated & can_differ[pending, None]
        wrong &= is_free
        rows, columns = np.nonzero(wrong)
        rows = pending[rows]
        chosen[rows, columns] = random.integers(pool.size, size=len(rows))
        pending = pending[wrong.any(axis=1)]


def mine_nearest(
    pool: NegativePool,
    rows: np.ndarray,
    embeddings: Embeddings,
    train: SplitArrays,
    k: int,
    relative_margin: float | None = None,
) -> np.ndarray:
    """Pool positions (n, k) of the nearest allowed texts to the points of `rows` (n,), ascending; nearest first, ties
    to the lower position; −1 where there are fewer."""
    device = embeddings.point.device
    texts = embeddings.candidate[to_device(pool.text, device)]  # (M, R)
    targets = make_targets(texts)
    excluded = pool.excluded
    k = min(k, pool.size)
    size = block_size(pool.size)
    nearest = []
    for start in range(0, len(rows), size):
        block = rows[start : start + size]
        points = embeddings.point[to_device(train.point[block], device)]  # (b, R)
        distances = distances_to(points, targets)  # (b, M)
        exclude(distances, block, excluded)
        if relative_margin is not None:
            counters = embeddings.candidate[to_device(train.counter[block], device)]
            cosine = (points * counters).sum(1, keepdim=True)
            limit = cosine - relative_margin * cosine.abs()
            # A margin is of unit vectors, whose squared distance |a − b|² is 2 − 2 cos.
            cosines = 1 - distances / 2
            distances[cosines > limit] = torch.inf

        # One more than k shows whether the last of them has an equal outside.
        values, columns = smallest(distances, min(k + 1, pool.size))
        positions = torch.where(values.isfinite(), columns, -1)[:, :k]
        # No search of torch's promises which of equal values it returns: rows with a tie are searched again, slowly.
        later = values[:, 1:]
        equal = (later == values[:, :-1]) & later.isfinite()
        tied = equal.any(dim=1)
        if tied.any():
            positions[tied], _ = first_k(distances[tied], k)
        nearest.append(positions.cpu().numpy())
    return np.concatenate(nearest)
