"""Per-point records of a ranking, as written to rankings.jsonl, and the figures recomputed from them.

Ranks in records are 1-based, as people count. `sets` are official, clean and the eight tasks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from biencoder_ablate.evaluation import measure
from biencoder_ablate.evaluation.candidates import TASKS, candidate_id
from biencoder_ablate.evaluation.measure import LogitsFunction, SplitCandidates
from biencoder_ablate.evaluation.ranking import Ranking


@dataclass(frozen=True)
class SplitRankings:
    """A split's rankings under every candidate set."""

    prepared: SplitCandidates
    official: Ranking
    clean: Ranking
    tasks: dict[str, Ranking]


def rank_everything(
    prepared: SplitCandidates, retrieval: torch.Tensor, score: LogitsFunction, k: int | None
) -> SplitRankings:
    """Rank a split under official, clean and the eight tasks. epa is official by definition."""
    official, clean, tasks = measure.rank_with_tasks(prepared, retrieval, score, k, [t for t in TASKS if t != "epa"])
    return SplitRankings(prepared, official, clean, {task: tasks.get(task, official) for task in TASKS})


def split_figures(rankings: SplitRankings) -> dict[str, Any]:
    """All figures of a split; the eight tasks under "tasks"."""
    values: dict[str, Any] = measure.figures(rankings.official, rankings.clean, rankings.prepared.split.clean)
    values["tasks"] = measure.task_figures(rankings.tasks)
    return values


def point_records(rankings: SplitRankings) -> list[dict[str, Any]]:
    """One record per point: where its counter came under each candidate set, and what came first."""
    split, official, clean = rankings.prepared.split, rankings.official, rankings.clean
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


def recompute(records: Iterable[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """The figures of result.json, by split, from records alone: equal to `split_figures`."""
    by_split: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        by_split.setdefault(record["split"], []).append(record)
    return {split: _recompute_split(rows) for split, rows in by_split.items()}


def _recompute_split(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    def ranking(stage1_rank: list[int], final_rank: list[int]) -> Ranking:
        def column(key: str, kind: type) -> np.ndarray:
            return np.array([row[key] for row in rows], dtype=kind)

        return Ranking(
            np.array(stage1_rank) - 1,
            np.array(final_rank) - 1,
            np.zeros(len(rows)),
            column("tied", bool),
            column("num_scored", np.int64),
            column("num_dead", np.int64),
        )

    counts = np.array([row["clean_rank"] is not None for row in rows])
    official = ranking([row["stage1_rank"] for row in rows], [row["rank"] for row in rows])
    clean = ranking([row["clean_stage1_rank"] or 1 for row in rows], [row["clean_rank"] or 1 for row in rows])
    values: dict[str, Any] = measure.figures(official, clean, counts)
    values["tasks"] = measure.task_figures(
        {
            task: ranking([row["stage1_ranks"][task] for row in rows], [row["ranks"][task] for row in rows])
            for task in rows[0]["ranks"]
        }
    )
    return values
