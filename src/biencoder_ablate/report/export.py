"""The report's tables as csv and LaTeX, every name escaped."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Sequence

import jinja2
from markupsafe import Markup

from biencoder_ablate.report.questions import ALPHA, Analysis
from biencoder_ablate.report.read import Protocol
from biencoder_ablate.report.study import Study
from biencoder_ablate.report.tables import MINUS, NOTHING, Column, Value, interval_text, runs_table, shown


def groups_csv(analyses: Sequence[Analysis]) -> str:
    """table.csv: a row a configuration, unrounded, all studies below one another."""
    axes = list(dict.fromkeys(axis.name for analysis in analyses for axis in analysis.study.axes))
    figures = [f"{protocol}_{what}" for protocol in Protocol for what in ("mean", "sd", "low", "high")]
    rows = []
    for analysis in analyses:
        names = [axis.name for axis in analysis.study.axes]
        for cell in analysis.study.cells:
            labels = dict(zip(names, [level.label for level in cell.levels], strict=True))
            row: list[Value] = [analysis.study.name, *(labels.get(axis, "") for axis in axes), len(cell.runs)]
            row.append(" ".join(map(str, cell.runs)))
            for protocol in Protocol:
                summary = analysis.summaries[cell.name].get(protocol)
                ends = (summary.mean, summary.standard_deviation, summary.low, summary.high) if summary else [None] * 4
                row += ends
            rows.append(row)
    return csv_text(["corpus", *axes, "num_seeds", "seeds", *figures], rows)


def comparisons_csv(analyses: Sequence[Analysis]) -> str:
    """comparisons.csv: a row a comparison and figure, unrounded."""
    rows: list[list[Value]] = []
    for analysis in analyses:
        for family in analysis.families:
            for protocol, results in ((analysis.primary, family.primary), (analysis.primary.other, family.beside)):
                for r in results:
                    rows.append(
                        [
                            analysis.study.name, family.title, "; ".join(family.arms.settings), r.contrast.name,
                            protocol, protocol is analysis.primary, len(r.seeds), r.estimate, r.interval.low,
                            r.interval.high, r.interval.degrees_of_freedom, r.test.p, r.p_holm, r.told_apart(ALPHA),
                            "; ".join(r.notes),
                        ]
                    )  # fmt: skip
    heading = ["corpus", "family", "settings", "comparison", "figure", "decides", "seeds", "estimate", "low", "high"]
    return csv_text([*heading, "degrees_of_freedom", "p", "p_holm", "told_apart", "notes"], rows)


def runs_csv(studies: Sequence[Study]) -> str:
    """runs.csv: a row a finished run; the studies' axes side by side."""
    tables = [runs_table(study) for study in studies]
    heading = list(dict.fromkeys(column.name for table in tables for column in table.columns))
    rows: list[list[Value]] = []
    for study, table in zip(studies, tables, strict=True):
        for row in table.rows:
            values = dict(zip([column.name for column in table.columns], row, strict=True))
            rows.append([study.name, *(values.get(name) for name in heading)])
    return csv_text(["corpus", *heading], rows)


def csv_text(heading: Sequence[str], rows: Iterable[Sequence[Value]]) -> str:
    """Comma-separated lines; nothing where there is no number."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(heading)
    for row in rows:
        writer.writerow(["" if isinstance(v, float) and not math.isfinite(v) else v for v in row])
    return file.getvalue()


def latex(analysis: Analysis) -> str:
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
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("biencoder_ablate.report"), undefined=jinja2.StrictUndefined,
        finalize=lambda value: value if isinstance(value, Markup) else latex_text(value),
        variable_start_string="<<", variable_end_string=">>", block_start_string="<%", block_end_string="%>",
        comment_start_string="<#", comment_end_string="#>", trim_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    said = Markup(" ".join(f"{analysis.study.name}: {analysis.headline}".split()))  # a comment needs no escaping
    return environment.get_template("table.tex.j2").render(said=said, analysis=analysis, rows=rows)


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    MINUS: "$-$", NOTHING: "--", "×": r"$\times$", "±": r"$\pm$", "•": r"$\bullet$", "|": r"\textbar{}",
}  # fmt: skip


def latex_text(text: object) -> str:
    """Anything as text that LaTeX sets as it is, on one line."""
    return "".join(_LATEX.get(character, character) for character in re.sub(r"\s+", " ", str(text)))
