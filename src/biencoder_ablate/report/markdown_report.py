"""report.md: what the page says, for a repository or a terminal; figures are linked, texts are on the page."""

from __future__ import annotations

from collections.abc import Sequence

from biencoder_ablate.report import words
from biencoder_ablate.report.analysis import Analysis
from biencoder_ablate.report.beside_source import BesideSource
from biencoder_ablate.report.collect import Run
from biencoder_ablate.report.figures import shown_arms
from biencoder_ablate.report.formats import markdown, markdown_text
from biencoder_ablate.report.page import StudyParts
from biencoder_ablate.report.plotting import Picture
from biencoder_ablate.report.tables import (
    Table,
    constants_table,
    family_table,
    groups_table,
    leakage_table,
    missing_table,
    overview_table,
    runs_table,
    tasks_table,
    versions_table,
)

MOST_COMMANDS = 60  # of runs, in Markdown; the page and runs.csv have all


def build_markdown(
    studies: Sequence[StudyParts],
    runs: Sequence[Run],
    notes: Sequence[str],
    source: BesideSource | None,
    command: str,
    folders: Sequence[str],
) -> str:
    """The whole text. `folders` are where each study's figures lie, and then the source study's."""
    lines = ["# Ablation report", ""]
    for parts, folder in zip(studies, folders, strict=False):
        lines += _study(parts, folder, len(studies) > 1)
    if source is not None:
        lines += ["## Beside the source study", ""]
        lines += [markdown_text(source.problem), ""] if source.problem else []
        lines += [*_images(source.pictures, folders[-1]), markdown(source.table)]
    lines += ["## What is missing", "", *_bullets([words.tally(runs), *notes])]
    missing = missing_table(runs, [parts.analysis.study for parts in studies])
    lines += [markdown(missing)] if missing.rows else []
    lines += ["## This report", "", "```", command, "```", ""]
    return "\n".join(lines)


def _study(parts: StudyParts, folder: str, several: bool) -> list[str]:
    analysis = parts.analysis
    heading = f"## {markdown_text(analysis.study.name)}" if several else "## Verdict"
    lines = [heading, "", f"**{markdown_text(analysis.headline)}**", ""]
    overview = overview_table(analysis)
    lines += [markdown(overview)] if overview else []
    lines += _bullets(words.findings(analysis))
    lines += ["### Declared beforehand", "", *_bullets(words.declared(analysis))]
    lines += ["### Configurations", "", markdown(groups_table(analysis)), *_named(parts, folder, "seeds")]
    if analysis.families:
        lines += ["### Differences", "", *_named(parts, folder, "forest")]
        lines += [markdown(family_table(family, analysis.primary, "")) for family in analysis.families]
    lines += ["### Learning", "", *_named(parts, folder, "learning_curves"), *_named(parts, folder, "dead_pairs")]
    leakage = leakage_table(analysis)
    if leakage is not None and analysis.leakage is not None:
        lines += ["### Leakage", "", markdown_text(analysis.leakage.sentence), "", markdown(leakage)]
    lines += ["### The eight tasks", "", *_named(parts, folder, "tasks"), markdown(tasks_table(shown_arms(analysis)))]
    lines += ["### Settings, versions, commands", ""]
    lines += [markdown(constants_table(analysis.study)), markdown(versions_table(analysis.study)), *_commands(analysis)]
    return lines


def _commands(analysis: Analysis) -> list[str]:
    table = runs_table(analysis.study)
    if len(table.rows) > MOST_COMMANDS:
        return [f"The commands of all {len(table.rows)} runs are in runs.csv.", ""]
    keep = [k for k, column in enumerate(table.columns) if column.name in ("run", "command")]
    columns = tuple(table.columns[k] for k in keep)
    rows = tuple(tuple(row[k] for k in keep) for row in table.rows)
    return [markdown(Table(table.key, "The command that makes each run again.", columns, rows))]


def _bullets(sentences: Sequence[str]) -> list[str]:
    return [*(f"- {markdown_text(text)}" for text in sentences), ""]


def _named(parts: StudyParts, folder: str, name: str) -> list[str]:
    return _images([p for p in parts.pictures if p.name.rstrip("0123456789").rstrip("_") == name], folder)


def _images(pictures: Sequence[Picture], folder: str) -> list[str]:
    return [
        line
        for found in pictures
        for line in (
            f"![{markdown_text(found.title)}]({folder}/{found.name}.svg)",
            "",
            markdown_text(found.caption),
            "",
        )
    ]
