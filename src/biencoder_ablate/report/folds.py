"""Cross-validation: the runs of one configuration and seed, one a fold, become one run over the points of all folds.

Every point is the test point of one fold, and so has one outcome a seed, as with a single test split. K folds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from biencoder_ablate.data.splitting import folds_fingerprint
from biencoder_ablate.report.read import FINISHED, Collection, Outcomes, Protocol, Run
from biencoder_ablate.runs.identity import short_hash, without_fold

MOST_LISTED = 5
"""Seeds in a note that lack folds."""


def pool_folds(runs: Sequence[Run]) -> tuple[list[Run], list[str]]:
    """The runs with those of one cross-validation, configuration and seed made one, and notes on what is left out.

    A seed that lacks a fold is left out, since its points would not be those of the others.
    """
    pooled: list[Run] = []
    by_seed: dict[str, dict[int, Run]] = defaultdict(dict)  # what the folds have in common → fold → run
    for run in runs:
        if run.status == FINISHED and "folds" in run.identity:
            by_seed[short_hash(without_fold(run.identity))][run.identity["folds"]["fold"]] = run
        else:
            pooled.append(run)

    lacking = []
    for common, by_fold in by_seed.items():
        folds = [by_fold[fold] for fold in sorted(by_fold)]
        num_folds = folds[0].identity["folds"]["num"]
        if len(folds) == num_folds:
            pooled.append(_pool(folds, common))
            continue
        missing = ", ".join(str(fold) for fold in range(num_folds) if fold not in by_fold)
        lacking.append(f"{_stem(folds[0])} lacks fold {missing} of {num_folds}")
    notes = []
    num_parts = sum(len(run.parts) for run in pooled)
    if num_parts:
        num_pooled = sum(bool(run.parts) for run in pooled)
        notes.append(
            f"cross-validation: the {num_parts} runs of its folds count as {num_pooled}, over all folds' points"
        )
    if lacking:
        more = [f"and {len(lacking) - MOST_LISTED} more"] if len(lacking) > MOST_LISTED else []
        listed = "; ".join(lacking[:MOST_LISTED] + more)
        notes.append(f"left out, since not all folds of their cross-validation have finished: {listed}")
    return pooled, notes


def note_folds(collection: Collection) -> Collection:
    """The collection with what `pool_folds` makes of its runs, and its notes: which count as one, and what is left out
    for want of a fold. A collection that has been given here before stays as it is."""
    if collection.pooled is not None:
        return collection
    pooled, notes = pool_folds(collection.runs)
    return replace(collection, pooled=tuple(pooled), notes=(*collection.notes, *notes))


def _stem(run: Run) -> str:
    """A run's name without the hash: head, negatives and seed."""
    return run.name.rpartition("_")[0] or run.name


def _pool(folds: Sequence[Run], common: str) -> Run:
    """One run of the K `folds`. Its numbers are those over the points of all folds, its curves the folds' means."""
    first = folds[0]
    shared = without_fold(first.identity)
    shared["data"] = folds_fingerprint(first.identity["folds"])
    shared["folds"] = {"num": len(folds)}
    weights = {name: [run.result[name] for run in folds] for name in ("val", "test")}

    result = {
        "status": FINISHED,
        "best_epoch": float(np.mean([run.result["best_epoch"] for run in folds])),
        "trained_weights": first.result.get("trained_weights"),
        "seconds": sum(run.result["seconds"] for run in folds),
    }
    for name in ("val", "test"):
        result[name] = _pool_values([run.result[name] for run in folds], weights, name)
    for name in ("selected", "final", "initial", "baselines"):
        if all(run.result.get(name) is not None for run in folds):
            result[name] = _pool_values([run.result[name] for run in folds], weights)

    # Curves as far as all folds have trained.
    by_epoch = [{record["epoch"]: record for record in run.metrics} for run in folds]
    epochs = [epoch for epoch in by_epoch[0] if all(epoch in records for records in by_epoch)]
    metrics = [_pool_values([records[epoch] for records in by_epoch], weights) | {"epoch": epoch} for epoch in epochs]
    return replace(
        first,
        path=first.path.with_name(f"{_stem(first)}_{len(folds)}folds_{common}"),
        why="; ".join(run.why for run in folds if run.why),
        identity=shared,
        overrides=("-m", *(item for item in first.overrides if not item.startswith("data.fold="))),
        result=result,
        metrics=tuple(metrics),
        measured=_pool_outcomes([run.outcomes for run in folds]),
        parts=tuple(folds),
    )


def _pool_outcomes(folds: Sequence[Outcomes]) -> Outcomes:
    """The test points of all folds, one fold after another. Raises ValueError where a point is in two of them."""
    ids = tuple(point for fold in folds for point in fold.ids)
    if len(set(ids)) < len(ids):
        raise ValueError("two folds of a cross-validation have a test point in common; run it again with rerun=true")
    return Outcomes(
        ids,
        tuple(debate for fold in folds for debate in fold.debates),
        {protocol: np.concatenate([fold.correct[protocol] for fold in folds]) for protocol in Protocol},
        tuple(name for fold in folds for name in fold.first),
        folds[0].measure,
        sum(fold.num_missing for fold in folds),
    )


def _pool_values(
    folds: Sequence[Mapping[str, Any]], weights: Mapping[str, Sequence[Mapping[str, Any]]], split: str = ""
) -> dict[str, Any]:
    """The folds' values by key: counts and seconds are added, metrics averaged over points, and others over folds.

    `weights` are the folds' metrics of val and test, which have their numbers of points. Of which split a metric is,
    says `split` or the metric's own name.
    """
    values: dict[str, Any] = {}
    for key, first in folds[0].items():
        found = [fold.get(key) for fold in folds]
        where = next((name for name in ("val", "test") if name in (key, *key.split("/"))), split)
        if isinstance(first, Mapping):
            below = [value for value in found if isinstance(value, Mapping)]
            values[key] = _pool_values(below, weights, where) if len(below) == len(folds) else None
        elif key.startswith("num_") or key.endswith("seconds"):
            values[key] = sum(value or 0 for value in found)
        elif any(isinstance(value, int | float) for value in found):
            count = "num_points_clean" if key.endswith("_clean") else "num_points"
            sizes = [fold.get(count, 1) for fold in weights[where]] if where else [1] * len(found)
            values[key] = _average(found, sizes)
        else:
            values[key] = first if all(value == first for value in found) else None
    return values


def _average(values: Sequence[float | None], sizes: Sequence[int]) -> float | None:
    """The mean of the values by size; None where one of some size is not known."""
    known = [(value, size) for value, size in zip(values, sizes, strict=True) if size]
    if not known or any(value is None for value, _ in known):
        return None
    return float(np.average([value for value, _ in known], weights=[size for _, size in known]))
