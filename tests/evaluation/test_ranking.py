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

Scores of the head (logit₁ − logit₀):
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
First place is a tie of scores in row 1 from k = 2 to 4 and in row 2 at k = 2; by distance alone it never is.
"""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.reference import in_both_roles

from biencoder_ablate.data.corpus import Pair, build_corpus
from biencoder_ablate.data.text_table import build_table
from biencoder_ablate.evaluation import distances, ranking
from biencoder_ablate.evaluation.candidates import CandidateSet, as_candidates, build_task
from biencoder_ablate.evaluation.distances import (
    check_finite,
    distances_to,
    exclude,
    first_k,
    make_targets,
    rank_of,
    smallest,
)
from biencoder_ablate.evaluation.protocols import final_rankings, measure_split, split_metrics
from biencoder_ablate.evaluation.ranking import Scores, rank_matrix, rerank, stage1
from biencoder_ablate.model.biencoder import Embeddings
from biencoder_ablate.model.heads import head_score, is_dead

LINE = {"a": 0, "b": 3, "c": 1, "d": 10, "e": 4}
SCORES = {
    "a": {"c": 5, "b": 2, "e": 2, "d": 9},
    "c": {"a": 0, "b": 0, "e": 0, "d": 7},
    "e": {"b": 1, "c": 1, "a": 3, "d": -1},
}
BY_HAND = {
    "none": [1, 4, 0],
    1: [1, 4, 0],
    2: [1, 4, 0],
    3: [1, 4, 1],
    4: [2, 4, 1],
    5: [2, 0, 1],
    6: [2, 0, 1],
    100: [2, 0, 1],
    "all": [2, 0, 1],
}
TIED = {
    "none": [False] * 3,
    1: [False] * 3,
    2: [False, True, True],
    3: [False, True, False],
    4: [False, True, False],
    5: [False] * 3,
    100: [False] * 3,
    "all": [False] * 3,
}
FIRST = {"none": [4, 3, 2], 2: [4, 3, 2], 3: [4, 3, 3], 5: [1, 1, 3], "all": [1, 1, 3]}


@pytest.fixture
def hand():
    """(prepared split, embeddings, score) of the corpus above."""
    triples = [("a", "b"), ("c", "d"), ("e", "b")]
    pairs = [Pair("test", "t", "d", "pro", number, *both) for number, both in enumerate(triples, start=1)]
    pairs += [Pair(split, "t", "d", "pro", 1, "x", "y") for split in ("train", "val")]
    table = build_table(build_corpus("hand", pairs, asks_pairs=True))

    def score(points, candidates):
        logits = torch.tensor(
            [
                [
                    0.0,
                    SCORES[table.texts[p]].get(table.texts[c], 99.0),
                ]  # a text itself may be scored, and does not count
                for p, c in zip(points.tolist(), candidates.tolist(), strict=True)
            ]
        )
        return head_score(logits), is_dead(logits)

    line = torch.tensor([float(LINE.get(text, 0)) for text in table.texts])[:, None]
    return build_task(table.splits["test"]), in_both_roles(line), score


@pytest.mark.parametrize("k", BY_HAND)
def test_ranks_of_the_hand_corpus(hand, k):
    found = final_rankings(*hand, k).official
    assert found.stage1_rank.tolist() == [1, 4, 0]
    assert found.final_rank.tolist() == BY_HAND[k]


@pytest.mark.parametrize("k", TIED)
def test_ties_for_first_place_of_the_hand_corpus(hand, k):
    assert final_rankings(*hand, k).official.tied.tolist() == TIED[k]


@pytest.mark.parametrize("k", FIRST)
def test_first_candidates_of_the_hand_corpus(hand, k):
    assert final_rankings(*hand, k).official.first.tolist() == FIRST[k]


def test_scored_and_dead_pairs_of_the_hand_corpus(hand):
    """A score of 0 here comes from two zero logits: a and b0 among c's first two, also b2 among its first three."""
    for k, scored, dead in (
        (2, [2, 2, 2], [0, 2, 0]),
        (3, [3, 3, 3], [0, 3, 0]),
        (9, [4, 5, 4], [0, 4, 0]),
        ("all", [4, 5, 4], [0, 4, 0]),
        ("none", [0, 0, 0], [0, 0, 0]),
    ):
        found = final_rankings(*hand, k).official
        assert found.num_scored.tolist() == scored
        assert found.num_dead.tolist() == dead


def test_figures_of_the_hand_corpus(hand):
    """At k = 3 the ranks are 1, 4, 1 from 0: nobody is first; MRR (1/2 + 1/5 + 1/2)/3. Stage 1: 1, 4, 0.

    Clean counts rows 0 and 1 here, e → b being told as known.
    """
    prepared, embeddings, score = hand
    prepared = replace(prepared, counts=np.array([True, True, False]))
    values = split_metrics(final_rankings(prepared, embeddings, score, 3))
    assert values["top1"] == 0 and values["mrr"] == pytest.approx(1.2 / 3)
    assert values["mrr_clean"] == pytest.approx(0.7 / 2)
    assert values["recall@1"] == pytest.approx(1 / 3) and values["recall@10"] == 1
    assert values["top1_stage1"] == pytest.approx(1 / 3) and values["top1_stage1_clean"] == 0
    assert values["mrr_stage1"] == pytest.approx(1.7 / 3)
    assert values["ndcg@10"] == pytest.approx((2 / np.log2(3) + 1 / np.log2(6)) / 3)
    assert values["tied_first"] == pytest.approx(1 / 3) and values["dead_pairs"] == pytest.approx(3 / 9)
    assert values["num_points"] == 3 and values["num_points_clean"] == 2


def test_a_depth_beyond_any_candidate_set_costs_no_memory(hand):
    """evaluation.rerank takes any whole number; what it can re-rank ends with the candidates."""
    assert final_rankings(*hand, 10**12).official.final_rank.tolist() == BY_HAND[100]


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("k", ["none", 3, "all"])
def test_distances_that_are_no_numbers_are_refused(hand, k, broken):
    """Nothing is smaller than NaN: counting what comes before the true counter would make every point a success."""
    prepared, embeddings, score = hand
    spoilt = in_both_roles(torch.full_like(embeddings.h, broken) * (1 + embeddings.h))
    for measure in (final_rankings, measure_split):
        with pytest.raises(ValueError, match="not all finite"):
            measure(prepared, spoilt, score, k)


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("k", [3, "all"])
def test_scores_that_are_no_numbers_are_refused(hand, k, broken):
    prepared, embeddings, score = hand

    def spoilt(points, candidates):
        scores, dead = score(points, candidates)
        return scores.index_fill(0, torch.tensor([0]), broken), dead

    with pytest.raises(ValueError, match="not all finite"):
        final_rankings(prepared, embeddings, spoilt, k)


def test_check_finite():
    check_finite(torch.tensor([[0.0, -1e30]]))
    check_finite(torch.empty(0, 3))
    for broken in (float("nan"), float("inf"), -float("inf")):
        with pytest.raises(ValueError, match="not all finite"):
            check_finite(torch.tensor([[0.0, broken]]))


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


@pytest.mark.parametrize("num_rows", [1, 2])
def test_right_answers_are_ranked_no_more_at_a_time_than_there_are_rows(num_rows):
    """What is taken of the matrix for them is then no larger than the matrix."""
    columns = torch.tensor([4, 0, 3, 3])
    rows = torch.arange(4) * num_rows // 4
    pieces = distances.chunks(rows, columns, num_rows)
    assert [len(right) for _, right in pieces] == [num_rows] * (4 // num_rows)
    assert torch.equal(torch.cat([of for of, _ in pieces]), rows)
    assert torch.equal(torch.cat([right for _, right in pieces]), columns)
    scores = torch.tensor([[2.0, 0.0, 1.0, 2.0, 0.0]]).expand(num_rows, -1)
    assert rank_of(scores, columns, rows).tolist() == [1, 3, 4, 4]


def test_first_k_of_nothing_but_excluded_candidates():
    order, values = first_k(torch.full((2, 3), torch.inf), 2)
    assert order.tolist() == [[-1, -1]] * 2 and values.isinf().all()


def test_exclude_leaves_out_exactly_the_named_candidates():
    scores = torch.zeros(3, 4)
    rows, candidates = np.array([0, 0, 2, 5, 5, 6]), np.array([1, 3, 0, 2, 3, 0])
    exclude(scores, np.array([0, 4, 5]), (rows, candidates))
    assert scores.isinf().tolist() == [[False, True, False, True], [False] * 4, [False, False, True, True]]


def distances_between(points, candidates):
    return distances_to(points, make_targets(candidates))


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_distances_are_euclidean(seed):
    random = np.random.default_rng(seed)
    a, b = random.normal(size=(4, 6)), random.normal(size=(9, 6))
    expected = ((a[:, None] - b[None]) ** 2).sum(-1)
    found = distances_between(torch.from_numpy(a).float(), torch.from_numpy(b).float())
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_large_common_part_does_not_cost_the_order():
    """Embeddings of one encoder share most of their length; |a|² + |b|² − 2ab alone would order them by chance."""
    random = torch.Generator().manual_seed(0)
    common = 1000 * torch.randn(64, generator=random, dtype=torch.float64)
    a, b = (torch.randn(num, 64, generator=random, dtype=torch.float64) for num in (5, 200))
    a, b = ((values + common).float() for values in (a, b))  # rounded once, the same for both computations
    exact = ((a.double()[:, None] - b.double()[None]) ** 2).sum(-1)
    found = distances_between(a, b)
    torch.testing.assert_close(found.double(), exact, rtol=1e-3, atol=1e-3)
    assert torch.equal(found.argmin(1), exact.argmin(1))


def test_a_text_is_at_distance_zero_from_itself():
    """Nothing below zero, so that no square root or comparison of a distance can fail."""
    a = 100 * torch.randn(50, 32, generator=torch.Generator().manual_seed(0))
    own = distances_between(a, a)
    assert (own >= 0).all() and own.diagonal().max() < 0.5 and own.argmin(1).tolist() == list(range(50))


@pytest.mark.parametrize("admitted_share", [None, 0.9, 0.2, 0.02])
def test_stage_1_over_several_blocks_of_points(admitted_share):
    """600 points and 1200 candidates on a small grid: many ties, three blocks, exclusions in each of them.

    The grid is so wide that the candidates' mean is whole too: nothing is rounded. Without a mask and under one the
    program goes different ways to the same ranks.
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
    asked = CandidateSet(rows, (excluded_rows, excluded), (np.arange(n), np.arange(n)), admitted)
    (found,) = stage1(in_both_roles(grid), point, as_candidates(candidate), [asked], 7)
    squares = ((grid[point[rows]][:, None] - grid[candidate][None]) ** 2).sum(-1).numpy()
    squares[~mask[rows]] = np.inf
    for position, row in enumerate(rows):
        squares[position, excluded[excluded_rows == row]] = np.inf
        order = np.argsort(squares[position], kind="stable")
        possible = order[np.isfinite(squares[position, order])][:7].tolist()
        assert found.order[position].tolist() == possible + [-1] * (7 - len(possible))
        assert found.distance[position, : len(possible)].tolist() == squares[position, possible].tolist()
        assert found.stage1_rank[position] == order.tolist().index(row)


def by_sorting(retrieval, point, candidate, row, k, left_out, admitted):
    """Rank and first k of one point, by Python's own sort."""
    as_point, as_candidate = retrieval
    distance = ((as_candidate[candidate] - as_point[point[row]]) ** 2).sum(1).tolist()
    allowed = [c for c in range(len(candidate)) if c not in left_out and admitted[c]]
    ordered = sorted(allowed, key=lambda c: (distance[c], c))
    return ordered.index(row), ordered[:k]


def uncentred(x):
    """Targets whose distances on a grid of whole numbers are exact, so that ties are ties."""
    squares = x.square().sum(1, keepdim=True)
    return distances.Targets(torch.zeros(x.shape[1]), torch.cat([x, torch.ones_like(squares), squares], dim=1))


@st.composite
def rankings_to_do(draw):
    """Points and candidates on a coarse grid, so that ties abound; few distinct texts; exclusions given twice."""
    num_texts, num = draw(st.integers(1, 12)), draw(st.integers(1, 8))
    text = st.integers(0, num_texts - 1)
    point = np.array(draw(st.lists(text, min_size=num, max_size=num)))
    candidate = np.concatenate([draw(st.lists(text, min_size=num, max_size=num)), point]).astype(np.int64)
    retrieval = torch.tensor(draw(st.lists(st.integers(0, 4), min_size=2 * num_texts, max_size=2 * num_texts))).float()
    retrieval = retrieval.view(2, num_texts, 1)  # as point and as candidate
    pairs = draw(st.lists(st.tuples(st.integers(0, num - 1), st.integers(0, 2 * num - 1)), max_size=12))
    pairs = sorted((row, c) for row, c in pairs if c != row)
    excluded = tuple(np.array([pair[i] for pair in pairs], dtype=np.int64) for i in (0, 1))
    mask = np.array(draw(st.lists(st.booleans(), min_size=num * 2 * num, max_size=num * 2 * num))).reshape(num, -1)
    mask[np.arange(num), np.arange(num)] = True
    return retrieval, point, candidate, draw(st.integers(1, 6)), excluded, mask


@settings(max_examples=100, deadline=None)
@given(rankings_to_do(), st.booleans(), st.integers(1, 5))
def test_both_ways_of_stage_1_are_plain_sorting(task, masked, block):
    retrieval, point, candidate, k, excluded, mask = task
    rows = np.arange(len(point))
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(distances, "BLOCK", block)
        patched.setattr(ranking, "make_targets", uncentred)
        asked = CandidateSet(rows, excluded, (rows, rows), mask.__getitem__ if masked else None)
        # A second question about some of the rows is answered from the same distances.
        embeddings = Embeddings(retrieval[0], *retrieval)
        sets = [asked, replace(asked, rows=rows[::2])]
        found, again = stage1(embeddings, point, as_candidates(candidate), sets, k)
    for name in ("stage1_rank", "order", "distance"):
        assert np.array_equal(getattr(again, name), getattr(found, name)[::2])
    if not masked:
        mask = np.ones_like(mask)
    for row in rows:
        left_out = set(excluded[1][excluded[0] == row].tolist())
        rank, first = by_sorting(retrieval, point, candidate, row, k, left_out, mask[row])
        assert found.stage1_rank[row] == rank
        wanted = (first + [-1] * k)[: found.order.shape[1]]
        assert found.order[row].tolist() == wanted
        assert np.isfinite(found.distance[row]).sum() == len(first)


@settings(max_examples=50, deadline=None)
@given(rankings_to_do(), st.booleans(), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_a_depth_of_all_candidates_and_a_matrix_of_scores_rank_alike(task, masked, block, seed):
    """The two ways of stage 2, in every field, with ties of distances and of scores."""
    retrieval, point, candidate, _, excluded, mask = task
    candidates, rows = as_candidates(candidate), np.arange(len(point))
    scores = torch.from_numpy(np.random.default_rng(seed).integers(3, size=(len(retrieval[0]),) * 2)).float()

    def score(points, candidates):
        return scores[points, candidates], scores[points, candidates] == 0

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(distances, "BLOCK", block)
        patched.setattr(ranking, "PAIRS_AT_ONCE", 3)
        patched.setattr(ranking, "make_targets", uncentred)
        embeddings = Embeddings(retrieval[0], *retrieval)
        asked = CandidateSet(rows, excluded, (rows, rows), mask.__getitem__ if masked else None)
        sets = [asked, replace(asked, rows=rows[::2])]
        for one, other in zip(
            *(ranking.rank(embeddings, point, candidates, sets, score, k) for k in (len(candidate), "all")), strict=True
        ):
            for item in fields(one):
                assert getattr(one, item.name).tolist() == getattr(other, item.name).tolist(), item.name


def test_equal_texts_tie_exactly():
    """Lists that hold one text many times, in different places and lists: it is scored once."""
    random = np.random.default_rng(0)
    candidate = random.integers(0, 50, 400)
    order = torch.from_numpy(random.integers(0, 400, (60, 40)))
    point, asked = random.integers(0, 5, 60), []

    def never_twice_the_same(points, candidates):
        asked.extend(zip(points.tolist(), candidates.tolist(), strict=True))
        return torch.rand(len(points)), torch.zeros(len(points), dtype=torch.bool)

    found = ranking.TopK.unscored(order, torch.zeros(60, 40), torch.zeros(60))
    lists = rerank(found, 40, point, as_candidates(candidate), never_twice_the_same)
    assert len(asked) == len(set(asked)) < lists.score.size
    seen = {}
    for text, row, values in zip(point.tolist(), candidate[lists.order].tolist(), lists.score.tolist(), strict=True):
        for other, value in zip(row, values, strict=True):
            assert seen.setdefault((text, other), value) == value


def test_a_matrix_without_scores_ranks_by_distance():
    """Two points among four candidates, the second's counter left nothing before it but an equal and earlier one."""
    distance = torch.tensor([[2.0, 1.0, 2.0, 0.0], [1.0, 1.0, 3.0, 0.5]])
    rows = np.arange(2)
    sets = [CandidateSet(rows, (rows, np.array([3, 3])), (rows, rows))]
    (found,) = rank_matrix(sets, lambda rows: Scores(distance[rows]), 4)
    assert found.final_rank.tolist() == found.stage1_rank.tolist() == [1, 1]
    assert found.first.tolist() == [1, 0] and found.tied.tolist() == [False, True]
    assert found.num_scored.tolist() == found.num_dead.tolist() == [0, 0]


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
