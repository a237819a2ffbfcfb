"""What a trained model loses when a part of it is bypassed: its splits ranked again without the part, and compared.

Texts are not encoded again: h stays, and only what comes after it is done anew. A layer of the head needs one more
stage 2, a projection also its embeddings and a stage 1. Ranked to the depth of an epoch's metrics.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from biencoder_ablate.evaluation.candidates import RetrievalTask
from biencoder_ablate.evaluation.pair_scores import pair_scorer
from biencoder_ablate.evaluation.protocols import (
    SplitRankings,
    epoch_depth,
    rank_nearest,
    rerank_nearest,
    split_metrics,
)
from biencoder_ablate.evaluation.ranking import TopK
from biencoder_ablate.model.biencoder import BiEncoder, Embeddings
from biencoder_ablate.model.parts import NotBypassed, Part, bypassed

_TOLD = ("top1", "top1_clean", "mrr", "mrr_clean", "ndcg@10", "ndcg@10_clean", "map", "map_clean", "recall@10")
"""The metrics of a bypass that are kept; the difference of each to the whole model's."""


@dataclass(frozen=True)
class _Whole:
    """The trained model as it is: its embeddings, and of every split its stage 1, its rankings and their metrics."""

    model: BiEncoder
    embeddings: Embeddings
    nearest: Mapping[str, Sequence[TopK]]
    rankings: Mapping[str, SplitRankings]
    metrics: Mapping[str, Mapping[str, Any]]


def measure_bypasses(
    model: BiEncoder,
    parts: Sequence[Part],
    start: Mapping[str, Tensor],
    embeddings: Embeddings,
    tasks: Mapping[str, RetrievalTask],
    rerank: int | str,
    fast: bool = True,
) -> dict[str, dict[str, Any]]:
    """By part, and by the name of a split: its metrics with the part bypassed, what the whole model has more of each
    (`lost`), and for how many points the first candidate or the rank of a right answer changes (`num_changed`).

    `rerank` is evaluation.rerank; with `none` only projections are bypassed, as nothing else ranks. Of a layer that
    cannot be bypassed, or without which a score is not finite, there is `why` instead. Raises ValueError when a
    distance or a score of the whole model is not finite.
    """
    depth = epoch_depth(rerank)
    reranks = depth != "none" and depth != 0
    score = pair_scorer(model, embeddings, fast)
    nearest = {name: rank_nearest(task, embeddings, depth) for name, task in tasks.items()}
    rankings = {name: rerank_nearest(task, nearest[name], score, depth) for name, task in tasks.items()}
    metrics = {name: split_metrics(of_split) for name, of_split in rankings.items()}
    whole = _Whole(model, embeddings, nearest, rankings, metrics)

    found: dict[str, dict[str, Any]] = {}
    for part in parts:
        if part.bypass is None or not (reranks or part.bypass == "start"):
            continue
        try:
            ranked = _ranked_without(part, start, whole, tasks, depth, fast)
        except ValueError:
            found[part.name] = {"why": "without it a score is not finite"}
            continue
        except (NotBypassed, RuntimeError, TypeError, AttributeError) as problem:
            # A head of one's own need not stand to have a layer pass on what it is given; the run has been trained.
            found[part.name] = {"why": str(problem)}
            continue
        found[part.name] = {name: _compared(whole, name, ranked[name]) for name in tasks}
    return found


def _ranked_without(
    part: Part,
    start: Mapping[str, Tensor],
    whole: _Whole,
    tasks: Mapping[str, RetrievalTask],
    depth: int | str,
    fast: bool,
) -> dict[str, SplitRankings]:
    """The splits ranked with a part bypassed. Raises NotBypassed."""
    if part.bypass == "distance":
        return {name: rerank_nearest(task, whole.nearest[name], None, "none") for name, task in tasks.items()}
    with bypassed(whole.model, part, start) as model:
        embeddings = whole.embeddings
        nearest_of: Callable[[str], Sequence[TopK]] = whole.nearest.__getitem__
        if part.bypass == "start":
            embeddings = _embedded_again(model, embeddings)
            nearest = {name: rank_nearest(task, embeddings, depth) for name, task in tasks.items()}
            nearest_of = nearest.__getitem__
        score = None if depth == "none" else pair_scorer(model, embeddings, fast)
        return {name: rerank_nearest(task, nearest_of(name), score, depth) for name, task in tasks.items()}


def _embedded_again(model: BiEncoder, embeddings: Embeddings) -> Embeddings:
    """The embeddings of the same h by another model."""
    with torch.no_grad():
        model.eval()
        return model.embed(embeddings.h, embeddings.h_asking)


def _compared(whole: _Whole, split: str, other: SplitRankings) -> dict[str, Any]:
    """The metrics of the other rankings of a split beside the whole model's, and how many points differ."""
    metrics, of_whole = split_metrics(other), whole.metrics[split]
    record: dict[str, Any] = {}
    lost: dict[str, float | None] = {}
    for name in _TOLD:
        before, after = of_whole[name], metrics[name]
        is_known = not (math.isnan(before) or math.isnan(after))
        record[name] = after if is_known else None
        lost[name] = before - after if is_known else None
    record["lost"] = lost
    record["num_changed"] = int(_changed(whole.rankings[split], other).sum())
    record["num_points"] = len(other.task)
    return record


def _changed(whole: SplitRankings, other: SplitRankings) -> np.ndarray:
    """Of which points (N,) the first candidate or the rank of a right answer is another, by the official rankings."""
    changed: np.ndarray = whole.official.first != other.official.first
    rows = whole.task.qrels.row
    changed[rows[whole.official.final_rank != other.official.final_rank]] = True
    return changed
