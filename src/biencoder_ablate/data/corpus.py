"""Pairs of a point and its counter, and the corpus they form. Every loader yields these same records.

Imports nothing but the standard library.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

SPLITS = ("train", "val", "test")
_STANCE_ORDER = {"con": 0, "pro": 1}


class DataError(ValueError):
    """A corpus that cannot be used as it is; the message names the file and what would do."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A point with its counter, both filed under one stance of a debate of a theme."""

    split: str
    theme: str
    debate: str
    stance: str
    number: int
    point: str
    counter: str

    @property
    def id(self) -> str:
        return f"{self.split}/{self.theme}/{self.debate}/{self.stance}{self.number:02d}"

    @property
    def order(self) -> tuple[str, str, int, str, int]:
        """Candidate order (design §2): theme, debate, stance with con first, number."""
        return (self.theme, self.debate, _STANCE_ORDER.get(self.stance, 2), self.stance, self.number)


@dataclass(frozen=True)
class Corpus:
    """The pairs in use, per split and in candidate order, and what was published.

    `published` holds the text keys of each split as published: data.limit and data.disjoint shorten what
    is in use, but a text stays leaked all the same. `keys` are the text keys of all texts, worked out once.
    `incomplete` counts points without a counter by (split, theme).
    """

    name: str
    train: tuple[Pair, ...]
    val: tuple[Pair, ...]
    test: tuple[Pair, ...]
    published: Mapping[str, frozenset[str]]
    keys: Mapping[str, str]
    incomplete: Mapping[tuple[str, str], int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    published_fingerprint: str = ""

    def split(self, name: str) -> tuple[Pair, ...]:
        assert name in SPLITS, name
        return getattr(self, name)

    @property
    def fingerprint(self) -> str:
        """sha256 (64 hex digits) over the pairs in use and the pairs as published."""
        used = [pair for name in SPLITS for pair in self.split(name)]
        return hashlib.sha256(f"{self.published_fingerprint} {_fingerprint(used)}".encode()).hexdigest()


def text_key(text: str) -> str:
    """What makes two texts the same text: equality after folding case, space and punctuation."""
    return re.sub(r"[\W_]+", "", text.casefold()) or text


def build_corpus(name: str, pairs: Iterable[Pair], incomplete: Counter[tuple[str, str]] | None = None) -> Corpus:
    """Sort the pairs into a corpus. Raises DataError when a split is empty."""
    ordered = sorted(pairs, key=lambda pair: pair.order)
    splits = {split: tuple(pair for pair in ordered if pair.split == split) for split in SPLITS}
    for split, found in splits.items():
        if not found:
            raise DataError(f"data={name}: no complete pair in split {split}; train, val and test need one each")
    keys = {text: text_key(text) for pair in ordered for text in (pair.point, pair.counter)}
    published = {split: pair_keys(found, keys) for split, found in splits.items()}
    return Corpus(
        name,
        splits["train"],
        splits["val"],
        splits["test"],
        published=published,
        keys=keys,
        incomplete=dict(incomplete or {}),
        published_fingerprint=_fingerprint(pair for found in splits.values() for pair in found),
    )


def pair_keys(pairs: Iterable[Pair], keys: Mapping[str, str]) -> frozenset[str]:
    """The text keys of all points and counters, looked up in `keys`."""
    return frozenset(keys[text] for pair in pairs for text in (pair.point, pair.counter))


def make_disjoint(corpus: Corpus) -> Corpus:
    """Drop from train every pair that shares a text with val or test, and from val those that share with test."""
    val_or_test = corpus.published["val"] | corpus.published["test"]
    train = tuple(pair for pair in corpus.train if not pair_keys([pair], corpus.keys) & val_or_test)
    val = tuple(pair for pair in corpus.val if not pair_keys([pair], corpus.keys) & corpus.published["test"])
    for name, left in (("train", train), ("val", val)):
        if not left:
            raise DataError(f"data.disjoint=true leaves no pair in {name}; every pair shares a text with later splits")
    note = (
        f"data.disjoint: dropped {len(corpus.train) - len(train)} of {len(corpus.train)} train pairs "
        f"and {len(corpus.val) - len(val)} of {len(corpus.val)} val pairs that share a text with later splits"
    )
    return replace(corpus, train=train, val=val, notes=(*corpus.notes, note))


def limit_debates(corpus: Corpus, limit: int) -> Corpus:
    """Keep the first `limit` debates of each split: for a trial."""

    def first(pairs: tuple[Pair, ...]) -> tuple[Pair, ...]:
        debates = list(dict.fromkeys((pair.theme, pair.debate) for pair in pairs))
        kept = set(debates[:limit])
        return tuple(pair for pair in pairs if (pair.theme, pair.debate) in kept)

    note = f"data.limit: only the first {limit} debates of each split, a trial"
    return replace(
        corpus, train=first(corpus.train), val=first(corpus.val), test=first(corpus.test), notes=(*corpus.notes, note)
    )


def _fingerprint(pairs: Iterable[Pair]) -> str:
    digest = hashlib.sha256()
    for pair in pairs:
        row = [pair.split, pair.theme, pair.debate, pair.stance, pair.number, pair.point, pair.counter]
        digest.update(json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
