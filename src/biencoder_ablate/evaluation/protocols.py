"""Measures a split by every protocol of design §2: rankings first, then figures and records of its points from them.

N points, T texts, H pooled width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np

from biencoder_ablate.data.corpus import own_texts, text_key
from biencoder_ablate.data.text_table import SplitArrays
from biencoder_ablate.evaluation import metrics
from biencoder_ablate.evaluation.candidates import CandidateSet, RetrievalTask
from biencoder_ablate.evaluation.pair_scores import PairScorer
from biencoder_ablate.evaluation.ranking import Ranking, ScoreRows, rank, rank_matrix
from biencoder_ablate.model.biencoder import Embeddings

RECALL_AT = (1, 10, 100)
EPOCH_DEPTH = 10
"""Depth of stage 2 in an epoch's figures where evaluation.rerank is `all`; only the final figures score all."""
STUDY_DEPTH = 10
NEVER_FOUND = 10**9
"""The rank of a right answer that is no candidate, as where a judged document is missing: far behind all others."""


@dataclass(frozen=True)
class SplitRankings:
    """A split's rankings under official, clean and, at the end, the tasks that it has."""

    prepared: RetrievalTask
    official: Ranking
    clean: Ranking
    tasks: dict[str, Ranking]


def measure_split(
    prepared: RetrievalTask, embeddings: Embeddings, score: PairScorer | None, rerank: int | str
) -> dict[str, Any]:
    """An epoch's figures of a split, official and clean, and with them num_scored and num_dead, counts of pairs.

    Arguments and errors as for `final_rankings`, but `all` goes to EPOCH_DEPTH only.
    """
    depth = EPOCH_DEPTH if rerank == "all" else rerank
    sets = prepared.sets()
    official, again = _with_never_found(
        prepared, sets, rank(embeddings, prepared.point, prepared.candidates, sets, score, depth)
    )
    counts = {"num_scored": int(official.num_scored.sum()), "num_dead": int(official.num_dead.sum())}
    return _figures(official, _merged(official, again, prepared), prepared) | counts


def final_rankings(
    prepared: RetrievalTask, embeddings: Embeddings, score: PairScorer | None, rerank: int | str
) -> SplitRankings:
    """Rank a split under every candidate set as `evaluation.rerank` says: to a depth, `none`, or `all`.

    `embeddings` are of all T texts, and `score` scores pairs of them (None with `none`). Raises ValueError
    when a distance or a score is not a finite number.
    """
    sets = prepared.sets(_masked(prepared))
    return _split_rankings(prepared, rank(embeddings, prepared.point, prepared.candidates, sets, score, rerank))


def rankings_by_score(prepared: RetrievalTask, score_rows: ScoreRows) -> SplitRankings:
    """Rank a split where every candidate of every point has a score, as of a baseline."""
    sets = prepared.sets(_masked(prepared))
    return _split_rankings(prepared, rank_matrix(sets, score_rows, len(prepared.candidates)))


def _masked(prepared: RetrievalTask) -> list[str]:
    """The split's tasks but epa, which is official by definition."""
    return [task for task in prepared.tasks if task != "epa"]


def _split_rankings(prepared: RetrievalTask, rankings: Sequence[Ranking]) -> SplitRankings:
    """From rankings under `prepared.sets(_masked(prepared))`."""
    official, again, *others = _with_never_found(prepared, prepared.sets(_masked(prepared)), rankings)
    by_task = dict(zip(_masked(prepared), others, strict=True))
    tasks = {task: by_task.get(task, official) for task in prepared.tasks}
    return SplitRankings(prepared, official, _merged(official, again, prepared), tasks)


def _with_never_found(
    prepared: RetrievalTask, sets: Sequence[CandidateSet], rankings: Sequence[Ranking]
) -> Sequence[Ranking]:
    """Rankings under the sets with the ranks of all right answers, also of those that are no candidates."""
    found = prepared.qrels.candidate >= 0
    if found.all():
        return rankings
    completed = []
    for asking, ranking in zip(sets, rankings, strict=True):
        asked = found[np.isin(prepared.qrels.row, asking.rows)]
        stage1, final = (np.full(len(asked), NEVER_FOUND) for _ in range(2))
        stage1[asked], final[asked] = ranking.stage1_rank, ranking.final_rank
        completed.append(replace(ranking, stage1_rank=stage1, final_rank=final))
    return completed


def _merged(official: Ranking, again: Ranking, prepared: RetrievalTask) -> Ranking:
    """The clean ranking: the official one, but for the points ranked again because their clean candidates differ."""
    columns = {item.name: getattr(official, item.name).copy() for item in fields(Ranking)}
    answers = np.isin(prepared.qrels.row, prepared.clean_differs)
    for name, column in columns.items():
        column[answers if name.endswith("_rank") else prepared.clean_differs] = getattr(again, name)
    return Ranking(**columns)


def rank_as_study(prepared: RetrievalTask, embeddings: Embeddings, score: PairScorer) -> Ranking:
    """What the source study's scripts ranked: all counters and points, the point itself included, k = 10, only
    the first ceil(N/16) points."""
    nothing = np.empty(0, dtype=np.int64)
    asked = CandidateSet(np.arange(math.ceil(len(prepared) / 16)), (nothing, nothing), prepared.reachable)
    return rank(embeddings, prepared.point, prepared.candidates, [asked], score, STUDY_DEPTH)[0]


def study_top1(prepared: RetrievalTask, embeddings: Embeddings, score: PairScorer) -> float:
    """top-1 of `rank_as_study`: to read the source study's logs beside ours, not to publish."""
    ranks = rank_as_study(prepared, embeddings, score).final_rank
    return metrics.top1(metrics.first_ranks(ranks, prepared.reachable[0][: len(ranks)]))


def split_metrics(rankings: SplitRankings) -> dict[str, Any]:
    """All figures of a split; top-1 and MRR of the tasks under "tasks"."""
    values = _figures(rankings.official, rankings.clean, rankings.prepared)
    values["tasks"] = {}
    for task, found in rankings.tasks.items():
        first = metrics.first_ranks(found.final_rank, rankings.prepared.qrels.row)
        values["tasks"][task] = {"top1": metrics.top1(first), "mrr": metrics.mrr(first)}
    return values


def _figures(official: Ranking, clean: Ranking, prepared: RetrievalTask) -> dict[str, Any]:
    """Figures from two rankings of a split's queries."""
    answers, counts = prepared.qrels, prepared.counts
    rows, grades = answers.row, answers.grade
    first, first_stage1 = (metrics.first_ranks(of, rows) for of in (official.final_rank, official.stage1_rank))
    first_clean, first_stage1_clean = (
        metrics.first_ranks(of, rows)[counts] for of in (clean.final_rank, clean.stage1_rank)
    )
    of_clean = counts[rows]
    ranks_clean, rows_clean = clean.final_rank[of_clean], rows[of_clean]
    scored = int(official.num_scored.sum())
    return {
        "top1": metrics.top1(first),
        "top1_clean": metrics.top1(first_clean),
        "top1_stage1": metrics.top1(first_stage1),
        "top1_stage1_clean": metrics.top1(first_stage1_clean),
        "mrr": metrics.mrr(first),
        "mrr_clean": metrics.mrr(first_clean),
        "mrr_stage1": metrics.mrr(first_stage1),
        "ndcg@10": metrics.ndcg(official.final_rank, 10, rows, grades),
        "ndcg@10_clean": metrics.ndcg(ranks_clean, 10, rows_clean, grades[of_clean]),
        "map": metrics.average_precision(official.final_rank, rows),
        "map_clean": metrics.average_precision(ranks_clean, rows_clean),
        **{f"recall@{k}": metrics.recall(official.stage1_rank, k, rows) for k in RECALL_AT},
        "tied_first": float(official.tied.mean()) if len(official.tied) else float("nan"),
        "dead_pairs": int(official.num_dead.sum()) / scored if scored else 0.0,
        "num_points": len(first),
        "num_points_clean": int(counts.sum()),
    }


def point_records(rankings: SplitRankings) -> list[dict[str, Any]]:
    """One record per point, as written to rankings.jsonl: where its first right answer came under each candidate set,
    and what came first. Ranks are 1-based here, as people count. Where points are asked for all their right answers,
    `answers` lists these by candidate order: name, grade, stage-1 rank and final rank."""
    prepared, official, clean = rankings.prepared, rankings.official, rankings.clean
    split, answers = prepared.split, prepared.qrels
    rankings_by_name = {"": official, "clean_": clean} | rankings.tasks
    stage1, final = (
        {
            name: (metrics.first_ranks(getattr(found, stage), answers.row) + 1).tolist()
            for name, found in rankings_by_name.items()
        }
        for stage in ("stage1_rank", "final_rank")
    )
    bounds = np.searchsorted(answers.row, np.arange(len(prepared) + 1))
    records = []
    for row, pair in enumerate(split.pairs[first] for first in prepared.pair.tolist()):
        counts = bool(prepared.counts[row])
        record = {
            "id": pair.id,
            "split": split.name,
            "theme": pair.theme,
            "debate": pair.debate,
            "stance": pair.stance,
            "stage1_rank": stage1[""][row],
            "rank": final[""][row],
            "clean_stage1_rank": stage1["clean_"][row] if counts else None,
            "clean_rank": final["clean_"][row] if counts else None,
            "stage1_ranks": {task: stage1[task][row] for task in rankings.tasks},
            "ranks": {task: final[task][row] for task in rankings.tasks},
            "tied": bool(official.tied[row]),
            "num_scored": int(official.num_scored[row]),
            "num_dead": int(official.num_dead[row]),
            "first": prepared.name_of(int(official.first[row])),
        }
        if not split.asks_pairs:
            record["answers"] = [
                [
                    prepared.name_of(int(answers.candidate[at])) if answers.candidate[at] >= 0 else None,
                    int(answers.grade[at]),
                    int(official.stage1_rank[at]) + 1,
                    int(official.final_rank[at]) + 1,
                ]
                for at in range(bounds[row], bounds[row + 1])
            ]
        records.append(record)
    return records


def leave_out_seen(split: SplitArrays, seen: frozenset[str]) -> SplitArrays:
    """The split with pairs out of its clean figures when a text of theirs has a key in `seen`.

    For a corpus that the model was not trained on: what it has seen is not only the corpus's own earlier splits.
    """
    unseen = np.array([not {*map(text_key, own_texts(pair))} & seen for pair in split.pairs], dtype=bool)
    return replace(split, clean=split.clean & unseen, leaked=split.leaked | ~unseen)
