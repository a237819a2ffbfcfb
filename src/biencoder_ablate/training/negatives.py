"""Draws one negative per training pair and epoch: hard or uniform, and never a right answer (design §2).

N pairs, M texts of the pool, R retrieval width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from biencoder_ablate.data.corpus import DataError
from biencoder_ablate.data.index import SplitArrays
from biencoder_ablate.evaluation.distances import BLOCK, distances_to, exclude, make_targets, smallest
from biencoder_ablate.seeding import generator


@dataclass(frozen=True)
class NegativePool:
    """The texts that may be negatives, and which of them a pair must never get.

    text (M,): text indices, one per distinct text (equal after folding counts as one), in order of first use:
    a tie goes to the lower position. `forbidden` (E,) are sorted codes row·M + position: for each pair the
    point itself and every counter that the point's text has anywhere in the split.
    """

    text: np.ndarray
    forbidden: np.ndarray
    num_pairs: int

    @property
    def size(self) -> int:
        return len(self.text)


def build_pool(train: SplitArrays) -> NegativePool:
    """The pool of a training split. Raises DataError when a point has no possible negative."""
    texts = np.stack([train.point, train.counter], axis=1).reshape(-1)
    keys = np.stack([train.point_key, train.counter_key], axis=1).reshape(-1)
    position: dict[int, int] = {}
    pool: list[int] = []
    for text, key in zip(texts.tolist(), keys.tolist(), strict=True):
        if key not in position:
            position[key] = len(pool)
            pool.append(text)
    answers: dict[int, set[int]] = {}
    for point_key, counter_key in zip(train.point_key.tolist(), train.counter_key.tolist(), strict=True):
        answers.setdefault(point_key, {position[point_key]}).add(position[counter_key])
    codes = []
    for row, point_key in enumerate(train.point_key.tolist()):
        if len(answers[point_key]) >= len(pool):
            raise DataError(
                f"train pair {train.pairs[row].id} has no possible negative: every text of the training "
                "split is its point or one of its counters"
            )
        codes += [row * len(pool) + place for place in sorted(answers[point_key])]
    return NegativePool(np.array(pool, dtype=np.int64), np.array(codes, dtype=np.int64), len(train))


def draw_negatives(
    pool: NegativePool, share: float, seed: int, epoch: int, retrieval: torch.Tensor, point: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Negatives of an epoch: text indices (N,), and which of them are hard (N,).

    retrieval (T, R) are the embeddings of all texts before the epoch; point (N,) are the pairs' points. The
    draws come from the stream "negatives" of (seed, epoch), whatever the share.
    """
    random = generator(seed, "negatives", epoch)
    hard = random.random(pool.num_pairs) < share
    chosen = _draw_uniform(pool, random)
    rows = np.flatnonzero(hard)
    if len(rows):
        chosen[rows] = mine_nearest(pool, rows, retrieval, point)
    return pool.text[chosen], hard


def _draw_uniform(pool: NegativePool, random: np.random.Generator) -> np.ndarray:
    """Pool positions (N,), uniform over what each pair may get: draw, and draw again where forbidden."""
    chosen = random.integers(pool.size, size=pool.num_pairs)
    pending = np.arange(pool.num_pairs)
    while len(pending := pending[_is_forbidden(pool, pending, chosen[pending])]):
        chosen[pending] = random.integers(pool.size, size=len(pending))
    return chosen


def _is_forbidden(pool: NegativePool, rows: np.ndarray, positions: np.ndarray) -> np.ndarray:
    codes = rows * pool.size + positions
    found = np.searchsorted(pool.forbidden, codes)
    return pool.forbidden[np.minimum(found, len(pool.forbidden) - 1)] == codes


def mine_nearest(pool: NegativePool, rows: np.ndarray, retrieval: torch.Tensor, point: np.ndarray) -> np.ndarray:
    """Pool position of the nearest allowed text to the points of `rows` (n,), ascending; ties to the lower position."""
    device = retrieval.device
    targets = make_targets(retrieval[torch.from_numpy(pool.text).to(device)])
    forbidden = np.divmod(pool.forbidden, pool.size)
    nearest = []
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        distances = distances_to(retrieval[torch.from_numpy(point[block]).to(device)], targets)
        exclude(distances, block, forbidden)
        nearest.append(_first_minimum(distances).cpu().numpy())
    return np.concatenate(nearest)


def _first_minimum(distances: torch.Tensor) -> torch.Tensor:
    """Where each row (M), of two or more, has its minimum first (b,); no search of torch's promises which it finds."""
    values, positions = smallest(distances, 2)
    found = positions[:, 0].clone()
    tied = (values[:, 1] == values[:, 0]).nonzero()[:, 0]
    if len(tied):
        every = torch.arange(distances.shape[1], device=distances.device)
        is_least = distances[tied] == values[tied, :1]
        found[tied] = torch.where(is_least, every, distances.shape[1]).amin(dim=1)
    return found
