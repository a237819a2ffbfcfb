"""evaluation.rerank=all against the slow reference, every candidate scored, on corpora full of duplicates and ties."""

import copy
import functools
from dataclasses import fields

import numpy as np
import pytest
import reference
import torch
from biencoder_ablate.evaluation.fast_scoring import plain_scorer
from biencoder_ablate.evaluation.measure import figures, prepare
from biencoder_ablate.evaluation.rank_all import BlockScores, head_arguments, rank_all, rank_by_scores
from biencoder_ablate.evaluation.records import rank_everything
from biencoder_ablate.evaluation.reevaluate import final_rankings
from hypothesis import given, settings
from hypothesis import strategies as st
from reference import published_and_used
from test_protocols import assert_equal, each_split

from biencoder_ablate.data.corpus import SPLITS, Pair, build_corpus
from biencoder_ablate.data.index import build_index
from biencoder_ablate.evaluation import rank_all as module
from biencoder_ablate.evaluation.candidates import TASKS
from biencoder_ablate.evaluation.distances import squared_distances
from biencoder_ablate.evaluation.ranking import Ranking
from biencoder_ablate.model.biencoder import BiEncoder
from biencoder_ablate.model.heads import is_dead, margin

SEEDS = st.integers(0, 2**32 - 1)
EVERYTHING = 10**6
"""A depth that no candidate set reaches: the reference then scores them all."""
HEADS = [
    ("none", "none", "after_linear2"),
    ("none", "relu", "after_linear2"),
    ("none", "relu", "before_linear2"),
    ("layernorm", "none", "after_linear2"),
    ("layernorm", "relu", "after_linear2"),
    ("layernorm", "relu", "before_linear2"),
]


def whole_number_model(width, activation, position, seed):
    """A bi-encoder whose logits of whole-number embeddings are exact, so that ties are ties."""
    model = BiEncoder(None, width, None, "pooled", "none", activation, position, seed=0)
    random = np.random.default_rng(seed)
    with torch.no_grad():
        model.head.linear2.weight.copy_(torch.from_numpy(random.integers(-1, 2, size=(2, 3 * width))).float())
        # Without a ReLU after linear2 a logit that happens to be 0 is no dead one: keep them off it.
        dies = (activation, position) == ("relu", "after_linear2")
        model.head.linear2.bias.copy_(torch.from_numpy(random.integers(-1, 2, size=2)) + (0.0 if dies else 0.5))
    return model.eval()


def scores_of(model, texts, h):
    """The reference's score function: logits of a pair of texts, one pair at a time."""
    number = {text: index for index, text in enumerate(texts)}

    @functools.cache
    def score(point, candidate):
        a, b = h[number[point]], h[number[candidate]]
        with torch.no_grad():
            zero, one = model.logits(a, model.retrieval(a), b, model.retrieval(b)).tolist()
        return zero, one

    return score


def check_all_sets(found, pairs, earlier, embeddings, score, k):
    assert_equal(found.official, reference.rank_official(pairs, embeddings, score, k), len(pairs))
    clean = reference.rank_clean(pairs, earlier, embeddings, score, k)
    assert_equal(found.clean, list(clean.values()), len(pairs), list(clean))
    assert tuple(found.tasks) == TASKS
    for task, ranking in found.tasks.items():
        assert_equal(ranking, reference.rank_task(pairs, embeddings, score, k, task), len(pairs))


@pytest.mark.parametrize(
    ("activation", "position"), [("none", "after_linear2"), ("relu", "after_linear2"), ("relu", "before_linear2")]
)
@settings(max_examples=15, deadline=None)
@given(published_and_used(), SEEDS)
def test_every_candidate_is_scored_and_ties_keep_stage1_order(activation, position, both, seed):
    for pairs, earlier, prepared, toy, retrieval in each_split(both, seed):
        model = whole_number_model(retrieval.shape[1], activation, position, seed)
        found = rank_all(prepared, model, retrieval, model.retrieval(retrieval))
        check_all_sets(found, pairs, earlier, toy.embeddings, scores_of(model, toy.texts, retrieval), EVERYTHING)


@settings(max_examples=20, deadline=None)
@given(published_and_used(), SEEDS)
def test_any_scores_rank_alike_with_and_without_margins(both, seed):
    """Margins that no head could give, and none at all: what the baselines are ranked by."""
    for pairs, earlier, prepared, toy, retrieval in each_split(both, seed):

        def by_distance(rows, prepared=prepared, retrieval=retrieval):
            return squared_distances(retrieval[prepared.split.point[rows]], retrieval[prepared.candidate])

        def by_both(rows, prepared=prepared, toy=toy, by_distance=by_distance):
            logits = torch.from_numpy(toy.logits)[prepared.split.point[rows]][:, prepared.candidate].float()
            return BlockScores(by_distance(rows), margin(logits), is_dead(logits))

        scale = len(prepared.candidate)  # here distances are from the mean of all candidates, copies included
        retrieval *= scale
        check_all_sets(rank_by_scores(prepared, by_both), pairs, earlier, toy.embeddings, toy.score, EVERYTHING)
        found = rank_by_scores(prepared, lambda rows, by_distance=by_distance: BlockScores(by_distance(rows)))
        check_all_sets(found, pairs, earlier, toy.embeddings, toy.score, None)


@settings(max_examples=15, deadline=None)
@given(published_and_used(), SEEDS)
def test_a_depth_of_all_candidates_is_the_same(both, seed):
    """The path of rerank=10, taken as deep as the set, gives the same rankings, field by field."""
    for _, _, prepared, _, retrieval in each_split(both, seed):
        model = whole_number_model(retrieval.shape[1], "relu", "after_linear2", seed)
        score = plain_scorer(model, retrieval, retrieval)
        deep = final_rankings(prepared, model, retrieval, retrieval, score, len(prepared.candidate))
        found = final_rankings(prepared, model, retrieval, retrieval, score, "all")
        assert_same(found, deep)


def assert_same(found, expected):
    for name, one, other in [
        ("official", found.official, expected.official),
        ("clean", found.clean, expected.clean),
        *((task, found.tasks[task], expected.tasks[task]) for task in TASKS),
    ]:
        for item in fields(Ranking):
            assert getattr(one, item.name).tolist() == getattr(other, item.name).tolist(), (name, item.name)


def random_corpus(num_pairs=40, num_texts=30, seed=0):
    """A corpus whose splits draw their texts from a few, in themes and debates: (pairs of test, table)."""
    random = np.random.default_rng(seed)
    pairs = [
        Pair(
            split,
            f"t{i % 2}",
            f"d{i % 5}",
            ("con", "pro")[i % 3 == 0],
            i,
            *(f"{split} {n}" for n in random.integers(num_texts, size=2)),
        )
        for split in SPLITS
        for i in range(num_pairs)
    ]
    table = build_index(build_corpus("random", pairs))
    return table.splits["test"].pairs, table


def gaussian(table, norm, activation, position, fusion="concat", seed=0):
    torch.manual_seed(seed)
    model = BiEncoder(None, 24, 8, fusion, norm, activation, position, seed=0).eval()
    with torch.no_grad():
        model.head.linear2.bias.copy_(torch.tensor([-0.2, -0.1]))  # so that a ReLU leaves some pairs dead
        if norm == "layernorm":
            model.head.norm.weight.normal_()
            model.head.norm.bias.normal_()
        h = torch.randn(len(table.texts), 24)
        return model, h, model.retrieval(h)


@pytest.mark.parametrize(("norm", "activation", "position"), HEADS)
@pytest.mark.parametrize("fusion", ["concat", "pooled", "retrieval"])
def test_every_head_and_fusion_against_float64(norm, activation, position, fusion):
    pairs, table = random_corpus()
    model, h, r = gaussian(table, norm, activation, position, fusion)
    exact = copy.deepcopy(model).double()
    embeddings = dict(zip(table.texts, r.double().tolist(), strict=True))
    found = rank_all(prepare(table.splits["test"]), model, h, r)
    score = scores_of(exact, table.texts, h.double())
    assert_equal(found.official, reference.rank_official(pairs, embeddings, score, EVERYTHING), len(pairs))
    assert found.official.num_dead.any() == ((activation, position) == ("relu", "after_linear2"))


def test_blocks_change_nothing(monkeypatch):
    _, table = random_corpus()
    model, h, r = gaussian(table, "layernorm", "relu", "after_linear2")
    prepared = prepare(table.splits["test"])
    whole = rank_all(prepared, model, h, r)
    monkeypatch.setattr(module, "BLOCK", 7)
    assert_same(rank_all(prepared, model, h, r), whole)


@pytest.mark.parametrize(("norm", "activation", "position"), HEADS)
def test_head_arguments_say_all_of_the_head(norm, activation, position):
    _, table = random_corpus()
    model, h, r = gaussian(table, norm, activation, position)
    with torch.no_grad():
        logits = model.logits(
            h[:5, None].expand(-1, 7, -1),
            r[:5, None].expand(-1, 7, -1),
            h[None, 5:12].expand(5, -1, -1),
            r[None, 5:12].expand(5, -1, -1),
        )
        found = module.all_pair_margins([r[:5], h[:5]], [r[5:12], h[5:12]], **head_arguments(model))
    torch.testing.assert_close(found.margins, margin(logits), atol=1e-5, rtol=1e-4)
    assert torch.equal(found.dead, is_dead(logits))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("rerank", ["all", 10, "none"])
def test_what_is_not_a_number_is_refused(value, rerank):
    """A diverged model must not come first everywhere: nothing is smaller than a NaN, so its rank would be 0."""
    _, table = random_corpus()
    model, h, r = gaussian(table, "none", "none", "after_linear2")
    prepared, score = prepare(table.splits["test"]), plain_scorer(model, h, r)
    r[table.splits["test"].point[3]] = value
    with pytest.raises(ValueError, match="finite"):
        final_rankings(prepared, model, h, r, score, rerank)
    if rerank == "all":
        with pytest.raises(ValueError, match="finite"):
            rank_all(prepared, model, h, r)


def test_final_rankings_follow_evaluation_rerank():
    """`none` is distance alone, a number is a depth."""
    _, table = random_corpus()
    model, h, r = gaussian(table, "none", "none", "after_linear2")
    prepared, score = prepare(table.splits["test"]), plain_scorer(model, h, r)
    with torch.no_grad():
        assert_same(final_rankings(prepared, model, h, r, score, "none"), rank_everything(prepared, r, score, None))
        assert_same(final_rankings(prepared, model, h, r, score, 10), rank_everything(prepared, r, score, 10))
    deep = final_rankings(prepared, model, h, r, score, "all")
    assert deep.official.num_scored.sum() > 10 * len(prepared.split)
    assert (deep.official.final_rank != deep.official.stage1_rank).any()


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
    table = build_index(build_corpus("docs", [Pair(*row[:4], 1, *row[4:]) for row in rows]))
    place = {"p": 0.0, "g": 1.0, "h": 2.0, "c": 3.0, "t": 9.0, "q": 10.0}
    line = torch.tensor([place.get(reference.fold(text), 99.0) for text in table.texts])
    prepared = prepare(table.splits["test"])

    def by_distance(rows):
        return (line[prepared.split.point[rows]][:, None] - line[prepared.candidate][None]).abs()

    found = rank_by_scores(prepared, lambda rows: BlockScores(by_distance(rows)))
    assert found.official.final_rank.tolist() == [0, 3, 3, 0]
    assert found.official.tied.tolist() == [True, False, False, False]
    assert prepared.split.clean.tolist() == [True, True, False, False]
    assert found.clean.final_rank[:2].tolist() == [0, 2]
    assert [found.tasks[task].final_rank[1] + 1 for task in TASKS] == [1, 2, 2, 3, 2, 3, 2, 4]
    values = figures(found.official, found.clean, prepared.split.clean)
    assert (values["top1"], values["mrr"], values["tied_first"]) == (0.5, 0.625, 0.25)
    assert (values["top1_clean"], values["mrr_clean"]) == (0.5, pytest.approx(2 / 3))
    assert values["ndcg@10"] == pytest.approx(0.715, abs=5e-4)

    head = {"c": 0.9, "g": 0.2, "h": 0.2, "p": -0.3}
    margins = torch.tensor([head.get(reference.fold(table.texts[text]), -1.0) for text in prepared.candidate])
    again = rank_by_scores(prepared, lambda rows: BlockScores(by_distance(rows), margins.expand(len(rows), -1)))
    assert again.official.final_rank[1] == 0
    assert again.official.num_scored.tolist() == [7, 6, 6, 7]
