"""Draws the negatives of an epoch: hard or uniform, several a pair, and never a right answer (design §2).

N pairs, P negatives a pair, M texts of the pool, T texts of the corpus, R retrieval width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from biencoder_ablate.data.corpus import DataError
from biencoder_ablate.data.text_table import SplitArrays, answers_of
from biencoder_ablate.evaluation.distances import block_size, distances_to, exclude, first_k, make_targets, smallest
from biencoder_ablate.model.biencoder import Embeddings
from biencoder_ablate.utils.seeding import generator


@dataclass(frozen=True)
class NegativePool:
    """The texts that may be negatives, and which of them a pair must never get.

    text (M,): text indices, one per distinct text (equal after folding counts as one), in order of first use: a tie
    goes to the lower position. point and counter (N,): where each pair's own two texts stand in the pool; points that
    are no document stand behind its end, from M on. answers (N, A): for each pair the positions of the point itself and
    of every right answer that the point's text has anywhere in the split, ascending, −1 where there are fewer.
    """

    text: np.ndarray
    point: np.ndarray
    counter: np.ndarray
    answers: np.ndarray

    @property
    def size(self) -> int:
        return len(self.text)

    @property
    def forbidden(self) -> tuple[np.ndarray, np.ndarray]:
        """`answers` in the pool as (rows, positions), sorted by row."""
        rows, columns = np.nonzero((self.answers >= 0) & (self.answers < self.size))
        return rows, self.answers[rows, columns]

    def positions_of(self, texts: np.ndarray) -> np.ndarray:
        """Where texts of the pool (…,), by text index, stand in it."""
        order = np.argsort(self.text)
        return order[np.searchsorted(self.text, texts, sorter=order)]

    def are_forbidden(self, rows: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Which of the pool's `positions` (C,) must not be negatives of the pairs `rows` (B,): (B, C) bool."""
        return (self.answers[rows][:, :, None] == positions).any(axis=1)


def build_pool(train: SplitArrays) -> NegativePool:
    """The pool of a training split: its documents, or else the texts of its pairs. Raises DataError when a point has no
    possible negative."""
    texts = np.stack([train.point, train.counter], axis=1).reshape(-1)
    keys = np.stack([train.point_key, train.counter_key], axis=1).reshape(-1)
    if train.documents is not None:
        texts, keys = (np.concatenate(of) for of in ((train.documents.text, texts), (train.documents.key, keys)))
    distinct, first = np.unique(keys, return_index=True)
    order = np.argsort(first)
    num = len(distinct) if train.documents is None else len(np.unique(train.documents.key))
    pool = texts[first[order[:num]]]
    place_of = np.full(int(distinct.max(initial=-1)) + 1, -1, dtype=np.int64)
    place_of[distinct[order]] = np.arange(len(distinct))
    point, counter = place_of[train.point_key], place_of[train.counter_key]
    rows, answer_keys = answers_of(train)
    own = np.stack([np.arange(len(train)), point])
    codes = np.unique(np.concatenate([own, np.stack([rows, place_of[answer_keys]])], axis=1), axis=1)
    counts = np.bincount(codes[0], minlength=len(train))
    in_pool = np.bincount(codes[0][codes[1] < num], minlength=len(train))
    if in_pool.max(initial=-1) >= num:
        raise DataError(
            f"train pair {train.pairs[int(in_pool.argmax())].id} has no possible negative: every text of the training "
            "split is its point or one of its counters"
        )
    answers = np.full((len(train), counts.max(initial=0)), -1, dtype=np.int64)
    answers[codes[0], np.arange(len(codes[0])) - np.repeat(np.cumsum(counts) - counts, counts)] = codes[1]
    return NegativePool(pool, point, counter, answers)


def hard_share(schedule: str, epoch: int, ratio: float, start: float | None) -> float:
    """Probability that a negative of `epoch` (from 0) is hard: `ratio` (constant), or min(1, start + epoch·ratio)."""
    if schedule == "constant":
        return ratio
    assert schedule == "curriculum" and start is not None
    return min(1.0, start + epoch * ratio)


@dataclass(frozen=True)
class Mining:
    """How many negatives a pair gets, and which are hard: the nearest after `skip`, or drawn from `depth` after them;
    with `relative_margin` m only those whose cosine is at most that of the counter, c, less m |c|."""

    per_pair: int = 1
    skip: int = 0
    depth: int | None = None
    relative_margin: float | None = None


def draw_negatives(
    pool: NegativePool,
    share: float,
    seed: int,
    epoch: int,
    embeddings: Embeddings,
    train: SplitArrays,
    mining: Mining | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Negatives of an epoch: text indices (N, P), and which of them are hard (N, P).

    `embeddings` are of all texts (T, …) before the epoch. Each is hard with probability `share`; the draws come
    from the stream "negatives" of (seed, epoch), whatever the share. A pair's negatives differ from each other where
    the pool has enough texts.
    """
    mining = mining or Mining()
    random = generator(seed, "negatives", epoch)
    shape = (len(train), mining.per_pair)
    hard = random.random(shape) < share
    chosen = random.integers(pool.size, size=shape)
    _draw_again(pool, random, chosen, np.full(shape, True), distinct=False)
    rows = np.flatnonzero(hard.any(axis=1))
    if len(rows):
        mined = _mine(pool, rows, int(hard[rows].sum(axis=1).max()), embeddings, train, mining, random)
        hard[rows] &= _spread(mined, hard[rows]) >= 0  # where a margin has left too few, a uniform one stays
        chosen[rows] = np.where(hard[rows], _spread(mined, hard[rows]), chosen[rows])
    if mining.per_pair > 1:
        _draw_again(pool, random, chosen, ~hard, distinct=True)
    return pool.text[chosen], hard


def _draw_again(
    pool: NegativePool, random: np.random.Generator, chosen: np.ndarray, free: np.ndarray, distinct: bool
) -> None:
    """Draw those of `chosen` (N, P) that are `free` again, in place, until none is forbidden; with `distinct`, nor
    equal to another of its pair, for pairs that have enough texts."""
    forbidden = np.bincount(pool.forbidden[0], minlength=len(chosen))
    enough = pool.size - forbidden >= chosen.shape[1]
    pending = np.arange(len(chosen))
    while len(pending):
        some = chosen[pending]
        wrong = (pool.answers[pending][:, None, :] == some[:, :, None]).any(axis=2)
        if distinct:
            equal = some[:, :, None] == some[:, None, :]
            # Of two equal ones the later is drawn again; a hard one always stays.
            earlier = np.tril(np.ones(equal.shape[1:], dtype=bool), -1) | ~free[pending][:, None, :]
            np.einsum("npp->np", equal)[...] = False
            wrong |= (equal & earlier).any(axis=2) & enough[pending][:, None]
        wrong &= free[pending]
        pending, wrong = pending[wrong.any(axis=1)], wrong[wrong.any(axis=1)]
        some = chosen[pending]
        some[wrong] = random.integers(pool.size, size=int(wrong.sum()))
        chosen[pending] = some


def _spread(mined: np.ndarray, hard: np.ndarray) -> np.ndarray:
    """The mined positions (n, p), a row's in order, at its hard places (n, P); −1 elsewhere and where none is left."""
    places = np.where(hard, hard.cumsum(axis=1) - 1, 0)
    return np.where(hard, np.take_along_axis(mined, places, axis=1), -1)


def _mine(
    pool: NegativePool,
    rows: np.ndarray,
    num: int,
    embeddings: Embeddings,
    train: SplitArrays,
    mining: Mining,
    random: np.random.Generator,
) -> np.ndarray:
    """Pool positions (n, num) of hard negatives of the pairs `rows`; −1 where there are fewer."""
    depth = mining.depth or num
    nearest = mine_nearest(pool, rows, embeddings, train, mining.skip + depth, mining.relative_margin)[:, mining.skip :]
    if mining.depth is not None:
        # Random keys put every row in an order of its own; places without a text go last.
        order = np.argsort(np.where(nearest >= 0, random.random(nearest.shape), 2.0), axis=1)
        nearest = np.take_along_axis(nearest, order, axis=1)
    if nearest.shape[1] < num:  # a pool of fewer texts
        nearest = np.pad(nearest, ((0, 0), (0, num - nearest.shape[1])), constant_values=-1)
    return nearest[:, :num]


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
    targets = make_targets(embeddings.candidate[torch.from_numpy(pool.text).to(device)])
    nearest, forbidden = [], pool.forbidden
    size = block_size(pool.size)
    for start in range(0, len(rows), size):
        block = rows[start : start + size]
        points = embeddings.point[torch.from_numpy(train.point[block]).to(device)]
        distances = distances_to(points, targets)
        exclude(distances, block, forbidden)
        if relative_margin is not None:
            counters = embeddings.candidate[torch.from_numpy(train.counter[block]).to(device)]
            cosine = (points * counters).sum(1, keepdim=True)
            limit = cosine - relative_margin * cosine.abs()
            distances[1 - distances / 2 > limit] = torch.inf  # of unit vectors: |a − b|² = 2 − 2 cos
        nearest.append(_first(distances, min(k, distances.shape[1])).cpu().numpy())
    return np.concatenate(nearest)


def _first(distances: torch.Tensor, k: int) -> torch.Tensor:
    """Columns of the k smallest of each row of (b, M) in order, ties to the lower; −1 for what is not finite.

    No search of torch's promises which of equal values it finds: rows with a tie among the first are done again.
    """
    values, columns = smallest(distances, min(k + 1, distances.shape[1]))
    found = torch.where(values.isfinite(), columns, -1)[:, :k]
    tied = ((values[:, 1:] == values[:, :-1]) & values[:, 1:].isfinite()).any(dim=1).nonzero()[:, 0]
    if len(tied):
        found[tied] = first_k(distances[tied], k)[0]
    return found
