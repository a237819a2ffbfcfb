"""Which split a group of pairs goes to, where the data do not say: train, val and test, or the folds of a
cross-validation. Groups (debates, products, points) are never divided.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from biencoder_ablate.config.schema import DataConfig
from biencoder_ablate.data.corpus import Corpus, DataError, as_one_split, fingerprint_pairs
from biencoder_ablate.utils.seeding import generator

SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "validation": "val",
    "valid": "val",
    "dev": "val",
    "test": "test",
}
"""What data sets call the splits, in lower case."""

Group = tuple[str, str]
"""Theme and debate."""


def draw_splits(groups: Sequence[Group], settings: DataConfig) -> dict[Group, str]:
    """Assign whole groups to splits: to those of data.fold, if data.folds is given, else 60/20/20.

    Raises DataError where there are too few groups.
    """
    if settings.folds is None:
        return split_debates(groups, settings.split_seed)
    assert settings.fold is not None
    return split_folds(groups, settings.split_seed, settings.folds, settings.fold)


def split_debates(debates: Sequence[Group], split_seed: int) -> dict[Group, str]:
    """Assign whole debates, (theme, debate), to splits, 60/20/20, by a seed of their own.

    Raises DataError below three debates.
    """
    distinct = sorted(set(debates))
    if len(distinct) < 3:
        raise DataError(
            f"debates: {len(distinct)}; to be split into train, val and test at least 3 are needed, or a column split"
        )
    shuffled = [distinct[i] for i in generator(split_seed, "split").permutation(len(distinct))]
    held_out = max(1, round(len(distinct) / 5))
    names = ["val"] * held_out + ["test"] * held_out
    names += ["train"] * (len(distinct) - len(names))
    return dict(zip(shuffled, names, strict=True))


def split_folds(groups: Sequence[Group], split_seed: int, num_folds: int, fold: int) -> dict[Group, str]:
    """Assign whole groups to splits: those of fold `fold` to test, of the next fold to val, the rest to train.

    The folds have equal numbers of groups, or numbers that differ by one, and are the same for each `fold`. Raises
    DataError where there are fewer groups than folds.
    """
    distinct = sorted(set(groups))
    if len(distinct) < num_folds:
        raise DataError(f"data.folds={num_folds}: only {len(distinct)} groups of pairs; must be at most as many")
    order = generator(split_seed, "folds").permutation(len(distinct))
    splits = {fold: "test", (fold + 1) % num_folds: "val"}
    return {distinct[i]: splits.get(place % num_folds, "train") for place, i in enumerate(order)}


def describe_folds(corpus: Corpus, settings: DataConfig) -> dict[str, Any]:
    """What the folds of a cross-validation have in common, and under "fold" which one this is; {} without data.folds.

    `corpus` is as it was read, before data.disjoint and data.limit.
    """
    if settings.folds is None:
        return {}
    return {
        "num": settings.folds,
        "fold": settings.fold,
        "split_seed": settings.split_seed,
        "disjoint": settings.disjoint,
        "limit": settings.limit,
        "pairs": fingerprint_pairs(as_one_split(corpus)),
    }


def folds_fingerprint(folds: Mapping[str, Any]) -> str:
    """sha256 (64 hex digits) over what the folds have in common: the fingerprint of the data of all of them."""
    common = {key: value for key, value in folds.items() if key != "fold"}
    return hashlib.sha256(json.dumps(common, sort_keys=True).encode()).hexdigest()
