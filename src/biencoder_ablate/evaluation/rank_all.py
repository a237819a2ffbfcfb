"""Ranks a split when every allowed candidate has a score: `evaluation.rerank=all`, and baselines.

All ten candidate sets (official, clean, the eight tasks) are read off one matrix of scores per block of
points, so the head scores each distinct pair of texts once, not once per set. What comes out is the Ranking of
evaluation/ranking.py and means the same: the final list is by margin, equal margins keep stage-1 order.

N points, C = 2N candidates, b points of a block, T texts, R retrieval width, H pooled width.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import nn

from biencoder_ablate.evaluation.all_pairs import all_pair_margins
from biencoder_ablate.evaluation.candidates import TASKS, task_mask
from biencoder_ablate.evaluation.distances import BLOCK, distances_to, exclude, make_targets, rank_of
from biencoder_ablate.evaluation.measure import SplitCandidates
from biencoder_ablate.evaluation.ranking import Ranking
from biencoder_ablate.evaluation.records import SplitRankings
from biencoder_ablate.model.biencoder import BiEncoder
from biencoder_ablate.model.fusion import PARTS

_SETS = ("official", "clean", *(task for task in TASKS if task != "epa"))
"""Every candidate set once: epa is official by definition."""


@dataclass(frozen=True)
class BlockScores:
    """Of b points to all C candidates, each (b, C): distance (smaller is nearer), and what the head says.

    Without margins the ranking by distance is final.
    """

    distance: torch.Tensor
    margin: torch.Tensor | None = None
    dead: torch.Tensor | None = None


ScoreBlock = Callable[[np.ndarray], BlockScores]
"""Rows of a split (b,), ascending → their scores."""


def rank_all(prepared: SplitCandidates, model: BiEncoder, h: torch.Tensor, r: torch.Tensor) -> SplitRankings:
    """Rank a split with the head scoring every allowed candidate of every point.

    h (T, H) and r (T, R) are the embeddings of all texts. Equal texts get exactly equal scores. num_scored and
    num_dead count allowed candidates only.

    Memory, beside h and r: some 40 bytes for each of BLOCK × C pairs, and what `all_pair_margins` takes for
    BLOCK points; nothing grows with N × C. At C = 2802 the one is some 57 MB, the other under 150 MB.

    Raises:
        ValueError: an embedding or a score is not a finite number, so that nothing can be ranked by it.
    """
    device = r.device
    texts, place_of_candidate = np.unique(prepared.candidate, return_inverse=True)
    candidates = torch.from_numpy(texts).to(device)
    places = torch.from_numpy(place_of_candidate.reshape(-1)).to(device)
    targets, head = make_targets(r[candidates]), head_arguments(model)
    parts = [{"h": h, "r": r}[part] for part in PARTS[model.fusion]]
    # Sums are taken in float64, which Apple's GPUs do not have.
    where = torch.device("cpu") if device.type == "mps" else device

    def score(rows: np.ndarray) -> BlockScores:
        points = torch.from_numpy(prepared.split.point[rows]).to(device)
        distance = distances_to(r[points], targets).index_select(1, places)
        distinct, back = torch.unique(points, return_inverse=True)
        found = all_pair_margins(
            [part[distinct].to(where) for part in parts],
            [part[candidates].to(where) for part in parts],
            **{name: _moved(value, where) for name, value in head.items()},
        )
        margin, dead = (values.to(device)[back].index_select(1, places) for values in found)
        return BlockScores(distance, margin, dead)

    with torch.no_grad():
        return rank_by_scores(prepared, score)


def head_arguments(model: BiEncoder) -> dict[str, Any]:
    """A model's head as the arguments of `all_pair_margins`."""
    head = model.head
    arguments: dict[str, Any] = {
        "linear_weight": head.linear2.weight,
        "linear_bias": head.linear2.bias,
        "activation": "relu" if isinstance(head.activation, nn.ReLU) else "none",
        "activation_position": head.activation_position,
    }
    if isinstance(head.norm, nn.LayerNorm):
        arguments |= {"norm_weight": head.norm.weight, "norm_bias": head.norm.bias, "norm_eps": head.norm.eps}
    return arguments


def rank_by_scores(prepared: SplitCandidates, score: ScoreBlock) -> SplitRankings:
    """Rank a split under official, clean and the eight tasks by any scores. Raises ValueError as `rank_all`."""
    split = prepared.split
    found: dict[str, list[Ranking]] = {name: [] for name in _SETS}
    for start in range(0, len(split), BLOCK):
        rows = np.arange(start, min(start + BLOCK, len(split)))
        scores = score(rows)
        _check_finite(scores)
        for name in _SETS:
            allowed = _allowed(prepared, name, rows, scores.distance.device)
            found[name].append(_rank_block(scores, allowed, rows))
    whole = {name: _joined(blocks) for name, blocks in found.items()}
    tasks = {task: whole["official" if task == "epa" else task] for task in TASKS}
    return SplitRankings(prepared, whole["official"], whole["clean"], tasks)


def _allowed(prepared: SplitCandidates, name: str, rows: np.ndarray, device: torch.device) -> torch.Tensor:
    """Which candidates a set admits for the points `rows`, (b, C) bool."""
    left_out = torch.zeros(len(rows), len(prepared.candidate), device=device)
    exclude(left_out, rows, prepared.clean if name == "clean" else prepared.official)
    allowed = left_out == 0
    if name in TASKS:
        allowed &= torch.from_numpy(task_mask(prepared.split, name, rows)).to(device)
    return allowed


def _rank_block(scores: BlockScores, allowed: torch.Tensor, rows: np.ndarray) -> Ranking:
    """The ranking of the points `rows` among their allowed candidates (b, C)."""
    true = torch.from_numpy(rows).to(allowed.device)
    distance = scores.distance.masked_fill(~allowed, torch.inf)
    stage1_rank = rank_of(distance, true)
    nothing = torch.zeros_like(true)
    if scores.margin is None:
        first, tied = _first(distance, allowed)
        return _to_numpy(stage1_rank, stage1_rank, first, tied, nothing, nothing)
    margin = scores.margin.masked_fill(~allowed, -torch.inf)
    own = margin.gather(1, true[:, None])
    equal = (margin == own) & allowed
    # Among equal margins stage-1 order decides: the same count as in stage 1, over fewer candidates.
    final_rank = (margin > own).sum(1) + rank_of(distance.masked_fill(~equal, torch.inf), true)
    best = (margin == margin.amax(1, keepdim=True)) & allowed
    first, _ = _first(distance, best)
    dead = nothing if scores.dead is None else (scores.dead & allowed).sum(1)
    return _to_numpy(stage1_rank, final_rank, first, best.sum(1) > 1, allowed.sum(1), dead)


def _first(distance: torch.Tensor, among: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The nearest candidate (b,) `among` (b, C), of equally near ones the earliest; and whether there were several."""
    distance = distance.masked_fill(~among, torch.inf)
    nearest = (distance == distance.amin(1, keepdim=True)) & among
    # argmax promises no particular one of equal values; the lowest position is wanted.
    places = torch.arange(among.shape[1], device=among.device).expand_as(among)
    return torch.where(nearest, places, among.shape[1]).amin(1), nearest.sum(1) > 1


def _check_finite(scores: BlockScores) -> None:
    for values in (scores.distance, scores.margin):
        if values is not None and not bool(values.isfinite().all()):
            raise ValueError(
                "the model's scores are not all finite numbers, so nothing can be ranked by them; "
                "training has diverged, or the weights are damaged"
            )


def _to_numpy(*columns: torch.Tensor) -> Ranking:
    return Ranking(*(column.cpu().numpy() for column in columns))


def _joined(blocks: list[Ranking]) -> Ranking:
    return Ranking(
        **{item.name: np.concatenate([getattr(block, item.name) for block in blocks]) for item in fields(Ranking)}
    )


def _moved(value: Any, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, torch.Tensor) else value
