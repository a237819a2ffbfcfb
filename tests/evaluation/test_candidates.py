"""Who may answer whom: exclusions, the eight sets of Wachsmuth et al. 2018, and how many there are of each kind."""

import numpy as np
import pytest
from hypothesis import given, settings
from support import reference
from support.reference import Candidate, corpora, published_and_used

from biencoder_ablate.audit import candidate_totals
from biencoder_ablate.data.corpus import SPLITS, Pair, build_corpus
from biencoder_ablate.data.text_table import build_table
from biencoder_ablate.evaluation.candidates import (
    TASKS,
    build_task,
    candidate_id,
    candidate_texts,
    task_mask,
)

# Seven pairs in candidate order; the debate "one" is filed under both themes.
#       theme debate stance  point → counter      candidates: counter  point
#    0  art   one    con     p0    → k0                       0        7
#    1  art   one    con     p1    → K0!                      1        8
#    2  art   one    pro     p2    → k2                       2        9
#    3  art   two    con     p3    → p0                       3        10
#    4  bar   one    con     P0    → k0                       4        11
#    5  bar   one    pro     p5    → k5                       5        12
#    6  bar   one    pro     p6    → k6                       6        13
ROWS = [
    ("art", "one", "con", 1, "p0", "k0"),
    ("art", "one", "con", 2, "p1", "K0!"),
    ("art", "one", "pro", 1, "p2", "k2"),
    ("art", "two", "con", 1, "p3", "p0"),
    ("bar", "one", "con", 1, "P0", "k0"),
    ("bar", "one", "pro", 1, "p5", "k5"),
    ("bar", "one", "pro", 2, "p6", "k6"),
]
# For row 0, before exclusions: counters of its own stance, points of the other.
TASKS_OF_ROW_0 = {
    "sdoc": [0, 1],
    "sdc": [0, 1, 2],
    "sdoa": [0, 1, 9],
    "sda": [0, 1, 2, 7, 8, 9],
    "stc": [0, 1, 2, 3],
    "sta": [0, 1, 2, 3, 7, 8, 9, 10],
    "epc": list(range(7)),
    "epa": list(range(14)),
}
# For row 5 (bar, one, pro): the debate of the same name under art is another debate.
TASKS_OF_ROW_5 = {
    "sdoc": [5, 6],
    "sdc": [4, 5, 6],
    "sdoa": [5, 6, 11],
    "sda": [4, 5, 6, 11, 12, 13],
    "stc": [4, 5, 6],
    "sta": [4, 5, 6, 11, 12, 13],
    "epc": list(range(7)),
    "epa": list(range(14)),
}
# Official leaves out each row's own point, and counters 0 and 4 for one another: both are the string k0.
OFFICIAL = {0: {7, 4}, 1: {8}, 2: {9}, 3: {10}, 4: {11, 0}, 5: {12}, 6: {13}}
# Clean also leaves out p0 wherever it stands, for the two that ask it, as counter 3 and as the other's point; and
# counter 1 for 0 and 4 and the other way round, for K0! is k0 after folding.
CLEAN_BESIDES = {0: {3, 11, 1}, 1: {0, 4}, 4: {3, 7, 1}}


@pytest.fixture
def split():
    pairs = [Pair("test", *row) for row in reversed(ROWS)]
    pairs += [Pair(name, "t", "d", "pro", 1, "x", "y") for name in ("train", "val")]
    return build_table(build_corpus("hand", pairs, asks_pairs=True)).splits["test"]


def by_row(exclusions):
    rows, candidates = exclusions
    assert rows.tolist() == sorted(rows.tolist())
    found = {}
    for row, candidate in zip(rows.tolist(), candidates.tolist(), strict=True):
        found.setdefault(row, set()).add(candidate)
    return found


def besides_official(task):
    """What clean leaves out and official does not."""
    official, clean = by_row(task.official), by_row(task.clean)
    besides = {row: left_out - official[row] for row, left_out in clean.items()}
    return {row: left_out for row, left_out in besides.items() if left_out}


def test_candidate_order_is_theme_debate_con_first_number(split):
    assert [(p.theme, p.debate, p.stance, p.number, p.point, p.counter) for p in split.pairs] == ROWS
    assert len(candidate_texts(split)) == 14
    assert candidate_id(split, 4) == "test/bar/one/con01#counter"
    assert candidate_id(split, 9) == "test/art/one/pro01#point"


def test_exclusions_worked_by_hand(split):
    task = build_task(split)
    assert by_row(task.official) == OFFICIAL
    assert besides_official(task) == CLEAN_BESIDES
    assert task.clean_differs.tolist() == [*CLEAN_BESIDES]


def test_what_is_left_out_of_a_row_is_in_candidate_order():
    """Seven pairs, of which 1 and 2 have one counter: row 1 leaves out counter 2 and its own point, candidate 8."""
    counters = ["c0", "same", "same", "c3", "c4", "c5", "c6"]
    pairs = [Pair("test", "t", "d", "pro", n, f"p{n}", counter) for n, counter in enumerate(counters)]
    pairs += [Pair(name, "t", "d", "pro", 1, "x", "y") for name in ("train", "val")]
    task = build_task(build_table(build_corpus("hand", pairs, asks_pairs=True)).splits["test"])
    rows, candidates = task.official
    assert candidates[rows == 1].tolist() == [2, 8]
    assert candidates[rows == 2].tolist() == [1, 9]


@pytest.mark.parametrize(("row", "expected"), [(0, TASKS_OF_ROW_0), (5, TASKS_OF_ROW_5)])
def test_the_eight_sets_worked_by_hand(split, row, expected):
    assert set(TASKS) == set(expected)
    for task, candidates in expected.items():
        assert np.flatnonzero(task_mask(split, task, np.array([row]))[0]).tolist() == candidates, task


def test_totals_worked_by_hand(split):
    """Of ordered pairs of rows: 4 share debate and stance (0·1, 5·6), 8 the debate alone (0·2, 1·2, 4·5, 4·6),
    6 the theme alone (3 with 0, 1, 2), 24 neither. Rows 0 and 4 both have the string k0: two less of the last."""
    assert candidate_totals(split) == {
        "true": 7,
        "debate_same_counter": 4,
        "debate_same_point": 4,
        "debate_other_counter": 8,
        "debate_other_point": 8,
        "theme_counter": 6,
        "theme_point": 6,
        "portal_counter": 22,
        "portal_point": 24,
    }


@settings(max_examples=60, deadline=None)
@given(corpora())
def test_sets_and_totals_equal_the_reference(corpus):
    for name in SPLITS:
        split = build_table(corpus).splits[name]
        pairs, n = corpus.split(name), len(split)
        assert list(pairs) == reference.in_candidate_order(pairs)
        assert candidate_totals(split) == reference.candidate_totals(pairs)
        prepared = build_task(split)
        official, besides = by_row(prepared.official), besides_official(prepared)
        for row in range(n):
            out = official[row]
            found = _candidates(set(range(2 * n)) - out, n)
            assert found == set(reference.official_candidates(pairs, row))
            found = _candidates(set(range(2 * n)) - out - besides.get(row, set()), n)
            assert found == set(reference.clean_candidates(pairs, row))
        for task in TASKS:
            mask = task_mask(split, task, np.arange(n))
            for row in range(n):
                found = _candidates(set(np.flatnonzero(mask[row]).tolist()) - official[row], n)
                assert found == set(reference.task_candidates(pairs, row, task)), task


def _candidates(numbers, n):
    return {Candidate(number < n, number % n) for number in numbers}


@settings(max_examples=60, deadline=None)
@given(published_and_used())
def test_clean_rows_equal_the_reference(both):
    """Also of corpora shortened after publication: a text that was published earlier stays leaked."""
    published, used = both
    table, earlier = build_table(used), []
    for name in SPLITS:
        expected = reference.clean_rows(used.split(name), earlier)
        assert np.flatnonzero(table.splits[name].clean).tolist() == expected
        earlier += published.split(name)


PUBLISHED_TOTALS = {
    "train": {"theme_counter": 1588976, "portal_counter": 14901994},
    "test": {
        "true": 1401,
        "debate_same_counter": 4052,
        "debate_same_point": 4058,
        "debate_other_counter": 5260,
        "debate_other_point": 5260,
        "theme_counter": 180558,
        "theme_point": 180558,
        "portal_counter": 1771312,
        "portal_point": 1771524,
    },
}
"""What the corpus itself publishes, summed over the points of a split."""


@pytest.mark.parametrize("name", PUBLISHED_TOTALS)
def test_totals_of_the_real_corpus(name, arguana):
    totals, published = candidate_totals(build_table(arguana).splits[name]), PUBLISHED_TOTALS[name]
    assert {kind: totals[kind] for kind in published} == published
