"""What of a split an earlier one, or another collection, already has: pairs with their answers, and single texts.

A model that was trained on an earlier split has seen a shared pair together with its answer. Texts are equal as
`text_key` says; `exact` counts are of identical strings.

N pairs of a split, E pairs of near duplicates.
"""

from __future__ import annotations

import itertools
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
"""Recall is of so many texts."""
NumberPair = tuple[int, int]
"""The numbers of a point and of a counter, or of a query and of a candidate."""


@dataclass(frozen=True)
class Seen:
    """The pairs and texts of an earlier split or of another collection, by number.

    `strings` and `keys` hold pairs (point, counter): numbers of their strings, and of their text keys. `texts` holds
    the keys of all texts.
    """

    strings: frozenset[NumberPair]
    keys: frozenset[NumberPair]
    texts: frozenset[int]


def seen_in(splits: Iterable[SplitArrays]) -> Seen:
    """What splits hold together: their right answers as pairs, and every text of theirs."""
    strings: set[NumberPair] = set()
    keys: set[NumberPair] = set()
    texts: set[int] = set()
    for split in splits:
        of_split, folded = _right_pairs(split)
        strings.update(of_split)
        keys.update(folded)
        texts.update(split.point_key.tolist())
        texts.update(split.counter_key.tolist())
    return Seen(frozenset(strings), frozenset(keys), frozenset(texts))


def seen_in_corpus(corpus: Corpus, table: TextTable) -> Seen:
    """What another corpus holds in all its splits and documents, in the numbers of `table`; texts that the table does
    not have get numbers below 0."""
    keys_of_table = table.keys.tolist()
    string_numbers: dict[str, int] = {}
    key_numbers: dict[str, int] = {}
    for number, text in enumerate(table.texts):
        string_numbers[text] = number
        key_numbers.setdefault(text_key(text), keys_of_table[number])

    # Any number will do that no text of the table has, and that the text keeps.
    def string_of(text: str) -> int:
        unused = -1 - len(string_numbers)
        return string_numbers.setdefault(text, unused)

    def key_of(text: str) -> int:
        unused = -1 - len(key_numbers)
        return key_numbers.setdefault(text_key(text), unused)

    strings: set[NumberPair] = set()
    keys: set[NumberPair] = set()
    texts = {key_of(document.text) for document in corpus.documents}
    for name in SPLITS:
        for pair in corpus.split(name):
            point = key_of(pair.point)
            counter = key_of(pair.counter)
            texts.update((point, counter))
            if pair.grade > 0:
                keys.add((point, counter))
                string_pair = (string_of(pair.point), string_of(pair.counter))
                strings.add(string_pair)
    return Seen(frozenset(strings), frozenset(keys), frozenset(texts))


def _pairs(first: np.ndarray, second: np.ndarray) -> list[NumberPair]:
    return list(zip(first.tolist(), second.tolist(), strict=True))


def _right_pairs(split: SplitArrays) -> tuple[list[NumberPair], list[NumberPair]]:
    """The split's right answers with their points, as they are listed: by string, and by text key."""
    right = split.grade > 0
    strings = _pairs(split.point[right], split.counter[right])
    keys = _pairs(split.point_key[right], split.counter_key[right])
    return strings, keys


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
    strings, keys = _right_pairs(split)
    neighbours = _neighbours(near)
    names = ("exact", "folded", "reversed", "near", "point", "counter", "either", "both")
    counts = {"num_pairs": len(keys), **dict.fromkeys(names, 0)}
    for string_pair, (point, counter) in zip(strings, keys, strict=True):
        has_point = point in seen.texts
        has_counter = counter in seen.texts
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
    return counts


def _neighbours(near: np.ndarray | None) -> dict[int, list[int]]:
    """By text key the keys that are its near duplicates."""
    neighbours: dict[int, list[int]] = defaultdict(list)
    if near is None:
        return neighbours
    for first, second in near.tolist():
        neighbours[first].append(second)
        neighbours[second].append(first)
    return neighbours


def _is_near(point: int, counter: int, neighbours: dict[int, list[int]], seen: Seen) -> bool:
    """Whether a seen pair has for each of the two texts an equal or a near duplicate."""
    points = (point, *neighbours.get(point, ()))
    counters = (counter, *neighbours.get(counter, ()))
    return any(pair in seen.keys for pair in itertools.product(points, counters))


def text_ceilings(task: RetrievalTask) -> dict[str, float]:
    """The highest top-1 and recall@10 that anything can reach that reads nothing but texts (nan without queries).

    Queries of one string get one ranking of strings, whichever of them is asked, and candidates of one string follow
    each other in an order that is always the same. So where queries that share a string have different answers, only
    one of these comes first; and so it is where the answers are copies of each other under several names, unless
    official leaves the other copies out. A right answer that is no candidate is never found.
    """
    num_right = np.bincount(task.qrels.row, minlength=len(task)).tolist()
    admitted = _num_copies_admitted(task)
    texts = task.candidates.text.tolist()
    asked = task.point.tolist()

    # By string that asks: how many queries each answer has, and how much it adds to the sum of their recalls. An answer
    # is a string, with the candidate's number where the query has several copies of it to choose from, else with −1.
    firsts: dict[int, Counter[NumberPair]] = defaultdict(Counter)
    recalls: dict[int, dict[NumberPair, float]] = defaultdict(lambda: defaultdict(float))
    for row, candidate in _pairs(*task.reachable):
        has_copies = admitted[row, candidate] > 1
        answer = (texts[candidate], candidate if has_copies else -1)
        point = asked[row]
        firsts[point][answer] += 1
        recalls[point][answer] += 1 / num_right[row]

    num_first = sum(_most_first(times) for times in firsts.values())
    sum_recalls = 0.0
    for by_answer in recalls.values():
        largest = sorted(by_answer.values(), reverse=True)[:CEILING_AT]
        sum_recalls += sum(largest)
    num_queries = len(task) or math.nan
    return {"top1": num_first / num_queries, f"recall@{CEILING_AT}": sum_recalls / num_queries}


def _num_copies_admitted(task: RetrievalTask) -> dict[NumberPair, int]:
    """By query and right answer, how many candidates of the answer's string official does not leave out."""
    candidates = task.candidates
    excluded = set(_pairs(*task.official))
    admitted = {}
    for row, candidate in _pairs(*task.reachable):
        place = candidates.place[candidate]
        start = candidates.first[place]
        end = start + candidates.copies[place]
        copies = candidates.members[start:end].tolist()
        admitted[row, candidate] = sum((row, copy) not in excluded for copy in copies)
    return admitted


def _most_first(times: Counter[NumberPair]) -> int:
    """Of queries of one string, how many can have their answer first: one string is, and of its copies one."""
    without_copies: Counter[int] = Counter()
    best_copy: Counter[int] = Counter()
    for (text, candidate), num in times.items():
        if candidate < 0:
            without_copies[text] = num
        else:
            best_copy[text] = max(best_copy[text], num)
    texts = {text for text, _ in times}
    return max(without_copies[text] + best_copy[text] for text in texts)


def count_copies(task: RetrievalTask) -> dict[str, int]:
    """How many queries have a copy of themselves among their candidates, and how many right answers are no candidate.

    - num_queries: all of them
    - copied: a candidate that official does not leave out is the query's own string under another name
    - equal: the same after folding (copied ones included)
    - answers_missing: right answers that are no candidate
    """
    key_of = _keys_by_string(task.split)
    candidate_text = task.candidates.text.tolist()
    candidates_of: dict[int, list[int]] = defaultdict(list)
    for candidate, text in enumerate(candidate_text):
        candidates_of[key_of[text]].append(candidate)

    # A copy is a candidate equal to the query that is neither left out by official nor a right answer.
    no_copies = {*_pairs(*task.official), *_pairs(*task.reachable)}
    point_key = task.split.point_key[task.pair]
    copied = 0
    equal = 0
    for row, (text, key) in enumerate(_pairs(task.point, point_key)):
        copies = [place for place in candidates_of[key] if (row, place) not in no_copies]
        equal += bool(copies)
        copied += any(candidate_text[place] == text for place in copies)
    num_missing = int((task.qrels.candidate < 0).sum())
    return {"num_queries": len(task), "copied": copied, "equal": equal, "answers_missing": num_missing}


def _keys_by_string(split: SplitArrays) -> dict[int, int]:
    """By the number of a string of the split, its text key."""
    key_of = dict(_pairs(split.point, split.point_key))
    key_of.update(_pairs(split.counter, split.counter_key))
    if split.documents is not None:
        key_of.update(_pairs(split.documents.text, split.documents.key))
    return key_of
