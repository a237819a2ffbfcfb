"""report.md: what the page says, for a repository or a terminal; figures are linked, texts are on the page."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from biencoder_ablate.report.beside_source import BesideSource
from biencoder_ablate.report.collect import Collection
from biencoder_ablate.report.contents import (
    Block,
    Debates,
    Heading,
    Section,
    StudyParts,
    Words,
    missing_section,
    opening,
    source_section,
    study_sections,
)
from biencoder_ablate.report.formats import markdown, markdown_text
from biencoder_ablate.report.plotting import Picture
from biencoder_ablate.report.tables import Table

MOST_ROWS = 60  # of a table of runs; the page and runs.csv have all


def build_markdown(
    studies: Sequence[StudyParts],
    collection: Collection,
    source: BesideSource | None,
    command: str,
    folders: Sequence[str],
) -> str:
    """The whole text. `folders` are where each study's figures lie, and then the source study's."""
    lines = ["# Ablation report", ""]
    for parts, folder in zip(studies, folders, strict=False):
        analysis = parts.analysis
        heading = markdown_text(analysis.study.name) if len(studies) > 1 else "Verdict"
        lines += [f"## {heading}", "", f"**{markdown_text(analysis.headline)}**", ""]
        lines += _blocks(opening(analysis), folder)
        for section in study_sections(parts):
            if not any(isinstance(block, Debates) for block in section.blocks):
                lines += _section(section, folder, "###")
    if source is not None:
        lines += _section(source_section(source), folders[-1], "##")
    lines += _section(missing_section(collection, [parts.analysis.study for parts in studies]), folders[-1], "##")
    lines += ["## This report", "", "```", command, "```", ""]
    return "\n".join(lines)


def _section(section: Section, folder: str, level: str) -> list[str]:
    return [f"{level} {section.title}", "", *_blocks(section.blocks, folder)]


def _blocks(blocks: Iterable[Block], folder: str) -> list[str]:
    lines = []
    for block in blocks:
        if isinstance(block, Heading):
            lines += [f"#### {markdown_text(block.text)}", ""]
        elif isinstance(block, Words) and block.kind == "list":
            lines += [*(f"- {markdown_text(text)}" for text in block.sentences), ""]
        elif isinstance(block, Words):
            lines += [line for text in block.sentences for line in (markdown_text(text), "")]
        elif isinstance(block, Picture):
            link = f"![{markdown_text(block.title)}]({folder}/{block.name}.svg)"
            lines += [link, "", markdown_text(block.caption), ""]
        elif isinstance(block, Table):
            lines += _table(block)
    return lines


def _table(table: Table) -> list[str]:
    """A table; of finished runs their names and commands alone, of runs not started only how many there are."""
    if table.key == "runs":
        keep = [k for k, column in enumerate(table.columns) if column.name in ("run", "command")]
        columns = tuple(table.columns[k] for k in keep)
        rows = tuple(tuple(row[k] for k in keep) for row in table.rows)
        table = Table(table.key, "The command that makes each run again.", columns, rows)
    if table.key not in ("runs", "missing-runs"):
        return [markdown(table)]
    worth = [row for row in table.rows if "not started" not in row]
    lines = [markdown(Table(table.key, table.caption, table.columns, tuple(worth[:MOST_ROWS])))] if worth else []
    left = len(table.rows) - len(worth[:MOST_ROWS])
    return [*lines, f"The page lists {left} more.", ""] if left else lines
