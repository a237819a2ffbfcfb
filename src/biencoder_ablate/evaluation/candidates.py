"""Who may answer whom, and who is right: the candidate sets of a split.

The ArguAna protocols ask each of N pairs for its own counter: C = 2N candidates in candidate order, the counters
0…N−1, then the points N…2N−1, and the right answer of row i is candidate i. Elsewhere each point is a query once, for
all its right answers, and candidates are the corpus's documents, or the distinct ones of the same 2N texts. Where only
answers are candidates (evaluation.candidates), the points are none: N of the 2N texts are left.

Pairs of query and candidate are listed as `Entries`: (rows, candidates), both (E,), sorted by row.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from biencoder_ablate.data.text_table import SplitArrays, clean_queries
from biencoder_ablate.utils.arrays import Entries, group_starts

_TASK_SHAPES = {
    "sdoc": ("debate", "opposing", False),
    "sdc": ("debate", "any", False),
    "sdoa": ("debate", "opposing", True),
    "sda": ("debate", "any", True),
    "stc": ("theme", "any", False),
    "sta": ("theme", "any", True),
    "epc": ("portal", "any", False),
    "epa": ("portal", "any", True),
}
TASKS = tuple(_TASK_SHAPES)
"""The eight tasks of Wachsmuth et al. 2018, §5: same debate (sd), same theme (st) or entire portal (ep); opposing
counters (oc), counters (c), opposing arguments (oa), arguments (a)."""
COUNTER_TASKS = tuple(name for name, (_, _, with_points) in _TASK_SHAPES.items() if not with_points)
"""Those whose candidates are counters alone."""


@dataclass(frozen=True)
class Candidates:
    """C candidates, and the D distinct texts among them: what is computed for a text holds for all its copies.

    text (C,): text index of each candidate; distinct (D,): the distinct ones; place (C,): each candidate's in
    `distinct`; copies (D,): how many candidates a text is, and which: members[first[t] : first[t] + copies[t]],
    ascending.
    """

    text: np.ndarray
    distinct: np.ndarray
    place: np.ndarray
    copies: np.ndarray
    first: np.ndarray
    members: np.ndarray

    def __len__(self) -> int:
        return len(self.text)


def as_candidates(text: np.ndarray) -> Candidates:
    """Candidates with the text indices (C,)."""
    distinct, place, copies = np.unique(text, return_inverse=True, return_counts=True)
    place = place.reshape(-1)
    return Candidates(
        text,
        distinct,
        place,
        copies,
        first=np.cumsum(copies) - copies,
        members=np.argsort(place, kind="stable"),
    )


@dataclass(frozen=True)
class CandidateSet:
    """Which queries are asked, and who may answer them.

    rows (n,), ascending: the queries. `excluded` are left out, `right` are right answers; `admitted` gives, for a block
    of rows (b,), a mask (b, C).
    """

    rows: np.ndarray
    excluded: Entries
    right: Entries
    admitted: Callable[[np.ndarray], np.ndarray] | None = None


@dataclass(frozen=True)
class Qrels:
    """The E right answers of a split's queries, sorted by row, then by candidate: each (E,), grades above 0.

    One that is no candidate, −1, counts as never found.
    """

    row: np.ndarray
    candidate: np.ndarray
    grade: np.ndarray


@dataclass(frozen=True)
class RetrievalTask:
    """A split's Q queries with their candidates, right answers and exclusions, computed once for all epochs.

    pair (Q,), ascending in split.query: the row of the pair that names a query. `counts` (Q,) marks the queries that
    count in clean metrics; clean_differs are those whose clean candidates are not the official ones. source (2N,):
    which candidate each of the split's 2N texts is, counters first, −1 for none, and first_text (C,) the first of
    them that is a candidate; both empty where documents are the candidates. `among` says what is ranked: "answers"
    (documents are that too) or "all".
    """

    split: SplitArrays
    among: str
    pair: np.ndarray
    candidates: Candidates
    qrels: Qrels
    counts: np.ndarray
    official: Entries
    clean: Entries
    clean_differs: np.ndarray
    source: np.ndarray
    first_text: np.ndarray

    def __len__(self) -> int:
        return len(self.pair)

    @property
    def point(self) -> np.ndarray:
        """Text index of each query (Q,)."""
        return self.split.point[self.pair]

    @property
    def reachable(self) -> Entries:
        """The right answers that are candidates."""
        is_candidate = self.qrels.candidate >= 0
        return self.qrels.row[is_candidate], self.qrels.candidate[is_candidate]

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that there are, the official one last: documents have no debates, and where points are no
        candidates those among counters are left, of the protocols that they come from."""
        if self.split.documents is not None:
            return ()
        if self.among == "all":
            return TASKS
        return COUNTER_TASKS if self.split.asks_pairs else ()

    def sets(self, tasks: Sequence[str] = ()) -> list[CandidateSet]:
        """Official, clean for the queries whose candidates then differ, and one for each of `tasks`."""
        every_row = np.arange(len(self))
        right = self.reachable
        sets = [
            CandidateSet(every_row, self.official, right),
            CandidateSet(self.clean_differs, self.clean, right),
        ]
        for name in tasks:
            mask = partial(self._task_mask, name)
            sets.append(CandidateSet(every_row, self.official, right, mask))
        return sets

    def _task_mask(self, task: str, rows: np.ndarray) -> np.ndarray:
        """Which candidates a task admits (b, C): with one query for several pairs, whatever it admits for any of them,
        under any place where the candidate is filed."""
        if self.split.asks_pairs:
            return task_mask(self.split, task, rows)[:, : len(self.candidates)]

        # All pairs of these queries, query by query.
        query = self.split.query
        pairs = np.flatnonzero(np.isin(query, query[self.pair[rows]]))
        pairs = pairs[np.argsort(query[pairs], kind="stable")]
        by_pair = task_mask(self.split, task, pairs)  # (pairs, 2N)
        by_query = np.logical_or.reduceat(by_pair, group_starts(query[pairs]), axis=0)  # (b, 2N)

        # And all places of a candidate, candidate by candidate.
        texts = np.argsort(self.source, kind="stable")
        starts = group_starts(self.source[texts])
        return np.logical_or.reduceat(by_query[:, texts], starts, axis=1)

    def name_of(self, candidate: int) -> str:
        """A document's id, or the name of the pair and which of its two texts it is."""
        if self.split.documents is not None:
            return self.split.documents.ids[candidate]
        return candidate_id(self.split, int(self.first_text[candidate]))


def build_task(split: SplitArrays, among: str | None = None) -> RetrievalTask:
    """Find the queries, candidates, right answers and exclusions of a split.

    `among`: "answers" or "all", None for the corpus's own choice; documents are the candidates whatever it says.
    """
    among = "answers" if split.documents is not None else among or split.candidates
    # The candidates (C,), and for each pair which candidates its counter and its point are, −1 where none.
    source = np.empty(0, dtype=np.int64)
    if split.documents is not None:
        text, key = split.documents.text, split.documents.key
        place = {name: number for number, name in enumerate(split.documents.ids)}
        right = np.array([place.get(pair.document, -1) for pair in split.pairs], dtype=np.int64)
        itself = np.array([place.get(pair.query, -1) for pair in split.pairs], dtype=np.int64)
    else:
        text = candidate_texts(split)
        key = np.concatenate([split.counter_key, split.point_key])
        source = np.arange(len(text))
        if not split.asks_pairs:
            # Each distinct string is one candidate, in order of first use: counters come first.
            _, first, back = np.unique(text, return_index=True, return_inverse=True)
            order = np.argsort(first)
            source = np.argsort(order)[back.reshape(-1)]
            text, key = text[first[order]], key[first[order]]
        if among == "answers":
            # What only asks stands behind the answers, and is no candidate.
            num_answers = source[: len(split)].max(initial=-1) + 1
            text, key = text[:num_answers], key[:num_answers]
            source = np.where(source < num_answers, source, -1)
        right, itself = np.split(source, 2)

    # Clean leaves out what official leaves out, and more.
    pair, qrels = _queries(split, right)
    official, besides = _exclusions(split, pair, qrels, text, key, itself)
    rows, excluded = (np.concatenate(both) for both in zip(official, besides, strict=True))
    by_row = np.argsort(rows, kind="stable")
    return RetrievalTask(
        split,
        among,
        pair,
        as_candidates(text),
        qrels,
        counts=clean_queries(split),
        official=official,
        clean=(rows[by_row], excluded[by_row]),
        clean_differs=np.unique(besides[0]),
        source=source,
        first_text=np.unique(source, return_index=True)[1][int(-1 in source) :],
    )


def _queries(split: SplitArrays, right: np.ndarray) -> tuple[np.ndarray, Qrels]:
    """The first right pair of each query (Q,), and the right answers, from the candidate (N,) that each pair's counter
    is."""
    positive = np.flatnonzero(split.grade > 0)
    _, first, row = np.unique(split.query[positive], return_index=True, return_inverse=True)
    row = row.reshape(-1)
    candidate, grade = right[positive], split.grade[positive]

    # The same answer given twice counts once, with its highest grade; each that is no candidate counts.
    order = np.lexsort((-grade, candidate, row))
    row, candidate, grade = row[order], candidate[order], grade[order]
    kept = np.ones(len(row), dtype=bool)
    kept[1:] = (np.diff(row) != 0) | (np.diff(candidate) != 0) | (candidate[1:] < 0)
    return positive[first], Qrels(row[kept], candidate[kept], grade[kept])


def _exclusions(
    split: SplitArrays,
    pair: np.ndarray,
    qrels: Qrels,
    text: np.ndarray,
    key: np.ndarray,
    itself: np.ndarray,
) -> tuple[Entries, Entries]:
    """What `official` leaves out, and what clean leaves out besides. A right answer stays, whatever its text.

    Official: the point itself, as the candidate that its text is or the document of its name (BEIR's
    ignore_identical_ids); in the ArguAna protocols also other counters whose text is the same string as the true
    counter's. Clean: texts equal, after folding, to the point or to a right answer; in the ArguAna protocols of the
    latter only counters.

    text and key (C,) are of candidates, itself (N,) is the candidate that each pair's point is, or −1.
    """
    # By text key the candidates equal to a point, and to a right answer; by string the copies of a right answer.
    equal_texts = equal_answers = _members(key)
    copies: dict[int, list[int]] = {}
    if split.asks_pairs:
        equal_answers = _members(key[: len(split)])  # the counters
        copies = _members(text[: len(split)])

    official, besides = [], []
    bounds = np.searchsorted(qrels.row, np.arange(len(pair) + 1))
    for row, first in enumerate(pair.tolist()):
        right = qrels.candidate[bounds[row] : bounds[row + 1]].tolist()
        never_left_out = {-1, *right}
        left_out = {int(itself[first])}
        equal = {*equal_texts.get(int(split.point_key[first]), ())}
        for answer in right:
            if answer >= 0:
                left_out.update(copies.get(int(text[answer]), ()))
                equal.update(equal_answers[int(key[answer])])
        official.append(left_out - never_left_out)
        besides.append(equal - left_out - never_left_out)
    return _entries(official), _entries(besides)


def _entries(by_row: Sequence[Iterable[int]]) -> Entries:
    """The candidates listed for each row, ascending within a row."""
    rows: list[int] = []
    candidates: list[int] = []
    for row, listed in enumerate(by_row):
        in_order = sorted(listed)
        rows += [row] * len(in_order)
        candidates += in_order
    return np.array(rows, dtype=np.int64), np.array(candidates, dtype=np.int64)


def candidate_texts(split: SplitArrays) -> np.ndarray:
    """Text index of each candidate of the ArguAna protocols (2N,)."""
    return np.concatenate([split.counter, split.point])


def candidate_id(split: SplitArrays, candidate: int) -> str:
    """The name of a candidate: its pair's id and which of the two texts it is."""
    kind = "counter" if candidate < len(split) else "point"
    return f"{split.pairs[candidate % len(split)].id}#{kind}"


def _members(values: np.ndarray) -> dict[int, list[int]]:
    """Where each value stands."""
    members: dict[int, list[int]] = defaultdict(list)
    for index, value in enumerate(values.tolist()):
        members[value].append(index)
    return members


def task_mask(split: SplitArrays, task: str, rows: np.ndarray) -> np.ndarray:
    """Which candidates a task admits for the points `rows` (b, 2N), before official's exclusions.

    Opposing candidates are counters filed under the point's own stance and points filed under another.
    """
    # How far a candidate may be filed from the point: same debate, same theme, anywhere.
    reach, side, with_points = _TASK_SHAPES[task]
    near = np.ones((len(rows), len(split)), dtype=bool)
    if reach != "portal":
        groups = getattr(split, reach)
        near = groups[rows][:, None] == groups

    counters = points = near
    if side == "opposing":
        own_stance = split.stance[rows][:, None] == split.stance
        counters, points = near & own_stance, near & ~own_stance
    return np.concatenate([counters, points & with_points], axis=1)
