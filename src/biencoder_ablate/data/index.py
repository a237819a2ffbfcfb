"""A corpus as numbers: its distinct texts, and each split as arrays of indices into them.

Shapes: T distinct strings, N pairs of a split.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from biencoder_ablate.data.corpus import SPLITS, Corpus, Pair


@dataclass(frozen=True)
class SplitArrays:
    """A split's pairs in candidate order; all arrays have length N.

    `point` and `counter` index the texts; `point_key` and `counter_key` are equal where texts are equal after
    folding; `theme`, `debate` and `stance` number those of the split. `clean` marks the pairs that count in
    clean figures: the first asking of each distinct pair, neither of whose texts came in an earlier split.
    """

    name: str
    pairs: tuple[Pair, ...]
    point: np.ndarray
    counter: np.ndarray
    point_key: np.ndarray
    counter_key: np.ndarray
    theme: np.ndarray
    debate: np.ndarray
    stance: np.ndarray
    clean: np.ndarray

    def __len__(self) -> int:
        return len(self.pairs)


@dataclass(frozen=True)
class TextIndex:
    """The T distinct strings of a corpus in order of first use, their keys (T,), and the splits over them."""

    texts: tuple[str, ...]
    keys: np.ndarray
    splits: dict[str, SplitArrays]

    @property
    def fingerprint(self) -> str:
        return fingerprint_texts(self.texts)


def fingerprint_texts(texts: tuple[str, ...]) -> str:
    """sha256 over the strings and their order."""
    digest = hashlib.sha256()
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return digest.hexdigest()


def answers_of(split: SplitArrays) -> tuple[np.ndarray, np.ndarray]:
    """The right answers of every row: (rows, keys), both (E,), sorted by row, then by key, each key once a row.

    A right answer is a text equal, after folding, to any counter that the row's point has anywhere in the split: in
    training none of them is ever a negative. (The ArguAna protocols still ask one pair for its own counter.)
    """
    pairs = np.unique(np.stack([split.point_key, split.counter_key], axis=1), axis=0)
    points, firsts, nums = np.unique(pairs[:, 0], return_index=True, return_counts=True)
    place = np.searchsorted(points, split.point_key)
    nums = nums[place]
    starts = np.cumsum(nums) - nums
    within = np.arange(nums.sum()) - np.repeat(starts, nums)
    return np.repeat(np.arange(len(split)), nums), pairs[np.repeat(firsts[place], nums) + within, 1]


def build_index(corpus: Corpus) -> TextIndex:
    """Number the texts, keys, themes, debates and stances of a corpus."""
    number_of: dict[str, int] = {}
    for name in SPLITS:
        for pair in corpus.split(name):
            for text in (pair.point, pair.counter):
                number_of.setdefault(text, len(number_of))
    keys = _number([corpus.keys[text] for text in number_of])
    earlier: frozenset[str] = frozenset()
    splits = {}
    for name in SPLITS:
        splits[name] = _split_arrays(name, corpus, number_of, keys, earlier)
        earlier |= corpus.published[name]
    return TextIndex(tuple(number_of), keys, splits)


def _split_arrays(
    name: str, corpus: Corpus, number_of: dict[str, int], keys: np.ndarray, earlier: frozenset[str]
) -> SplitArrays:
    pairs = corpus.split(name)
    point = np.array([number_of[pair.point] for pair in pairs], dtype=np.int64)
    counter = np.array([number_of[pair.counter] for pair in pairs], dtype=np.int64)
    asked: set[tuple[int, int]] = set()
    clean = np.zeros(len(pairs), dtype=bool)
    for row, pair in enumerate(pairs):
        both = (int(keys[point[row]]), int(keys[counter[row]]))
        leaked = corpus.keys[pair.point] in earlier or corpus.keys[pair.counter] in earlier
        clean[row] = both not in asked and not leaked
        asked.add(both)
    return SplitArrays(
        name,
        pairs,
        point,
        counter,
        keys[point],
        keys[counter],
        theme=_number([pair.theme for pair in pairs]),
        debate=_number([(pair.theme, pair.debate) for pair in pairs]),
        stance=_number([pair.stance for pair in pairs]),
        clean=clean,
    )


def _number(values: list) -> np.ndarray:
    """A number for each value (N,), equal ones alike, from 0 in order of first use."""
    numbers = {value: number for number, value in enumerate(dict.fromkeys(values))}
    return np.array([numbers[value] for value in values], dtype=np.int64)
