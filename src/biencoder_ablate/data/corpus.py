"""Points with the texts that answer them, and the corpus they form. Every loader yields these same records.

Imports nothing but the standard library, and `words`.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from biencoder_ablate.data.words import text_key as text_key

SPLITS = ("train", "val", "test")
CANDIDATE_SETS = ("answers", "all")
"""Among which texts an answer is looked for: counters, or counters and points."""
_STANCE_ORDER = {"con": 0, "pro": 1}


class DataError(ValueError):
    """A corpus that cannot be used as it is; the message names the file and what would do."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A point with a counter, both filed under one stance of a debate of a theme.

    A point with several counters has a pair for each. `grade` says how well this one answers; 0 makes it a candidate
    that is no right answer. `query` and `document` are the names of the two texts where the corpus gives them some, and
    `name` is the pair's own, unique in its split.
    """

    split: str
    theme: str
    debate: str
    stance: str
    number: int
    point: str
    counter: str
    grade: int = 1
    query: str = ""
    document: str = ""
    name: str = ""

    @property
    def id(self) -> str:
        if self.name or self.query:
            return f"{self.split}/{self.name or self.query}"
        return f"{self.split}/{self.theme}/{self.debate}/{self.stance}{self.number:02d}"

    @property
    def order(self) -> tuple[str, str, int, str, int]:
        """Candidate order: theme, debate, stance with con first, number."""
        return (self.theme, self.debate, _STANCE_ORDER.get(self.stance, 2), self.stance, self.number)


@dataclass(frozen=True, slots=True)
class Document:
    """A candidate with a name of its own, whether or not it answers anything."""

    id: str
    text: str


@dataclass(frozen=True)
class Corpus:
    """The pairs in use, per split and in candidate order, and what was published.

    With `documents` these are the candidates of every split; without, a split's own texts are. With
    `asks_pairs` (the ArguAna protocols) each pair is a query of its own, with one right answer; without, each point
    is, with all its counters (see `query_of`).

    `candidates`: among which texts a point's answer is looked for where evaluation.candidates does not say: "answers"
    (a split's counters, whatever their grade) or "all" (its points too). Documents leave no choice.

    `published` holds the text keys of each split as published: data.limit and data.disjoint shorten what
    is in use, but a text stays leaked all the same. `keys` are the text keys of all texts, worked out once.
    `incomplete` counts points without a counter by (split, theme). `folds` describes the cross-validation that the
    splits are a fold of (see `splitting.describe_folds`).
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
    documents: tuple[Document, ...] = ()
    asks_pairs: bool = False
    candidates: str = "all"
    folds: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.candidates not in CANDIDATE_SETS:
            raise DataError(f"data={self.name}: candidates={self.candidates}; must be {' or '.join(CANDIDATE_SETS)}")

    def split(self, name: str) -> tuple[Pair, ...]:
        assert name in SPLITS, name
        return getattr(self, name)

    @property
    def fingerprint(self) -> str:
        """sha256 (64 hex digits) over the pairs in use and the pairs as published, and over the documents."""
        used = [pair for name in SPLITS for pair in self.split(name)]
        parts = [self.published_fingerprint, _fingerprint(used)]
        if self.documents:
            parts.append(_digest([document.id, document.text] for document in self.documents))
        elif not self.asks_pairs and any(self._repeats_a_text(name) for name in SPLITS):
            parts.append("points")  # until 0.2.0 the same pairs were asked one by one, which led to other figures
        return hashlib.sha256(" ".join(parts).encode()).hexdigest()

    def _repeats_a_text(self, split: str) -> bool:
        pairs = self.split(split)
        return len(pair_keys(pairs, self.keys)) < 2 * len(pairs)

    def named_texts(self, split: str) -> Iterator[tuple[str, str]]:
        """(name, text) of a split's candidates and points: documents by their ids, the others as …#point, …#counter."""
        yield from ((document.id, document.text) for document in self.documents)
        for pair in self.split(split):
            yield f"{pair.id}#point", pair.point
            if not self.documents:
                yield f"{pair.id}#counter", pair.counter


def query_of(pair: Pair, keys: Mapping[str, str]) -> str:
    """What makes two pairs of a split one query with several right answers: its name, or else the point's text key."""
    return pair.query or keys[pair.point]


def build_corpus(
    name: str,
    pairs: Iterable[Pair],
    incomplete: Counter[tuple[str, str]] | None = None,
    documents: Iterable[Document] = (),
    asks_pairs: bool = False,
    may_lack: Sequence[str] = (),
    candidates: str = "all",
) -> Corpus:
    """Sort the pairs into a corpus; with `documents`, each pair names the one that is its counter.

    Raises DataError when a split is empty, but for those it `may_lack`.
    """
    ordered = sorted(pairs, key=lambda pair: pair.order)
    splits = {split: tuple(pair for pair in ordered if pair.split == split) for split in SPLITS}
    for split, in_split in splits.items():
        if not in_split and split not in may_lack:
            raise DataError(f"data={name}: no complete pair in split {split}; train, val and test need one each")

    documents = tuple(documents)
    texts = [text for pair in ordered for text in (pair.point, pair.counter)]
    texts += [document.text for document in documents]
    keys = {text: text_key(text) for text in dict.fromkeys(texts)}
    return Corpus(
        name,
        splits["train"],
        splits["val"],
        splits["test"],
        published={split: pair_keys(in_split, keys) for split, in_split in splits.items()},
        keys=keys,
        incomplete=dict(incomplete or {}),
        published_fingerprint=_fingerprint(pair for in_split in splits.values() for pair in in_split),
        documents=documents,
        asks_pairs=asks_pairs,
        candidates=candidates,
    )


def own_texts(pair: Pair) -> tuple[str, ...]:
    """The texts that must not come in two splits: point and counter; among documents, which splits share, the point."""
    return (pair.point,) if pair.query else (pair.point, pair.counter)


def pair_keys(pairs: Iterable[Pair], keys: Mapping[str, str]) -> frozenset[str]:
    """The text keys of what must not come in two splits, looked up in `keys`."""
    return frozenset(keys[text] for pair in pairs for text in own_texts(pair))


def make_disjoint(corpus: Corpus) -> Corpus:
    """Drop from train every pair that shares a text with val or test, and from val those that share with test.

    Where a point is asked for all its counters, all its pairs go: what is left would be wrong answers to it.
    """

    def unit(pair: Pair) -> Pair | str:
        """What goes as a whole: a pair, or a point with all its counters."""
        return pair if corpus.asks_pairs else query_of(pair, corpus.keys)

    def without(pairs: tuple[Pair, ...], later: frozenset[str]) -> tuple[Pair, ...]:
        leaked = {unit(pair) for pair in pairs if pair_keys([pair], corpus.keys) & later}
        return tuple(pair for pair in pairs if unit(pair) not in leaked)

    train = without(corpus.train, corpus.published["val"] | corpus.published["test"])
    val = without(corpus.val, corpus.published["test"])
    for name, left in (("train", train), ("val", val)):
        if corpus.split(name) and not left:
            raise DataError(f"data.disjoint=true leaves no pair in {name}; every pair shares a text with later splits")
    note = (
        f"data.disjoint: dropped {len(corpus.train) - len(train)} of {len(corpus.train)} train pairs "
        f"and {len(corpus.val) - len(val)} of {len(corpus.val)} val pairs that share a text with later splits"
    )
    return replace(corpus, train=train, val=val, notes=(*corpus.notes, note))


def limit_debates(corpus: Corpus, limit: int) -> Corpus:
    """Keep the first `limit` debates of each split: for a trial."""

    def first(pairs: tuple[Pair, ...]) -> tuple[Pair, ...]:
        debates = dict.fromkeys((pair.theme, pair.debate) for pair in pairs)
        kept = set(itertools.islice(debates, limit))
        return tuple(pair for pair in pairs if (pair.theme, pair.debate) in kept)

    note = f"data.limit: only the first {limit} debates of each split, a trial"
    train, val, test = first(corpus.train), first(corpus.val), first(corpus.test)
    return replace(corpus, train=train, val=val, test=test, notes=(*corpus.notes, note))


def as_one_split(corpus: Corpus) -> tuple[Pair, ...]:
    """All pairs of a corpus as pairs of test, in candidate order: what the folds of a cross-validation test in turn."""
    pairs = [replace(pair, split="test") for split in SPLITS for pair in corpus.split(split)]
    return tuple(sorted(pairs, key=lambda pair: pair.order))


def fingerprint_pairs(pairs: Iterable[Pair]) -> str:
    """sha256 (64 hex digits) over pairs in their order."""
    return _fingerprint(pairs)


def _fingerprint(pairs: Iterable[Pair]) -> str:
    rows = []
    for pair in pairs:
        row = [pair.split, pair.theme, pair.debate, pair.stance, pair.number, pair.point, pair.counter]
        # What pairs did not have at first counts where it is not the default, so that older corpora keep their name.
        newer = [pair.grade, pair.query, pair.document]
        row += [] if newer == [1, "", ""] else newer
        rows.append([*row, pair.name] if pair.name else row)
    return _digest(rows)


def _digest(rows: Iterable[list]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
