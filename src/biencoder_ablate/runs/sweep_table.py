"""The table of a sweep's runs, for the screen and as csv; and the plan of one that has not run yet."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from biencoder_ablate.files import write_text
from biencoder_ablate.runs.sweep_directory import JobState, show_seconds

_COLUMNS = ("run", "status", "best epoch", "val", "test", "val clean", "test clean", "seconds")


def differing(states: Sequence[JobState]) -> list[str]:
    """What sets each job apart: its overrides without those that all jobs share; the run's name where nothing does."""
    shared = set.intersection(*(set(state.overrides) for state in states)) if states else set()
    return [" ".join(item for item in state.overrides if item not in shared) or state.name for state in states]


def table_rows(states: Sequence[JobState]) -> list[list[str]]:
    """One row a run: what sets it apart, status, best epoch, official and clean top-1, seconds."""
    rows = []
    for state, label in zip(states, differing(states), strict=True):
        result = state.result if state.status == "finished" else {}
        val, test = result.get("val", {}), result.get("test", {})
        rows.append(
            [
                label,
                state.status,
                str(result.get("best_epoch", "")),
                _figure(val.get("top1")),
                _figure(test.get("top1")),
                _figure(val.get("top1_clean")),
                _figure(test.get("top1_clean")),
                _figure(result.get("seconds"), 1),
            ]
        )
    return rows


def _figure(value: Any, digits: int = 4) -> str:
    return f"{value:.{digits}f}" if isinstance(value, int | float) else ""


def format_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned text: the first two columns to the left, figures to the right."""
    everything = [list(columns), *rows]
    widths = [max(len(row[column]) for row in everything) for column in range(len(columns))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in everything
    )


def table_text(states: Sequence[JobState]) -> str:
    """The table, aligned, and why the others did not finish."""
    lines = [format_table(_COLUMNS, table_rows(states))]
    lines += [
        f"{state.status}: {label}: {_why(state)}"
        for state, label in zip(states, differing(states), strict=True)
        if state.status not in ("finished", "new")
    ]
    return "\n".join(lines)


def _why(state: JobState) -> str:
    if state.status == "failed":
        return str(state.result.get("error", "see its train.log"))
    done = f"{state.epochs_done} epoch{'s' * (state.epochs_done != 1)} done"
    error = state.result.get("error")
    if state.status == "running":
        return f"{done}; {error or 'another process is working in it'}"
    return f"{done}; the same command goes on from there" + (f" ({error})" if error else "")


def write_table(path: Path, states: Sequence[JobState]) -> None:
    """The table as csv, with the run's name as its last column."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow([*_COLUMNS, "name"])
    for row, state in zip(table_rows(states), states, strict=True):
        writer.writerow([*row, state.name])
    write_text(path, file.getvalue())


def plan_text(states: Sequence[JobState], num_epochs: int) -> str:
    """What a sweep would run, what is done, and about how long and how much disk the rest takes."""
    labels = differing(states)
    width = max(map(len, labels))
    lines = [
        f"{label:<{width}}  {_plan_status(state)}  {state.name}" for state, label in zip(states, labels, strict=True)
    ]
    done = [state for state in states if state.status == "finished"]
    left = [state for state in states if state.status != "finished"]
    lines.append(f"\n{len(done)} finished, {len(left)} to run")
    if not left:
        return "\n".join(lines)
    if not done:
        lines.append("no run of this sweep has finished yet: nothing to estimate hours and disk from")
        return "\n".join(lines)
    seconds = sum(state.result["seconds"] for state in done) / len(done)
    share = sum(1 - state.epochs_done / num_epochs if num_epochs else 1.0 for state in left)
    disk = sum(directory_bytes(state.directory.path) for state in done) / len(done)
    lines.append(
        f"about {show_seconds(seconds * share)} one after another and {disk * len(left) / 1e6:.0f} MB, "
        f"going by the {len(done)} finished"
    )
    return "\n".join(lines)


def _plan_status(state: JobState) -> str:
    if state.status == "interrupted":
        return f"goes on after {state.epochs_done} epochs"
    return {"failed": "failed, tried again", "running": "running now"}.get(state.status, state.status)


def directory_bytes(path: Path) -> int:
    """Bytes of all files below a directory."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
