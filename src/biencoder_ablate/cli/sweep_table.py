"""What a sweep ends with: a line a run, then means over seeds beside what needs no training. Loads no torch."""

from __future__ import annotations

import csv
import io
import itertools
import os
import re
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from biencoder_ablate.evaluation.baselines import FLOOR, TITLES, baselines_above
from biencoder_ablate.runs.records import (
    metric_in_words,
    official_and_clean,
    primary_metric,
    selection_metric,
    stage1_metric,
)
from biencoder_ablate.runs.status import RunStatus, SweepDirectory
from biencoder_ablate.utils.console import fold, format_number, show_seconds, terminal_width, text_table
from biencoder_ablate.utils.files import directory_bytes, write_text

if TYPE_CHECKING:
    from biencoder_ablate.training.plan import RunPlan

Result = Mapping[str, Any]
"""What a run's result.json says."""
_BELOW = re.compile(r"\S+ is below ")
"""How the warning begins of a run that is below a baseline."""
_STAMP = r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  "
_ATTEMPT = re.compile(_STAMP + r"biencoder-ablate \S+: ", re.MULTILINE)
"""The first line that a run writes to its train.log, each time it is started."""
_WARNING = re.compile(_STAMP + r"(?:(\w+) +)?warning: (.*)$", re.MULTILINE)
_NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.]*\w)")
"""A number in a sentence, not one in a name."""


def sweep_text(runs: Sequence[RunStatus], width: int | None = None) -> str:
    """The table of a sweep's runs, why some did not finish, and the means; folded to `width` columns.

    Figures are of the metric that has selected the runs' epochs; of clean top-1 where that was not the same in all.
    Statuses have a column where any run is not finished, clean metrics where any differs from the official one; ! marks
    what is below the pretrained encoder, BM25 or chance.
    """
    labels = differing(runs)
    finished = [run.result for run in runs if run.status == "finished"]
    metric = _metric(runs)
    columns = ["run", "status", "epoch", "val ", "clean ", "test ", "clean ", "time"]
    rows = []
    for label, run in zip(labels, runs, strict=True):
        rows.append([label, run.status, *_metrics(run, metric, marked=True)])

    # Columns that say nothing are left out.
    leaks = any(row[3] != row[4] or row[5] != row[6] for row in rows)
    all_finished = len(finished) == len(runs)
    shown = [0, 2, 3, 5, 7]
    if not all_finished:
        shown.append(1)
    if leaks:
        shown += [4, 6]
    shown.sort()
    header = [columns[place] for place in shown]
    cells = [[row[place] for place in shown] for row in rows]
    num_left = 1 if all_finished else 2
    lines = [text_table(header, cells, left=num_left, width=width)]

    for label, run in zip(labels, runs, strict=True):
        if run.status not in ("finished", "new"):
            lines.append(fold(f"{run.status}: {label}: {run.why}", width))
    if finished:
        if not leaks:
            metric, _ = official_and_clean(metric)
        lines += ["", _means(runs, metric, leaks, width)]
        lines.append("choose by val; test is for the figure of what was chosen")
        warning = _warning(finished, metric)
        if warning:
            lines.append(fold(warning, width))
    return "\n".join(lines)


def write_table(path: Path, runs: Sequence[RunStatus]) -> None:
    """The table of a sweep as csv, with the run's name as its last column."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    metric = _metric(runs)
    official, _ = official_and_clean(metric)
    columns = ["run", "status", "best epoch", "val", "test", "val clean", "test clean", "seconds", "metric", "name"]
    writer.writerow(columns)
    for label, run in zip(differing(runs), runs, strict=True):
        best, val, val_clean, test, test_clean, seconds = _metrics(run, metric)
        figures = [best, val, test, val_clean, test_clean, seconds]
        writer.writerow([label, run.status, *figures, official, run.name])
    write_text(path, file.getvalue())


def _metric(runs: Sequence[RunStatus]) -> str:
    """The metric that has selected the epochs of all finished runs; clean top-1 where they have several."""
    finished = [run.result for run in runs if run.status == "finished"]
    metrics = {primary_metric(result.get("select")) for result in finished}
    return metrics.pop() if len(metrics) == 1 else "top1_clean"


def _metrics(run: RunStatus, metric: str, marked: bool = False) -> list[str]:
    """Best epoch; `metric`, official and clean, of val, then of test; time. Empty where the run is not finished.

    `marked` for people: with ! and time in the unit that suits it; seconds otherwise.
    """
    result = run.result if run.status == "finished" else {}
    cells = [str(result.get("best_epoch", ""))]
    for split in ("val", "test"):
        for key in official_and_clean(metric):
            value = _value(result, split, key)
            cell = format_number(value)
            if marked:
                cell += _mark(result, split, key, value)
            cells.append(cell)
    seconds = result.get("seconds")
    if marked and seconds is not None:
        cells.append(show_seconds(seconds, 1))
    else:
        cells.append(format_number(seconds, 1))
    return cells


def _value(result: Result, split: str, key: str) -> float | None:
    """A metric of a split, where the run has it."""
    return result.get(split, {}).get(key)


def _mark(result: Result, split: str, key: str, value: float | None) -> str:
    baselines = result.get("baselines", {})
    return "!" if baselines_above(baselines, split, key, value) else " "


def _means(runs: Sequence[RunStatus], metric: str, leaks: bool, width: int | None) -> str:
    """A line a configuration: `metric` at the selected epoch, mean and standard deviation over its runs, which differ
    in their seeds and folds, on val and on test, and test before the head; then the baselines, where all runs have the
    same.

    With `leaks`, clean figures are others than official ones, and the mean on test of the other kind stands behind.
    """
    by_configuration = _by_configuration(runs)
    shared = set.intersection(*map(set, by_configuration))
    finished = [result for results in by_configuration.values() for result in results]

    # What stands behind, by its heading: a mean on test of another metric.
    behind: dict[str, str] = {}
    stage1 = stage1_metric(metric)
    if any(stage1 in result["test"] for result in finished):
        behind["stage 1"] = stage1
    if leaks:
        official, clean = official_and_clean(metric)
        if metric == clean:
            behind["official"] = official
        else:
            behind["clean"] = clean

    has_folds = any(_is_fold(item) for run in runs for item in run.overrides)
    repeats = "runs" if has_folds else "seeds"
    columns = [f"{metric_in_words(metric)}, mean", repeats, "val ", "sd", "test ", "sd", *behind]
    rows = []
    for configuration, results in by_configuration.items():
        label = " ".join(_short(item) for item in configuration if item not in shared)
        row = [label or "all runs", str(len(results))]
        for split in ("val", "test"):
            mean, deviation = _mean_and_deviation(results, split, metric)
            marked = format_number(mean) + _mark(results[0], split, metric, mean)
            row += [marked, format_number(deviation)]
        for other in behind.values():
            mean, _ = _mean_and_deviation(results, "test", other)
            row.append(format_number(mean))
        rows.append(row)
    rows += _baseline_rows(finished, metric, behind)
    return text_table(columns, rows, width=width)


def _by_configuration(runs: Sequence[RunStatus]) -> dict[tuple[str, ...], list[Result]]:
    """The results of the finished runs by their overrides without the seed and the fold."""
    by_configuration: dict[tuple[str, ...], list[Result]] = {}
    for run in runs:
        if run.status != "finished":
            continue
        items = [item for item in run.overrides if not item.startswith("seed=") and not _is_fold(item)]
        results = by_configuration.setdefault(tuple(items), [])
        results.append(run.result)
    return by_configuration


def _is_fold(override: str) -> bool:
    return override.startswith("data.fold=")


def _baseline_rows(results: Sequence[Result], metric: str, behind: Mapping[str, str]) -> list[list[str]]:
    """A row for each baseline that has the same metrics in all runs, beneath the columns of `_means`."""
    baselines = [result["baselines"] for result in results if "baselines" in result]
    places = [("val", metric), ("test", metric)]
    places += [("test", other) for other in behind.values()]
    rows = []
    for name, title in TITLES.items():
        values_of_runs = []
        for each in baselines:
            by_split = each.get(name, {})
            values_of_runs.append([_value(by_split, split, key) for split, key in places])
        if not values_of_runs:
            continue
        values = values_of_runs[0]
        is_missing = values[1] is None
        differs = any(others != values for others in values_of_runs)
        if is_missing or differs:
            continue
        val, test, *others = map(format_number, values)
        row = [title, "", f"{val} ", "", f"{test} ", ""]
        for heading, cell in zip(behind, others, strict=True):
            # A baseline has no head, and so nothing before one.
            row.append("" if heading == "stage 1" else cell)
        rows.append(row)
    return rows


def _mean_and_deviation(results: Sequence[Result], split: str, key: str) -> tuple[float | None, float | None]:
    """Over the runs that have this figure: None where none has, or too few."""
    found = [_value(result, split, key) for result in results]
    values = [value for value in found if value is not None]
    mean = statistics.fmean(values) if values else None
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return mean, deviation


def _warning(results: Sequence[Result], key: str) -> str:
    """How many runs are below each baseline on test; nothing where none is."""
    num_below: dict[str, int] = dict.fromkeys(FLOOR, 0)
    for result in results:
        value = _value(result, "test", key)
        baselines = result.get("baselines", {})
        for name in baselines_above(baselines, "test", key, value):
            num_below[name] += 1
    counts = []
    for name, number in num_below.items():
        if number:
            title = f"the {TITLES[name]}" if name == "pretrained" else TITLES[name]
            counts.append(f"{number} of {len(results)} runs below {title}")
    if not counts:
        return ""
    clean = "clean " if key.endswith("_clean") else ""
    return f"warning: on {clean}test {', '.join(counts)} (!)"


def describe_sweep(plans: Sequence[RunPlan], sweep: SweepDirectory) -> list[str]:
    """What holds for all runs of a sweep, before the first: each corpus, where the runs are, what their lines say."""
    from biencoder_ablate.training.summary import data_lines

    # The lines of a corpus stand once; runs of one corpus have the same.
    by_corpus = {plan.data.fingerprint: data_lines(plan) for plan in plans}
    lines = list(itertools.chain.from_iterable(by_corpus.values()))
    runs = os.path.relpath(sweep.runs)
    lines.append(f"writes     {runs}/NAME; all that a run says is in its train.log")
    metrics = {primary_metric(plan.config.evaluation.select) for plan in plans}
    if len(metrics) == 1:
        lines.append(f"figures    {metric_in_words(*metrics)} at each run's selected epoch")
    else:
        lines.append("figures    of a run: of its evaluation.select; in the table: clean top-1")
    return lines


def run_line(sweep: SweepDirectory, name: str, error: str | None = None, width: int | None = None) -> str:
    """A run of a sweep that has just ended, in one line: how many have, which it is, its figures, and what is left.

    Figures are of its `primary_metric`, or the official one where no point is clean; `error` says why there are none.
    """
    runs = sweep.statuses()
    labels = differing(runs)
    place = [run.name for run in runs].index(name)
    run = runs[place]
    cells = [_count_ended(runs), labels[place]]
    if error is not None or run.status != "finished" or not run.result:
        cells.append(error or run.why)
        return "  ".join(cells)

    metric = primary_metric(run.result.get("select"))
    for split in ("val", "test"):
        value = format_number(selection_metric(run.result[split], metric))
        cells.append(f"{split} {value}")
    seconds = show_seconds(run.result["seconds"], 1)
    time_left = _time_left(runs, sweep.read()["started"])
    cells += [seconds, time_left]
    # Lines of one sweep stand below each other, printed one by one.
    longest = max(map(len, labels))
    least = [len(cells[0]), longest, 10, 11, 8]
    return text_table(cells, [], left=2, width=width, least=least)


def failed_line(sweep: SweepDirectory, overrides: Sequence[str], reason: str, width: int | None = None) -> str:
    """A run of a sweep that has just failed, and why."""
    runs = sweep.statuses()
    label = " ".join(overrides)
    for run, short_label in zip(runs, differing(runs), strict=True):
        if run.overrides == tuple(overrides):
            label = short_label
    return fold(f"error: {_count_ended(runs)}  {label}: {reason}", width)


def _count_ended(runs: Sequence[RunStatus]) -> str:
    num_ended = sum(run.status in ("finished", "failed") for run in runs)
    total = str(len(runs))
    return f"{num_ended:{len(total)}} of {total}"


def _time_left(runs: Sequence[RunStatus], started: float) -> str:
    """About how long the rest will take at the pace since the sweep started; nothing where nothing is left."""
    num_left = 0
    num_fresh = 0
    for run in runs:
        num_left += run.status not in ("finished", "failed")
        # Runs that an earlier command finished say nothing of the pace of this one.
        if run.result:
            num_fresh += run.directory.result.stat().st_mtime >= started
    if num_left == 0 or num_fresh == 0:
        return ""
    seconds_a_run = (time.time() - started) / num_fresh
    return f"{show_seconds(seconds_a_run * num_left)} left"


def sweep_warnings(runs: Sequence[RunStatus]) -> list[str]:
    """What the logs of the finished runs warn of, each thing once, with in how many of them.

    Warnings that differ in numbers alone are one, with the least and the greatest of each.
    """
    finished = [run for run in runs if run.status == "finished"]
    numbers_of: dict[str, list[list[str]]] = {}  # by the text without its numbers: those of each run
    for run in finished:
        texts = {}
        for warning in _warned(run):
            without_numbers = _NUMBER.sub("{}", warning)
            texts[without_numbers] = _NUMBER.findall(warning)
        for text, numbers in texts.items():
            numbers_of.setdefault(text, []).append(numbers)

    lines = []
    for text, by_run in numbers_of.items():
        words = text.split("{}")
        for place, values in enumerate(zip(*by_run, strict=True)):
            least = min(values, key=float)
            greatest = max(values, key=float)
            words[place] += least if least == greatest else f"{least} to {greatest}"
        warning = "".join(words)
        lines.append(f"warning: in {len(by_run)} of {len(finished)} runs: {warning}")
    return lines


def _warned(run: RunStatus) -> list[str]:
    """The warnings of the last attempt in a run's train.log, but for those that the sweep's own lines have."""
    try:
        content = run.directory.log.read_text("utf-8", errors="replace")
    except OSError:
        return []
    attempt = _ATTEMPT.split(content)[-1]
    warnings = []
    for label, text in _WARNING.findall(attempt):
        # What is below a baseline is counted under the table, and what is wrong with the data is said before the runs.
        if label != "data" and not _BELOW.match(text):
            warnings.append(text)
    return warnings


def differing(runs: Sequence[RunStatus]) -> list[str]:
    """What sets each job apart: its overrides without those that all jobs share; the run's name where nothing does."""
    if not runs:
        return []
    shared = set.intersection(*(set(run.overrides) for run in runs))
    labels = []
    for run in runs:
        label = " ".join(_short(item) for item in run.overrides if item not in shared)
        labels.append(label or run.name)
    return labels


def _short(override: str) -> str:
    """An override whose number has no more than four digits, which is enough to know a trial of a search by."""
    long_number = re.search(r"(?<==)-?\d+\.\d{6,}(e-?\d+)?$", override)
    if long_number is None:
        return override
    number = float(long_number[0])
    return f"{override[: long_number.start()]}{number:.4g}"


def plan_text(runs: Sequence[RunStatus], num_epochs: int) -> str:
    """What a command would run, what is done, and about how long and how much disk the rest takes."""
    intentions = {"failed": "failed, tried again", "damaged": "damaged, tried again", "running": "running now"}
    rows = []
    for label, run in zip(differing(runs), runs, strict=True):
        intention = intentions.get(run.status, run.status)
        if run.status == "interrupted":
            intention = f"goes on after {run.progress}"
        rows.append([label, intention, run.name])
    # Where nothing sets the jobs apart, their names are their labels.
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
        num_runs = 0.0
        for run in left:
            share_done = run.epochs_done / num_epochs if num_epochs else 0.0
            num_runs += 1 - share_done
        seconds = sum(run.result["seconds"] for run in done) / len(done)
        num_bytes = sum(directory_bytes(run.directory.path) for run in done) / len(done)
        duration = show_seconds(seconds * num_runs)
        megabytes = num_bytes * len(left) / 1e6
        lines.append(f"about {duration} one after another and {megabytes:.0f} MB, going by the {len(done)} finished")
    return "\n".join(lines)
