"""Measures a split by every protocol of design §2: rankings first, then figures from them.

N points, T texts, R retrieval width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch

from biencoder_ablate.data.index import SplitArrays
from biencoder_ablate.evaluation import metrics
from biencoder_ablate.evaluation.candidates import (
    TASKS,
    candidate_texts,
    clean_exclusions,
    official_exclusions,
    task_mask,
)
from biencoder_ablate.evaluation.ranking import LogitsFunction, Ranking, final_by_distance, final_by_head
from biencoder_ablate.evaluation.stage1 import Question, stage1

RECALL_AT = (1, 10, 100)
SOURCE_K = 10


@dataclass(frozen=True)
class SplitCandidates:
    """A split with its candidates and exclusions worked out once, for every epoch to use."""

    split: SplitArrays
    candidate: np.ndarray
    official: tuple[np.ndarray, np.ndarray]
    clean: tuple[np.ndarray, np.ndarray]
    clean_differs: np.ndarray
    """Rows whose clean candidates are not the official ones."""


def prepare(split: SplitArrays) -> SplitCandidates:
    """Work out the candidates and exclusions of a split."""
    official, equal = official_exclusions(split), clean_exclusions(split)
    rows, candidates = (np.concatenate([official[i], equal[i]]) for i in (0, 1))
    order = np.argsort(rows, kind="stable")
    return SplitCandidates(
        split, candidate_texts(split), official, (rows[order], candidates[order]), np.unique(equal[0])
    )


def rank_both(
    prepared: SplitCandidates, retrieval: torch.Tensor, score: LogitsFunction, k: int | None
) -> tuple[Ranking, Ranking]:
    """The official and the clean ranking of every point, re-ranked to depth k, or by distance alone where k is None."""
    return rank_with_tasks(prepared, retrieval, score, k, ())[:2]


def rank_with_tasks(
    prepared: SplitCandidates, retrieval: torch.Tensor, score: LogitsFunction, k: int | None, tasks: Sequence[str]
) -> tuple[Ranking, Ranking, dict[str, Ranking]]:
    """The official and the clean ranking of every point, and one among the candidates of each of `tasks`.

    The clean ranking is the official one, done again for the rows whose clean candidates differ.
    """
    split, rows = prepared.split, prepared.clean_differs

    def admitted_by(task: str) -> Callable[[np.ndarray], np.ndarray]:
        return lambda block: task_mask(split, task, block)

    every = np.arange(len(split))
    questions = [Question(every, prepared.official), Question(rows, prepared.clean)]
    questions += [Question(every, prepared.official, admitted_by(task)) for task in tasks]
    official, again, *others = _rank(prepared, retrieval, score, k, questions)
    merged = {}
    for item in fields(Ranking):
        values = getattr(official, item.name).copy()
        values[rows] = getattr(again, item.name)
        merged[item.name] = values
    return official, Ranking(**merged), dict(zip(tasks, others, strict=True))


def rank_source(prepared: SplitCandidates, retrieval: torch.Tensor, score: LogitsFunction) -> Ranking:
    """What the source study's scripts ranked: all counters and points, the point itself included, k = 10, only
    the first ceil(N/16) points."""
    rows = np.arange(math.ceil(len(prepared.split) / 16))
    nothing = np.empty(0, dtype=np.int64)
    return _rank(prepared, retrieval, score, SOURCE_K, [Question(rows, (nothing, nothing))])[0]


def _rank(
    prepared: SplitCandidates,
    retrieval: torch.Tensor,
    score: LogitsFunction,
    k: int | None,
    questions: Sequence[Question],
) -> list[Ranking]:
    point, candidate = prepared.split.point, prepared.candidate
    found = stage1(retrieval, point, candidate, max(2, k or 0), questions)
    pairs = zip(found, questions, strict=True)
    if k is None:
        return [final_by_distance(part, question.rows) for part, question in pairs]
    return [final_by_head(part, question.rows, k, point, candidate, score) for part, question in pairs]


def figures(official: Ranking, clean: Ranking, counts: np.ndarray) -> dict[str, float]:
    """The figures of a split from its two rankings; `counts` (N,) marks the points that count in clean ones."""
    ranks = official.final_rank
    result = {
        "top1": metrics.top1(ranks),
        "top1_clean": metrics.top1(clean.final_rank[counts]),
        "mrr": metrics.mrr(ranks),
        "mrr_clean": metrics.mrr(clean.final_rank[counts]),
        "ndcg@10": metrics.ndcg(ranks, 10),
        "ndcg@10_clean": metrics.ndcg(clean.final_rank[counts], 10),
    }
    for k in RECALL_AT:
        result[f"recall@{k}"] = metrics.recall(official.stage1_rank, k)
    scored = int(official.num_scored.sum())
    result["tied_first"] = float(official.tied.mean())
    result["dead_pairs"] = int(official.num_dead.sum()) / scored if scored else 0.0
    result["num_points"] = len(ranks)
    result["num_points_clean"] = int(counts.sum())
    return result


def task_figures(rankings: dict[str, Ranking]) -> dict[str, dict[str, float]]:
    """top-1 and MRR of each of the eight tasks."""
    return {
        task: {"top1": metrics.top1(rankings[task].final_rank), "mrr": metrics.mrr(rankings[task].final_rank)}
        for task in TASKS
        if task in rankings
    }
