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
from biencoder_ablate.runs.status import RunStatus, SweepDirectory, _epochs, directory_bytes
from biencoder_ablate.utils.console import format_number, show_seconds, terminal_width, text_table
from biencoder_ablate.utils.files import write_text


def sweep_text(runs: Sequence[RunStatus], width: int | None = None) -> str:
    """The table of a sweep's runs, why some did not finish, and the means; folded to `width` columns.

    Statuses have a column where any run is not finished, clean figures where any differs from the official one; ! marks
    what is below the pretrained encoder, BM25 or chance.
    """
    labels = differing(runs)
    rows = [[label, run.status, *_figures(run, marked=True)] for label, run in zip(labels, runs, strict=True)]
    columns = ["run", "status", "epoch", "val ", "clean ", "test ", "clean ", "s"]
    finished = [run.result for run in runs if run.status == "finished"]
    leaks = not all(row[3] == row[4] and row[5] == row[6] for row in rows)
    hidden = {1} if len(finished) == len(runs) else set()
    hidden |= set() if leaks else {4, 6}
    columns, *rows = [[cell for place, cell in enumerate(row) if place not in hidden] for row in [columns, *rows]]
    lines = [text_table(columns, rows, left=1 if 1 in hidden else 2, width=width)]
    lines += [
        f"{run.status}: {label}: {run.why}"
        for label, run in zip(labels, runs, strict=True)
        if run.status not in ("finished", "new")
    ]
    if finished:
        lines += ["", _means(runs, leaks, width), *_below(finished, leaks)]
    return "\n".join(lines)


def write_table(path: Path, runs: Sequence[RunStatus]) -> None:
    """The table of a sweep as csv, with the run's name as its last column."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(["run", "status", "best epoch", "val", "test", "val clean", "test clean", "seconds", "name"])
    for label, run in zip(differing(runs), runs, strict=True):
        best, val, val_clean, test, test_clean, seconds = _figures(run)
        writer.writerow([label, run.status, best, val, test, val_clean, test_clean, seconds, run.name])
    write_text(path, file.getvalue())


def _figures(run: RunStatus, marked: bool = False) -> list[str]:
    """Best epoch; official and clean top-1 of val, then of test; seconds. Empty where the run is not finished."""
    result = run.result if run.status == "finished" else {}
    top1 = []
    for split in ("val", "test"):
        for key in ("top1", "top1_clean"):
            value = result.get(split, {}).get(key)
            top1.append(format_number(value) + _mark(result, split, key, value) * marked)
    return [str(result.get("best_epoch", "")), *top1, format_number(result.get("seconds"), 1)]


def _mark(result: Mapping[str, Any], split: str, key: str, value: float | None) -> str:
    return "!" if baselines_above(result.get("baselines", {}), split, key, value) else " "


def _means(runs: Sequence[RunStatus], leaks: bool, width: int | None) -> str:
    """A line a configuration: test top-1 at the selected epoch, mean and standard deviation over its runs, which differ
    in their seeds, and that of stage 1; then the baselines, where all runs have the same."""
    by_configuration: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for run in runs:
        if run.status == "finished":
            configuration = tuple(item for item in run.overrides if not item.startswith("seed="))
            by_configuration.setdefault(configuration, []).append(run.result)
    shared = set.intersection(*map(set, by_configuration))
    keys = ("top1", "top1_clean") if leaks else ("top1",)
    rows = []
    for configuration, results in by_configuration.items():
        row = [" ".join(item for item in configuration if item not in shared) or "all runs", str(len(results))]
        for key in keys:
            final, stage1 = (_known(results, found) for found in (key, key.replace("top1", "top1_stage1")))
            mean = statistics.fmean(final) if final else None
            row += [format_number(mean) + _mark(results[0], "test", key, mean)]
            row += [format_number(statistics.stdev(final) if len(final) > 1 else None)]
            row += [format_number(statistics.fmean(stage1) if stage1 else None)]
        rows.append(row)
    baselines = [
        result["baselines"] for results in by_configuration.values() for result in results if "baselines" in result
    ]
    for name, title in TITLES.items():
        found = [[each.get(name, {}).get("test", {}).get(key) for key in keys] for each in baselines]
        if found and found.count(found[0]) == len(found) and found[0][0] is not None:
            rows.append([title, "", *(cell for value in found[0] for cell in (format_number(value) + " ", "", ""))])
    columns = ["test top-1, mean", "seeds", "test ", "sd", "stage 1", *(["clean ", "sd", "stage 1"] if leaks else [])]
    return text_table(columns, rows, width=width)


def _known(results: Sequence[Mapping[str, Any]], key: str) -> list[float]:
    values = [result.get("test", {}).get(key) for result in results]
    return [value for value in values if value is not None]


def _below(results: Sequence[Mapping[str, Any]], leaks: bool) -> list[str]:
    """In words: how many runs are below each baseline on test, by clean figures where there are any."""
    key = "top1_clean" if leaks else "top1"
    lost = [
        baselines_above(result.get("baselines", {}), "test", key, result.get("test", {}).get(key)) for result in results
    ]
    told = []
    for name in FLOOR:
        num = sum(name in names for names in lost)
        told += [f"{num} of {len(results)} runs below {'the ' * (name == 'pretrained')}{TITLES[name]}"] if num else []
    return [f"warning: on {'clean ' * leaks}test {', '.join(told)} (!)"] if told else []


def progress_line(sweep: SweepDirectory) -> str:
    """How far the sweep is, and about how long it will take at the pace since it started."""
    runs, started = sweep.statuses(), sweep.read()["started"]
    statuses = [run.status for run in runs]
    done, failed = statuses.count("finished"), statuses.count("failed")
    fresh = sum(bool(run.result) and run.directory.result.stat().st_mtime >= started for run in runs)
    left = len(runs) - done - failed
    line = f"sweep: {done} of {len(runs)} finished" + (f", {failed} failed" if failed else "")
    return line + (f", about {show_seconds((time.time() - started) / fresh * left)} left" if left and fresh else "")


def differing(runs: Sequence[RunStatus]) -> list[str]:
    """What sets each job apart: its overrides without those that all jobs share; the run's name where nothing does."""
    shared = set.intersection(*(set(run.overrides) for run in runs)) if runs else set()
    return [" ".join(_short(item) for item in run.overrides if item not in shared) or run.name for run in runs]


def _short(override: str) -> str:
    """An override whose number has no more than four digits, which is enough to know a trial of a search by."""
    return re.sub(r"=(-?\d+\.\d{6,}(e-?\d+)?)$", lambda found: f"={float(found[1]):.4g}", override)


def plan_text(runs: Sequence[RunStatus], num_epochs: int) -> str:
    """What a command would run, what is done, and about how long and how much disk the rest takes."""
    rows = [[label, _plan(run), run.name] for label, run in zip(differing(runs), runs, strict=True)]
    if all(label == name for label, _, name in rows):
        rows = [row[1:] for row in rows]
    lines = [text_table(rows[0], rows[1:], left=len(rows[0]), width=terminal_width())]
    done = [run for run in runs if run.status == "finished"]
    left = [run for run in runs if run.status != "finished"]
    lines.append(f"\n{len(done)} finished, {len(left)} to run")
    if left and not done:
        lines.append("none of these has finished yet: nothing to estimate hours and disk from")
    elif left:
        seconds = sum(run.result["seconds"] for run in done) / len(done)
        share = sum(1 - run.epochs_done / num_epochs if num_epochs else 1.0 for run in left)
        disk = sum(directory_bytes(run.directory.path) for run in done) / len(done)
        lines.append(
            f"about {show_seconds(seconds * share)} one after another and {disk * len(left) / 1e6:.0f} MB, "
            f"going by the {len(done)} finished"
        )
    return "\n".join(lines)


def _plan(run: RunStatus) -> str:
    if run.status == "interrupted":
        return f"goes on after {_epochs(run)}"
    told = {"failed": "failed, tried again", "damaged": "damaged, tried again", "running": "running now"}
    return told.get(run.status, run.status)
