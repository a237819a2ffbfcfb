"""What a careful person wants to know of a corpus before training on it: sizes, duplicates, leakage, lengths.

Pure: a corpus and its table in, a JSON-like report out. Texts are *equal* when `text_key` says so. Two texts are
*near duplicates* when they are not equal, and of the word 5-grams that either has (words are the matches of
\\w+ in the case-folded text; a text of fewer than five words is one shingle), both have at least four fifths:
Jaccard ≥ 0.8 (Broder 1997, "On the resemblance and containment of documents").
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from biencoder_ablate.data.corpus import SPLITS, Corpus
from biencoder_ablate.data.index import SplitArrays, TextIndex

SHINGLE_WORDS = 5
JACCARD = (4, 5)
"""The least share of shingles in common, as a fraction so that counting stays exact."""
SPLIT_PAIRS = (("train", "val"), ("train", "test"), ("val", "test"))
_WORD = re.compile(r"\w+")


def audit_corpus(
    corpus: Corpus,
    table: TextIndex,
    candidates: Mapping[str, Mapping[str, int]],
    token_lengths: np.ndarray | None = None,
    max_tokens: int | None = None,
) -> dict[str, Any]:
    """The report on the pairs in use (with data.limit or data.disjoint, those that are left).

    candidates: the totals of each kind of candidate by split. token_lengths (T,): of every string of the table,
    before cutting at max_tokens; without them the report has no token lengths.
    """
    keys = {
        name: np.unique(np.concatenate([split.point_key, split.counter_key])) for name, split in table.splits.items()
    }
    strings = _first_of_each_key(table)
    near = near_duplicates([table.texts[row] for row in strings])
    words = np.array([len(_WORD.findall(text)) for text in table.texts], dtype=np.int64)
    splits: dict[str, Any] = {}
    for name in SPLITS:
        report = _sizes(corpus, table.splits[name], keys[name])
        both = np.isin(near, keys[name]).all(axis=1)
        report["num_exact_duplicates"] = 2 * report["num_pairs"] - report["num_distinct_texts"]
        report["num_near_duplicates"] = len(np.unique(near[both]))
        report["num_near_duplicate_pairs"] = int(both.sum())
        report["candidates"] = dict(candidates[name])
        rows = strings[keys[name]]
        report["words"] = _spread(words[rows])
        report["tokens"] = None if token_lengths is None else _token_spread(token_lengths[rows], max_tokens)
        report["themes"] = _themes(corpus, table.splits[name])
        splits[name] = report
    return {
        "name": corpus.name,
        "fingerprint": corpus.fingerprint,
        "notes": list(corpus.notes),
        "splits": splits,
        "shared_texts": {f"{a}_{b}": len(np.intersect1d(keys[a], keys[b])) for a, b in SPLIT_PAIRS},
        "near_shared_texts": {f"{a}_{b}": _num_near_shared(near, keys[a], keys[b]) for a, b in SPLIT_PAIRS},
        "near_duplicates": {"shingle_words": SHINGLE_WORDS, "jaccard": JACCARD[0] / JACCARD[1]},
    }


def _first_of_each_key(table: TextIndex) -> np.ndarray:
    """For each distinct text (by key), the first string that spells it."""
    keys, first = np.unique(table.keys, return_index=True)
    assert (keys == np.arange(len(keys))).all(), "keys are numbered from 0 without gaps"
    return first


def _sizes(corpus: Corpus, split: SplitArrays, keys: np.ndarray) -> dict[str, Any]:
    return {
        "num_pairs": len(split),
        "num_incomplete": sum(n for (name, _), n in corpus.incomplete.items() if name == split.name),
        "num_themes": len(np.unique(split.theme)),
        "num_debates": len(np.unique(split.debate)),
        "num_distinct_texts": len(keys),
        "num_distinct_strings": len(np.unique(np.concatenate([split.point, split.counter]))),
        "num_distinct_pairs": len(np.unique(np.stack([split.point_key, split.counter_key]), axis=1).T),
        "num_points_clean": int(split.clean.sum()),
    }


def _themes(corpus: Corpus, split: SplitArrays) -> dict[str, dict[str, int]]:
    """By theme, in alphabetical order; a theme may have nothing but incomplete points."""
    names = {pair.theme for pair in split.pairs} | {theme for name, theme in corpus.incomplete if name == split.name}
    of_pair = np.array([pair.theme for pair in split.pairs])
    themes = {}
    for theme in sorted(names):
        rows = np.flatnonzero(of_pair == theme)
        themes[theme] = {
            "num_pairs": len(rows),
            "num_incomplete": corpus.incomplete.get((split.name, theme), 0),
            "num_debates": len(np.unique(split.debate[rows])),
            "num_distinct_texts": len(np.unique(np.concatenate([split.point_key[rows], split.counter_key[rows]]))),
        }
    return themes


def _num_near_shared(near: np.ndarray, earlier: np.ndarray, later: np.ndarray) -> int:
    """Distinct texts of `later` that are not in `earlier` but have a near duplicate there."""
    new = np.setdiff1d(later, earlier)
    found = [near[np.isin(near[:, a], new) & np.isin(near[:, b], earlier), a] for a, b in ((0, 1), (1, 0))]
    return len(np.unique(np.concatenate(found)))


def _spread(lengths: np.ndarray) -> dict[str, float]:
    return {
        "min": int(lengths.min()),
        "mean": float(lengths.mean()),
        "median": float(np.median(lengths)),
        "p95": float(np.percentile(lengths, 95)),
        "max": int(lengths.max()),
    }


def _token_spread(lengths: np.ndarray, max_tokens: int | None) -> dict[str, float]:
    assert max_tokens is not None
    cut = lengths > max_tokens
    return {**_spread(lengths), "num_truncated": int(cut.sum()), "share_truncated": float(cut.mean())}


def near_duplicates(texts: Sequence[str]) -> np.ndarray:
    """All pairs (E, 2), i < j, of texts that are near duplicates, in order. Exact, without comparing all pairs.

    Two sets of a and b shingles with Jaccard ≥ t share a shingle among the a − ⌈ta⌉ + 1 and b − ⌈tb⌉ + 1 first
    ones, in whatever order all shingles are put; put rare ones first, and few texts meet (Chaudhuri et al. 2006;
    Bayardo et al. 2007). Equal shingle sets count, so give each text once.
    """
    shingles, starts = shingle_sets(texts)
    sizes = np.diff(starts)
    num_texts_with = np.bincount(shingles)
    part, whole = JACCARD
    met: dict[int, list[int]] = defaultdict(list)
    sets: dict[int, frozenset[int]] = {}

    def shingles_of(text: int) -> frozenset[int]:
        if text not in sets:
            sets[text] = frozenset(shingles[starts[text] : starts[text + 1]].tolist())
        return sets[text]

    pairs = []
    for text in np.argsort(sizes, kind="stable").tolist():
        size = int(sizes[text])
        own = shingles[starts[text] : starts[text + 1]]
        own = own[np.lexsort((own, num_texts_with[own]))]
        prefix = own[: size - -(-part * size // whole) + 1] if size else own
        prefix = prefix[num_texts_with[prefix] > 1].tolist()
        others = {other for shingle in prefix for other in met[shingle] if whole * sizes[other] >= part * size}
        for other in others:
            common = len(shingles_of(text) & shingles_of(other))
            if whole * common >= part * (size + int(sizes[other]) - common):
                pairs.append((min(text, other), max(text, other)))
        for shingle in prefix:
            met[shingle].append(text)
    return np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2)


def shingle_sets(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Distinct shingles of each text as numbers: shingles (S,), and starts (T + 1,) of each text's own.

    Equal shingles get equal numbers, different ones different numbers. A text without words has none.
    """
    numbers: dict[str, int] = {}
    words, short = [], {}
    for row, text in enumerate(texts):
        found = [numbers.setdefault(word, len(numbers)) for word in _WORD.findall(text.casefold())]
        if len(found) < SHINGLE_WORDS:
            short[row] = tuple(found)
            found = []
        words.append(np.array(found, dtype=np.int64))
    lengths = np.array([len(found) for found in words], dtype=np.int64)
    text_of = np.repeat(np.arange(len(texts)), np.maximum(lengths - SHINGLE_WORDS + 1, 0))
    grams = _number_grams(words, SHINGLE_WORDS)
    whole = {gram: number for number, gram in enumerate(filter(None, dict.fromkeys(short.values())), len(text_of))}
    extra = [(row, whole[gram]) for row, gram in short.items() if gram]
    short_text_of, short_grams = np.array(extra, dtype=np.int64).reshape(-1, 2).T
    num_shingles = len(text_of) + len(whole)
    codes = np.concatenate([text_of * num_shingles + grams, short_text_of * num_shingles + short_grams])
    codes.sort()
    codes = codes[np.diff(codes, prepend=-1) > 0]
    starts = np.searchsorted(codes, np.arange(len(texts) + 1) * num_shingles)
    return codes % max(num_shingles, 1), starts


def _number_grams(words: Sequence[np.ndarray], length: int) -> np.ndarray:
    """A number for each run of `length` words, text after text; equal runs get equal numbers, below their count.

    Runs grow by a word at a time, (number of the run, next word) being numbered anew, so that codes stay small.
    """
    runs = [found for found in words if len(found) >= length]
    if not runs:
        return np.empty(0, dtype=np.int64)
    base = 1 + max(int(found.max()) for found in runs)
    numbers = np.concatenate([found[: len(found) - length + 1] for found in runs])
    for place in range(1, length):
        following = np.concatenate([found[place : len(found) - length + 1 + place] for found in runs])
        numbers = np.unique(numbers * base + following, return_inverse=True)[1].reshape(-1)
    return numbers


def describe(report: Mapping[str, Any]) -> str:
    """The report as tables for a person: splits, candidates, what splits share, themes."""
    splits = report["splits"]
    lines = [
        f"corpus {report['name']}, fingerprint {report['fingerprint'][:12]}",
        *report["notes"],
        "",
        _row("", SPLITS),
    ]
    for title, key in (
        ("pairs", "num_pairs"),
        ("incomplete points, left out", "num_incomplete"),
        ("themes", "num_themes"),
        ("debates", "num_debates"),
        ("distinct pairs", "num_distinct_pairs"),
        ("points in clean figures", "num_points_clean"),
        ("distinct texts", "num_distinct_texts"),
        ("distinct strings", "num_distinct_strings"),
        ("repetitions of a text", "num_exact_duplicates"),
        ("texts with a near duplicate", "num_near_duplicates"),
        ("near-duplicate pairs", "num_near_duplicate_pairs"),
    ):
        lines.append(_row(title, [f"{splits[name][key]}" for name in SPLITS]))
    lines += _length_rows(splits)
    lines += ["", _row("candidates, summed over points", SPLITS)]
    lines += [
        _row(kind, [f"{splits[name]['candidates'][kind]}" for name in SPLITS]) for kind in splits["test"]["candidates"]
    ]
    lines += ["", "texts in two splits"]
    for earlier, later in SPLIT_PAIRS:
        shared, near = (report[key][f"{earlier}_{later}"] for key in ("shared_texts", "near_shared_texts"))
        total = splits[later]["num_distinct_texts"]
        lines.append(
            f"  {earlier}, {later}: {shared} of {total} distinct {later} texts ({100 * shared / total:.1f}%); "
            f"{near} more have a near duplicate in {earlier}"
        )
    gram = report["near_duplicates"]
    lines += [f"  near duplicate: Jaccard of word {gram['shingle_words']}-grams at least {gram['jaccard']}", ""]
    return "\n".join([*lines, *_theme_rows(splits)])


def _length_rows(splits: Mapping[str, Any]) -> list[str]:
    rows = []
    for unit in ("words", "tokens"):
        if splits["train"][unit] is not None:
            rows += [
                _row(f"{unit} a text, {title}", [f"{splits[name][unit][key]:.0f}" for name in SPLITS])
                for title, key in (
                    ("mean", "mean"),
                    ("median", "median"),
                    ("95th percentile", "p95"),
                    ("longest", "max"),
                )
            ]
    if splits["train"]["tokens"] is not None:
        rows.append(
            _row("texts truncated", [f"{100 * splits[name]['tokens']['share_truncated']:.1f}%" for name in SPLITS])
        )
    return rows


def _theme_rows(splits: Mapping[str, Any]) -> list[str]:
    themes = sorted({theme for name in SPLITS for theme in splits[name]["themes"]})
    width = max(24, *(len(theme) for theme in themes)) + 1
    lines = [f"{'theme':<{width}}" + "".join(f"{name + ' pairs':>14}{'incomplete':>11}{'texts':>7}" for name in SPLITS)]
    nothing: Mapping[str, int] = Counter()
    for theme in themes:
        cells = [splits[name]["themes"].get(theme, nothing) for name in SPLITS]
        lines.append(
            f"{theme or '(none)':<{width}}"
            + "".join(
                f"{cell['num_pairs']:>14}{cell['num_incomplete']:>11}{cell['num_distinct_texts']:>7}" for cell in cells
            )
        )
    return lines


def _row(title: str, cells: Sequence[str]) -> str:
    return f"{title:<32}" + "".join(f"{cell:>12}" for cell in cells)
