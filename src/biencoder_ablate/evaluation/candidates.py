"""Who may answer whom, and who is right: the candidate sets of a split (design §2).

The ArguAna protocols ask each of N pairs for its own counter: C = 2N candidates in candidate order, the counters
0…N−1, then the points N…2N−1, and the right answer of row i is candidate i. Elsewhere each point is asked once, for all
its right answers, and candidates are the corpus's documents, or the distinct ones of the same 2N texts. The eight task
names are those of Wachsmuth et al. 2018, §5: same debate (sd), same theme (st) or entire portal (ep); opposing counters
(oc), counters (c), opposing arguments (oa), arguments (a).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from biencoder_ablate.data.text_table import SplitArrays, clean_queries

TASKS = ("sdoc", "sdc", "sdoa", "sda", "stc", "sta", "epc", "epa")
_TASK_SHAPE = {
    "sdoc": ("debate", "opposing", False),
    "sdc": ("debate", "any", False),
    "sdoa": ("debate", "opposing", True),
    "sda": ("debate", "any", True),
    "stc": ("theme", "any", False),
    "sta": ("theme", "any", True),
    "epc": ("portal", "any", False),
    "epa": ("portal", "any", True),
}


@dataclass(frozen=True)
class Candidates:
    """C candidates, and the D distinct texts among them: what is worked out for a text holds for all its copies.

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
    return Candidates(text, distinct, place, copies, np.cumsum(copies) - copies, np.argsort(place, kind="stable"))


@dataclass(frozen=True)
class CandidateSet:
    """Which points are asked, and who may answer them.

    rows (n,), ascending: the points. `excluded` are (rows, candidates), sorted by row, that are left out, and `right`
    those that are right answers; `admitted` gives, for a block of rows (b,), a mask (b, C).
    """

    rows: np.ndarray
    excluded: tuple[np.ndarray, np.ndarray]
    right: tuple[np.ndarray, np.ndarray]
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
    """A split's Q queries with their candidates, right answers and exclusions, worked out once for every epoch to use.

    pair (Q,), ascending in split.query: the row of the pair that names a query. `counts` (Q,) marks the queries that
    count in clean figures; clean_differs are those whose clean candidates are not the official ones. source (2N,):
    which candidate each of the split's 2N texts is, counters first, and first_text (C,) the first of them that is a
    candidate; both empty where documents are the candidates.
    """

    split: SplitArrays
    pair: np.ndarray
    candidates: Candidates
    answers: Qrels
    counts: np.ndarray
    official: tuple[np.ndarray, np.ndarray]
    clean: tuple[np.ndarray, np.ndarray]
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
    def reachable(self) -> tuple[np.ndarray, np.ndarray]:
        """The right answers that are candidates, as (rows, candidates)."""
        found = self.answers.candidate >= 0
        return self.answers.row[found], self.answers.candidate[found]

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks that there are: documents have no debates."""
        return TASKS if self.split.documents is None else ()

    def sets(self, tasks: Sequence[str] = ()) -> list[CandidateSet]:
        """Official, clean for the points whose candidates then differ, and one for each of `tasks`."""
        every, right = np.arange(len(self)), self.reachable
        own = [CandidateSet(every, self.official, right), CandidateSet(self.clean_differs, self.clean, right)]
        return own + [CandidateSet(every, self.official, right, partial(self._task_mask, task)) for task in tasks]

    def _task_mask(self, task: str, rows: np.ndarray) -> np.ndarray:
        """Which candidates a task admits (b, C): with one query for several pairs, whatever it admits for any of them,
        under any place where the candidate is filed."""
        if self.split.asks_pairs:
            return task_mask(self.split, task, rows)
        query = self.split.query
        pairs = np.flatnonzero(np.isin(query, query[self.pair[rows]]))
        pairs = pairs[np.argsort(query[pairs], kind="stable")]
        by_candidate = np.argsort(self.source, kind="stable")
        mask = _any_of(task_mask(self.split, task, pairs), query[pairs], axis=0)
        return _any_of(mask[:, by_candidate], self.source[by_candidate], axis=1)

    def name_of(self, candidate: int) -> str:
        """A document's id, or the name of the pair and which of its two texts it is."""
        if self.split.documents is not None:
            return self.split.documents.ids[candidate]
        return candidate_id(self.split, int(self.first_text[candidate]))


def _any_of(mask: np.ndarray, groups: np.ndarray, axis: int) -> np.ndarray:
    """The mask with rows or columns of one group, which lie together, joined."""
    return np.logical_or.reduceat(mask, np.flatnonzero(np.diff(groups, prepend=-1)), axis=axis)


def build_task(split: SplitArrays) -> RetrievalTask:
    """Work out the queries, candidates, right answers and exclusions of a split."""
    if split.asks_pairs:
        every = np.arange(len(split))
        text, source = candidate_texts(split), np.arange(2 * len(split))
        answers, pair = Qrels(every, every, np.ones_like(every)), every
        official, besides = official_exclusions(split), clean_exclusions(split)
    else:
        text, key, right, source, own = _shared_candidates(split)
        pair, answers = _queries(split, right)
        official, besides = _point_exclusions(split, pair, answers, key, own)
    rows, left_out = (np.concatenate([official[i], besides[i]]) for i in (0, 1))
    order = np.argsort(rows, kind="stable")
    clean = rows[order], left_out[order]
    first = np.unique(source, return_index=True)[1]
    differs = np.unique(besides[0])
    counts, candidates = clean_queries(split), as_candidates(text)
    return RetrievalTask(split, pair, candidates, answers, counts, official, clean, differs, source, first)


def _shared_candidates(
    split: SplitArrays,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, Callable[[int], Sequence[int]]]:
    """Candidates of queries with several right answers: their texts and keys (C,); for each pair the candidate that is
    its counter (N,); for each of its 2N texts the candidate it is (2N,); and by pair, those that are the point itself.

    Documents are candidates as they are, and one with the query's own name is the point itself (what BEIR's
    ignore_identical_ids leaves out). Else each distinct string is one candidate.
    """
    documents = split.documents
    if documents is not None:
        place = {name: number for number, name in enumerate(documents.ids)}
        right = np.array([place.get(pair.document, -1) for pair in split.pairs], dtype=np.int64)
        own = [[place[pair.query]] if pair.query in place else [] for pair in split.pairs]
        return documents.text, documents.key, right, np.empty(0, dtype=np.int64), own.__getitem__
    texts, keys = candidate_texts(split), np.concatenate([split.counter_key, split.point_key])
    _, first, back = np.unique(texts, return_index=True, return_inverse=True)
    order = np.argsort(first)
    source = np.argsort(order)[back.reshape(-1)]
    first, n = first[order], len(split)
    return texts[first], keys[first], source[:n], source, lambda row: (int(source[n + row]),)


def _queries(split: SplitArrays, right: np.ndarray) -> tuple[np.ndarray, Qrels]:
    """The first right pair of each query (Q,), and the right answers."""
    positive = np.flatnonzero(split.grade > 0)
    _, first, row = np.unique(split.query[positive], return_index=True, return_inverse=True)
    pair, row = positive[first], row.reshape(-1)
    # The same answer given twice counts once, with its highest grade.
    order = np.lexsort((-split.grade[positive], right[positive], row))
    row, candidate, grade = (of[order] for of in (row, right[positive], split.grade[positive]))
    kept = np.ones(len(row), dtype=bool)
    kept[1:] = (np.diff(row) != 0) | (np.diff(candidate) != 0) | (candidate[1:] < 0)
    return pair, Qrels(row[kept], candidate[kept], grade[kept])


def _point_exclusions(
    split: SplitArrays,
    pair: np.ndarray,
    answers: Qrels,
    key: np.ndarray,
    own: Callable[[int], Sequence[int]],
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """(rows, candidates), sorted by row, that `official` leaves out, the point itself, and that clean leaves out too,
    texts equal, after folding, to the point or to a right answer. A right answer stays, whatever its text."""
    same = _members(key)
    bounds = np.searchsorted(answers.row, np.arange(len(pair) + 1))
    official: tuple[list[int], list[int]] = ([], [])
    besides: tuple[list[int], list[int]] = ([], [])
    for row, first in enumerate(pair.tolist()):
        right = set(answers.candidate[bounds[row] : bounds[row + 1]].tolist()) - {-1}
        itself = {*own(first)} - right
        equal = {*same[int(split.point_key[first])]}.union(*(same[int(key[answer])] for answer in right))
        for (rows, candidates), found in ((official, itself), (besides, equal - itself - right)):
            rows += [row] * len(found)
            candidates += sorted(found)
    (a, b), (c, d) = (map(lambda of: np.array(of, dtype=np.int64), of) for of in (official, besides))
    return (a, b), (c, d)


def candidate_texts(split: SplitArrays) -> np.ndarray:
    """Text index of each candidate (C,)."""
    return np.concatenate([split.counter, split.point])


def candidate_id(split: SplitArrays, candidate: int) -> str:
    """The name of a candidate: its pair's id and which of the two texts it is."""
    n = len(split)
    return f"{split.pairs[candidate % n].id}#{'counter' if candidate < n else 'point'}"


def official_exclusions(split: SplitArrays) -> tuple[np.ndarray, np.ndarray]:
    """(rows, candidates), sorted by row, that `official` leaves out: the point itself, and other counters whose
    text is the same string as the true counter's."""
    n = len(split)
    same = _members(split.counter)
    rows, candidates = [], []
    for row in range(n):
        others = [j for j in same[split.counter[row]] if j != row]
        rows += [row] * (len(others) + 1)
        candidates += [*others, n + row]
    return np.array(rows, dtype=np.int64), np.array(candidates, dtype=np.int64)


def clean_exclusions(split: SplitArrays) -> tuple[np.ndarray, np.ndarray]:
    """(rows, candidates), sorted by row, that the clean protocol leaves out besides official's: what is equal, after
    folding, to the point, and other counters so equal to the true one."""
    n = len(split)
    candidate, key = candidate_texts(split), np.concatenate([split.counter_key, split.point_key])
    same = _members(key)
    rows, candidates = [], []
    for row in range(n):
        equal = {*same[split.point_key[row]], *(j for j in same[split.counter_key[row]] if j < n)}
        equal -= {n + row, *(j for j in equal if j < n and candidate[j] == split.counter[row])}
        rows += [row] * len(equal)
        candidates += sorted(equal)
    return np.array(rows, dtype=np.int64), np.array(candidates, dtype=np.int64)


def _members(values: np.ndarray) -> dict[int, list[int]]:
    members: dict[int, list[int]] = defaultdict(list)
    for index, value in enumerate(values.tolist()):
        members[value].append(index)
    return members


def task_mask(split: SplitArrays, task: str, rows: np.ndarray) -> np.ndarray:
    """Which candidates a task admits for the points `rows` (b, C), before official's exclusions.

    Opposing candidates are counters filed under the point's own stance and points filed under another.
    """
    reach, side, with_points = _TASK_SHAPE[task]
    n = len(split)
    if reach == "portal":
        near = np.ones((len(rows), n), dtype=bool)
    else:
        groups = getattr(split, reach)
        near = groups[rows][:, None] == groups[None, :]
    own = split.stance[rows][:, None] == split.stance[None, :]
    counters = near & own if side == "opposing" else near
    points = near & ~own if side == "opposing" else near
    return np.concatenate([counters, points & with_points], axis=1)
