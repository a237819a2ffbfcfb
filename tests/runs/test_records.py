"""rankings.jsonl: every figure of a split can be recomputed from its points' records, to the last bit."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import reference
from support.helpers import load_sample
from support.reference import TASKS, ToyModel, corpora

from biencoder_ablate.data.text_table import build_table
from biencoder_ablate.evaluation.candidates import Qrels, build_task
from biencoder_ablate.evaluation.protocols import SplitRankings, final_rankings, point_records, split_metrics
from biencoder_ablate.evaluation.ranking import Ranking
from biencoder_ablate.runs.records import select_epoch


def through_json(records):
    return [json.loads(line) for line in "\n".join(json.dumps(record) for record in records).splitlines()]


def recompute(records):
    """The figures of result.json, by split, from the records of its points alone."""
    by_split = {}
    for record in records:
        by_split.setdefault(record["split"], []).append(record)
    return {split: split_metrics(as_rankings(rows)) for split, rows in by_split.items()}


def as_rankings(rows):
    def ranking(stage1_rank, final_rank):
        tied, scored, dead = (np.array([row[key] for row in rows]) for key in ("tied", "num_scored", "num_dead"))
        ranks = (np.array([rank or 1 for rank in ranks]) - 1 for ranks in (stage1_rank, final_rank))
        return Ranking(*ranks, np.zeros(len(rows)), tied, scored, dead)

    def under(stage1_key, key):
        return ranking([row[stage1_key] for row in rows], [row[key] for row in rows])

    tasks = {
        task: ranking([row["stage1_ranks"][task] for row in rows], [row["ranks"][task] for row in rows])
        for task in TASKS
    }
    answers = Qrels(np.arange(len(rows)), np.arange(len(rows)), np.ones(len(rows)))
    asked = SimpleNamespace(qrels=answers, counts=np.array([row["clean_rank"] is not None for row in rows]))
    return SplitRankings(asked, under("stage1_rank", "rank"), under("clean_stage1_rank", "clean_rank"), tasks)


@pytest.mark.parametrize("k", ["none", 1, 3, 10, "all"])
@settings(max_examples=25, deadline=None)
@given(corpora(), st.integers(0, 2**32 - 1))
def test_figures_recomputed_from_records_are_equal(k, corpus, seed):
    table = build_table(corpus)
    toy, records, expected = ToyModel(table.texts, seed), [], {}
    for name in ("val", "test"):
        rankings = final_rankings(build_task(table.splits[name]), toy.embedded(1), toy.head, k)
        records += point_records(rankings)
        expected[name] = split_metrics(rankings)
    # Compared as JSON text: every digit counts, and a figure over no points is NaN on both sides.
    assert json.dumps(recompute(through_json(records)), sort_keys=True) == json.dumps(expected, sort_keys=True)


@settings(max_examples=20, deadline=None)
@given(corpora(), st.integers(0, 2**32 - 1))
def test_records_say_what_the_reference_finds(corpus, seed):
    """Ranks are counted from 1; a point that clean figures leave out has none."""
    table = build_table(corpus)
    pairs, split, toy = corpus.val, table.splits["val"], ToyModel(table.texts, seed)
    scale = len({text for pair in pairs for text in (pair.point, pair.counter)})
    rankings = final_rankings(build_task(split), toy.embedded(scale), toy.head, 3)
    by_task = {task: reference.rank_task(pairs, toy.embeddings, toy.score, 3, task) for task in TASKS}
    for row, (pair, record) in enumerate(zip(pairs, point_records(rankings), strict=True)):
        assert (record["id"], record["split"], record["debate"], record["stance"]) == (
            pair.id,
            "val",
            pair.debate,
            pair.stance,
        )
        official = by_task["epa"][row]
        assert (record["stage1_rank"], record["rank"]) == (official.stage1_rank + 1, official.final_rank + 1)
        assert record["ranks"] == {task: found[row].final_rank + 1 for task, found in by_task.items()}
        assert record["stage1_ranks"] == {task: found[row].stage1_rank + 1 for task, found in by_task.items()}
        if split.clean[row]:  # which those are: tested in test_candidates
            found = reference.rank(pairs, row, reference.clean_candidates(pairs, row), toy.embeddings, toy.score, 3)
            assert (record["clean_stage1_rank"], record["clean_rank"]) == (found.stage1_rank + 1, found.final_rank + 1)
        else:
            assert record["clean_rank"] is None and record["clean_stage1_rank"] is None
        first = official.final[0]
        assert record["first"] == f"{pairs[first.row].id}#{'counter' if first.is_counter else 'point'}"
        assert (record["tied"], record["num_scored"], record["num_dead"]) == (
            official.tie,
            official.num_scored,
            official.num_dead,
        )


def test_every_point_has_a_name_of_its_own_and_all_eight_tasks():
    table = build_table(load_sample())
    toy = ToyModel(table.texts, 0)
    rankings = final_rankings(build_task(table.splits["test"]), toy.embedded(1), toy.head, 10)
    records = point_records(rankings)
    assert len({record["id"] for record in records}) == len(records) == len(table.splits["test"])
    assert set(split_metrics(rankings)["tasks"]) == set(TASKS)


@pytest.mark.parametrize(
    ("select", "epoch"),
    [("top1", 0), ("ndcg@10", 1), ("ndcg@10_clean", 2), ("map_clean", 1), ("last", 2)],
)
def test_any_val_metric_may_select_the_epoch(select, epoch):
    """A clean metric that no point counts in, as map_clean here, is the official one."""
    figures = [(0.9, 0.1, 0.1, 0.3), (0.5, 0.8, 0.2, 0.6), (0.5, 0.7, 0.3, 0.2)]
    records = []
    for number, (top1, ndcg, ndcg_clean, average_precision) in enumerate(figures):
        records.append({
            "epoch": number, "val/top1": top1, "val/ndcg@10": ndcg, "val/ndcg@10_clean": ndcg_clean,
            "val/map": average_precision, "val/map_clean": None,
        })  # fmt: skip
    assert select_epoch(records, select) == epoch
