"""The report's tables as csv, Markdown and LaTeX, every name escaped."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Sequence

from biencoder_ablate.report.analysis import ALPHA, Analysis
from biencoder_ablate.report.statistics import GroupSummary
from biencoder_ablate.report.tables import MINUS, NOTHING, Column, Table, Value, interval_text, shown


def groups_csv(analyses: Sequence[Analysis]) -> str:
    """table.csv: a row a configuration, unrounded, all studies below one another."""
    axes = list(dict.fromkeys(axis.name for a in analyses for axis in a.study.axes))
    figures = [f"{p}_{what}" for p in ("clean", "official") for what in ("mean", "sd", "low", "high")]
    rows = []
    for analysis in analyses:
        names = [axis.name for axis in analysis.study.axes]
        for cell in analysis.study.cells:
            levels = dict(zip(names, cell.levels, strict=True))
            row: list[Value] = [analysis.study.name, *(levels.get(axis, "") for axis in axes), len(cell.runs)]
            row.append(" ".join(map(str, cell.runs)))
            for protocol in ("clean", "official"):
                row += _csv_figures(analysis.summaries[cell.name].get(protocol))
            rows.append(row)
    return csv_text(["corpus", *axes, "num_seeds", "seeds", *figures], rows)


def _csv_figures(summary: GroupSummary | None) -> list[Value]:
    if summary is None:
        return [None] * 4
    return [summary.mean, summary.standard_deviation, summary.low, summary.high]


def comparisons_csv(analyses: Sequence[Analysis]) -> str:
    """comparisons.csv: a row a comparison and figure, unrounded."""
    heading = ["corpus", "family", "settings", "comparison", "figure", "decides", "seeds", "estimate", "low", "high"]
    rows: list[list[Value]] = []
    for analysis in analyses:
        other = "official" if analysis.primary == "clean" else "clean"
        for family in analysis.families:
            for figure, results in ((analysis.primary, family.primary), (other, family.beside)):
                for r in results:
                    interval = r.interval
                    rows.append(
                        [
                            analysis.study.name, family.title, "; ".join(family.arms.settings), r.contrast.name,
                            figure, figure == analysis.primary, len(r.seeds), r.estimate, interval.low,
                            interval.high, interval.plain_low, interval.plain_high, r.test.p, r.p_holm,
                            r.told_apart(ALPHA), "; ".join(r.notes),
                        ]
                    )  # fmt: skip
    return csv_text([*heading, "plain_low", "plain_high", "p", "p_holm", "told_apart", "notes"], rows)


def csv_text(heading: Sequence[str], rows: Iterable[Sequence[Value]]) -> str:
    """Comma-separated lines; nothing where there is no number."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(heading)
    for row in rows:
        writer.writerow(["" if isinstance(v, float) and not math.isfinite(v) else v for v in row])
    return file.getvalue()


def markdown(table: Table) -> str:
    """A Markdown table; the caption above it."""
    lines = [
        "| " + " | ".join(markdown_text(column.name) for column in table.columns) + " |",
        "|" + "|".join("---:" if column.numeric else "---" for column in table.columns) + "|",
    ]
    for row in table.rows:
        cells = [_markdown_cell(value, column) for value, column in zip(row, table.columns, strict=True)]
        lines.append("| " + " | ".join(cells) + " |")
    return f"{markdown_text(table.caption)}\n\n" + "\n".join(lines) + "\n"


def _markdown_cell(value: Value, column: Column) -> str:
    text = re.sub(r"\s+", " ", shown(value, column))
    if column.code and text:
        ticks = "`" * (max((len(run) for run in re.findall("`+", text)), default=0) + 1)
        space = " " if "`" in text else ""
        return f"{ticks}{space}{text}{space}{ticks}".replace("|", "\\|")
    return markdown_text(text)


def markdown_text(text: str) -> str:
    """Text that Markdown shows as it is."""
    text = re.sub(r"([\\`*_{}\[\]<>|#~$])", r"\\\1", text)
    return re.sub(r"\s+", " ", text)


def latex(analysis: Analysis) -> str:
    """table.tex: the configurations' table for a paper, with booktabs: mean ± standard deviation, and one interval.

    Narrower than the page's table: with one or two axes it fits the text of an article, or nearly.
    """
    axes = [axis.name for axis in analysis.study.axes]
    protocols = list(dict.fromkeys(p for p in (analysis.primary, "official", "clean") if analysis.num_points[p]))
    heading = [*axes, "seeds", f"{protocols[0]} test", "95% interval", *(f"{p} test" for p in protocols[1:])]
    lines = [
        f"% {_one_line(analysis.study.name)}: {_one_line(analysis.headline)}",
        r"% Test top-1 at the val-selected epoch: mean ± standard deviation over seeds. Needs \usepackage{booktabs}.",
        r"{\small\begin{tabular}{@{}" + "l" * len(axes) + "r" * (len(heading) - len(axes)) + "@{}}",
        r"\toprule",
        " & ".join(map(latex_text, heading)) + r" \\",
        r"\midrule",
    ]
    for cell in analysis.study.cells:
        first, *others = (analysis.summaries[cell.name][protocol] for protocol in protocols)
        cells = [*cell.levels, str(len(cell.runs)), _with_deviation(first), interval_text(first.low, first.high)]
        cells += [_with_deviation(summary) for summary in others]
        lines.append(" & ".join(map(latex_text, cells)) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}}"]) + "\n"


def _with_deviation(summary: GroupSummary) -> str:
    column = Column("", 3)
    mean, deviation = shown(summary.mean, column), shown(summary.standard_deviation, column)
    return mean if deviation == NOTHING else f"{mean} ± {deviation}"


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text)


_LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    MINUS: "$-$", NOTHING: "--", "×": r"$\times$", "±": r"$\pm$", "•": r"$\bullet$", "|": r"\textbar{}",
}  # fmt: skip


def latex_text(text: str) -> str:
    """Text that LaTeX sets as it is."""
    return "".join(_LATEX.get(character, character) for character in _one_line(text))
