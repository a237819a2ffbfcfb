"""Distances between embeddings, the nearest of many, and ranks by them: ties always by order.

b points, C candidates, T embeddings, R their width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from biencoder_ablate.utils.arrays import Entries, take_rows

BLOCK = 512
"""The most points whose distances are computed at a time."""
FLOATS = 1 << 24
"""The most distances computed at a time (64 MB)."""
GROUP = 64
"""How many columns `smallest` searches as one."""


def block_size(num_candidates: int) -> int:
    """How many points are compared with all candidates at a time, so that memory does not grow with either."""
    num_points = FLOATS // max(1, num_candidates)
    return max(1, min(BLOCK, num_points))


@dataclass(frozen=True)
class Targets:
    """Embeddings prepared for `distances_to`: their mean (R,), and [x, 1, |x|²] (T, R + 2) of each x less the mean."""

    centre: Tensor
    extended: Tensor


def make_targets(embeddings: Tensor) -> Targets:
    """Prepare embeddings (T, R) for `distances_to`."""
    centre = embeddings.mean(dim=0)
    x = embeddings - centre
    squares = x.square().sum(1, keepdim=True)
    ones = torch.ones_like(squares)
    extended = torch.cat([x, ones, squares], dim=1)
    return Targets(centre, extended)


def distances_to(points: Tensor, targets: Targets) -> Tensor:
    """Squared Euclidean distances (b, T) of points (b, R) to the targets, float32.

    |a|² + |b|² − 2ab, all three terms in one matrix product, after the targets' mean has been moved to the origin:
    embeddings of one encoder share a large common part, and keeping it would cost the digits that order the
    candidates. The square root is left out, since rounding it would only merge distances that differ.
    """
    x = points - targets.centre
    squares = x.square().sum(1, keepdim=True)
    ones = torch.ones_like(squares)
    extended = torch.cat([-2 * x, squares, ones], dim=1)  # (b, R + 2)
    squared_distances = F.linear(extended, targets.extended)
    return squared_distances.clamp_(min=0.0)  # rounding may leave less than nothing


def check_finite(values: Tensor) -> None:
    """Raise ValueError unless all distances or scores are finite: nothing compares as smaller than NaN, so that every
    right answer would come first."""
    if not values.numel():
        return
    # The extremes are NaN where any value is; a mask over all values would take several times as long.
    extremes = torch.stack(torch.aminmax(values))
    if not bool(extremes.isfinite().all()):
        raise ValueError(
            "the model's embeddings or scores are not all finite numbers, so nothing can be ranked by them; "
            "training has diverged, or the weights are damaged"
        )


def first_k(distances: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k nearest finite candidates (b, k) in order of distance, ties by candidate order, and their distances.

    Rows with fewer end in −1 and inf. topk alone breaks ties arbitrarily, so it only finds the k-th distance.
    """
    num = min(k, distances.shape[1])
    k_smallest = torch.topk(distances, num, dim=1, largest=False, sorted=False)
    kth = k_smallest.values.amax(dim=1, keepdim=True)

    near = (distances <= kth) & distances.isfinite()
    rows, columns = near.nonzero(as_tuple=True)
    values = distances[rows, columns]
    return first_k_of_lists(rows, columns, values, len(distances), k)


def first_k_of_lists(
    rows: Tensor,
    columns: Tensor,
    values: Tensor,
    num_rows: int,
    k: int,
) -> tuple[Tensor, Tensor]:
    """`first_k` of ragged lists, given as entries (row, column, value) in order of row, then column."""
    # Two stable sorts: by row, within a row by value, and equal values in order of their columns.
    by_value = torch.argsort(values, stable=True)
    by_row = torch.argsort(rows[by_value], stable=True)
    in_order = by_value[by_row]

    # The place of each entry within its row; `rows` itself is in order already.
    counts = torch.bincount(rows, minlength=num_rows)
    starts = counts.cumsum(0) - counts
    place = torch.arange(len(rows), device=rows.device) - starts[rows]

    first = place < k
    source = in_order[first]
    target = rows[first], place[first]
    order = columns.new_full((num_rows, k), -1)
    nearest = values.new_full((num_rows, k), torch.inf)
    order[target] = columns[source]
    nearest[target] = values[source]
    return order, nearest


def smallest(values: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k smallest values (b, k) of each row of (b, C), ascending, and their columns: torch.topk, faster on a CPU.

    Which of several equal values are taken is arbitrary, as in topk.
    """
    num_groups = values.shape[1] // GROUP
    if values.device.type != "cpu" or 4 * k > num_groups:
        return torch.topk(values, k, dim=1, largest=False)

    # The k smallest values lie in the k groups of columns with the smallest minima: only these are searched.
    num_grouped = num_groups * GROUP
    grouped = values[:, :num_grouped].unflatten(1, (num_groups, GROUP))
    minima = grouped.amin(2)  # (b, num_groups)
    groups = torch.topk(minima, k, dim=1, largest=False, sorted=False).indices
    starts = groups[:, :, None] * GROUP
    columns = (starts + torch.arange(GROUP)).flatten(1)

    # The columns that no group holds are searched in any case.
    rest = torch.arange(num_grouped, values.shape[1])
    rest = rest.expand(len(values), -1)
    columns = torch.cat([columns, rest], dim=1)
    searched = values.gather(1, columns)
    k_smallest = torch.topk(searched, k, dim=1, largest=False)
    return k_smallest.values, columns.gather(1, k_smallest.indices)


def rank_of(
    scores: Tensor,
    columns: Tensor,
    rows: Tensor | None = None,
) -> Tensor:
    """How many candidates come before each right answer (e,): smaller scores (b, C), or equal and earlier.

    `columns` (e,) are the right answers, and `rows` (e,) the rows of `scores` that they belong to; without `rows` there
    is one a row.
    """
    if rows is not None:
        ranks = []
        for chunk, right in chunks(rows, columns, len(scores)):
            ranks.append(rank_of(scores[chunk], right))
        return torch.cat(ranks)

    right_score = scores.gather(1, columns[:, None])
    before = (scores < right_score).sum(1)
    not_after = (scores <= right_score).sum(1)

    # Only where another candidate has the very same score do their places matter.
    tied = (not_after - before > 1).nonzero(as_tuple=True)[0]
    if len(tied):
        every_column = torch.arange(scores.shape[1], device=scores.device)
        earlier = every_column < columns[tied, None]
        equal = scores[tied] == right_score[tied]
        before[tied] += (equal & earlier).sum(1)
    return before


def chunks(
    rows: Tensor,
    columns: Tensor,
    num_rows: int,
) -> list[tuple[Tensor | slice, Tensor]]:
    """Right answers (e,) as (rows, columns), as many at a time as there are rows, so that what is taken of a matrix for
    them is no larger than the matrix. Where each row has one right answer the rows are a slice, which takes no copy."""
    if torch.equal(rows, torch.arange(num_rows, device=rows.device)):
        return [(slice(None), columns)]
    size = max(1, num_rows)
    return list(zip(rows.split(size), columns.split(size), strict=True))


def exclude(
    distances: Tensor,
    rows: np.ndarray,
    excluded: Entries,
) -> None:
    """Set the distances (b, C) of excluded candidates to inf, in place.

    `rows` (b,), ascending, are those of the block; `excluded` are (rows, candidates), sorted by row.
    """
    position, candidates = take_rows(rows, excluded)
    row = torch.as_tensor(position, device=distances.device)
    column = torch.as_tensor(candidates, device=distances.device)
    distances[row, column] = torch.inf
