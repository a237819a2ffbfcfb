"""Metrics against ir_measures, that is trec_eval's arithmetic, and against numbers worked by hand."""

import doctest
import math

import ir_measures
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import RR, P, Qrel, R, ScoredDoc, Success, nDCG

from biencoder_ablate.evaluation import metrics

NUM_CANDIDATES = 130


def by_trec_eval(ranks):
    """One query a point, NUM_CANDIDATES documents each, the only relevant one at 0-based rank ranks[i]."""
    qrels = [Qrel(str(query), f"d{rank}", 1) for query, rank in enumerate(ranks)]
    run = [
        ScoredDoc(str(query), f"d{place}", float(NUM_CANDIDATES - place))
        for query in range(len(ranks))
        for place in range(NUM_CANDIDATES)
    ]
    measures = [RR, nDCG @ 10, R @ 1, R @ 10, R @ 100, Success @ 1, P @ 1]
    return ir_measures.calc_aggregate(measures, qrels, run)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.one_of(st.integers(0, 12), st.integers(0, NUM_CANDIDATES - 1)), min_size=1, max_size=12))
def test_equal_to_trec_eval(ranks):
    theirs, ours, rows = by_trec_eval(ranks), np.array(ranks), np.arange(len(ranks))
    assert metrics.mrr(ours) == pytest.approx(theirs[RR], abs=1e-9)
    assert metrics.ndcg(ours, 10, rows, np.ones(len(rows))) == pytest.approx(theirs[nDCG @ 10], abs=1e-9)
    assert metrics.top1(ours) == pytest.approx(theirs[Success @ 1], abs=1e-9)
    assert metrics.top1(ours) == pytest.approx(theirs[P @ 1], abs=1e-9)
    for k in (1, 10, 100):
        assert metrics.recall(ours, k, rows) == pytest.approx(theirs[R @ k], abs=1e-9)


def test_hand_values_at_the_cutoffs():
    ranks, rows = np.array([0, 1, 9, 10]), np.arange(4)
    assert metrics.top1(ranks) == 0.25
    assert metrics.mrr(ranks) == pytest.approx((1 + 1 / 2 + 1 / 10 + 1 / 11) / 4)
    assert metrics.ndcg(ranks, 10, rows, np.ones(4)) == pytest.approx((1 + 1 / math.log2(3) + 1 / math.log2(11)) / 4)
    assert [metrics.recall(ranks, k, rows) for k in (1, 10, 11)] == [0.25, 0.75, 1.0]


def test_no_points_give_no_figure():
    """A split without a clean point has no clean top-1; zero would be a figure."""
    nobody = np.array([], dtype=np.int64)
    listed = metrics.ndcg(nobody, 10, nobody, nobody), metrics.recall(nobody, 10, nobody)
    assert all(map(math.isnan, (metrics.top1(nobody), metrics.mrr(nobody), *listed)))


def test_figures_are_plain_floats():
    assert {type(value) for value in (metrics.top1(np.array([0])), metrics.mrr(np.array([3])))} == {float}


def test_the_examples_in_the_docstrings():
    assert doctest.testmod(metrics).failed == 0 < doctest.testmod(metrics).attempted
