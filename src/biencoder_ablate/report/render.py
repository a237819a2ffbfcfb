"""What a report shows, section by section, built once; templates/ write it down as a page and as Markdown.

A block is a kind with what it shows: ("paragraph" | "note" | "list", sentences), ("heading", text), ("table", Table),
("picture", Picture), ("debates", pairs of arms with their tables). Everything is escaped where it is printed.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from biencoder_ablate.data.text_cache import SplitTexts
from biencoder_ablate.report import sentences, tables
from biencoder_ablate.report.analysis import Analysis, Kind
from biencoder_ablate.report.diagnostics import Baseline, find_leakage, selection
from biencoder_ablate.report.examples import SideBySide
from biencoder_ablate.report.plot_style import Plot
from biencoder_ablate.report.read import Collection, Protocol
from biencoder_ablate.report.sentences import Answer
from biencoder_ablate.report.statistics import ALPHA, FEW_SEEDS, MAX_EXACT_SEEDS, seeds_needed

MOST_MARKDOWN_ROWS = 60  # of a table of runs; the page and runs.csv have all
Block = tuple[str, Any]


@dataclass(frozen=True, eq=False)
class Section:
    """`key` names it in links; one for the page alone is too long for anything else."""

    key: str
    title: str
    blocks: Sequence[Block]
    page_only: bool = False


@dataclass(frozen=True, eq=False)
class StudyReport:
    """Everything that is shown of one study: the answers, the figure and the table they rest on, and the sections.

    `prefix` begins its ids, `folder` is where its figures lie.
    """

    analysis: Analysis
    headline: str
    answers: Sequence[Answer]
    opening: Sequence[Plot]
    table: tables.Table
    sections: Sequence[Section]
    pictures: Sequence[Plot]
    texts: SplitTexts
    prefix: str
    folder: str


def study_report(
    analysis: Analysis,
    others: Sequence[Baseline],
    pictures: Sequence[Plot],
    pairs: Sequence[SideBySide],
    texts: SplitTexts,
    prefix: str,
    folder: str,
) -> StudyReport:
    """The sections on one study, those without contents left out. `others` are what its figures stand beside."""

    def drawn(*names: str) -> list[Block]:
        """The pictures of these names, or of these names and a page number."""
        return [("picture", p) for name in names for p in pictures if re.fullmatch(rf"{name}(_\d+)?", p.name)]

    study = analysis.study
    best = analysis.verdict.best if analysis.verdict else None
    groups = tables.groups_table(analysis, others)
    overview, several = tables.overview_table(analysis), len(analysis.main.settings) > 1
    configurations: list[Block] = [("table", overview)] if overview else []
    configurations += [("table", groups), *drawn("seeds")] if several else drawn("seeds")
    leaks: list[Block] = []
    leakage = find_leakage(analysis)
    if leakage and any(shift.clean != shift.official for shift in leakage.shifts):
        leaks = [("paragraph", [leakage.sentence]), ("table", tables.leakage_table(leakage))]
    picked: list[Block] = []
    if (found := selection(analysis)) is not None:
        picked = [("paragraph", [sentences.selected(found)]), ("table", tables.selection_table(analysis, found))]
    more, within = sentences.findings(analysis), drawn("forest_by_setting")
    differences: list[Block] = [("list" if len(more) > 1 else "paragraph", more)] if more else []
    differences += drawn("forest_more")
    for k, family in enumerate(analysis.families):
        table = tables.family_table(family, analysis.primary, f"family{k}")
        blocks = within if family.kind is Kind.SETTING else differences
        blocks += [("table", table), ("note", sentences.about(study, family))]
        if k == 0 and family.kind is not Kind.SETTING:
            blocks += [("table", tables.power_table(family))]
    if analysis.notes:
        differences += [("heading", "Not asked"), ("list", analysis.notes)]
    if within:
        differences += [("heading", "Setting by setting"), *within]
    first = next((pair for pair in pairs if best in (pair.a, pair.b)), None)
    ordered = sorted(pairs, key=lambda pair: pair is not first)
    debates = [(pair, tables.debates_table(pair, f"{prefix}debates{k}")) for k, pair in enumerate(ordered)]
    reproduce: list[tables.Table] = []
    if study.trained_here:
        reproduce = [tables.constants_table(study), tables.versions_table(study), tables.runs_table(study)]
    costs: list[Block] = [("table", tables.costs_table(study))] if study.trained_here else []
    tasks: list[Block] = [*drawn("tasks"), ("table", tables.tasks_table(analysis.main))] if study.has_tasks else []
    sections: list[tuple[str, str, list[Block]]] = [
        ("differences", "Differences", differences),
        ("configurations", "Configurations" if several else "Seed by seed", configurations),
        ("learning", "Learning", [*drawn("learning_curves", "learning_curves_by_setting", "dead_pairs"), *costs]),
        ("selection", "Which epoch", picked),
        ("leakage", "Leakage", leaks),
        ("tasks", "The eight tasks", tasks),
        ("debates", "Debate by debate", [("debates", debates)] if debates else []),
        ("declared", "Declared beforehand", [("list", declared(analysis))]),
        ("reproduce", "Settings, versions, commands", [("table", table) for table in reproduce]),
    ]
    headline = sentences.headline(analysis, others)
    said = {headline}
    shown = [Section(key, title, _once(blocks, said), key == "debates") for key, title, blocks in sections if blocks]
    top = tables.arms_table(analysis, others) if several else groups
    opening = [block for _, block in drawn("forest")]
    return StudyReport(
        analysis, headline, sentences.answers(analysis), opening, top, shown, pictures, texts, prefix, folder
    )


def _once(blocks: Sequence[Block], said: set[str]) -> list[Block]:
    """Blocks without the sentences that are in `said` already, where these are noted."""
    kept: list[Block] = []
    for kind, block in blocks:
        if kind in ("paragraph", "note", "list"):
            block = [sentence for sentence in block if sentence not in said]
            said.update(block)
        if kind not in ("paragraph", "note", "list") or block:
            kept.append((kind, block))
    return kept


def missing_section(collection: Collection, studies: Sequence[StudyReport]) -> Section:
    """Which runs and seeds are not there, and how to go on."""
    table = tables.missing_table(collection.runs, [report.analysis.study for report in studies], collection.sweeps)
    said = [sentences.tally(collection.runs), *collection.notes]
    blocks: list[Block] = [("list", said), ("table", table)]
    whole: list[Block] = [("list", [*said, "Every configuration has every seed."])]
    return Section("missing", "What is missing", blocks if table.rows else whole)


# --- written down ---


def page(studies: Sequence[StudyReport], last: Section, command: str, version: str) -> str:
    """The report as one HTML page that holds everything it shows: verdict first, no network, all text escaped."""
    templates = resources.files("biencoder_ablate.report").joinpath("templates")
    script, css = (Markup(templates.joinpath(name).read_text("utf-8")) for name in ("page.js", "page.css"))
    filters = {"base64": lambda content: base64.b64encode(content).decode(), "format_value": tables.format_value}
    return fill(
        "page.html.j2", None, filters, studies=studies, last=last, command=command, version=version, script=script,
        css=css, digest=hashlib.sha256(script.encode()).digest(),
    )  # fmt: skip


def markdown(studies: Sequence[StudyReport], last: Section, command: str) -> str:
    """report.md: what the page says, for a repository or a terminal; figures are linked, texts are on the page."""
    return fill(
        "report.md.j2", markdown_text, {"cell": markdown_cell, "shortened": shortened}, studies=studies, last=last,
        command=Markup(command),
    )  # fmt: skip


def markdown_text(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return re.sub(r"\s+", " ", re.sub(r"([\\`*_{}\[\]<>|#~$])", r"\\\1", text))


def markdown_cell(value: tables.Value, column: tables.Column) -> Markup:
    """A table's value; code between as many backticks as it takes."""
    text = re.sub(r"\s+", " ", tables.format_value(value, column))
    if not column.code or not text:
        return Markup(markdown_text(text))
    ticks = "`" * (max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    space = " " if "`" in text else ""
    return Markup(f"{ticks}{space}{text}{space}{ticks}".replace("|", "\\|"))


def shortened(table: tables.Table) -> tuple[tables.Table, int]:
    """What Markdown has of a table, and how many rows it leaves to the page.

    Of finished runs their names and commands alone; of runs not started only how many there are.
    """
    rows = table.rows
    if table.key == "runs":
        keep = [k for k, column in enumerate(table.columns) if column.name in ("run", "command")]
        rows = tuple(tuple(row[k] for k in keep) for row in rows)
        columns = tuple(table.columns[k] for k in keep)
        table = replace(table, caption="The command that makes each run again.", columns=columns)
    if table.key in ("runs", "missing-runs"):
        worth = [row for row in rows if "not started" not in row][:MOST_MARKDOWN_ROWS]
        return replace(table, rows=tuple(worth)), len(rows) - len(worth)
    return table, 0


# Braces are LaTeX's own.
_LATEX_MARKS: dict[str, Any] = {
    "variable_start_string": "<<", "variable_end_string": ">>", "block_start_string": "<%", "block_end_string": "%>",
    "comment_start_string": "<#", "comment_end_string": "#>",
}  # fmt: skip


def fill(name: str, escape: Callable[[str], str] | None, filters: Mapping[str, Any], **values: Any) -> str:
    """The text of a template in templates/ with these values.

    What is printed goes through `escape`, or is escaped as HTML without one; what is Markup already stays as it is.
    """

    def escaped(value: Any) -> Any:
        return value if escape is None or isinstance(value, Markup) else Markup(escape(str(value)))

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("biencoder_ablate.report"), autoescape=True, undefined=jinja2.StrictUndefined,
        finalize=escaped, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
        **(_LATEX_MARKS if name.endswith(".tex.j2") else {}),
    )  # fmt: skip
    environment.filters |= filters
    return environment.get_template(name).render(**values)


def declared(analysis: Analysis) -> list[str]:
    """What was fixed before any figure was seen: templates/declared.txt.j2 says it alike for every sweep."""
    selects = {(run.identity.get("evaluation") or {}).get("select", "top1") for run in analysis.study.runs}
    names = {"top1": "best official val top-1", "top1_clean": "best clean val top-1"}
    picked = " or ".join(names.get(select, f"best val {select}") for select in sorted(selects - {"last"}))
    rule = f"the epoch with the {picked} (the first on a tie)" if picked else ""
    rule = " or ".join(filter(None, (rule, "the last epoch" if "last" in selects else "")))
    text = fill(
        "declared.txt.j2", str, {}, analysis=analysis, clean=Protocol.CLEAN, official=Protocol.OFFICIAL,
        rule=rule, alpha=ALPHA, most_exact=MAX_EXACT_SEEDS, needed=seeds_needed(6), few=FEW_SEEDS,
    )  # fmt: skip
    return [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]
