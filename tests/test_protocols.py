"""official, clean, source and the eight tasks against the slow reference, on random corpora full of duplicates."""

import math

import numpy as np
import pytest
import reference
import torch
from biencoder_ablate.evaluation.measure import (
    figures,
    prepare,
    rank_both,
    rank_source,
    rank_with_tasks,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import TASKS, ToyModel, published_and_used

from biencoder_ablate.data.corpus import SPLITS, Pair, build_corpus
from biencoder_ablate.data.index import build_index

DEPTHS = (None, 1, 2, 10)
SEEDS = st.integers(0, 2**32 - 1)


def each_split(both, seed):
    """(pairs, earlier pairs as published, prepared split, toy, embeddings) of every split of a random corpus."""
    published, used = both
    table, earlier = build_index(used), []
    toy = ToyModel(table.texts, seed)
    for name in SPLITS:
        pairs, prepared = used.split(name), prepare(table.splits[name])
        scale = len({text for pair in pairs for text in (pair.point, pair.counter)})
        yield pairs, list(earlier), prepared, toy, toy.retrieval(scale)
        earlier += published.split(name)


def assert_equal(found, expected, num_pairs, rows=slice(None)):
    """Every field of a ranking, at `rows`, against the reference's ranked points."""
    assert found.stage1_rank[rows].tolist() == [ranked.stage1_rank for ranked in expected]
    assert found.final_rank[rows].tolist() == [ranked.final_rank for ranked in expected]
    firsts = [ranked.final[0].row + (not ranked.final[0].is_counter) * num_pairs for ranked in expected]
    assert found.first[rows].tolist() == firsts
    assert found.num_scored[rows].tolist() == [ranked.num_scored for ranked in expected]
    assert found.num_dead[rows].tolist() == [ranked.num_dead for ranked in expected]
    assert found.tied[rows].tolist() == [ranked.tie for ranked in expected]


@pytest.mark.parametrize("k", DEPTHS)
@settings(max_examples=40, deadline=None)
@given(published_and_used(), SEEDS)
def test_official_and_clean(k, both, seed):
    for pairs, earlier, prepared, toy, retrieval in each_split(both, seed):
        official = rank_both(prepared, retrieval, toy.head, k)[0]
        expected = reference.rank_official(pairs, toy.embeddings, toy.score, k)
        assert_equal(official, expected, len(pairs))
        clean = rank_both(prepared, retrieval, toy.head, k)[1]
        expected_clean = reference.rank_clean(pairs, earlier, toy.embeddings, toy.score, k)
        assert_equal(clean, list(expected_clean.values()), len(pairs), list(expected_clean))
        check_figures(figures(official, clean, prepared.split.clean), expected, list(expected_clean.values()))


def check_figures(values, official, clean):
    scored = sum(ranked.num_scored for ranked in official)
    expected = {
        "top1": reference.top1(official),
        "mrr": reference.mrr(official),
        "ndcg@10": reference.ndcg_at_10(official),
        **{f"recall@{k}": reference.recall_at(official, k) for k in (1, 10, 100)},
        "dead_pairs": sum(ranked.num_dead for ranked in official) / scored if scored else 0,
        "tied_first": sum(ranked.tie for ranked in official) / len(official),
        "num_points": len(official),
        "num_points_clean": len(clean),
    }
    for name, measured in (("top1", reference.top1), ("mrr", reference.mrr), ("ndcg@10", reference.ndcg_at_10)):
        expected[f"{name}_clean"] = measured(clean) if clean else math.nan
    assert {key: values[key] for key in expected} == pytest.approx(expected, nan_ok=True, abs=1e-12)


@pytest.mark.parametrize("k", DEPTHS)
@settings(max_examples=20, deadline=None)
@given(published_and_used(), SEEDS)
def test_the_eight_tasks(k, both, seed):
    for pairs, _, prepared, toy, retrieval in each_split(both, seed):
        for task in TASKS:
            found = rank_with_tasks(prepared, retrieval, toy.head, k, [task])[2][task]
            assert_equal(found, reference.rank_task(pairs, toy.embeddings, toy.score, k, task), len(pairs))
        official = rank_both(prepared, retrieval, toy.head, k)[0]
        assert found.final_rank.tolist() == official.final_rank.tolist(), "epa, the last of the eight, is official"


@pytest.mark.parametrize("k", [None, 3])
def test_every_protocol_on_a_larger_corpus(k):
    """90 pairs of 12 debates in 4 themes and 25 texts: sets of a debate are a small part of all candidates."""
    random = np.random.default_rng(0)
    places = [(f"theme {i % 4}", f"debate {i % 3}", ("pro", "con")[i % 2], i) for i in range(90)]
    pairs = [Pair("test", *place, *(f"text {t}" for t in random.integers(25, size=2))) for place in places]
    pairs += [Pair(name, "t", "d", "pro", 1, "text 0", name) for name in ("train", "val")]
    corpus = build_corpus("larger", pairs)
    both = corpus, corpus
    *_, (pairs, earlier, prepared, toy, retrieval) = each_split(both, seed=0)
    official = rank_both(prepared, retrieval, toy.head, k)[0]
    assert_equal(official, reference.rank_official(pairs, toy.embeddings, toy.score, k), 90)
    clean = rank_both(prepared, retrieval, toy.head, k)[1]
    expected = reference.rank_clean(pairs, earlier, toy.embeddings, toy.score, k)
    assert 0 < len(expected) < 90
    assert_equal(clean, list(expected.values()), 90, list(expected))
    for task in TASKS:
        found = rank_with_tasks(prepared, retrieval, toy.head, k, [task])[2][task]
        assert_equal(found, reference.rank_task(pairs, toy.embeddings, toy.score, k, task), 90)
    found = rank_source(prepared, retrieval, toy.head)
    assert_equal(found, reference.rank_source(pairs, toy.embeddings, toy.score), 90)


@settings(max_examples=40, deadline=None)
@given(published_and_used(), SEEDS)
def test_source(both, seed):
    for pairs, _, prepared, toy, retrieval in each_split(both, seed):
        expected = reference.rank_source(pairs, toy.embeddings, toy.score)
        assert_equal(rank_source(prepared, retrieval, toy.head), expected, len(pairs))


@pytest.mark.parametrize(("num_pairs", "asked"), [(1, 1), (16, 1), (17, 2), (33, 3)])
def test_source_asks_as_many_points_as_there_are_batches(num_pairs, asked):
    """ceil(N/16), what a loop over batches counted: 255 of 4065 train points, 81 of 1287, 88 of 1401."""
    assert [math.ceil(count / 16) for count in (4065, 1287, 1401)] == [255, 81, 88]
    pairs = [Pair(split, "t", "d", "pro", i, f"p{i}", f"c{i}") for split in SPLITS for i in range(num_pairs)]
    table = build_index(build_corpus("numbered", pairs))
    toy = ToyModel(table.texts, 0)
    found = rank_source(prepare(table.splits["test"]), toy.retrieval(2 * num_pairs), toy.head)
    assert len(found.final_rank) == asked


def test_source_lets_the_point_itself_come_first():
    pairs = [Pair(split, "t", "d", "pro", i, f"p{i}", f"c{i}") for split in SPLITS for i in range(2)]
    table = build_index(build_corpus("numbered", pairs))
    line = torch.tensor([{"p0": 0.0, "c0": 1.0, "p1": 5.0, "c1": 6.0}[text] for text in table.texts])[:, None]

    def indifferent(points, candidates):
        return torch.zeros(len(points)), torch.zeros(len(points), dtype=torch.bool)

    prepared = prepare(table.splits["test"])
    assert rank_source(prepared, line, indifferent).final_rank.tolist() == [1]
    assert rank_both(prepared, line, indifferent, 10)[0].final_rank.tolist() == [0, 0]


def test_clean_and_official_differ_as_the_design_says():
    """Test asks p → c twice (two debates), q → t with t from train, and s → u.

    Official counts four points, clean two: the second p → c and the leaked one do not count. The copy of p in
    the other debate, at distance 0 from p, is a candidate of the official ranking and no candidate of the clean.
    """
    pairs = [
        Pair("train", "t", "a", "pro", 1, "t", "v"),
        Pair("val", "t", "b", "pro", 1, "w", "x"),
        Pair("test", "t", "c", "pro", 1, "p", "c"),
        Pair("test", "t", "d", "pro", 1, "P!", "c"),
        Pair("test", "t", "e", "pro", 1, "q", "t."),
        Pair("test", "t", "f", "pro", 1, "s", "u"),
    ]
    table = build_index(build_corpus("hand", pairs))
    place = {"p": 0, "c": 1, "q": 8, "t": 9, "s": 20, "u": 21}
    line = torch.tensor([float(place.get(reference.fold(text), 99)) for text in table.texts])[:, None]
    prepared = prepare(table.splits["test"])
    assert prepared.split.clean.tolist() == [True, False, False, True]
    official = rank_both(prepared, line, lambda *_: pytest.fail("no head is asked"), None)[0]
    clean = rank_both(prepared, line, lambda *_: pytest.fail("no head is asked"), None)[1]
    assert official.final_rank.tolist() == [1, 1, 0, 0]
    assert clean.final_rank[[0, 3]].tolist() == [0, 0]
    values = figures(official, clean, prepared.split.clean)
    assert (values["top1"], values["top1_clean"]) == (0.5, 1.0)
    assert (values["num_points"], values["num_points_clean"]) == (4, 2)


def test_equal_texts_tie_exactly_with_real_embeddings():
    """Copies must tie to the bit, wherever they stand: 60 pairs whose counters are three texts."""
    random = np.random.default_rng(0)
    pairs = [Pair(split, "t", "d", "pro", i, f"p{i}", f"c{i % 3}") for split in SPLITS for i in range(60)]
    table = build_index(build_corpus("copies", pairs))
    weight = torch.from_numpy(random.normal(size=(2, 3 * 40)).astype(np.float32))
    retrieval = torch.from_numpy(random.normal(size=(len(table.texts), 40)).astype(np.float32))

    def score(points, candidates):
        a, b = retrieval[points], retrieval[candidates]
        return torch.cat([a, b, (a - b).abs()], 1) @ (weight[1] - weight[0]), torch.zeros(len(a), dtype=torch.bool)

    split = table.splits["test"]
    embeddings = dict(zip(table.texts, retrieval.double().tolist(), strict=True))
    margins = {
        (p, c): score(torch.tensor([i]), torch.tensor([j]))[0].item()
        for i, p in enumerate(table.texts)
        for j, c in enumerate(table.texts)
    }
    expected = reference.rank_official(split.pairs, embeddings, lambda p, c: (0.0, margins[p, c]), 10)
    found = rank_both(prepare(split), retrieval, score, 10)[0]
    assert_equal(found, expected, 60)
    assert found.tied.any()
