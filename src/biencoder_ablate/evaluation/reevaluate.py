"""Measures a split once training is over: any depth of re-ranking, what needs no training, and both as a table.

N points, T texts, H pooled width, R retrieval width.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from biencoder_ablate.data.corpus import text_key
from biencoder_ablate.data.index import SplitArrays
from biencoder_ablate.evaluation.baselines import bm25_similarities, count_words, tfidf_similarities
from biencoder_ablate.evaluation.candidates import TASKS
from biencoder_ablate.evaluation.measure import LogitsFunction, SplitCandidates, rank_source
from biencoder_ablate.evaluation.metrics import top1
from biencoder_ablate.evaluation.rank_all import BlockScores, rank_all, rank_by_scores
from biencoder_ablate.evaluation.records import SplitRankings, rank_everything, split_figures
from biencoder_ablate.model.biencoder import BiEncoder

if TYPE_CHECKING:
    from scipy.sparse import csr_array

LEXICAL = {"tfidf_cosine": tfidf_similarities, "bm25": bm25_similarities}
_TITLES = {
    "tfidf_cosine": "TF-IDF cosine",
    "bm25": "BM25",
    "untrained_euclidean": "untrained encoder, Euclidean",
    "untrained_cosine": "untrained encoder, cosine",
}
_COLUMNS = (("top-1", "top1"), ("clean", "top1_clean"), ("MRR", "mrr"), ("nDCG@10", "ndcg@10"), ("R@10", "recall@10"))


def rerank_depth(rerank: int | str) -> int | None:
    """evaluation.rerank as the depth of stage 2: None for `none`. `all` has no depth: see `final_rankings`."""
    assert rerank != "all"
    return None if isinstance(rerank, str) else rerank


def final_rankings(
    prepared: SplitCandidates,
    model: BiEncoder,
    h: torch.Tensor,
    r: torch.Tensor,
    score: LogitsFunction,
    rerank: int | str,
) -> SplitRankings:
    """Rank a split under every candidate set as `evaluation.rerank` says: to a depth, `none`, or `all`.

    h (T, H) and r (T, R) are the embeddings of all texts; `score` scores pairs of them, for a depth. Raises
    ValueError when embeddings or scores are not finite.
    """
    if not bool(h.isfinite().all() and r.isfinite().all()):
        raise ValueError(
            "the model's embeddings are not all finite numbers, so nothing can be ranked by them; "
            "training has diverged, or the weights are damaged"
        )
    model.eval()
    with torch.no_grad():
        if rerank == "all":
            return rank_all(prepared, model, h, r)
        return rank_everything(prepared, r, score, rerank_depth(rerank))


def measured_figures(
    splits: Mapping[str, SplitCandidates],
    model: BiEncoder,
    h: torch.Tensor,
    r: torch.Tensor,
    score: LogitsFunction,
    rerank: int | str,
    source: bool,
) -> dict[str, dict[str, Any]]:
    """Figures by split of a trained model; with `source` also `source/top1`, what the source study computed.

    Arguments and errors as for `final_rankings`.
    """
    figures = {}
    for name, prepared in splits.items():
        figures[name] = split_figures(final_rankings(prepared, model, h, r, score, rerank))
        if source:
            with torch.no_grad():
                figures[name]["source/top1"] = top1(rank_source(prepared, r, score).final_rank)
    return figures


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
    return {
        name: {split: split_figures(_rank_lexically(name, counts, prepared)) for split, prepared in splits.items()}
        for name in LEXICAL
    }


def _rank_lexically(name: str, counts: csr_array, prepared: SplitCandidates) -> SplitRankings:
    distinct, places = np.unique(prepared.candidate, return_inverse=True)

    def score(rows: np.ndarray) -> BlockScores:
        points, back = np.unique(prepared.split.point[rows], return_inverse=True)
        similarity = LEXICAL[name](counts, points.tolist(), distinct.tolist(), distinct.tolist())
        return BlockScores(torch.from_numpy(-similarity[back.reshape(-1)][:, places.reshape(-1)]))

    return rank_by_scores(prepared, score)


def encoder_figures(h: torch.Tensor, splits: Mapping[str, SplitCandidates]) -> dict[str, dict[str, Any]]:
    """Figures of an encoder's own pooled outputs h (T, H) by Euclidean distance and by cosine, no head, no linear1."""
    # Between vectors of length 1 the order by distance is the order by cosine: |a − b|² = 2 − 2 cos.
    spaces = {"untrained_euclidean": h, "untrained_cosine": torch.nn.functional.normalize(h, dim=1)}

    def nothing(points: torch.Tensor, candidates: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        raise AssertionError("without re-ranking nothing is scored")

    return {
        name: {
            split: split_figures(rank_everything(prepared, space, nothing, None)) for split, prepared in splits.items()
        }
        for name, space in spaces.items()
    }


def describe(report: Mapping[str, Any]) -> str:
    """A report of evaluate.py as tables for a person, one a split."""
    epoch = report["best_epoch"]
    chosen = f"selected epoch {epoch}" if epoch >= 0 else "not trained"
    lines = [
        f"{report['run']}, {chosen}, on {report['data']['name']}, {report['device']}, {report['precision']}",
        *(f"note: {note}" for note in report["notes"]),
    ]
    for split, measured in report["measured"].items():
        rows = [
            (f"this run, rerank={report['own']['rerank']}", report["own"][split]),
            (f"measured, rerank={report['evaluation']['rerank']}", measured),
        ]
        rows += [(_TITLES[name], figures[split]) for name, figures in report.get("baselines", {}).items()]
        lines += ["", figures_table(split, rows)]
        if "source/top1" in measured:
            lines.append(
                f"source/{split}/top1 {measured['source/top1']:.4f}: to read the source study's logs beside "
                "ours, not to publish"
            )
    took = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in report["seconds"].items())
    return "\n".join([*lines, "", took])


def figures_table(split: str, rows: Iterable[tuple[str, Mapping[str, Any]]]) -> str:
    """Figures of one split, a line a row: (name, figures as `records.split_figures` gives them)."""
    rows = list(rows)
    sizes = {(figures["num_points"], figures["num_points_clean"]) for _, figures in rows}
    over = " or ".join(f"{points} points, {clean} of them clean" for points, clean in sorted(sizes, reverse=True))
    width = max(len(name) for name, _ in rows)
    titles = [title for title, _ in _COLUMNS] + list(TASKS)
    lines = [f"{split}: {over}", " " * width + "".join(f"{title:>9}" for title in titles)]
    for name, figures in rows:
        values = [figures[key] for _, key in _COLUMNS] + [figures["tasks"][task]["top1"] for task in TASKS]
        lines.append(f"{name:<{width}}" + "".join(f"{_shown(value):>9}" for value in values))
    return "\n".join(lines)


def _shown(value: float | None) -> str:
    return f"{value:.4f}" if value is not None and value == value else "–"
