"""Distances between embeddings, the nearest of many, and ranks by them: ties always by order.

b points, C candidates, T embeddings, R their width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

BLOCK = 512
"""So many points at a time have their distances worked out, or fewer: at most FLOATS of them."""
FLOATS = 1 << 24
GROUP = 64


def block_size(num_candidates: int) -> int:
    """How many points at a time are measured against so many candidates: memory does not grow with their number."""
    return max(1, min(BLOCK, FLOATS // max(1, num_candidates)))


@dataclass(frozen=True)
class Targets:
    """Embeddings to measure distances to: their mean (R,), and [x, 1, |x|²] (T, R + 2) of each x less the mean."""

    centre: torch.Tensor
    extended: torch.Tensor


def make_targets(embeddings: torch.Tensor) -> Targets:
    """Ready embeddings (T, R) to measure distances to."""
    centre = embeddings.mean(dim=0)
    x = embeddings - centre
    squares = x.square().sum(1, keepdim=True)
    return Targets(centre, torch.cat([x, torch.ones_like(squares), squares], dim=1))


def distances_to(points: torch.Tensor, targets: Targets) -> torch.Tensor:
    """Squared Euclidean distances (b, T) of points (b, R) to the targets, float32.

    As |a|² + |b|² − 2ab, all three in one matrix product, after moving the targets' mean to the origin:
    embeddings of one encoder share a large common part, and leaving it in would cost the digits that order the
    candidates. The square root is left out, since it would only merge distances that differ.
    """
    x = points - targets.centre
    squares = x.square().sum(1, keepdim=True)
    extended = torch.cat([-2 * x, squares, torch.ones_like(squares)], dim=1)
    return F.linear(extended, targets.extended).clamp_(min=0.0)


def check_finite(values: torch.Tensor) -> None:
    """Raise ValueError unless distances or scores (a, b) are all numbers: nothing is smaller than NaN, so every true
    counter would come first."""
    # NaN spreads to both ends; a mask of all values would take several times as long.
    if values.numel() and not bool(torch.stack(torch.aminmax(values)).isfinite().all()):
        raise ValueError(
            "the model's embeddings or scores are not all finite numbers, so nothing can be ranked by them; "
            "training has diverged, or the weights are damaged"
        )


def first_k(distances: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k nearest finite candidates (b, k) in order of distance, ties by candidate order, and their distances.

    Rows with fewer end in −1 and inf. topk alone would leave ties to chance, so it only finds the k-th distance.
    """
    kth = torch.topk(distances, min(k, distances.shape[1]), dim=1, largest=False, sorted=False).values.amax(dim=1)
    rows, columns = ((distances <= kth[:, None]) & distances.isfinite()).nonzero(as_tuple=True)
    return first_k_of_lists(rows, columns, distances[rows, columns], len(distances), k)


def first_k_of_lists(
    rows: torch.Tensor, columns: torch.Tensor, values: torch.Tensor, num_rows: int, k: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """`first_k` of ragged lists: entries (row, column, value), in order of row, then column."""
    by_value = torch.argsort(values, stable=True)
    in_order = by_value[torch.argsort(rows[by_value], stable=True)]
    columns, values = columns[in_order], values[in_order]
    counts = torch.bincount(rows, minlength=num_rows)
    position = torch.arange(len(rows), device=rows.device) - (counts.cumsum(0) - counts)[rows]
    taken = position < k
    order = torch.full((num_rows, k), -1, dtype=torch.int64, device=values.device)
    nearest = torch.full((num_rows, k), torch.inf, dtype=values.dtype, device=values.device)
    order[rows[taken], position[taken]] = columns[taken]
    nearest[rows[taken], position[taken]] = values[taken]
    return order, nearest


def smallest(values: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k smallest values (b, k) of each row of (b, C) in ascending order, and their columns: torch.topk, faster.

    The k smallest lie in the k groups of columns with the smallest minima, so that only those are searched. Which
    of several equal values are taken is left to chance, as in topk.
    """
    num_groups = values.shape[1] // GROUP
    if values.device.type != "cpu" or 4 * k > num_groups:
        return torch.topk(values, k, dim=1, largest=False)
    minima = values[:, : num_groups * GROUP].unflatten(1, (num_groups, GROUP)).amin(2)
    groups = torch.topk(minima, k, dim=1, largest=False, sorted=False).indices
    columns = (groups[:, :, None] * GROUP + torch.arange(GROUP)).flatten(1)
    rest = torch.arange(num_groups * GROUP, values.shape[1]).expand(len(values), -1)
    columns = torch.cat([columns, rest], dim=1)
    found, places = torch.topk(values.gather(1, columns), k, dim=1, largest=False)
    return found, columns.gather(1, places)


def rank_of(scores: torch.Tensor, true: torch.Tensor, rows: torch.Tensor | None = None) -> torch.Tensor:
    """How many candidates come before the true ones (e,): smaller scores (b, C), or equal and earlier.

    rows (e,) are the rows of `scores` that the true ones are of; without, there is one a row.
    """
    if rows is not None:
        parts = [rank_of(scores[some], its) for some, its in chunks(rows, true, len(scores))]
        return torch.cat(parts) if parts else torch.zeros_like(true)
    own = scores.gather(1, true[:, None])
    before = (scores < own).sum(1)
    not_after = (scores <= own).sum(1)
    tied = (not_after - before > 1).nonzero(as_tuple=True)[0]
    if len(tied):
        earlier = torch.arange(scores.shape[1], device=scores.device)[None, :] < true[tied, None]
        before[tied] += ((scores[tied] == own[tied]) & earlier).sum(1)
    return before


def chunks(rows: torch.Tensor, true: torch.Tensor, num_rows: int) -> list[tuple[torch.Tensor | slice, torch.Tensor]]:
    """Right answers (e,) and their rows, as many at a time as there are rows; a slice where each row has one, since
    what it takes is no copy."""
    if torch.equal(rows, torch.arange(num_rows, device=rows.device)):
        return [(slice(None), true)]
    size = max(1, num_rows)
    return list(zip(rows.split(size), true.split(size), strict=True))


def ragged_arange(counts: np.ndarray) -> np.ndarray:
    """0 … counts[0] − 1, then 0 … counts[1] − 1, and so on, in one array."""
    return np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)


def take_rows(block: np.ndarray, entries: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Of (rows, candidates), sorted by row, those of the rows `block` (ascending, one may come again), as (positions in
    the block, candidates)."""
    rows, candidates = entries
    low, high = np.searchsorted(rows, block), np.searchsorted(rows, block, side="right")
    counts = high - low
    return np.repeat(np.arange(len(block)), counts), candidates[ragged_arange(counts) + np.repeat(low, counts)]


def exclude(scores: torch.Tensor, block: np.ndarray, excluded: tuple[np.ndarray, np.ndarray]) -> None:
    """Set the excluded candidates of the rows `block` (ascending) to inf in scores (b, C), in place."""
    position, candidates = take_rows(block, excluded)
    scores[torch.from_numpy(position).to(scores.device), torch.from_numpy(candidates).to(scores.device)] = torch.inf
