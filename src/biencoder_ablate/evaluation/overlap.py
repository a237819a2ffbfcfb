"""What of a split an earlier one, or another collection, already has: pairs with their answers, and single texts.

A model that was trained on an earlier split has seen a shared pair together with its answer. Texts are equal as
`text_key` says; `exact` counts are of identical strings.

N pairs of a split, E pairs of near duplicates.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from biencoder_ablate.data.corpus import SPLITS, Corpus
from biencoder_ablate.data.text_table import SplitArrays, TextTable
from biencoder_ablate.data.words import text_key
from biencoder_ablate.evaluation.candidates import RetrievalTask

CEILING_AT = 10


@dataclass(frozen=True)
class Seen:
    """The pairs and texts of an earlier split or of another collection, by number.

    `strings` and `keys` hold pairs (point, counter): numbers of their strings, and of their text keys. `texts` holds
    the keys of all texts.
    """

    strings: frozenset[tuple[int, int]]
    keys: frozenset[tuple[int, int]]
    texts: frozenset[int]


def seen_in(splits: Iterable[SplitArrays]) -> Seen:
    """What splits hold together: their right answers as pairs, and every text of theirs."""
    strings: set[tuple[int, int]] = set()
    keys: set[tuple[int, int]] = set()
    texts: set[int] = set()
    for split in splits:
        right = split.grade > 0
        strings.update(_pairs(split.point[right], split.counter[right]))
        keys.update(_pairs(split.point_key[right], split.counter_key[right]))
        texts.update(split.point_key.tolist(), split.counter_key.tolist())
    return Seen(frozenset(strings), frozenset(keys), frozenset(texts))


def seen_in_corpus(corpus: Corpus, table: TextTable) -> Seen:
    """What another corpus holds in all its splits and documents, in the numbers of `table`; texts that the table does
    not have get numbers below 0."""
    string_numbers = {text: number for number, text in enumerate(table.texts)}
    key_numbers: dict[str, int] = {}
    for text, number in zip(table.texts, table.keys.tolist(), strict=True):
        key_numbers.setdefault(text_key(text), number)

    def string_of(text: str) -> int:
        return string_numbers.setdefault(text, -1 - len(string_numbers))

    def key_of(text: str) -> int:
        return key_numbers.setdefault(text_key(text), -1 - len(key_numbers))

    strings: set[tuple[int, int]] = set()
    keys: set[tuple[int, int]] = set()
    texts = {key_of(document.text) for document in corpus.documents}
    for name in SPLITS:
        for pair in corpus.split(name):
            point, counter = key_of(pair.point), key_of(pair.counter)
            texts.update((point, counter))
            if pair.grade > 0:
                strings.add((string_of(pair.point), string_of(pair.counter)))
                keys.add((point, counter))
    return Seen(frozenset(strings), frozenset(keys), frozenset(texts))


def _pairs(first: np.ndarray, second: np.ndarray) -> list[tuple[int, int]]:
    return list(zip(first.tolist(), second.tolist(), strict=True))


def count_seen(split: SplitArrays, seen: Seen, near: np.ndarray | None = None) -> dict[str, int]:
    """How many of a split's right pairs, and of their texts, have been seen.

    `near` (E, 2): numbers of text keys that are near duplicates of each other. The counts, each of pairs with a grade
    above 0 as they are listed, repetitions included:

    - num_pairs: all of them
    - exact: the same two strings are a pair there
    - folded: the same two texts are a pair there (exact ones included)
    - reversed: not folded, but the two texts are a pair there the other way round
    - near: none of these, but a pair there has for each of the two texts an equal or a near duplicate
    - point, counter: the text is there, whatever it is paired with; either, both: one of the two texts, or both
    """
    right = split.grade > 0
    strings = _pairs(split.point[right], split.counter[right])
    keys = _pairs(split.point_key[right], split.counter_key[right])
    neighbours = _neighbours(near)
    counts: Counter[str] = Counter()
    for string_pair, (point, counter) in zip(strings, keys, strict=True):
        has_point, has_counter = point in seen.texts, counter in seen.texts
        is_folded = (point, counter) in seen.keys
        is_reversed = not is_folded and (counter, point) in seen.keys
        counts["exact"] += string_pair in seen.strings
        counts["folded"] += is_folded
        counts["reversed"] += is_reversed
        if not is_folded and not is_reversed:
            counts["near"] += _is_near(point, counter, neighbours, seen)
        counts["point"] += has_point
        counts["counter"] += has_counter
        counts["either"] += has_point or has_counter
        counts["both"] += has_point and has_counter
    names = ("exact", "folded", "reversed", "near", "point", "counter", "either", "both")
    return {"num_pairs": len(keys)} | {name: counts[name] for name in names}


def _neighbours(near: np.ndarray | None) -> dict[int, list[int]]:
    """By text key the keys that are its near duplicates."""
    neighbours: dict[int, list[int]] = defaultdict(list)
    for first, second in [] if near is None else near.tolist():
        neighbours[first].append(second)
        neighbours[second].append(first)
    return neighbours


def _is_near(point: int, counter: int, neighbours: dict[int, list[int]], seen: Seen) -> bool:
    points = (point, *neighbours.get(point, ()))
    counters = (counter, *neighbours.get(counter, ()))
    return any((a, b) in seen.keys for a in points for b in counters)


def text_ceilings(task: RetrievalTask) -> dict[str, float]:
    """The highest top-1 and recall@10 that anything can reach that reads nothing but texts (nan without queries).

    Queries of one string get one ranking of strings, whichever of them is asked, and candidates of one string follow
    each other in an order that is always the same. So where queries that share a string have different answers, only
    one of these comes first; and so it is where the answers are copies of each other under several names, unless
    official leaves the other copies out. A right answer that is no candidate is never found.
    """
    num_right = np.bincount(task.qrels.row, minlength=len(task)).tolist()
    excluded = set(_pairs(*task.official))
    candidates = task.candidates

    # By string that asks: how many queries each answer has, and how much it adds to the sum of their recalls. An answer
    # is a string, with the candidate's number where the query has several copies of it to choose from, else with −1.
    firsts: dict[int, Counter[tuple[int, int]]] = defaultdict(Counter)
    recalls: dict[int, dict[tuple[int, int], float]] = defaultdict(lambda: defaultdict(float))
    for row, candidate in zip(*(entries.tolist() for entries in task.reachable), strict=True):
        place = candidates.place[candidate]
        start = candidates.first[place]
        copies = candidates.members[start : start + candidates.copies[place]].tolist()
        num_admitted = sum((row, copy) not in excluded for copy in copies)
        answer = (int(candidates.text[candidate]), candidate if num_admitted > 1 else -1)
        point = int(task.point[row])
        firsts[point][answer] += 1
        recalls[point][answer] += 1 / num_right[row]

    num_first = sum(_most_first(times) for times in firsts.values())
    sum_recalls = 0.0
    for by_answer in recalls.values():
        sum_recalls += sum(sorted(by_answer.values(), reverse=True)[:CEILING_AT])
    num_queries = len(task) or math.nan
    return {"top1": num_first / num_queries, f"recall@{CEILING_AT}": sum_recalls / num_queries}


def _most_first(times: Counter[tuple[int, int]]) -> int:
    """Of queries of one string, how many can have their answer first: one string is, and of its copies one."""
    without_copies: Counter[int] = Counter()
    best_copy: Counter[int] = Counter()
    for (text, candidate), num in times.items():
        if candidate < 0:
            without_copies[text] = num
        else:
            best_copy[text] = max(best_copy[text], num)
    return max(without_copies[text] + best_copy[text] for text, _ in times)


def count_copies(task: RetrievalTask) -> dict[str, int]:
    """How many queries have a copy of themselves among their candidates, and how many right answers are no candidate.

    - num_queries: all of them
    - copied: a candidate that official does not leave out is the query's own string under another name
    - equal: the same after folding (copied ones included)
    - answers_missing: right answers that are no candidate
    """
    key_of: dict[int, int] = {}
    split = task.split
    for texts, keys in ((split.point, split.point_key), (split.counter, split.counter_key)):
        key_of.update(zip(texts.tolist(), keys.tolist(), strict=True))
    if split.documents is not None:
        key_of.update(zip(split.documents.text.tolist(), split.documents.key.tolist(), strict=True))
    candidate_text = task.candidates.text
    candidate_key = np.array([key_of[text] for text in candidate_text.tolist()], dtype=np.int64)
    point_key = split.point_key[task.pair]

    # All candidates equal to each query, then without those that official leaves out.
    copied = equal = 0
    by_key: dict[int, list[int]] = defaultdict(list)
    for candidate, key in enumerate(candidate_key.tolist()):
        by_key[key].append(candidate)
    excluded = set(_pairs(*task.official))
    right = set(_pairs(*task.reachable))
    for row, (text, key) in enumerate(zip(task.point.tolist(), point_key.tolist(), strict=True)):
        left = [place for place in by_key[key] if (row, place) not in excluded and (row, place) not in right]
        equal += bool(left)
        copied += any(candidate_text[place] == text for place in left)
    return {
        "num_queries": len(task),
        "copied": copied,
        "equal": equal,
        "answers_missing": int((task.qrels.candidate < 0).sum()),
    }
