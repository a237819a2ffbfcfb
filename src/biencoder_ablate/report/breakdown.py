"""How well each configuration does on each theme, debate or other group of queries: means beside counts, untested.

S seeds, N test points.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from biencoder_ablate.report.analysis import Analysis
from biencoder_ablate.report.read import Run
from biencoder_ablate.report.statistics import FloatArray
from biencoder_ablate.report.tables import METRIC, Column, Table, Value

NO_VALUE = "(empty)"
"""The level of points whose column is empty."""
_NOT_COLUMNS = ("id", "split", "first")
"""What records have of a point that is no group of points."""


@dataclass(frozen=True)
class Breakdown:
    """A study by the levels of a column, in the order of the alphabet. `counts` are the queries of each that count, and
    `means` each configuration's over seeds and queries, nan where none counts; both by level."""

    column: str
    levels: tuple[str, ...]
    counts: Mapping[str, int]
    means: Mapping[str, Mapping[str, float]]


def break_down(analysis: Analysis, column: str) -> Breakdown:
    """The configurations' means of the metric that decides, under the protocol that decides, level by level.

    Raises ValueError where the records have no such column, or no point has a value in it: with the columns that there
    are.
    """
    study = analysis.study
    if not study.trained_here:
        raise ValueError(f"--by {column}: goes with runs of this program, which keep their queries' columns")
    first = study.runs[0]
    level_of = _levels(first, column, study.name)
    of_points = np.array([level_of[point] for point in first.outcomes.ids])  # (N,)
    levels = tuple(sorted(set(of_points.tolist())))

    counted = ~np.isnan(first.outcomes.correct[analysis.primary])
    counts = {level: int(np.sum(counted & (of_points == level))) for level in levels}
    means: dict[str, dict[str, float]] = {level: {} for level in levels}
    for cell in study.cells:
        scores = [run.outcomes.correct[analysis.primary] for run in cell.runs.values()]
        of_seeds = np.array(scores)  # (S, N)
        for level in levels:
            here = counted & (of_points == level)
            means[level][cell.name] = _mean(of_seeds[:, here])
    return Breakdown(column, levels, counts, means)


def _mean(scores: FloatArray) -> float:
    return float(scores.mean()) if scores.size else float("nan")


def _levels(run: Run, column: str, study: str) -> dict[str, str]:
    """The level of each test point of a run, by its id."""
    level_of: dict[str, str] = {}
    columns: dict[str, bool] = {}  # column → whether any point has a value in it
    for record in _test_records(run):
        for key, value in record.items():
            if key not in _NOT_COLUMNS and isinstance(value, str | bool):
                columns[key] = columns.get(key, False) or value != ""
        level_of[str(record["id"])] = _as_level(record.get(column))
    if columns.get(column):
        return level_of

    filled = [key for key, has_values in columns.items() if has_values]
    there = f"there are {', '.join(filled)}" if filled else "there are none"
    what = "is empty for every query" if column in columns else "no such column"
    raise ValueError(f"--by {column}: {what} of {study}; {there}")


def _as_level(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value) if value else NO_VALUE


def _test_records(run: Run) -> Iterator[dict[str, object]]:
    """The records of a run's test points; of a cross-validation those of all folds."""
    for part in run.parts or (run,):
        with part.rankings_file.open(encoding="utf-8") as file:
            for line in file:
                record = json.loads(line)
                if record["split"] == "test":
                    yield record


def breakdown_table(analysis: Analysis, breakdown: Breakdown) -> Table:
    """A row a level, a column a configuration; last, for comparison, all queries together."""
    names = [cell.name for cell in analysis.study.cells]
    rows: list[tuple[Value, ...]] = []
    for level in breakdown.levels:
        means = breakdown.means[level]
        rows.append((level, breakdown.counts[level], *(means[name] for name in names)))
    overall = [analysis.summaries[name][analysis.primary].mean for name in names]
    rows.append(("all", sum(breakdown.counts.values()), *overall))
    words = analysis.words
    caption = (
        f"Mean {analysis.figure()} by {breakdown.column}, over the seeds of each configuration, on the {words.plural} "
        "that count. Nothing is tested here: of many levels some differ by chance alone."
    )
    columns = [Column(breakdown.column), Column(words.plural, 0), *(Column(name, METRIC.digits) for name in names)]
    return Table("breakdown", caption, columns, rows, num_last=1)


def breakdown_rows(analysis: Analysis, breakdown: Breakdown) -> list[dict[str, Value]]:
    """by_COLUMN.csv: a row a level and configuration, unrounded."""
    rows: list[dict[str, Value]] = []
    for level in breakdown.levels:
        for cell in analysis.study.cells:
            rows.append(
                {
                    "corpus": analysis.study.name,
                    breakdown.column: level,
                    "configuration": cell.name,
                    "num_seeds": len(cell.runs),
                    "num_queries": breakdown.counts[level],
                    "measure": analysis.measure,
                    "figure": analysis.primary,
                    "mean": breakdown.means[level][cell.name],
                }
            )
    return rows
