"""Every protocol and the study's own against the slow reference, on random corpora full of duplicates and ties."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import reference
from support.reference import TASKS, ToyModel, in_both_roles, published_and_used

from biencoder_ablate.data.corpus import SPLITS, Pair, build_corpus
from biencoder_ablate.data.text_table import build_table
from biencoder_ablate.evaluation.candidates import build_task
from biencoder_ablate.evaluation.protocols import (
    EPOCH_DEPTH,
    final_rankings,
    measure_split,
    rank_as_study,
    split_metrics,
    study_top1,
)

DEPTHS = ("none", 1, 2, 10, "all")
SEEDS = st.integers(0, 2**32 - 1)


def each_split(both, seed):
    """(pairs, earlier pairs as published, prepared split, toy, embeddings) of every split of a random corpus."""
    published, used = both
    table, earlier = build_table(used), []
    toy = ToyModel(table.texts, seed)
    for name in SPLITS:
        pairs, prepared = used.split(name), build_task(table.splits[name])
        scale = len({text for pair in pairs for text in (pair.point, pair.counter)})
        yield pairs, list(earlier), prepared, toy, toy.embedded(scale)
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


def depth(rerank):
    """The same for the reference; no candidate set reaches so deep as its `all`."""
    return {"none": None, "all": 10**6}.get(rerank, rerank)


@pytest.mark.parametrize("rerank", DEPTHS)
@settings(max_examples=25, deadline=None)
@given(published_and_used(), SEEDS)
def test_every_protocol(rerank, both, seed):
    for pairs, earlier, prepared, toy, embeddings in each_split(both, seed):
        found = final_rankings(prepared, embeddings, toy.head, rerank)
        values = check_all_sets(found, pairs, earlier, toy.embeddings, toy.score, depth(rerank))
        if rerank == "all":
            continue
        of_epoch = measure_split(prepared, embeddings, toy.head, rerank)
        assert of_epoch.pop("num_scored") == found.official.num_scored.sum()
        assert of_epoch.pop("num_dead") == found.official.num_dead.sum()
        assert of_epoch == pytest.approx({key: values[key] for key in values if key != "tasks"}, nan_ok=True, abs=0)


def check_all_sets(found, pairs, earlier, embeddings, score, k):
    """Every ranking of a split and every figure against the reference's; returns the figures."""
    official = reference.rank_official(pairs, embeddings, score, k)
    clean = reference.rank_clean(pairs, earlier, embeddings, score, k)
    assert_equal(found.official, official, len(pairs))
    assert_equal(found.clean, list(clean.values()), len(pairs), list(clean))
    assert tuple(found.tasks) == TASKS
    values = split_metrics(found)
    for task, ranking in found.tasks.items():
        expected = reference.rank_task(pairs, embeddings, score, k, task)
        assert_equal(ranking, expected, len(pairs))
        of_task = {"top1": reference.top1(expected), "mrr": reference.mrr(expected)}
        assert values["tasks"][task] == pytest.approx(of_task)
    check_figures(values, official, list(clean.values()))
    return values


def check_figures(values, official, clean):
    scored = sum(ranked.num_scored for ranked in official)
    expected = {
        "top1": reference.top1(official),
        "mrr": reference.mrr(official),
        "ndcg@10": reference.ndcg_at_10(official),
        **{f"recall@{k}": reference.recall_at(official, k) for k in (1, 10, 100)},
        "top1_stage1": reference.recall_at(official, 1),
        "top1_stage1_clean": reference.recall_at(clean, 1) if clean else math.nan,
        "mrr_stage1": sum(1 / (ranked.stage1_rank + 1) for ranked in official) / len(official),
        "dead_pairs": sum(ranked.num_dead for ranked in official) / scored if scored else 0,
        "tied_first": sum(ranked.tie for ranked in official) / len(official),
        "num_points": len(official),
        "num_points_clean": len(clean),
    }
    for name, measured in (("top1", reference.top1), ("mrr", reference.mrr), ("ndcg@10", reference.ndcg_at_10)):
        expected[f"{name}_clean"] = measured(clean) if clean else math.nan
    expected |= {"map": expected["mrr"], "map_clean": expected["mrr_clean"]}  # with one right answer they are the same
    assert {key: values[key] for key in values if key != "tasks"} == pytest.approx(expected, nan_ok=True, abs=1e-12)


@pytest.mark.parametrize("rerank", ["none", 3, "all"])
def test_every_protocol_on_a_larger_corpus(rerank):
    """90 pairs of 12 debates in 4 themes and 25 texts: sets of a debate are a small part of all candidates."""
    random = np.random.default_rng(0)
    places = [(f"theme {i % 4}", f"debate {i % 3}", ("pro", "con")[i % 2], i) for i in range(90)]
    pairs = [Pair("test", *place, *(f"text {t}" for t in random.integers(25, size=2))) for place in places]
    pairs += [Pair(name, "t", "d", "pro", 1, "text 0", name) for name in ("train", "val")]
    corpus = build_corpus("larger", pairs, asks_pairs=True)
    *_, (pairs, earlier, prepared, toy, embeddings) = each_split((corpus, corpus), seed=0)
    found = final_rankings(prepared, embeddings, toy.head, rerank)
    values = check_all_sets(found, pairs, earlier, toy.embeddings, toy.score, depth(rerank))
    assert 0 < values["num_points_clean"] < 90
    study = rank_as_study(prepared, embeddings, toy.head)
    assert_equal(study, reference.rank_as_study(pairs, toy.embeddings, toy.score), 90)


def test_epochs_of_a_run_that_scores_all_go_to_a_depth_of_ten():
    pairs = [Pair(split, "t", "d", "pro", i, f"{split} p{i}", f"c{i} {split}") for split in SPLITS for i in range(20)]
    corpus = build_corpus("numbered", pairs, asks_pairs=True)
    *_, (_, _, prepared, toy, embeddings) = each_split((corpus, corpus), seed=0)
    of_epoch = measure_split(prepared, embeddings, toy.head, "all")
    assert EPOCH_DEPTH == 10 and of_epoch == measure_split(prepared, embeddings, toy.head, 10)
    assert of_epoch["num_scored"] == 200


@settings(max_examples=40, deadline=None)
@given(published_and_used(), SEEDS)
def test_the_study(both, seed):
    for pairs, _, prepared, toy, embeddings in each_split(both, seed):
        expected = reference.rank_as_study(pairs, toy.embeddings, toy.score)
        assert_equal(rank_as_study(prepared, embeddings, toy.head), expected, len(pairs))
        assert study_top1(prepared, embeddings, toy.head) == pytest.approx(reference.top1(expected))


@pytest.mark.parametrize(("num_pairs", "asked"), [(1, 1), (16, 1), (17, 2), (33, 3)])
def test_the_study_asks_as_many_points_as_there_are_batches(num_pairs, asked):
    """ceil(N/16), what a loop over batches counted: 255 of 4065 train points, 81 of 1287, 88 of 1401."""
    assert [math.ceil(count / 16) for count in (4065, 1287, 1401)] == [255, 81, 88]
    pairs = [Pair(split, "t", "d", "pro", i, f"p{i}", f"c{i}") for split in SPLITS for i in range(num_pairs)]
    table = build_table(build_corpus("numbered", pairs, asks_pairs=True))
    toy = ToyModel(table.texts, 0)
    found = rank_as_study(build_task(table.splits["test"]), toy.embedded(2 * num_pairs), toy.head)
    assert len(found.final_rank) == asked


def test_the_study_lets_the_point_itself_come_first():
    pairs = [Pair(split, "t", "d", "pro", i, f"p{i}", f"c{i}") for split in SPLITS for i in range(2)]
    table = build_table(build_corpus("numbered", pairs, asks_pairs=True))
    line = torch.tensor([{"p0": 0.0, "c0": 1.0, "p1": 5.0, "c1": 6.0}[text] for text in table.texts])[:, None]

    def indifferent(points, candidates):
        return torch.zeros(len(points)), torch.zeros(len(points), dtype=torch.bool)

    prepared = build_task(table.splits["test"])
    assert rank_as_study(prepared, in_both_roles(line), indifferent).final_rank.tolist() == [1]
    assert final_rankings(prepared, in_both_roles(line), indifferent, 10).official.final_rank.tolist() == [0, 0]


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
    table = build_table(build_corpus("hand", pairs, asks_pairs=True))
    place = {"p": 0, "c": 1, "q": 8, "t": 9, "s": 20, "u": 21}
    line = torch.tensor([float(place.get(reference.fold(text), 99)) for text in table.texts])[:, None]
    prepared = build_task(table.splits["test"])
    assert prepared.split.clean.tolist() == [True, False, False, True]
    found = final_rankings(prepared, in_both_roles(line), None, "none")
    official, clean = found.official, found.clean
    assert official.final_rank.tolist() == [1, 1, 0, 0]
    assert clean.final_rank[[0, 3]].tolist() == [0, 0]
    values = split_metrics(found)
    assert (values["top1"], values["top1_clean"]) == (0.5, 1.0)
    assert (values["num_points"], values["num_points_clean"]) == (4, 2)


def test_equal_texts_tie_exactly_with_real_embeddings():
    """Copies must tie to the bit, wherever they stand: 60 pairs whose counters are three texts."""
    random = np.random.default_rng(0)
    pairs = [Pair(split, "t", "d", "pro", i, f"p{i}", f"c{i % 3}") for split in SPLITS for i in range(60)]
    table = build_table(build_corpus("copies", pairs, asks_pairs=True))
    weight = torch.from_numpy(random.normal(size=(2, 3 * 40)).astype(np.float32))
    retrieval = torch.from_numpy(random.normal(size=(len(table.texts), 40)).astype(np.float32))

    def score(points, candidates):
        a, b = retrieval[points], retrieval[candidates]
        return torch.cat([a, b, (a - b).abs()], 1) @ (weight[1] - weight[0]), torch.zeros(len(a), dtype=torch.bool)

    split = table.splits["test"]
    embeddings = reference.of_texts(table.texts, in_both_roles(retrieval))
    scores = {
        (p, c): score(torch.tensor([i]), torch.tensor([j]))[0].item()
        for i, p in enumerate(table.texts)
        for j, c in enumerate(table.texts)
    }
    expected = reference.rank_official(split.pairs, embeddings, lambda p, c: (0.0, scores[p, c]), 10)
    found = final_rankings(build_task(split), in_both_roles(retrieval), score, 10).official
    assert_equal(found, expected, 60)
    assert found.tied.any()


def test_the_worked_example_of_the_docs():
    """docs/evaluation.md: six pairs on a line, all ranks worked out there by hand."""
    rows = [
        ("train", "t0", "a", "pro", "t", "v"),
        ("val", "t0", "b", "pro", "w", "x"),
        ("test", "t1", "d1", "con", "g", "h"),
        ("test", "t1", "d1", "pro", "p", "c"),
        ("test", "t2", "d2", "pro", "P!", "c"),
        ("test", "t2", "d3", "con", "q", "t."),
    ]
    table = build_table(build_corpus("docs", [Pair(*row[:4], 1, *row[4:]) for row in rows], asks_pairs=True))
    place = {"p": 0.0, "g": 1.0, "h": 2.0, "c": 3.0, "t": 9.0, "q": 10.0}
    line = 7 * torch.tensor(
        [place.get(reference.fold(text), 99.0) for text in table.texts]
    )  # whole, and their mean too
    prepared, embeddings = build_task(table.splits["test"]), in_both_roles(line[:, None])
    found = final_rankings(prepared, embeddings, None, "none")
    assert found.official.final_rank.tolist() == [0, 3, 3, 0]
    assert found.official.tied.tolist() == [True, False, False, False]
    assert prepared.split.clean.tolist() == [True, True, False, False]
    assert found.clean.final_rank[:2].tolist() == [0, 2]
    assert [found.tasks[task].final_rank[1] + 1 for task in TASKS] == [1, 2, 2, 3, 2, 3, 2, 4]
    values = split_metrics(found)
    assert (values["top1"], values["mrr"], values["tied_first"]) == (0.5, 0.625, 0.25)
    assert (values["top1_clean"], values["mrr_clean"]) == (0.5, pytest.approx(2 / 3))
    assert values["ndcg@10"] == pytest.approx(0.715, abs=5e-4)

    head = {"c": 0.9, "g": 0.2, "h": 0.2, "p": -0.3}
    scores = torch.tensor([head.get(reference.fold(text), -1.0) for text in table.texts])
    again = final_rankings(prepared, embeddings, lambda _, texts: (scores[texts], scores[texts] == 0), "all")
    assert again.official.final_rank[1] == 0
    assert again.official.num_scored.tolist() == [7, 6, 6, 7]
