"""A corpus as numbers: its distinct texts, and each split as arrays of indices into them.

Shapes: T distinct strings, N pairs of a split, D documents.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from biencoder_ablate.data.corpus import SPLITS, Corpus, Pair, pair_keys, query_of
from biencoder_ablate.utils.arrays import ragged_take


@dataclass(frozen=True)
class Documents:
    """Candidates that all splits share: their ids, and by document text index and text key (D,)."""

    ids: tuple[str, ...]
    text: np.ndarray
    key: np.ndarray


@dataclass(frozen=True)
class SplitArrays:
    """A split's pairs in candidate order; all arrays have length N.

    `point` and `counter` index the texts; `point_key` and `counter_key` are equal where texts are equal after
    folding; `theme`, `debate` and `stance` number those of the split. `query` numbers the queries, in order of first
    use: with `asks_pairs` each pair is one, else pairs of one point share it. `leaked` marks the pairs with a text of
    their own that came in an earlier split, `clean` the first of each distinct pair, where it is a right answer and not
    leaked. `candidates` is the corpus's own choice of them.
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
    leaked: np.ndarray
    grade: np.ndarray
    query: np.ndarray
    asks_pairs: bool
    documents: Documents | None
    candidates: str = "all"

    def __len__(self) -> int:
        return len(self.pairs)


@dataclass(frozen=True)
class TextTable:
    """The T distinct strings of a corpus in order of first use, their keys (T,), and the splits over them."""

    texts: tuple[str, ...]
    keys: np.ndarray
    splits: dict[str, SplitArrays]


def fingerprint_texts(texts: Sequence[str]) -> str:
    """sha256 over the strings and their order."""
    digest = hashlib.sha256()
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return digest.hexdigest()


def answers_of(split: SplitArrays) -> tuple[np.ndarray, np.ndarray]:
    """The right answers of every row: (rows, keys), both (E,), sorted by row, then by key, each key once a row.

    A right answer is a text equal, after folding, to any counter, of a grade above 0, that the row's point has anywhere
    in the split: in training none of them is ever a negative. (The ArguAna protocols still ask one pair for its own
    counter.)
    """
    is_right = split.grade > 0
    key_pairs = np.stack([split.point_key, split.counter_key], axis=1)[is_right]
    key_pairs = np.unique(key_pairs, axis=0)  # sorted by point, then by counter

    # Each row that has answers gets the run of pairs that begin with its point.
    points, firsts, nums = np.unique(key_pairs[:, 0], return_index=True, return_counts=True)
    rows = np.flatnonzero(np.isin(split.point_key, points))
    place = np.searchsorted(points, split.point_key[rows])
    nums = nums[place]
    return np.repeat(rows, nums), ragged_take(key_pairs[:, 1], firsts[place], nums)


def clean_queries(split: SplitArrays) -> np.ndarray:
    """Which of the Q queries that have a right answer, in order of their numbers, count in clean figures (Q,).

    With asks_pairs the clean pairs; else the first of the queries with equal points, unless a text of the query or of
    one of its right answers came in an earlier split.
    """
    if split.asks_pairs:
        return split.clean
    is_right = split.grade > 0
    queries, first_rows = np.unique(split.query[is_right], return_index=True)  # both (Q,)
    _, first_queries = np.unique(split.point_key[is_right][first_rows], return_index=True)
    counts = np.zeros(len(queries), dtype=bool)
    counts[first_queries] = True
    return counts & ~np.isin(queries, split.query[is_right & split.leaked])


def build_table(corpus: Corpus) -> TextTable:
    """Number the texts, keys, themes, debates, stances and queries of a corpus."""
    texts = [text for name in SPLITS for pair in corpus.split(name) for text in (pair.point, pair.counter)]
    texts += [document.text for document in corpus.documents]
    number_of = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    keys = _number([corpus.keys[text] for text in number_of])

    documents = None
    if corpus.documents:
        rows = np.array([number_of[document.text] for document in corpus.documents], dtype=np.int64)
        documents = Documents(tuple(document.id for document in corpus.documents), rows, keys[rows])

    earlier: frozenset[str] = frozenset()
    splits = {}
    for name in SPLITS:
        splits[name] = _split_arrays(name, corpus, number_of, keys, earlier, documents)
        earlier |= corpus.published[name]
    return TextTable(tuple(number_of), keys, splits)


def _split_arrays(
    name: str,
    corpus: Corpus,
    number_of: dict[str, int],
    keys: np.ndarray,
    earlier: frozenset[str],
    documents: Documents | None,
) -> SplitArrays:
    pairs = corpus.split(name)
    point = np.array([number_of[pair.point] for pair in pairs], dtype=np.int64)
    counter = np.array([number_of[pair.counter] for pair in pairs], dtype=np.int64)
    point_key, counter_key = keys[point], keys[counter]

    # A pair is clean where it is the first of its two texts, and no text of its own came in an earlier split.
    leaked = np.zeros(len(pairs), dtype=bool)
    clean = np.zeros(len(pairs), dtype=bool)
    seen: set[tuple[int, int]] = set()
    for row, pair in enumerate(pairs):
        leaked[row] = bool(pair_keys([pair], corpus.keys) & earlier)
        if pair.grade > 0:
            both = (int(point_key[row]), int(counter_key[row]))
            clean[row] = both not in seen and not leaked[row]
            seen.add(both)
    queries = list(range(len(pairs))) if corpus.asks_pairs else [query_of(pair, corpus.keys) for pair in pairs]
    return SplitArrays(
        name,
        pairs,
        point,
        counter,
        point_key,
        counter_key,
        theme=_number([pair.theme for pair in pairs]),
        debate=_number([(pair.theme, pair.debate) for pair in pairs]),
        stance=_number([pair.stance for pair in pairs]),
        clean=clean,
        leaked=leaked,
        grade=np.array([pair.grade for pair in pairs], dtype=np.int64),
        query=_number(queries),
        asks_pairs=corpus.asks_pairs,
        documents=documents,
        candidates=corpus.candidates,
    )


def _number(values: list) -> np.ndarray:
    """A number for each value (N,), equal ones alike, from 0 in order of first use."""
    numbers = {value: number for number, value in enumerate(dict.fromkeys(values))}
    return np.array([numbers[value] for value in values], dtype=np.int64)


def points_of(table: TextTable) -> np.ndarray:
    """Text indices of the points of all splits."""
    return np.concatenate([split.point for split in table.splits.values()])
