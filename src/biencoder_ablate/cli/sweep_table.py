"""What a sweep ends with: a line a run, then means over seeds beside what needs no training. Loads no torch."""

from __future__ import annotations

import csv
import io
import re
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from biencoder_ablate.evaluation.baselines import FLOOR, TITLES, baselines_above
from biencoder_ablate.runs.status import RunStatus, SweepDirectory
from biencoder_ablate.utils.console import format_number, show_seconds, terminal_width, text_table
from biencoder_ablate.utils.files import directory_bytes, write_text

Result = Mapping[str, Any]
"""What a run's result.json says."""


def sweep_text(runs: Sequence[RunStatus], width: int | None = None) -> str:
    """The table of a sweep's runs, why some did not finish, and the means; folded to `width` columns.

    Statuses have a column where any run is not finished, clean metrics where any differs from the official one; ! marks
    what is below the pretrained encoder, BM25 or chance.
    """
    labels = differing(runs)
    finished = [run.result for run in runs if run.status == "finished"]
    columns = ["run", "status", "epoch", "val ", "clean ", "test ", "clean ", "s"]
    rows = [[label, run.status, *_metrics(run, marked=True)] for label, run in zip(labels, runs, strict=True)]

    # Columns that say nothing are left out.
    leaks = any(row[3] != row[4] or row[5] != row[6] for row in rows)
    all_finished = len(finished) == len(runs)
    shown = [0, 2, 3, 5, 7]
    if not all_finished:
        shown.append(1)
    if leaks:
        shown += [4, 6]
    shown.sort()
    table = [[row[place] for place in shown] for row in [columns, *rows]]
    lines = [text_table(table[0], table[1:], left=1 if all_finished else 2, width=width)]

    for label, run in zip(labels, runs, strict=True):
        if run.status not in ("finished", "new"):
            lines.append(f"{run.status}: {label}: {run.why}")
    if finished:
        lines += ["", _means(runs, leaks, width)]
        warning = _warning(finished, "top1_clean" if leaks else "top1")
        if warning:
            lines.append(warning)
    return "\n".join(lines)


def write_table(path: Path, runs: Sequence[RunStatus]) -> None:
    """The table of a sweep as csv, with the run's name as its last column."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["run", "status", "best epoch", "val", "test", "val clean", "test clean", "seconds", "name"])
    for label, run in zip(differing(runs), runs, strict=True):
        best, val, val_clean, test, test_clean, seconds = _metrics(run)
        writer.writerow([label, run.status, best, val, test, val_clean, test_clean, seconds, run.name])
    write_text(path, file.getvalue())


def _metrics(run: RunStatus, marked: bool = False) -> list[str]:
    """Best epoch; official and clean top-1 of val, then of test; seconds. Empty where the run is not finished."""
    result = run.result if run.status == "finished" else {}
    cells = [str(result.get("best_epoch", ""))]
    for split in ("val", "test"):
        for key in ("top1", "top1_clean"):
            value = result.get(split, {}).get(key)
            cells.append(format_number(value) + (_mark(result, split, key, value) if marked else ""))
    cells.append(format_number(result.get("seconds"), 1))
    return cells


def _mark(result: Result, split: str, key: str, value: float | None) -> str:
    return "!" if baselines_above(result.get("baselines", {}), split, key, value) else " "


def _means(runs: Sequence[RunStatus], leaks: bool, width: int | None) -> str:
    """A line a configuration: test top-1 at the selected epoch, mean and standard deviation over its runs, which differ
    in their seeds and folds, and that of stage 1; then the baselines, where all runs have the same."""
    by_configuration: dict[tuple[str, ...], list[Result]] = {}
    for run in runs:
        if run.status == "finished":
            configuration = tuple(item for item in run.overrides if not item.startswith(("seed=", "data.fold=")))
            by_configuration.setdefault(configuration, []).append(run.result)
    has_folds = any(item.startswith("data.fold=") for run in runs for item in run.overrides)
    shared = set.intersection(*map(set, by_configuration))

    columns = ["test top-1, mean", "runs" if has_folds else "seeds", "test ", "sd", "stage 1"]
    keys = ["top1"]
    if leaks:
        columns += ["clean ", "sd", "stage 1"]
        keys.append("top1_clean")
    rows = []
    baselines = []
    for configuration, results in by_configuration.items():
        label = " ".join(item for item in configuration if item not in shared)
        row = [label or "all runs", str(len(results))]
        for key in keys:
            values = _test_values(results, key)
            mean = statistics.fmean(values) if values else None
            deviation = statistics.stdev(values) if len(values) > 1 else None
            stage1 = _test_values(results, key.replace("top1", "top1_stage1"))
            row.append(format_number(mean) + _mark(results[0], "test", key, mean))
            row.append(format_number(deviation))
            row.append(format_number(statistics.fmean(stage1) if stage1 else None))
        rows.append(row)
        baselines += [result["baselines"] for result in results if "baselines" in result]

    for name, title in TITLES.items():
        values_of_runs = [[each.get(name, {}).get("test", {}).get(key) for key in keys] for each in baselines]
        if not values_of_runs or values_of_runs[0][0] is None:
            continue
        if all(values == values_of_runs[0] for values in values_of_runs):
            row = [title, ""]
            for value in values_of_runs[0]:
                row += [format_number(value) + " ", "", ""]
            rows.append(row)
    return text_table(columns, rows, width=width)


def _test_values(results: Sequence[Result], key: str) -> list[float]:
    values = [result.get("test", {}).get(key) for result in results]
    return [value for value in values if value is not None]


def _warning(results: Sequence[Result], key: str) -> str:
    """How many runs are below each baseline on test; nothing where none is."""
    above = [
        baselines_above(result.get("baselines", {}), "test", key, result.get("test", {}).get(key)) for result in results
    ]
    counts = []
    for name in FLOOR:
        num_below = sum(name in names for names in above)
        if num_below:
            title = f"the {TITLES[name]}" if name == "pretrained" else TITLES[name]
            counts.append(f"{num_below} of {len(results)} runs below {title}")
    clean = "clean " if key == "top1_clean" else ""
    return f"warning: on {clean}test {', '.join(counts)} (!)" if counts else ""


def progress_line(sweep: SweepDirectory) -> str:
    """How far the sweep is, and about how long it will take at the pace since it started."""
    runs, started = sweep.statuses(), sweep.read()["started"]
    statuses = [run.status for run in runs]
    num_done, num_failed = statuses.count("finished"), statuses.count("failed")
    num_left = len(runs) - num_done - num_failed
    line = f"sweep: {num_done} of {len(runs)} finished"
    if num_failed:
        line += f", {num_failed} failed"

    # Runs that an earlier command finished say nothing of the pace of this one.
    num_fresh = sum(bool(run.result) and run.directory.result.stat().st_mtime >= started for run in runs)
    if num_left and num_fresh:
        line += f", about {show_seconds((time.time() - started) / num_fresh * num_left)} left"
    return line


def differing(runs: Sequence[RunStatus]) -> list[str]:
    """What sets each job apart: its overrides without those that all jobs share; the run's name where nothing does."""
    shared = set.intersection(*(set(run.overrides) for run in runs)) if runs else set()
    return [" ".join(_short(item) for item in run.overrides if item not in shared) or run.name for run in runs]


def _short(override: str) -> str:
    """An override whose number has no more than four digits, which is enough to know a trial of a search by."""
    return re.sub(r"=(-?\d+\.\d{6,}(e-?\d+)?)$", lambda match: f"={float(match[1]):.4g}", override)


def plan_text(runs: Sequence[RunStatus], num_epochs: int) -> str:
    """What a command would run, what is done, and about how long and how much disk the rest takes."""
    intentions = {"failed": "failed, tried again", "damaged": "damaged, tried again", "running": "running now"}
    rows = []
    for label, run in zip(differing(runs), runs, strict=True):
        intention = intentions.get(run.status, run.status)
        if run.status == "interrupted":
            intention = f"goes on after {run.progress}"
        rows.append([label, intention, run.name])
    if all(label == name for label, _, name in rows):
        rows = [row[1:] for row in rows]
    lines = [text_table(rows[0], rows[1:], left=len(rows[0]), width=terminal_width())]

    done = [run for run in runs if run.status == "finished"]
    left = [run for run in runs if run.status != "finished"]
    lines.append(f"\n{len(done)} finished, {len(left)} to run")
    if left and not done:
        lines.append("none of these has finished yet: nothing to estimate hours and disk from")
    elif left:
        # Whole runs that are left to do; an interrupted one is a part of one.
        num_runs = sum(1 - run.epochs_done / num_epochs if num_epochs else 1.0 for run in left)
        seconds = sum(run.result["seconds"] for run in done) / len(done)
        num_bytes = sum(directory_bytes(run.directory.path) for run in done) / len(done)
        lines.append(
            f"about {show_seconds(seconds * num_runs)} one after another and {num_bytes * len(left) / 1e6:.0f} MB, "
            f"going by the {len(done)} finished"
        )
    return "\n".join(lines)
