"""Splits whole debates into train, val and test (60/20/20) by a seed of their own."""

from __future__ import annotations

from collections.abc import Sequence

from biencoder_ablate.data.corpus import DataError
from biencoder_ablate.seeding import generator


def split_debates(debates: Sequence[tuple[str, str]], split_seed: int) -> dict[tuple[str, str], str]:
    """Assign each distinct (theme, debate) to a split. Raises DataError below three debates."""
    distinct = sorted(set(debates))
    if len(distinct) < 3:
        raise DataError(
            f"{len(distinct)} debates cannot be split into train, val and test; at least 3 are needed, "
            "or a column split"
        )
    shuffled = [distinct[i] for i in generator(split_seed, "split").permutation(len(distinct))]
    held_out = max(1, round(len(distinct) / 5))
    names = ["val"] * held_out + ["test"] * held_out
    names += ["train"] * (len(distinct) - len(names))
    return dict(zip(shuffled, names, strict=True))
