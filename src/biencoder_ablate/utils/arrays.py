"""Ragged lists as flat numpy arrays, and results of blocks joined.

Entries (E,) lie row by row; `groups` (E,), ascending, says which row each belongs to.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

T = TypeVar("T", bound=Any)

Entries = tuple[np.ndarray, np.ndarray]
"""(groups, values), both (E,), sorted by group."""


def ragged_arange(counts: np.ndarray) -> np.ndarray:
    """0 … counts[0] − 1, then 0 … counts[1] − 1, and so on, in one array."""
    starts = np.cumsum(counts) - counts
    return np.arange(counts.sum()) - np.repeat(starts, counts)


def ragged_take(
    values: np.ndarray,
    starts: np.ndarray,
    counts: np.ndarray,
) -> np.ndarray:
    """The slices values[start : start + count], one for each of `starts` and `counts`, end to end."""
    first = np.repeat(starts, counts)
    return values[first + ragged_arange(counts)]


def take_rows(
    rows: np.ndarray,
    entries: Entries,
) -> Entries:
    """The entries (groups, values) of some rows, which ascend and may repeat: (positions in `rows`, values)."""
    groups, values = entries
    starts = np.searchsorted(groups, rows)
    counts = np.searchsorted(groups, rows, side="right") - starts
    positions = np.repeat(np.arange(len(rows)), counts)
    return positions, ragged_take(values, starts, counts)


def group_starts(groups: np.ndarray) -> np.ndarray:
    """Where each group of entries begins, as numpy's `reduceat` takes it."""
    return np.flatnonzero(np.diff(groups, prepend=-1))


def concatenate_fields(blocks: Sequence[T]) -> T:
    """Dataclasses whose fields are arrays, one for each block of rows, as one over all rows."""
    columns = zip(*(vars(block).values() for block in blocks), strict=True)
    return type(blocks[0])(*map(np.concatenate, columns))
