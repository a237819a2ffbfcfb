"""What a trained model loses when a part of it is bypassed: its splits ranked again without the part, and compared.

Texts are not encoded again: h stays, and only what comes after it is done anew. A layer of the head needs one more
stage 2, a projection also its embeddings and a stage 1. Ranked to the depth of an epoch's metrics.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
from biencoder_ablate.evaluation.ranking import TopK, rerank_depth
from biencoder_ablate.model.biencoder import BiEncoder, Embeddings
from biencoder_ablate.model.parts import SIMILARITY, NotBypassed, Part, bypassed, parts_of

PAIRS_AT_ONCE = 4096
"""Of so many pairs the embeddings are copied at a time."""
_TOLD = ("top1", "top1_clean", "mrr", "mrr_clean", "ndcg@10", "ndcg@10_clean", "map", "map_clean", "recall@10")
"""The metrics of a bypass that are kept; the difference of each to the whole model's."""


@dataclass(frozen=True)
class _Lists:
    """Stage 1 of a split, and what stage 2 scores of it: M distinct pairs, and the embeddings of their texts alone.

    Each pair is scored once for all candidate sets. `codes` (M,) ascending name the pairs by point and candidate;
    `points` and `candidates` (M,) are their places among the `embeddings`.
    """

    task: RetrievalTask
    nearest: Sequence[TopK]
    depth: int | str
    embeddings: Embeddings
    codes: np.ndarray
    points: np.ndarray
    candidates: np.ndarray

    @classmethod
    def of(cls, task: RetrievalTask, nearest: Sequence[TopK], embeddings: Embeddings, depth: int | str) -> _Lists:
        num_texts = len(embeddings.h)
        num_kept = rerank_depth(depth, len(task.candidates))
        codes = [np.empty(0, dtype=np.int64)]
        for candidate_set, lists in zip(task.sets(), nearest, strict=True):
            rows, columns = np.nonzero(lists.order[:, :num_kept] >= 0)
            texts = task.candidates.text[lists.order[rows, columns]]
            codes.append(task.point[candidate_set.rows][rows] * num_texts + texts)
        distinct = np.unique(np.concatenate(codes))

        points, candidates = np.divmod(distinct, num_texts)
        texts = np.unique(np.concatenate([points, candidates]))
        places = [np.searchsorted(texts, some) for some in (points, candidates)]
        return cls(task, nearest, depth, _some(embeddings, texts), distinct, *places)

    def ranked(self, model: BiEncoder, fast: bool, num_texts: int) -> SplitRankings:
        """The split ranked with the scores of a model."""
        if not len(self.codes):
            return rerank_nearest(self.task, self.nearest, None, "none")
        scores, dead = self.scores(model, fast)
        return self.ranked_by(scores, dead, num_texts)

    def scores(self, model: BiEncoder, fast: bool) -> tuple[Tensor, Tensor]:
        """The score of each pair by a model, and whether it is dead: (M,) both."""
        score = pair_scorer(model, self.embeddings, fast)
        return score(torch.from_numpy(self.points), torch.from_numpy(self.candidates))

    def ranked_by(self, scores: Tensor, dead: Tensor, num_texts: int) -> SplitRankings:
        """The split ranked with scores of its pairs (M,)."""

        def look_up(points: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
            codes = points.numpy() * num_texts + candidates.numpy()
            places = torch.from_numpy(np.searchsorted(self.codes, codes)).to(scores.device)
            return scores[places], dead[places]

        return rerank_nearest(self.task, self.nearest, look_up, self.depth)

    @torch.no_grad()
    def weighted_similarities(self, model: BiEncoder) -> Tensor:
        """What evaluation.score=sum adds to the head's score of each pair (M,)."""
        device = self.embeddings.h.device
        points = torch.from_numpy(self.points).to(device)
        candidates = torch.from_numpy(self.candidates).to(device)
        found = []
        for some in zip(points.split(PAIRS_AT_ONCE), candidates.split(PAIRS_AT_ONCE), strict=True):
            r_point = self.embeddings.point[some[0]]
            r_candidate = self.embeddings.candidate[some[1]]
            found.append(model.similarity_weight * model.similarity(r_point, r_candidate))
        return torch.cat(found)


def _some(embeddings: Embeddings, texts: np.ndarray) -> Embeddings:
    """The embeddings of some texts; what is one tensor stays one."""
    rows = torch.from_numpy(texts).to(embeddings.h.device)
    candidate = embeddings.candidate[rows]
    point = candidate if embeddings.point is embeddings.candidate else embeddings.point[rows]
    h_asking = None if embeddings.h_asking is None else embeddings.h_asking[rows]
    return Embeddings(embeddings.h[rows], point, candidate, h_asking)


def measure_bypasses(
    model: BiEncoder,
    parts: Sequence[Part],
    start: Mapping[str, Tensor],
    embeddings: Embeddings,
    rankings: Mapping[str, SplitRankings],
    rerank: int | str,
    fast: bool = True,
) -> dict[str, dict[str, Any]]:
    """By part, and by the name of a split: its metrics with the part bypassed, what the whole model has more of each
    (`lost`), and for how many points the first candidate or the rank of a right answer changes (`num_changed`).

    `rankings` are the whole model's, of the splits that are measured. `rerank` is evaluation.rerank; with `none` only
    projections are bypassed, as nothing else ranks. Of a layer that cannot be bypassed, or without which a score is not
    finite, there is `why` instead. Raises ValueError when a distance or a score of the whole model is not finite.
    """
    depth = epoch_depth(rerank)
    num_texts = len(embeddings.h)
    lists = {}
    for name, of_split in rankings.items():
        nearest = of_split.nearest or rank_nearest(of_split.task, embeddings, depth)
        lists[name] = _Lists.of(of_split.task, nearest, embeddings, depth)
    # Ranked in the same way as without each part, so that no rounding tells them apart.
    whole, head_alone = {}, {}
    for name, each in lists.items():
        whole[name], head_alone[name] = _whole_and_head_alone(model, each, fast, num_texts)
    metrics = {name: split_metrics(of_split) for name, of_split in whole.items()}

    def ranked_without(part: Part) -> dict[str, SplitRankings]:
        """The splits ranked with a part bypassed. Raises NotBypassed."""
        if part.bypass == "distance":
            return {name: rerank_nearest(each.task, each.nearest, None, "none") for name, each in lists.items()}
        if part.bypass == "head":
            return head_alone
        with bypassed(model, part, start) as without:
            used = lists
            if part.bypass == "start":
                again = _embedded_again(without, part, embeddings)
                used = {}
                for name, each in lists.items():
                    nearest = rank_nearest(each.task, again, depth)
                    used[name] = _Lists.of(each.task, nearest, again, depth)
            return {name: each.ranked(without, fast, num_texts) for name, each in used.items()}

    found: dict[str, dict[str, Any]] = {}
    reranks = rerank not in ("none", 0)
    for part in parts:
        if part.bypass is None or not (reranks or part.bypass == "start"):
            continue
        try:
            ranked = ranked_without(part)
        except ValueError:
            found[part.name] = {"why": "without it a score is not finite"}
            continue
        except (NotBypassed, RuntimeError, TypeError, AttributeError) as problem:
            # A head of one's own need not stand to have a layer pass on what it is given; the run has been trained.
            found[part.name] = {"why": str(problem)}
            continue
        found[part.name] = {name: _compared(whole[name], metrics[name], ranked[name]) for name in ranked}
    return found


def _whole_and_head_alone(
    model: BiEncoder, lists: _Lists, fast: bool, num_texts: int
) -> tuple[SplitRankings, SplitRankings]:
    """A split ranked by the whole model, and by its head without the similarity: the head scores each pair once."""
    if model.architecture.score != "sum" or not len(lists.codes):
        whole = lists.ranked(model, fast, num_texts)
        return whole, whole
    (similarity_weight,) = (part for part in parts_of(model) if part.name == SIMILARITY)
    with bypassed(model, similarity_weight, {}) as head_alone:
        scores, dead = lists.scores(head_alone, fast)
    sums = scores + lists.weighted_similarities(model)
    return lists.ranked_by(sums, dead, num_texts), lists.ranked_by(scores, dead, num_texts)


@torch.no_grad()
def _embedded_again(model: BiEncoder, part: Part, embeddings: Embeddings) -> Embeddings:
    """The embeddings of the same h by a model of which one projection is another; those of the other tower stay."""
    model.eval()
    if model.linear1_candidate is None:
        return model.embed(embeddings.h, embeddings.h_asking)
    if part.name == "linear1":
        return replace(embeddings, point=model.as_points(embeddings.h_point))
    return replace(embeddings, candidate=model.as_candidates(embeddings.h))


def _compared(whole: SplitRankings, of_whole: Mapping[str, Any], other: SplitRankings) -> dict[str, Any]:
    """The metrics of the other rankings of a split beside the whole model's, and how many points differ."""
    metrics = split_metrics(other)
    record: dict[str, Any] = {}
    lost: dict[str, float | None] = {}
    for name in _TOLD:
        before, after = of_whole[name], metrics[name]
        is_known = not (math.isnan(before) or math.isnan(after))
        record[name] = after if is_known else None
        lost[name] = before - after if is_known else None
    record["lost"] = lost
    record["num_changed"] = int(_changed(whole, other).sum())
    record["num_points"] = len(other.task)
    return record


def _changed(whole: SplitRankings, other: SplitRankings) -> np.ndarray:
    """Of which points (N,) the first candidate or the rank of a right answer is another, by the official rankings."""
    changed: np.ndarray = whole.official.first != other.official.first
    rows = whole.task.qrels.row
    changed[rows[whole.official.final_rank != other.official.final_rank]] = True
    return changed
