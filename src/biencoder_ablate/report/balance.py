"""Fair averages: the levels of an axis over the settings that all of them ran in, on the seeds they share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from biencoder_ablate.report.bootstrap import FloatArray
from biencoder_ablate.report.grouping import Cell, Study, cell_name
from biencoder_ablate.report.statistics import Group, pool

Levels = tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Arms:
    """What is compared: `cells[arm]` are an arm's configurations, one in each of the same `settings`.

    `seeds` are those that every one of these cells has. `left_out` names settings that could not be used,
    with why.
    """

    names: tuple[str, ...]
    settings: tuple[str, ...]
    cells: dict[str, tuple[Cell, ...]]
    seeds: tuple[int, ...]
    left_out: tuple[str, ...] = ()

    def groups(self, protocol: str) -> list[Group]:
        """The arms as groups: each the average over its cells, on the seeds that these share."""
        return [
            pool(name, [outcomes(cell, protocol) for cell in self.cells[name]])
            if len(self.cells[name]) > 1
            else Group(name, (found := outcomes(self.cells[name][0], protocol)).seeds, found.correct)
            for name in self.names
        ]


def outcomes(cell: Cell, protocol: str) -> Group:
    """Who got which test point right: all points (official), or those that count (clean)."""
    rows = []
    for run in cell.runs.values():
        assert run.outcomes is not None
        values = getattr(run.outcomes, protocol)
        rows.append(values[~np.isnan(values)])
    return Group(cell.name, tuple(cell.runs), np.array(rows))


def arms_of(study: Study, arms: Sequence[tuple[str, dict[int, str]]]) -> Arms | None:
    """Arms given by name and by their level on some axes (the same axes for all), e.g. {0: "relu"}.

    The rest of the axes make the settings. Settings where an arm has no finished run cannot be used; nor can
    those that would leave fewer than half of the seeds that the best-covered setting has. So the choice
    depends on which runs there are, never on their figures. None if no setting has all arms.
    """
    by_levels = {cell.levels: cell for cell in study.cells}
    fixed = set(arms[0][1])
    free = [k for k in range(len(study.axes)) if k not in fixed]
    rests = dict.fromkeys(tuple(cell.levels[k] for k in free) for cell in study.cells)
    found: dict[Levels, list[Cell]] = {}
    left_out = []
    for rest in rests:
        places = dict(zip(free, rest, strict=True))
        cells = [by_levels.get(_levels(study, places | chosen)) for _, chosen in arms]
        if any(cell is not None for cell in cells):
            lacking = [name for (name, _), cell in zip(arms, cells, strict=True) if cell is None]
            setting = cell_name([study.axes[k] for k in free], rest)
            if lacking:
                left_out.append(f"{setting} (no finished run of {', '.join(lacking)})")
            else:
                found[rest] = [cell for cell in cells if cell is not None]
    if not found:
        return None
    kept, seeds = _on_common_seeds(found)
    for rest in found:
        if rest not in kept:
            setting = cell_name([study.axes[k] for k in free], rest)
            left_out.append(f"{setting} (too few seeds in common with the other settings)")
    kept_rests = [rest for rest in rests if rest in kept]
    return Arms(
        tuple(name for name, _ in arms),
        tuple(cell_name([study.axes[k] for k in free], rest) for rest in kept_rests) if free else (),
        {name: tuple(found[rest][k] for rest in kept_rests) for k, (name, _) in enumerate(arms)},
        seeds,
        tuple(left_out),
    )


def _levels(study: Study, places: dict[int, str]) -> Levels:
    return tuple(places[k] for k in range(len(study.axes)))


def _on_common_seeds(found: dict[Levels, list[Cell]]) -> tuple[set[Levels], tuple[int, ...]]:
    """The settings to average over, best covered first as long as half of its seeds remain; and the seeds."""
    covered = {rest: set.intersection(*(set(cell.runs) for cell in cells)) for rest, cells in found.items()}
    order = sorted(covered, key=lambda rest: -len(covered[rest]))  # stable: equal ones in reading order
    kept, seeds = {order[0]}, covered[order[0]]
    for rest in order[1:]:
        shared = seeds & covered[rest]
        if 2 * len(shared) >= len(covered[order[0]]) and shared:
            kept.add(rest)
            seeds = shared
    return kept, tuple(sorted(seeds))


def task_values(cells: Sequence[Cell], task: str) -> FloatArray:
    """Test top-1 of a task for each seed (S,), averaged over cells."""
    seeds = sorted(set.intersection(*(set(cell.runs) for cell in cells)))
    return np.array(
        [np.mean([cell.runs[seed].result["test"]["tasks"][task]["top1"] for cell in cells]) for seed in seeds]
    )
