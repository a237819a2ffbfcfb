"""From runs to the files of a report: everything is worked out first, then each file written whole."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from biencoder_ablate.report import sentences
from biencoder_ablate.report.analysis import Analysis
from biencoder_ablate.report.breakdown import break_down, breakdown_rows
from biencoder_ablate.report.decision import (
    Judged,
    check_looks,
    declared_in,
    remember,
    verdict_json,
    what_tuning_turns,
)
from biencoder_ablate.report.design import declare
from biencoder_ablate.report.diagnostics import baselines
from biencoder_ablate.report.examples import load_texts, side_by_side
from biencoder_ablate.report.folds import note_folds
from biencoder_ablate.report.ledger import open_ledger
from biencoder_ablate.report.looks import analyse_at_looks
from biencoder_ablate.report.plots import draw
from biencoder_ablate.report.read import FINISHED, Collection, Protocol
from biencoder_ablate.report.render import StudyReport, latex, markdown, missing_section, page, study_report
from biencoder_ablate.report.study import Study, make_studies
from biencoder_ablate.report.tables import Value, runs_table
from biencoder_ablate.report.tuning import tuning_of
from biencoder_ablate.report.verdicts import decisions, with_verdicts, with_void_parts
from biencoder_ablate.utils.console import show
from biencoder_ablate.utils.files import read_json, whole_file
from biencoder_ablate.version import __version__

LOOKS = "looks.json"  # study → numbers of seeds that reports in this place have seen
SUMMARY_COLUMNS = {
    "mean": "mean",
    "sd": "standard_deviation",
    "low": "low",
    "high": "high",
}
MOST_NAMED = 5  # runs in the message that none has finished
MOST_BROKEN = 10  # runs on the screen that ended badly


def write_report(
    collection: Collection,
    output: Path,
    command: str,
    protocol: Protocol | None = None,
    looks: Sequence[int] = (),
    with_points: bool = False,
    baseline: Sequence[str] = (),
    margin: float | None = None,
    by: str | None = None,
) -> None:
    """Write the report on these runs to `output`, with points.csv where asked, saying on the screen what came out.

    `baseline` are settings of the configuration that others are compared with; a part that is worth less than `margin`
    may be removed; `by` is a column of the queries, for a table by its levels; analyse() says what the rest is.

    Raises ValueError where there is no finished run, or an output that will not do.
    """
    if output.exists() and not output.is_dir():
        raise ValueError(f"-o {output}: is a file; must be a directory, made if missing")
    collection = note_folds(collection)
    ledger = open_ledger(collection, margin, looks)
    studies = [declare(study, baseline) for study in make_studies(collection.pooled or ())]
    if not studies:
        raise ValueError(_none_finished(collection))

    # Seeds that are added after a look make it likelier that something is significant: looks are remembered.
    known = read_json(output / LOOKS)
    seen: dict[str, list[int]] = {}
    for name, looks_before in (known or {}).items():
        if isinstance(looks_before, list) and all(type(num_seeds) is int for num_seeds in looks_before):
            seen[name] = looks_before
    reports, judged = [], []
    by_level: list[Mapping[str, Value]] = []
    for number, study in enumerate(studies, start=1):
        show(f"{study.name}: {study.size} …", sys.stderr)
        texts = load_texts(study)
        check_looks(study.seeds, study.trained_here, ledger.looks)
        earlier = seen.get(study.name) or []
        seen[study.name] = sorted({*earlier, len(study.seeds)})
        analysis = analyse_at_looks(study, protocol, ledger.looks, texts.cluster_of, ledger.margin)
        analysis = declared_in(ledger, analysis, earlier)
        others = baselines(study)
        judged.append(Judged(analysis, others, decisions(analysis)))

        # Several corpora share a page and a directory: ids begin with a number, plots have a folder each.
        prefix, folder = "", "figures"
        if len(studies) > 1:
            words = re.sub("[^a-z0-9]+", "-", study.name.lower())
            prefix, folder = f"s{number}-", f"figures/{words.strip('-')}"
        plots = draw(analysis, others)
        pairs = side_by_side(analysis)
        breakdown = break_down(analysis, by) if by is not None else None
        if breakdown is not None:
            by_level += breakdown_rows(analysis, breakdown)
        tuning = tuning_of(study, collection.tunings)
        report = study_report(analysis, others, plots, pairs, texts, prefix, folder, breakdown, tuning)
        answers = with_verdicts(report.answers, judged[-1].decisions, analysis) if ledger.margin else report.answers
        answers = with_void_parts(answers, analysis)
        headline = " ".join([report.headline, *what_tuning_turns(judged[-1], judged)])
        reports.append(replace(report, answers=answers, headline=headline))

    # Everything is worked out before the first file is written.
    analyses = [report.analysis for report in reports]
    missing = missing_section(collection, reports)
    files: dict[str, str | bytes] = {
        LOOKS: json.dumps(seen, indent=1, ensure_ascii=False) + "\n",
        "verdict.json": json.dumps(verdict_json(collection, judged, ledger), indent=1, ensure_ascii=False) + "\n",
        "index.html": page(reports, missing, command, __version__),
        "report.md": markdown(reports, missing, command),
        "table.csv": groups_csv(analyses),
        "comparisons.csv": comparisons_csv(analyses),
        "runs.csv": runs_csv(studies),
        "table.tex": "\n".join(latex(report.analysis, report.headline, report.others) for report in reports),
    }
    if with_points:
        if len(analyses) > 1:
            raise ValueError(f"--points: these are runs on {len(analyses)} corpora; report on one at a time")
        files["points.csv"] = points_csv(analyses[0])
    if by is not None:
        files[f"by_{by}.csv"] = csv_text(by_level)
    for report in reports:
        for plot in report.plots:
            files[f"{report.folder}/{plot.name}.svg"] = plot.svg
            files[f"{report.folder}/{plot.name}.png"] = plot.png

    try:
        for name, content in files.items():
            path = output / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path, "wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise ValueError(f"-o {output}: cannot be written to ({error.strerror}); give another directory") from error
    problem = remember(ledger, judged)
    if problem:
        print(f"note: {problem}", file=sys.stderr)
    for line in _summary(reports, collection):
        show(line)
    show(f"written: {output / 'index.html'}")


# --- on the screen ---


def _none_finished(collection: Collection) -> str:
    runs = collection.runs
    if collection.notes and any(run.status == FINISHED for run in runs):
        return f"nothing to report on: {'; '.join(collection.notes)}"
    states = [f"{run.name}: {run.status}, {run.why}" for run in runs[:MOST_NAMED]]
    if len(runs) > MOST_NAMED:
        states.append(f"and {len(runs) - MOST_NAMED} more")
    return (
        f"no finished run to report on ({'; '.join(states)}); run the same commands again: they go on where they "
        "stopped"
    )


def _summary(reports: Sequence[StudyReport], collection: Collection) -> list[str]:
    """The answers, the verdict, and which runs ended badly, a line each."""
    lines = []
    for report in reports:
        if len(reports) > 1:
            lines.append(f"{report.analysis.study.name}:")
        lines += [str(answer) for answer in report.answers]
        lines.append(report.headline)
        if report.analysis.added_after_a_look:
            lines.append(report.analysis.added_after_a_look)
    lines += [sentences.tally(collection.runs), *collection.notes]

    # Runs that go on or have not begun are counted above, and are no trouble.
    broken = [run for run in collection.runs if run.status not in (FINISHED, "running", "not started")]
    for run in broken[:MOST_BROKEN]:
        lines.append(f"  {run.name}: {run.status}, {run.why}")
    if len(broken) > MOST_BROKEN:
        lines.append(f"  and {len(broken) - MOST_BROKEN} more")
    return lines


# --- comma-separated ---


def groups_csv(analyses: Sequence[Analysis]) -> str:
    """table.csv: a row a configuration, unrounded, all studies below one another."""
    # Studies may differ in their axes: each row has all of them.
    axes = dict.fromkeys(axis.name for analysis in analyses for axis in analysis.study.axes)
    rows = []
    for analysis in analyses:
        for cell in analysis.study.cells:
            row: dict[str, Value] = {"corpus": analysis.study.name, **dict.fromkeys(axes, "")}
            for axis, level in zip(analysis.study.axes, cell.levels, strict=True):
                row[axis.name] = level.text
            row["num_seeds"] = len(cell.runs)
            row["seeds"] = " ".join(map(str, cell.runs))
            for protocol in Protocol:
                summary = analysis.summaries[cell.name].get(protocol)
                for name, field in SUMMARY_COLUMNS.items():
                    row[f"{protocol}_{name}"] = getattr(summary, field, None)  # of a protocol without points, None
            rows.append(row)
    return csv_text(rows)


def points_csv(analysis: Analysis) -> str:
    """points.csv: a row a configuration, seed and test point of the deciding protocol, as external.py reads them.

    It has a column for each axis and each setting that was typed with one, so that the same questions are asked of it:
    the baseline is marked where one configuration is it, and groups are those that the statistics go by.
    """
    rows: list[dict[str, Value]] = []
    study = analysis.study
    cells = study.cells
    baseline = study.centre
    if baseline is None:
        are_baseline = [
            [axis.baseline == level for axis, level in zip(study.axes, cell.levels, strict=True)] for cell in cells
        ]
        marked = [cell for cell, of_axes in zip(cells, are_baseline, strict=True) if any(of_axes)]
        baseline = marked[0] if len(marked) == 1 else None
    for cell in cells:
        system = cell.name if len(cells) > 1 else "biencoder-ablate"
        factors: dict[str, Value] = {}
        for axis, level in zip(study.axes, cell.levels, strict=True):
            factors[axis.name] = level.label
            for name, labels in axis.moved.items():
                factors[name] = labels[level]
        marks = {"baseline": int(cell is baseline)} if baseline else {}
        for seed, run in cell.runs.items():
            points = run.outcomes
            values = points.correct[analysis.primary].tolist()
            for point, value, debate in zip(points.ids, values, points.debates, strict=True):
                if math.isnan(value):  # does not count
                    continue
                rows.append(
                    {
                        "system": system,
                        "seed": seed,
                        "query": point,
                        "value": value,
                        "group": analysis.cluster_of.get(debate, debate),
                        "measure": analysis.measure,
                        **marks,
                        **factors,
                    }
                )
    return csv_text(rows)


def comparisons_csv(analyses: Sequence[Analysis]) -> str:
    """comparisons.csv: a row a comparison and protocol, unrounded."""
    rows: list[dict[str, Value]] = []
    for analysis in analyses:
        for family in analysis.families:
            results = [(analysis.primary, result) for result in family.primary]
            # Where both protocols score alike, the other's results are the same.
            beside = family.beside
            if not beside and analysis.num_points[analysis.primary.other]:
                beside = family.primary
            results += [(analysis.primary.other, result) for result in beside]
            for protocol, result in results:
                rows.append(
                    {
                        "corpus": analysis.study.name,
                        "family": family.title,
                        "settings": "; ".join(family.arms.settings),
                        "comparison": result.contrast.name,
                        "figure": protocol,
                        "decides": protocol is analysis.primary,
                        "seeds": len(result.seeds),
                        "estimate": result.estimate,
                        "low": result.interval.low,
                        "high": result.interval.high,
                        "family_low": result.family_low,
                        "family_high": result.family_high,
                        **asdict(result.power),
                        "degrees_of_freedom": result.interval.degrees_of_freedom,
                        "p": result.p,
                        "p_holm": result.p_holm,
                        "p_crossed_holm": result.p_crossed_holm,
                        "p_debates_holm": result.p_debates,
                        "told_apart": result.is_significant(),
                        "notes": "; ".join(result.notes),
                    }
                )
    # Without a comparison, the heading stands alone.
    heading = [
        "corpus",
        "family",
        "settings",
        "comparison",
        "figure",
        "decides",
        "seeds",
        "estimate",
        "low",
        "high",
    ]
    return csv_text(rows, heading)


def runs_csv(studies: Sequence[Study]) -> str:
    """runs.csv: a row a finished run; the studies' axes side by side."""
    rows: list[dict[str, Value]] = []
    for study in studies:
        if not study.trained_here:
            continue
        table = runs_table(study)
        names = [column.name for column in table.columns]
        rows += [{"corpus": study.name, **dict(zip(names, row, strict=True))} for row in table.rows]
    return csv_text(rows)


def csv_text(rows: Sequence[Mapping[str, Value]], heading: Sequence[str] = ()) -> str:
    """Comma-separated lines under `heading` and the keys that any row has; nothing where there is no number."""
    file = io.StringIO()
    names = dict.fromkeys([*heading, *(name for row in rows for name in row)])
    writer = csv.DictWriter(file, list(names), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cells = dict(row)
        for name, value in row.items():
            if isinstance(value, float) and not math.isfinite(value):
                cells[name] = ""
        writer.writerow(cells)
    return file.getvalue()
