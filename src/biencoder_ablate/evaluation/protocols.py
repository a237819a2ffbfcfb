"""Measures a split under every protocol: rankings first, then metrics and records of its points from them.

`official` ranks the candidates as published. *clean* leaves out candidates equal to the point or to a right answer, and
counts only points none of whose texts came in an earlier split, each distinct one once.

N points, T texts, H pooled width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from biencoder_ablate.data.corpus import own_texts, text_key
from biencoder_ablate.data.text_table import SplitArrays
from biencoder_ablate.evaluation import metrics
from biencoder_ablate.evaluation.candidates import CandidateSet, RetrievalTask
from biencoder_ablate.evaluation.pair_scores import PairScorer
from biencoder_ablate.evaluation.ranking import (
    Ranking,
    ScoreRows,
    TopK,
    kept_depth,
    rank,
    rank_lists,
    rank_matrix,
    stage1,
)
from biencoder_ablate.model.biencoder import Embeddings

RECALL_AT = (1, 10, 100)
EPOCH_DEPTH = 10
"""Depth of stage 2 in an epoch's metrics where evaluation.rerank is `all`; only the final ones score all."""
STUDY_DEPTH = 10
NEVER_FOUND = 10**9
"""The rank of a right answer that is no candidate, as where a judged document is missing: far behind all others."""


@dataclass(frozen=True)
class SplitRankings:
    """A split's rankings under official, clean and, at the end, the tasks that it has.

    `nearest` is stage 1 of the sets that official and clean come from, where stage 2 goes to a depth.
    """

    task: RetrievalTask
    official: Ranking
    clean: Ranking
    tasks: dict[str, Ranking]
    nearest: tuple[TopK, ...] = ()


def measure_split(
    task: RetrievalTask,
    embeddings: Embeddings,
    score: PairScorer | None,
    rerank: int | str,
) -> dict[str, Any]:
    """An epoch's metrics of a split, official and clean, and with them num_scored and num_dead, counts of pairs.

    Arguments and errors as for `final_rankings`, but `all` goes to EPOCH_DEPTH only.
    """
    depth = epoch_depth(rerank)
    sets = task.sets()
    rankings = rank(embeddings, task.point, task.candidates, sets, score, depth)
    official, clean = _complete(task, sets, rankings)
    values = _metrics(task, official, clean)
    values["num_scored"] = int(official.num_scored.sum())
    values["num_dead"] = int(official.num_dead.sum())
    return values


def final_rankings(
    task: RetrievalTask,
    embeddings: Embeddings,
    score: PairScorer | None,
    rerank: int | str,
) -> SplitRankings:
    """Rank a split under every candidate set as `evaluation.rerank` says: to a depth, `none`, or `all`.

    `embeddings` are of all T texts, and `score` scores pairs of them (None with `none`). Raises ValueError
    when a distance or a score is not a finite number.
    """
    sets = _final_sets(task)
    if rerank == "all":
        rankings = rank(embeddings, task.point, task.candidates, sets, score, rerank)
        return _split_rankings(task, sets, rankings)
    kept = kept_depth(rerank, len(task.candidates))
    nearest = stage1(embeddings, task.point, task.candidates, sets, kept)
    rankings = rank_lists(nearest, task.point, task.candidates, sets, score, rerank)
    num_sets = len(task.sets())
    return replace(_split_rankings(task, sets, rankings), nearest=tuple(nearest[:num_sets]))


def epoch_depth(rerank: int | str) -> int | str:
    """The depth of stage 2 in an epoch's metrics: `evaluation.rerank` itself, or EPOCH_DEPTH where it is `all`."""
    return EPOCH_DEPTH if rerank == "all" else rerank


def rank_nearest(task: RetrievalTask, embeddings: Embeddings, depth: int | str) -> tuple[TopK, ...]:
    """Stage 1 of a split, official and clean, kept for `rerank_nearest`: one stage 1 for several heads.

    `depth` is that of stage 2: a number of candidates, or `none`. Raises ValueError when a distance is not finite.
    """
    kept = kept_depth(depth, len(task.candidates))
    return tuple(stage1(embeddings, task.point, task.candidates, task.sets(), kept))


def rerank_nearest(
    task: RetrievalTask,
    nearest: Sequence[TopK],
    score: PairScorer | None,
    depth: int | str,
) -> SplitRankings:
    """A split ranked as in an epoch, official and clean, from its stage 1 (`rank_nearest`)."""
    sets = task.sets()
    rankings = rank_lists(nearest, task.point, task.candidates, sets, score, depth)
    official, clean = _complete(task, sets, rankings)
    return SplitRankings(task, official, clean, {}, tuple(nearest))


def rankings_by_score(task: RetrievalTask, score_rows: ScoreRows) -> SplitRankings:
    """Rank a split where every candidate of every point has a score, as of a baseline."""
    sets = _final_sets(task)
    rankings = rank_matrix(sets, score_rows, len(task.candidates))
    return _split_rankings(task, sets, rankings)


def _final_sets(task: RetrievalTask) -> list[CandidateSet]:
    """Official, clean, and the split's tasks but the last, epa, which is official by definition."""
    return task.sets(task.tasks[:-1])


def _split_rankings(
    task: RetrievalTask,
    sets: Sequence[CandidateSet],
    rankings: Sequence[Ranking],
) -> SplitRankings:
    """From rankings under `_final_sets`."""
    official, clean, *others = _complete(task, sets, rankings)
    by_task = zip(task.tasks, [*others, official], strict=False)  # documents have no tasks
    return SplitRankings(task, official, clean, dict(by_task))


def _complete(
    task: RetrievalTask,
    sets: Sequence[CandidateSet],
    rankings: Sequence[Ranking],
) -> list[Ranking]:
    """Rankings under the sets, the second completed to all points, and all with the ranks of all right answers, also of
    those that are no candidates."""
    # A ranking has the ranks of right answers that are candidates; the others are given the last of all ranks.
    complete = []
    is_candidate = task.qrels.candidate >= 0
    for candidate_set, ranking in zip(sets, rankings, strict=True):
        of_set = np.isin(task.qrels.row, candidate_set.rows)
        found = is_candidate[of_set]
        stage1_rank = np.full(len(found), NEVER_FOUND)
        stage1_rank[found] = ranking.stage1_rank
        final_rank = np.full(len(found), NEVER_FOUND)
        final_rank[found] = ranking.final_rank
        complete.append(replace(ranking, stage1_rank=stage1_rank, final_rank=final_rank))

    # The clean ranking is the official one, but for the points whose clean candidates are others.
    official, differing, *others = complete
    answers_differ = np.isin(task.qrels.row, task.clean_differs)
    columns = {}
    for name, column in vars(official).items():
        columns[name] = column.copy()
        differs = answers_differ if name.endswith("_rank") else task.clean_differs
        columns[name][differs] = getattr(differing, name)
    return [official, Ranking(**columns), *others]


def rank_as_study(task: RetrievalTask, embeddings: Embeddings, score: PairScorer) -> Ranking:
    """What the source study's scripts ranked: all counters and points, the point itself included, k = 10, only
    the first ceil(N/16) points."""
    rows = np.arange(math.ceil(len(task) / 16))
    nothing = np.empty(0, dtype=np.int64)  # nothing is excluded
    candidate_set = CandidateSet(rows, excluded=(nothing, nothing), right=task.reachable)
    (ranking,) = rank(embeddings, task.point, task.candidates, [candidate_set], score, STUDY_DEPTH)
    return ranking


def study_top1(task: RetrievalTask, embeddings: Embeddings, score: PairScorer) -> float:
    """top-1 of `rank_as_study`: to read the source study's logs beside ours, not to publish."""
    ranks = rank_as_study(task, embeddings, score).final_rank
    rows = task.reachable[0][: len(ranks)]
    return metrics.top1(metrics.first_ranks(ranks, rows))


def split_metrics(rankings: SplitRankings) -> dict[str, Any]:
    """All metrics of a split; top-1 and MRR of the tasks under "tasks"."""
    task = rankings.task
    values = _metrics(task, rankings.official, rankings.clean)
    values["tasks"] = {}
    for name, ranking in rankings.tasks.items():
        first = metrics.first_ranks(ranking.final_rank, task.qrels.row)
        values["tasks"][name] = {"top1": metrics.top1(first), "mrr": metrics.mrr(first)}
    return values


def _metrics(
    task: RetrievalTask,
    official: Ranking,
    clean: Ranking,
) -> dict[str, Any]:
    """The metrics of two rankings of all points, of which clean counts some."""
    rows, grades = task.qrels.row, task.qrels.grade
    # Of all points: the ranks of their first right answers.
    first = metrics.first_ranks(official.final_rank, rows)
    first_stage1 = metrics.first_ranks(official.stage1_rank, rows)

    # The same of the points that count in clean metrics.
    in_clean = task.counts[rows]
    clean_rows, clean_ranks = rows[in_clean], clean.final_rank[in_clean]
    first_clean = metrics.first_ranks(clean_ranks, clean_rows)
    first_stage1_clean = metrics.first_ranks(clean.stage1_rank[in_clean], clean_rows)

    num_scored = int(official.num_scored.sum())
    num_dead = int(official.num_dead.sum())
    return {
        "top1": metrics.top1(first),
        "top1_clean": metrics.top1(first_clean),
        "top1_stage1": metrics.top1(first_stage1),
        "top1_stage1_clean": metrics.top1(first_stage1_clean),
        "mrr": metrics.mrr(first),
        "mrr_clean": metrics.mrr(first_clean),
        "mrr_stage1": metrics.mrr(first_stage1),
        "ndcg@10": metrics.ndcg(official.final_rank, 10, rows, grades),
        "ndcg@10_clean": metrics.ndcg(clean_ranks, 10, clean_rows, grades[in_clean]),
        "map": metrics.average_precision(official.final_rank, rows),
        "map_clean": metrics.average_precision(clean_ranks, clean_rows),
        **{f"recall@{k}": metrics.recall(official.stage1_rank, k, rows) for k in RECALL_AT},
        "tied_first": float(official.tied.mean()) if len(official.tied) else math.nan,
        "dead_pairs": num_dead / num_scored if num_scored else 0.0,
        "num_points": len(first),
        "num_points_clean": int(task.counts.sum()),
    }


def point_records(rankings: SplitRankings) -> list[dict[str, Any]]:
    """One record per point, as written to rankings.jsonl: where its first right answer came under each candidate set,
    and what came first. Ranks are 1-based here, as people count. Where points are asked for all their right answers,
    `answers` lists these by candidate order: name, grade, stage-1 rank and final rank."""
    task, official = rankings.task, rankings.official
    split, qrels = task.split, task.qrels

    # By candidate set, the ranks of each point's first right answer, from 1.
    by_set = {"": official, "clean_": rankings.clean, **rankings.tasks}
    stage1, final = {}, {}
    for name, ranking in by_set.items():
        stage1[name] = (metrics.first_ranks(ranking.stage1_rank, qrels.row) + 1).tolist()
        final[name] = (metrics.first_ranks(ranking.final_rank, qrels.row) + 1).tolist()

    # By right answer: name, grade and both ranks; those of one point lie together.
    names = [task.name_of(candidate) if candidate >= 0 else None for candidate in qrels.candidate.tolist()]
    stage1_ranks, final_ranks = (official.stage1_rank + 1).tolist(), (official.final_rank + 1).tolist()
    answers = list(zip(names, qrels.grade.tolist(), stage1_ranks, final_ranks, strict=True))
    bounds = np.searchsorted(qrels.row, np.arange(len(task) + 1))
    records = []
    for row, place in enumerate(task.pair.tolist()):
        pair = split.pairs[place]
        in_clean = bool(task.counts[row])
        record = {
            "id": pair.id,
            "split": split.name,
            "theme": pair.theme,
            "debate": pair.debate,
            "stance": pair.stance,
            "stage1_rank": stage1[""][row],
            "rank": final[""][row],
            "clean_stage1_rank": stage1["clean_"][row] if in_clean else None,
            "clean_rank": final["clean_"][row] if in_clean else None,
            "stage1_ranks": {name: stage1[name][row] for name in rankings.tasks},
            "ranks": {name: final[name][row] for name in rankings.tasks},
            "tied": bool(official.tied[row]),
            "num_scored": int(official.num_scored[row]),
            "num_dead": int(official.num_dead[row]),
            "first": task.name_of(int(official.first[row])),
        }
        if not split.asks_pairs:
            record["answers"] = [list(answer) for answer in answers[bounds[row] : bounds[row + 1]]]
        records.append(record)
    return records


def leave_out_seen(split: SplitArrays, seen: frozenset[str]) -> SplitArrays:
    """The split with pairs out of its clean metrics when a text of theirs has a key in `seen`.

    For a corpus that the model was not trained on: what it has seen is not only the corpus's own earlier splits.
    """
    keys_of_pairs = ({text_key(text) for text in own_texts(pair)} for pair in split.pairs)
    unseen = np.array([keys.isdisjoint(seen) for keys in keys_of_pairs], dtype=bool)
    return replace(split, clean=split.clean & unseen, leaked=split.leaked | ~unseen)
