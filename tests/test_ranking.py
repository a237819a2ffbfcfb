"""Ranking: a five-argument corpus worked by hand, and the parts it is made of against plain sorting.

The hand corpus has three pairs of five arguments on a line: points a 0, c 1, e 4; counters b 3, d 10.

    row 0  a → b        candidates 0 1 2 are the counters b d b, candidates 3 4 5 the points a c e
    row 1  c → d
    row 2  e → b

Official candidates, nearest first (distance in brackets):
    row 0  c(1) b(3) e(4) d(10)            left out: point 3 itself, counter 2, whose text is the true counter's
    row 1  a(1) b0(2) b2(2) e(3) d(9)      left out: point 4; the two b tie, the lower candidate first
    row 2  b2(1) c(3) a(4) d(6)            left out: point 5, counter 0
The true counter's ranks in stage 1, from 0: 1, 4, 0.

Margins of the head (logit₁ − logit₀):
    a asks   c 5   b 2   e 2   d 9
    c asks   a 0   b 0   e 0   d 7
    e asks   b 1   c 1   a 3   d −1
Re-ranked lists:
    k   row 0       row 1            row 2       ranks of the true counter
    1   c b e d     a b0 b2 e d      b2 c a d    1 4 0
    2   c b e d     a b0 b2 e d      b2 c a d    1 4 0
    3   c b e d     a b0 b2 e d      a b2 c d    1 4 1
    4   d c b e     a b0 b2 e d      a b2 c d    2 4 1
    5   d c b e     d a b0 b2 e      a b2 c d    2 0 1
First place is a tie of margins in row 1 from k = 2 to 4 and in row 2 at k = 2; by distance alone it never is.
"""

import numpy as np
import pytest
import torch
from biencoder_ablate.evaluation.measure import figures, prepare, rank_both
from biencoder_ablate.evaluation.stage1 import Question, stage1
from hypothesis import given, settings
from hypothesis import strategies as st

from biencoder_ablate.data.corpus import Pair, build_corpus
from biencoder_ablate.data.index import build_index
from biencoder_ablate.evaluation.distances import exclude, first_k, rank_of, smallest, squared_distances
from biencoder_ablate.model.heads import is_dead, margin

LINE = {"a": 0, "b": 3, "c": 1, "d": 10, "e": 4}
MARGINS = {
    "a": {"c": 5, "b": 2, "e": 2, "d": 9},
    "c": {"a": 0, "b": 0, "e": 0, "d": 7},
    "e": {"b": 1, "c": 1, "a": 3, "d": -1},
}
BY_HAND = {
    None: [1, 4, 0],
    1: [1, 4, 0],
    2: [1, 4, 0],
    3: [1, 4, 1],
    4: [2, 4, 1],
    5: [2, 0, 1],
    6: [2, 0, 1],
    100: [2, 0, 1],
}
TIED = {
    None: [False] * 3,
    1: [False] * 3,
    2: [False, True, True],
    3: [False, True, False],
    4: [False, True, False],
    5: [False] * 3,
    100: [False] * 3,
}
FIRST = {None: [4, 3, 2], 2: [4, 3, 2], 3: [4, 3, 3], 5: [1, 1, 3]}


@pytest.fixture
def hand():
    """(prepared split, embeddings (T, 1), score) of the corpus above."""
    triples = [("a", "b"), ("c", "d"), ("e", "b")]
    pairs = [Pair("test", "t", "d", "pro", number, *both) for number, both in enumerate(triples, start=1)]
    pairs += [Pair(split, "t", "d", "pro", 1, "x", "y") for split in ("train", "val")]
    table = build_index(build_corpus("hand", pairs))

    def score(points, candidates):
        logits = torch.tensor(
            [
                [0.0, MARGINS[table.texts[p]][table.texts[c]]]
                for p, c in zip(points.tolist(), candidates.tolist(), strict=True)
            ]
        )
        return margin(logits), is_dead(logits)

    line = torch.tensor([float(LINE.get(text, 0)) for text in table.texts])[:, None]
    return prepare(table.splits["test"]), line, score


@pytest.mark.parametrize("k", BY_HAND)
def test_ranks_of_the_hand_corpus(hand, k):
    found = rank_both(*hand, k)[0]
    assert found.stage1_rank.tolist() == [1, 4, 0]
    assert found.final_rank.tolist() == BY_HAND[k]


@pytest.mark.parametrize("k", TIED)
def test_ties_for_first_place_of_the_hand_corpus(hand, k):
    assert rank_both(*hand, k)[0].tied.tolist() == TIED[k]


@pytest.mark.parametrize("k", FIRST)
def test_first_candidates_of_the_hand_corpus(hand, k):
    assert rank_both(*hand, k)[0].first.tolist() == FIRST[k]


def test_scored_and_dead_pairs_of_the_hand_corpus(hand):
    """A margin of 0 here comes from two zero logits: a and b0 among c's first two, also b2 among its first three."""
    for k, scored, dead in (
        (2, [2, 2, 2], [0, 2, 0]),
        (3, [3, 3, 3], [0, 3, 0]),
        (9, [4, 5, 4], [0, 4, 0]),
        (None, [0, 0, 0], [0, 0, 0]),
    ):
        found = rank_both(*hand, k)[0]
        assert found.num_scored.tolist() == scored
        assert found.num_dead.tolist() == dead


def test_figures_of_the_hand_corpus(hand):
    """At k = 3 the ranks are 1, 4, 1 from 0: nobody is first; MRR (1/2 + 1/5 + 1/2)/3. Stage 1: 1, 4, 0."""
    official = rank_both(*hand, 3)[0]
    values = figures(official, official, np.array([True, True, False]))
    assert values["top1"] == 0 and values["mrr"] == pytest.approx(1.2 / 3)
    assert values["mrr_clean"] == pytest.approx(0.7 / 2)
    assert values["recall@1"] == pytest.approx(1 / 3) and values["recall@10"] == 1
    assert values["ndcg@10"] == pytest.approx((2 / np.log2(3) + 1 / np.log2(6)) / 3)
    assert values["tied_first"] == pytest.approx(1 / 3) and values["dead_pairs"] == pytest.approx(3 / 9)
    assert values["num_points"] == 3 and values["num_points_clean"] == 2


def test_a_depth_beyond_any_candidate_set_costs_no_memory(hand):
    """evaluation.rerank takes any whole number; what it can re-rank ends with the candidates."""
    assert rank_both(*hand, 10**12)[0].final_rank.tolist() == BY_HAND[100]


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("k", [None, 3])
def test_distances_that_are_no_numbers_are_refused(hand, k, broken):
    """Nothing is smaller than NaN: counting what comes before the true counter would make every point a success."""
    prepared, line, score = hand
    with pytest.raises(ValueError, match="not all finite"):
        rank_both(prepared, torch.full_like(line, broken) * (1 + line), score, k)


SMALL = st.sampled_from([0.0, 1.0, 2.0, 2.0, 7.5, float("inf")])


@st.composite
def score_rows(draw):
    """Scores (b, C), mostly ties, some inf, the true candidate of each row finite."""
    num, width = draw(st.integers(1, 5)), draw(st.integers(1, 9))
    rows = draw(st.lists(st.lists(SMALL, min_size=width, max_size=width), min_size=num, max_size=num))
    true = draw(st.lists(st.integers(0, width - 1), min_size=num, max_size=num))
    for row, column in zip(rows, true, strict=True):
        row[column] = draw(st.sampled_from([0.0, 1.0, 2.0]))
    return rows, true


@given(score_rows(), st.integers(1, 12))
def test_first_k_is_a_stable_sort(scores, k):
    rows, _ = scores
    order, values = first_k(torch.tensor(rows), k)
    assert order.shape == values.shape == (len(rows), k)
    for row, got, nearest in zip(rows, order.tolist(), values.tolist(), strict=True):
        expected = [i for i in sorted(range(len(row)), key=row.__getitem__) if row[i] != float("inf")][:k]
        assert got == expected + [-1] * (k - len(expected))
        assert nearest == [row[i] for i in expected] + [float("inf")] * (k - len(expected))


@given(score_rows())
def test_rank_of_is_the_position_after_a_stable_sort(scores):
    rows, true = scores
    expected = [
        sorted(range(len(row)), key=row.__getitem__).index(column) for row, column in zip(rows, true, strict=True)
    ]
    assert rank_of(torch.tensor(rows), torch.tensor(true)).tolist() == expected


def test_first_k_of_nothing_but_excluded_candidates():
    order, values = first_k(torch.full((2, 3), torch.inf), 2)
    assert order.tolist() == [[-1, -1]] * 2 and values.isinf().all()


def test_exclude_leaves_out_exactly_the_named_candidates():
    scores = torch.zeros(3, 4)
    rows, candidates = np.array([0, 0, 2, 5, 5, 6]), np.array([1, 3, 0, 2, 3, 0])
    exclude(scores, np.array([0, 4, 5]), (rows, candidates))
    assert scores.isinf().tolist() == [[False, True, False, True], [False] * 4, [False, False, True, True]]


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_distances_are_euclidean(seed):
    random = np.random.default_rng(seed)
    a, b = random.normal(size=(4, 6)), random.normal(size=(9, 6))
    expected = ((a[:, None] - b[None]) ** 2).sum(-1)
    found = squared_distances(torch.from_numpy(a).float(), torch.from_numpy(b).float())
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_large_common_part_does_not_cost_the_order():
    """Embeddings of one encoder share most of their length; |a|² + |b|² − 2ab alone would order them by chance."""
    random = torch.Generator().manual_seed(0)
    common = 1000 * torch.randn(64, generator=random, dtype=torch.float64)
    a, b = (torch.randn(num, 64, generator=random, dtype=torch.float64) for num in (5, 200))
    a, b = ((values + common).float() for values in (a, b))  # rounded once, the same for both computations
    exact = ((a.double()[:, None] - b.double()[None]) ** 2).sum(-1)
    found = squared_distances(a, b)
    torch.testing.assert_close(found.double(), exact, rtol=1e-3, atol=1e-3)
    assert torch.equal(found.argmin(1), exact.argmin(1))


def test_a_text_is_at_distance_zero_from_itself():
    """Nothing below zero, so that no square root or comparison of a distance can fail."""
    a = 100 * torch.randn(50, 32, generator=torch.Generator().manual_seed(0))
    own = squared_distances(a, a)
    assert (own >= 0).all() and own.diagonal().max() < 0.5 and own.argmin(1).tolist() == list(range(50))


@pytest.mark.parametrize("admitted_share", [None, 0.9, 0.2, 0.02])
def test_stage_1_over_several_blocks_of_points(admitted_share):
    """600 points and 1200 candidates on a small grid: many ties, three blocks, exclusions in each of them.

    The grid is so wide that the candidates' mean is whole too: nothing is rounded. Without a mask, under one that
    admits many and under one that admits few, the program goes different ways to the same ranks.
    """
    random = np.random.default_rng(0)
    num_texts, n = 300, 600
    grid = torch.from_numpy(random.integers(0, 6, size=(num_texts, 3)) * 1200).double()
    point, candidate = random.integers(num_texts, size=n), random.permutation(np.arange(2 * n) % num_texts)
    excluded_rows = np.sort(random.integers(n, size=2000))
    excluded = random.integers(n, 2 * n, size=2000)
    rows = np.flatnonzero(random.random(n) < 0.9)
    mask = random.random((n, 2 * n)) < (admitted_share or 1)
    mask[np.arange(n), np.arange(n)] = True
    admitted = None if admitted_share is None else mask.__getitem__
    (found,) = stage1(grid, point, candidate, 7, [Question(rows, (excluded_rows, excluded), admitted)])
    squares = ((grid[point[rows]][:, None] - grid[candidate][None]) ** 2).sum(-1).numpy()
    squares[~mask[rows]] = np.inf
    for position, row in enumerate(rows):
        squares[position, excluded[excluded_rows == row]] = np.inf
        order = np.argsort(squares[position], kind="stable")
        possible = order[np.isfinite(squares[position, order])][:7].tolist()
        assert found.order[position].tolist() == possible + [-1] * (7 - len(possible))
        assert found.distance[position, : len(possible)].tolist() == squares[position, possible].tolist()
        assert found.rank[position] == order.tolist().index(row)


@given(
    st.integers(1, 5), st.sampled_from([3, 64, 639, 640, 700, 1000]), st.integers(1, 12), st.integers(1, 10**6),
    st.integers(0, 10**6),
)  # fmt: skip
def test_the_smallest_are_those_of_a_sort(num_rows, num_columns, k, num_values, seed):
    k = min(k, num_columns)
    values = torch.from_numpy(np.random.default_rng(seed).integers(num_values, size=(num_rows, num_columns))).float()
    found, columns = smallest(values, k)
    assert torch.equal(found, values.sort(dim=1).values[:, :k])
    assert torch.equal(values.gather(1, columns), found)
    assert all(len(set(row)) == k for row in columns.tolist())
