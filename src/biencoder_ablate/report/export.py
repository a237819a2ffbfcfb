"""The report's tables as csv and LaTeX, every name escaped."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from markupsafe import Markup

from biencoder_ablate.report.fill import fill
from biencoder_ablate.report.outlook import outlook
from biencoder_ablate.report.questions import Analysis
from biencoder_ablate.report.read import Protocol
from biencoder_ablate.report.study import Study
from biencoder_ablate.report.tables import MINUS, NOTHING, Column, Value, interval_text, runs_table, shown


def groups_csv(analyses: Sequence[Analysis]) -> str:
    """table.csv: a row a configuration, unrounded, all studies below one another."""
    axes = list(dict.fromkeys(axis.name for analysis in analyses for axis in analysis.study.axes))
    rows = []
    for analysis in analyses:
        names = [axis.name for axis in analysis.study.axes]
        for cell in analysis.study.cells:
            row: dict[str, Value] = {"corpus": analysis.study.name, **dict.fromkeys(axes, "")}
            row |= {name: level.label for name, level in zip(names, cell.levels, strict=True)}
            row |= {"num_seeds": len(cell.runs), "seeds": " ".join(map(str, cell.runs))}
            for protocol in Protocol:
                summary = analysis.summaries[cell.name].get(protocol)
                for what, field in (("mean", "mean"), ("sd", "standard_deviation"), ("low", "low"), ("high", "high")):
                    row[f"{protocol}_{what}"] = getattr(summary, field, None)
            rows.append(row)
    return csv_text(rows)


def points_csv(analysis: Analysis) -> str:
    """points.csv: a row a configuration, seed and test point of the figure that decides, as outside.py reads them."""
    rows: list[dict[str, Value]] = []
    cells = analysis.study.cells
    for cell in cells:
        system = cell.name if len(cells) > 1 else "biencoder-ablate"
        for seed, run in cell.runs.items():
            told = run.outcomes
            points = zip(told.ids, told.correct[analysis.primary].tolist(), told.debates, strict=True)
            rows += [
                {"system": system, "seed": seed, "query": point, "value": value, "group": debate}
                for point, value, debate in points
                if not math.isnan(value)
            ]
    return csv_text(rows)


def comparisons_csv(analyses: Sequence[Analysis]) -> str:
    """comparisons.csv: a row a comparison and figure, unrounded."""
    rows: list[dict[str, Value]] = [
        {
            "corpus": analysis.study.name, "family": family.title, "settings": "; ".join(family.arms.settings),
            "comparison": r.contrast.name, "figure": protocol, "decides": protocol is analysis.primary,
            "seeds": len(r.seeds), "estimate": r.estimate, "low": r.interval.low, "high": r.interval.high,
            "family_low": r.family_low, "family_high": r.family_high, **asdict(outlook(r)),
            "degrees_of_freedom": r.interval.degrees_of_freedom, "p": r.p, "p_holm": r.p_holm,
            "p_crossed_holm": r.p_crossed_holm, "p_debates_holm": r.p_debates,
            "told_apart": r.told_apart(), "notes": "; ".join(r.notes),
        }
        for analysis in analyses
        for family in analysis.families
        for protocol, results in ((analysis.primary, family.primary), (analysis.primary.other, family.beside))
        for r in results
    ]  # fmt: skip
    return csv_text(
        rows, ["corpus", "family", "settings", "comparison", "figure", "decides", "seeds", "estimate", "low", "high"]
    )


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
    keys = list(dict.fromkeys([*heading, *(key for row in rows for key in row)]))
    writer = csv.DictWriter(file, keys, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({key: "" if isinstance(v, float) and not math.isfinite(v) else v for key, v in row.items()})
    return file.getvalue()


def latex(analysis: Analysis, headline: str) -> str:
    """table.tex: the configurations' table for a paper, with booktabs: mean ± standard deviation, and one interval.

    Narrower than the page's table: with one or two axes it fits the text of an article, or nearly.
    """
    rows = []
    for cell in analysis.study.cells:
        texts = []
        for summary in (analysis.summaries[cell.name][protocol] for protocol in analysis.protocols):
            mean, deviation = (shown(value, Column("", 3)) for value in (summary.mean, summary.standard_deviation))
            texts.append(mean if deviation == NOTHING else f"{mean} ± {deviation}")
            texts.append(interval_text(summary.low, summary.high))
        rows.append([*(level.label for level in cell.levels), str(len(cell.runs)), *texts[:2], *texts[2::2]])
    said = Markup(" ".join(f"{analysis.study.name}: {headline}".split()))  # a comment needs no escaping
    return fill("table.tex.j2", latex_text, {}, said=said, analysis=analysis, rows=rows)


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    MINUS: "$-$", NOTHING: "--", "×": r"$\times$", "±": r"$\pm$", "•": r"$\bullet$", "|": r"\textbar{}",
}  # fmt: skip


def latex_text(text: str) -> str:
    """Text that LaTeX sets as it is, on one line."""
    return "".join(_LATEX.get(character, character) for character in re.sub(r"\s+", " ", text))
