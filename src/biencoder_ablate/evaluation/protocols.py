"""Measures a split by every protocol of design §2: rankings first, then figures and records of its points from them.

N points, T texts, H pooled width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch

from biencoder_ablate.data.corpus import text_key
from biencoder_ablate.data.index import SplitArrays
from biencoder_ablate.evaluation import metrics
from biencoder_ablate.evaluation.baselines import bm25_similarities, count_words, tfidf_similarities
from biencoder_ablate.evaluation.candidates import TASKS, CandidateSet, SplitCandidates, candidate_id
from biencoder_ablate.evaluation.pair_scores import PairScorer
from biencoder_ablate.evaluation.ranking import Ranking, Scores, rank, rank_matrix
from biencoder_ablate.model.biencoder import Embeddings

RECALL_AT = (1, 10, 100)
EPOCH_DEPTH = 10
"""Depth of stage 2 in an epoch's figures where evaluation.rerank is `all`; only the final figures score all."""
STUDY_DEPTH = 10
LEXICAL = {"tfidf_cosine": tfidf_similarities, "bm25": bm25_similarities}
_MASKED = tuple(task for task in TASKS if task != "epa")
"""epa is official by definition."""


@dataclass(frozen=True)
class SplitRankings:
    """A split's rankings under official, clean and, at the end, the eight tasks."""

    split: SplitArrays
    official: Ranking
    clean: Ranking
    tasks: dict[str, Ranking]


def measure_split(
    prepared: SplitCandidates, embeddings: Embeddings, score: PairScorer | None, rerank: int | str
) -> dict[str, Any]:
    """An epoch's figures of a split, official and clean, and with them num_scored and num_dead, counts of pairs.

    Arguments and errors as for `final_rankings`, but `all` goes to EPOCH_DEPTH only.
    """
    depth = EPOCH_DEPTH if rerank == "all" else rerank
    point, candidates = prepared.split.point, prepared.candidates
    official, again = rank(embeddings, point, candidates, prepared.sets(), score, depth)
    counts = {"num_scored": int(official.num_scored.sum()), "num_dead": int(official.num_dead.sum())}
    return _figures(official, _merged(official, again, prepared), prepared.split.clean) | counts


def final_rankings(
    prepared: SplitCandidates, embeddings: Embeddings, score: PairScorer | None, rerank: int | str
) -> SplitRankings:
    """Rank a split under every candidate set as `evaluation.rerank` says: to a depth, `none`, or `all`.

    `embeddings` are of all T texts, and `score` scores pairs of them (None with `none`). Raises ValueError
    when a distance or a score is not a finite number.
    """
    point, candidates = prepared.split.point, prepared.candidates
    return _split_rankings(prepared, rank(embeddings, point, candidates, prepared.sets(_MASKED), score, rerank))


def _split_rankings(prepared: SplitCandidates, rankings: Sequence[Ranking]) -> SplitRankings:
    """From rankings under `prepared.sets(_MASKED)`."""
    official, again, *others = rankings
    by_task = dict(zip(_MASKED, others, strict=True))
    tasks = {task: by_task.get(task, official) for task in TASKS}
    return SplitRankings(prepared.split, official, _merged(official, again, prepared), tasks)


def _merged(official: Ranking, again: Ranking, prepared: SplitCandidates) -> Ranking:
    """The clean ranking: the official one, but for the points ranked again because their clean candidates differ."""
    columns = {item.name: getattr(official, item.name).copy() for item in fields(Ranking)}
    for name, column in columns.items():
        column[prepared.clean_differs] = getattr(again, name)
    return Ranking(**columns)


def rank_as_study(prepared: SplitCandidates, embeddings: Embeddings, score: PairScorer) -> Ranking:
    """What the source study's scripts ranked: all counters and points, the point itself included, k = 10, only
    the first ceil(N/16) points."""
    nothing = np.empty(0, dtype=np.int64)
    asked = CandidateSet(np.arange(math.ceil(len(prepared.split) / 16)), (nothing, nothing))
    return rank(embeddings, prepared.split.point, prepared.candidates, [asked], score, STUDY_DEPTH)[0]


def study_top1(prepared: SplitCandidates, embeddings: Embeddings, score: PairScorer) -> float:
    """top-1 of `rank_as_study`: to read the source study's logs beside ours, not to publish."""
    return metrics.top1(rank_as_study(prepared, embeddings, score).final_rank)


def split_figures(rankings: SplitRankings) -> dict[str, Any]:
    """All figures of a split; top-1 and MRR of the eight tasks under "tasks"."""
    values = _figures(rankings.official, rankings.clean, rankings.split.clean)
    values["tasks"] = {
        task: {"top1": metrics.top1(found.final_rank), "mrr": metrics.mrr(found.final_rank)}
        for task, found in rankings.tasks.items()
    }
    return values


def _figures(official: Ranking, clean: Ranking, counts: np.ndarray) -> dict[str, Any]:
    """Figures from two rankings; `counts` (N,) marks the points that count in clean ones."""
    ranks, clean_ranks = official.final_rank, clean.final_rank[counts]
    scored = int(official.num_scored.sum())
    return {
        "top1": metrics.top1(ranks),
        "top1_clean": metrics.top1(clean_ranks),
        "top1_stage1": metrics.top1(official.stage1_rank),
        "top1_stage1_clean": metrics.top1(clean.stage1_rank[counts]),
        "mrr": metrics.mrr(ranks),
        "mrr_clean": metrics.mrr(clean_ranks),
        "mrr_stage1": metrics.mrr(official.stage1_rank),
        "ndcg@10": metrics.ndcg(ranks, 10),
        "ndcg@10_clean": metrics.ndcg(clean_ranks, 10),
        **{f"recall@{k}": metrics.recall(official.stage1_rank, k) for k in RECALL_AT},
        "tied_first": float(official.tied.mean()),
        "dead_pairs": int(official.num_dead.sum()) / scored if scored else 0.0,
        "num_points": len(ranks),
        "num_points_clean": int(counts.sum()),
    }


def point_records(rankings: SplitRankings) -> list[dict[str, Any]]:
    """One record per point, as written to rankings.jsonl: where its counter came under each candidate set, and what
    came first. Ranks are 1-based here, as people count."""
    split, official, clean = rankings.split, rankings.official, rankings.clean
    records = []
    for row, pair in enumerate(split.pairs):
        counts = bool(split.clean[row])
        records.append(
            {
                "id": pair.id,
                "split": split.name,
                "theme": pair.theme,
                "debate": pair.debate,
                "stance": pair.stance,
                "stage1_rank": int(official.stage1_rank[row]) + 1,
                "rank": int(official.final_rank[row]) + 1,
                "clean_stage1_rank": int(clean.stage1_rank[row]) + 1 if counts else None,
                "clean_rank": int(clean.final_rank[row]) + 1 if counts else None,
                "stage1_ranks": {task: int(found.stage1_rank[row]) + 1 for task, found in rankings.tasks.items()},
                "ranks": {task: int(found.final_rank[row]) + 1 for task, found in rankings.tasks.items()},
                "tied": bool(official.tied[row]),
                "num_scored": int(official.num_scored[row]),
                "num_dead": int(official.num_dead[row]),
                "first": candidate_id(split, int(official.first[row])),
            }
        )
    return records


def leave_out_seen(split: SplitArrays, seen: frozenset[str]) -> SplitArrays:
    """The split with pairs out of its clean figures when a text of theirs has a key in `seen`.

    For a corpus that the model was not trained on: what it has seen is not only the corpus's own earlier splits.
    """
    unseen = np.array([not {text_key(pair.point), text_key(pair.counter)} & seen for pair in split.pairs], dtype=bool)
    return replace(split, clean=split.clean & unseen)


def lexical_figures(texts: Sequence[str], splits: Mapping[str, SplitCandidates]) -> dict[str, dict[str, Any]]:
    """Figures of TF-IDF cosine and of BM25, by baseline and split.

    Document frequencies are those of a split's own distinct candidates. Equal scores keep candidate order.
    """
    counts = count_words(texts)

    def rankings(similarities: Callable[..., np.ndarray], prepared: SplitCandidates) -> SplitRankings:
        candidates, distinct = prepared.candidates, prepared.candidates.distinct.tolist()

        def score_rows(rows: np.ndarray) -> Scores:
            points, back = np.unique(prepared.split.point[rows], return_inverse=True)
            similarity = similarities(counts, points.tolist(), distinct, distinct)
            return Scores(torch.from_numpy(-similarity[back.reshape(-1)][:, candidates.place]))

        return _split_rankings(prepared, rank_matrix(prepared.sets(_MASKED), score_rows))

    return {
        name: {split: split_figures(rankings(similarities, prepared)) for split, prepared in splits.items()}
        for name, similarities in LEXICAL.items()
    }


def encoder_figures(
    h: torch.Tensor, splits: Mapping[str, SplitCandidates], h_asking: torch.Tensor | None = None
) -> dict[str, dict[str, Any]]:
    """Figures of an encoder's own pooled outputs h (T, H) by Euclidean distance and by cosine, no head, no linear1;
    `h_asking` are those of texts as points where prompts make them others."""
    both = (h if h_asking is None else h_asking, h)
    # Between vectors of length 1 the order by distance is the order by cosine: |a − b|² = 2 − 2 cos.
    unit = [torch.nn.functional.normalize(of, dim=1) for of in both]
    spaces = {"pretrained_euclidean": both, "pretrained_cosine": unit}

    return {
        name: {
            split: split_figures(final_rankings(prepared, Embeddings(h, *space), None, "none"))
            for split, prepared in splits.items()
        }
        for name, space in spaces.items()
    }
