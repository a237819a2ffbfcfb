"""Who may answer whom: the candidate sets of a split (design §2).

A split of N pairs has C = 2N candidates in candidate order: its counters 0…N−1, then its points N…2N−1. The
true answer of row i is candidate i. The eight task names are those of Wachsmuth et al. 2018, §5: same debate
(sd), same theme (st) or entire portal (ep); opposing counters (oc), counters (c), opposing arguments (oa),
arguments (a).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from biencoder_ablate.data.index import SplitArrays

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

    rows (n,), ascending: the points. `excluded` are (rows, candidates), sorted by row, that are left out;
    `admitted` gives, for a block of rows (b,), a mask (b, C).
    """

    rows: np.ndarray
    excluded: tuple[np.ndarray, np.ndarray]
    admitted: Callable[[np.ndarray], np.ndarray] | None = None


@dataclass(frozen=True)
class SplitCandidates:
    """A split with its candidates and exclusions worked out once, for every epoch to use."""

    split: SplitArrays
    candidates: Candidates
    official: tuple[np.ndarray, np.ndarray]
    clean: tuple[np.ndarray, np.ndarray]
    clean_differs: np.ndarray
    """Rows whose clean candidates are not the official ones."""

    def sets(self, tasks: Sequence[str] = ()) -> list[CandidateSet]:
        """Official, clean for the points whose candidates then differ, and one for each of `tasks`."""
        every = np.arange(len(self.split))

        def admitted_by(task: str) -> Callable[[np.ndarray], np.ndarray]:
            return lambda rows: task_mask(self.split, task, rows)

        own = [CandidateSet(every, self.official), CandidateSet(self.clean_differs, self.clean)]
        return own + [CandidateSet(every, self.official, admitted_by(task)) for task in tasks]


def prepare(split: SplitArrays) -> SplitCandidates:
    """Work out the candidates and exclusions of a split."""
    official, besides = official_exclusions(split), clean_exclusions(split)
    rows, candidates = (np.concatenate([official[i], besides[i]]) for i in (0, 1))
    order = np.argsort(rows, kind="stable")
    clean = rows[order], candidates[order]
    return SplitCandidates(split, as_candidates(candidate_texts(split)), official, clean, np.unique(besides[0]))


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


def candidate_totals(split: SplitArrays) -> dict[str, int]:
    """How many candidates of each disjoint kind `official` offers, summed over the points of a split."""
    n = len(split)
    totals = dict.fromkeys(
        (
            "true",
            "debate_same_counter",
            "debate_other_counter",
            "debate_same_point",
            "debate_other_point",
            "theme_counter",
            "theme_point",
            "portal_counter",
            "portal_point",
        ),
        0,
    )
    totals["true"] = n
    for row in range(n):
        debate = split.debate == split.debate[row]
        theme = (split.theme == split.theme[row]) & ~debate
        own = split.stance == split.stance[row]
        counter = split.counter != split.counter[row]
        point = np.ones(n, dtype=bool)
        point[row] = False
        for kind, allowed in (("counter", counter), ("point", point)):
            totals[f"debate_same_{kind}"] += int((allowed & debate & own).sum())
            totals[f"debate_other_{kind}"] += int((allowed & debate & ~own).sum())
            totals[f"theme_{kind}"] += int((allowed & theme).sum())
            totals[f"portal_{kind}"] += int((allowed & ~debate & ~theme).sum())
    return totals
