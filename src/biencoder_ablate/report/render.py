"""What a report shows, section by section, built once; templates/ write it down as a page, as Markdown and for LaTeX.

A block is a kind with what it shows: ("paragraph" | "note" | "list", sentences), ("heading", text), ("table", Table),
("plot", Plot), ("debates", pairs of arms with their tables). Everything is escaped where it is printed.
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
from biencoder_ablate.report.among_answers import order_among_answers
from biencoder_ablate.report.analysis import Analysis, Kind
from biencoder_ablate.report.breakdown import Breakdown, breakdown_table
from biencoder_ablate.report.candidate_sets import measured_tasks, ranked, tasks_title
from biencoder_ablate.report.diagnostics import Baseline, find_leakage, selection
from biencoder_ablate.report.examples import SideBySide
from biencoder_ablate.report.paper import paper_table
from biencoder_ablate.report.parts import void_sentences
from biencoder_ablate.report.parts_tables import costs_table, parts_blocks
from biencoder_ablate.report.plot_style import Plot
from biencoder_ablate.report.read import Collection, Protocol
from biencoder_ablate.report.sentences import Answer
from biencoder_ablate.report.statistics import ALPHA, FEW_SEEDS, MAX_EXACT_SEEDS, seeds_needed
from biencoder_ablate.report.tuning import budgets_table, choices_table, order_by_budget
from biencoder_ablate.runs.records import metric_in_words
from biencoder_ablate.runs.tuning import Tuning
from biencoder_ablate.version import __version__

MOST_MARKDOWN_ROWS = 60  # of a table of runs; the page and runs.csv have all
CITATION = f"biencoder-ablate developers. biencoder-ablate, version {__version__}. Software (CITATION.cff)."
Block = tuple[str, Any]


@dataclass(frozen=True, eq=False)
class Section:
    """A part of the report under its own heading. `key` names it in links."""

    key: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True, eq=False)
class StudyReport:
    """Everything that is shown of one study: the answers, the plots and the table they rest on, and the sections.

    `prefix` begins its ids, `folder` is where its plots lie.
    """

    analysis: Analysis
    headline: str
    others: Sequence[Baseline]
    reading: str
    answers: Sequence[Answer]
    opening: Sequence[Plot]
    table: tables.Table
    sections: Sequence[Section]
    plots: Sequence[Plot]
    texts: SplitTexts
    prefix: str
    folder: str

    @property
    def ranked(self) -> str:
        """Among what the runs looked for answers, in words."""
        return ranked(self.analysis.study.runs)


# --- sections ---


def study_report(
    analysis: Analysis,
    others: Sequence[Baseline],
    plots: Sequence[Plot],
    pairs: Sequence[SideBySide],
    texts: SplitTexts,
    prefix: str,
    folder: str,
    breakdown: Breakdown | None = None,
    tuning: Tuning | None = None,
) -> StudyReport:
    """The sections on one study, those without contents left out. `others` are the baselines beside its metrics,
    `breakdown` its figures by a column of the queries, and `tuning` how its variants have chosen their settings."""
    study = analysis.study
    several = len(analysis.main.settings) > 1
    groups = tables.groups_table(analysis, others)
    # What a verdict cannot be about comes before it.
    said = [*void_sentences(analysis), sentences.headline(analysis, others), *order_among_answers(analysis)]
    headline = " ".join(said)
    sections: list[Section] = []

    # A sentence that one section has said is left out of the later ones.
    seen = {headline}

    def add(key: str, title: str, *blocks: Block) -> None:
        if blocks:
            sections.append(Section(key, title, _without_repeats(blocks, seen)))

    add("differences", "Differences", *_comparisons(analysis, plots))
    add("parts", "Parts", *parts_blocks(analysis))
    if several:
        overview = tables.overview_table(analysis)
        add("configurations", "Configurations", ("table", overview), ("table", groups), *_plot_blocks(plots, "seeds"))
    else:  # the configurations' table stands beside the answers
        add("configurations", "Seed by seed", *_plot_blocks(plots, "seeds"))
    if breakdown is not None:
        add("breakdown", f"By {breakdown.column}", ("table", breakdown_table(analysis, breakdown)))
    if tuning is not None:
        add(
            "tuning",
            "Tuning",
            ("paragraph", [order_by_budget(study, tuning)]),
            ("table", choices_table(study, tuning)),
            ("table", budgets_table(study, tuning)),
        )
    learning = _plot_blocks(plots, "learning_curves", "learning_curves_by_setting", "dead_pairs")
    if study.trained_here:
        learning.append(("table", costs_table(analysis)))
    add("learning", "Learning", *learning)

    # Checks of the verdict: another rule of picking the epoch, texts shared between splits, other candidates.
    epochs = selection(analysis)
    if epochs is not None:
        add(
            "selection",
            "Which epoch",
            ("paragraph", [sentences.selected(epochs)]),
            ("table", tables.selection_table(analysis, epochs)),
        )
    leakage = find_leakage(analysis)
    if leakage and any(shift.clean != shift.official for shift in leakage.shifts):
        add(
            "leakage",
            "Leakage",
            ("paragraph", [leakage.sentence]),
            ("table", tables.leakage_table(leakage)),
        )
    tasks = measured_tasks(study.runs)
    if tasks:
        of_tasks = tables.tasks_table(study, analysis.main)
        add("tasks", tasks_title(tasks), *_plot_blocks(plots, "tasks"), ("table", of_tasks))

    if pairs:
        add(
            "debates",
            f"{analysis.words.group.capitalize()} by {analysis.words.group}",
            ("debates", _debates(analysis, pairs, prefix)),
        )
    add("declared", "Declared beforehand", ("list", declared(analysis)))
    if study.trained_here:
        add(
            "reproduce",
            "Settings, versions, commands",
            ("table", tables.constants_table(study)),
            ("table", tables.versions_table(study)),
            ("table", tables.runs_table(study)),
        )
    return StudyReport(
        analysis=analysis,
        headline=headline,
        others=others,
        reading=sentences.reading(analysis),
        answers=sentences.answers(analysis),
        opening=[plot for _, plot in _plot_blocks(plots, "forest")],
        table=tables.arms_table(analysis, others) if several else groups,
        sections=sections,
        plots=plots,
        texts=texts,
        prefix=prefix,
        folder=folder,
    )


def _plot_blocks(plots: Sequence[Plot], *names: str) -> list[Block]:
    """The plots of these names, or of these names and a page number."""
    pattern = rf"({'|'.join(names)})(_\d+)?"
    return [("plot", plot) for plot in plots if re.fullmatch(pattern, plot.name)]


def _comparisons(analysis: Analysis, plots: Sequence[Plot]) -> list[Block]:
    """What follows the answers, then every family with its table; those of single settings at the end."""
    blocks: list[Block] = []
    findings = sentences.findings(analysis)
    if findings:
        blocks.append(("list" if len(findings) > 1 else "paragraph", findings))
    blocks += _plot_blocks(plots, "forest_more")

    # Families of single settings go below the others, under a heading of their own.
    by_setting = _plot_blocks(plots, "forest_by_setting")
    for k, family in enumerate(analysis.families):
        place = by_setting if family.kind is Kind.SETTING else blocks
        place.append(("table", tables.family_table(family, analysis.primary, f"family{k}")))
        place.append(("note", sentences.about(analysis.study, family)))
        if k == 0 and place is blocks:
            place.append(("table", tables.power_table(family, analysis.words)))
    if analysis.notes:
        blocks += [("heading", "Not asked"), ("list", analysis.notes)]
    if by_setting:
        blocks += [("heading", "Setting by setting"), *by_setting]
    return blocks


def _debates(
    analysis: Analysis,
    pairs: Sequence[SideBySide],
    prefix: str,
) -> list[tuple[SideBySide, tables.Table]]:
    """The pairs of arms with their tables, beginning with the first one that the best arm is in."""
    best = analysis.verdict.best if analysis.verdict else None
    first = next((pair for pair in pairs if best in (pair.a, pair.b)), None)
    ordered = sorted(pairs, key=lambda pair: pair is not first)
    return [(pair, tables.debates_table(pair, f"{prefix}debates{k}", analysis.words)) for k, pair in enumerate(ordered)]


def declared(analysis: Analysis) -> list[str]:
    """What was fixed before any metric was seen: templates/declared.txt.j2 says it alike for every sweep."""
    # Runs may follow several rules of picking the epoch; the last epoch is no maximum, and comes at the end.
    selects = {(run.identity.get("evaluation") or {}).get("select", "top1") for run in analysis.study.runs}
    names = []
    for select in sorted(selects - {"last"}):
        clean, _, metric = metric_in_words(select).rpartition(" ")
        names.append(f"best {clean or 'official'} val {metric}")
    best = " or ".join(names)
    rules = []
    if best:
        rules.append(f"the epoch with the {best} (the first on a tie)")
    if "last" in selects:
        rules.append("the last epoch")
    text = render_template(
        "declared.txt.j2",
        analysis=analysis,
        clean=Protocol.CLEAN,
        official=Protocol.OFFICIAL,
        rule=" or ".join(rules),
        alpha=ALPHA,
        most_exact=MAX_EXACT_SEEDS,
        needed=seeds_needed(6),
        few=FEW_SEEDS,
    )
    return [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]


def _without_repeats(blocks: Sequence[Block], seen: set[str]) -> list[Block]:
    """Blocks without the sentences that are in `seen` already, where these are noted."""
    kept: list[Block] = []
    for kind, content in blocks:
        if kind in ("paragraph", "note", "list"):
            content = [sentence for sentence in content if sentence not in seen]
            seen.update(content)
            if not content:
                continue
        kept.append((kind, content))
    return kept


def missing_section(collection: Collection, studies: Sequence[StudyReport]) -> Section:
    """Which runs and seeds are not there, and how to go on."""
    table = tables.missing_table(collection.runs, [report.analysis.study for report in studies], collection.sweeps)
    lines = [sentences.tally(collection.runs), *collection.notes]
    blocks: list[Block] = [("list", lines)]
    if table.rows:
        blocks.append(("table", table))
    else:
        lines.append("Every configuration has every seed.")
    return Section("missing", "What is missing", blocks)


# --- written down ---


def page(studies: Sequence[StudyReport], last: Section, command: str, version: str) -> str:
    """The report as one HTML page that holds everything it shows: verdict first, no network, all text escaped."""
    templates = resources.files("biencoder_ablate.report").joinpath("templates")
    script = templates.joinpath("page.js").read_text("utf-8")
    return render_template(
        "page.html.j2",
        studies=studies,
        last=last,
        command=command,
        version=version,
        citation=CITATION,
        script=Markup(script),
        css=Markup(templates.joinpath("page.css").read_text("utf-8")),
        digest=hashlib.sha256(script.encode()).digest(),
    )


def markdown(studies: Sequence[StudyReport], last: Section, command: str) -> str:
    """report.md: what the page says, for a repository or a terminal; plots are linked, texts are on the page."""
    return render_template("report.md.j2", studies=studies, last=last, command=Markup(command), citation=CITATION)


def latex(analysis: Analysis, headline: str, others: Sequence[Baseline]) -> str:
    """table.tex: the table for a paper, with booktabs, caption and label, as paper.py builds it.

    Narrower than the page's table: with one or two axes it fits the text of an article, or nearly.
    """
    # A comment ends with its line, and needs no escaping.
    comment = " ".join(f"{analysis.study.name}: {headline}".split())
    return render_template(
        "table.tex.j2",
        comment=Markup(comment),
        analysis=analysis,
        table=paper_table(analysis, others),
    )


def render_template(name: str, **values: Any) -> str:
    """The text of a template in templates/ with these values, each escaped as the kind of file needs it.

    What is Markup already stays as it is.
    """
    kind = name.split(".")[1]
    escape = _ESCAPES.get(kind)

    def escaped(value: Any) -> Any:
        if escape is None or isinstance(value, Markup):  # HTML is escaped by Jinja itself
            return value
        return Markup(escape(str(value)))

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("biencoder_ablate.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=escaped,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        **(_LATEX_DELIMITERS if kind == "tex" else {}),
    )
    environment.filters |= {
        "base64": lambda content: base64.b64encode(content).decode(),
        "format_value": tables.format_value,
        "interval_text": tables.interval_text,
        "cell": markdown_cell,
        "shortened": shortened,
    }
    return environment.get_template(name).render(**values)


def shortened(table: tables.Table) -> tuple[tables.Table, int]:
    """What Markdown has of a table, and how many rows it leaves to the page.

    Of finished runs their names and commands alone; of runs not started only how many there are.
    """
    if table.key not in ("runs", "missing-runs"):
        return table, 0
    rows = [row for row in table.rows if "not started" not in row][:MOST_MARKDOWN_ROWS]
    num_left = len(table.rows) - len(rows)
    if table.key == "missing-runs":
        return replace(table, rows=rows), num_left

    # Of finished runs, only how to make them again.
    kept = [k for k, column in enumerate(table.columns) if column.name in ("run", "command")]
    short = replace(
        table,
        caption="The command that makes each run again.",
        columns=[table.columns[k] for k in kept],
        rows=[tuple(row[k] for k in kept) for row in rows],
    )
    return short, num_left


# --- escaped ---


def markdown_text(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    return _one_line(re.sub(r"([\\`*_{}\[\]<>|#~$])", r"\\\1", text))


def markdown_cell(value: tables.Value, column: tables.Column) -> Markup:
    """A table's value; code between as many backticks as it takes."""
    text = _one_line(tables.format_value(value, column))
    if not column.code or not text:
        return Markup(markdown_text(text))

    # A run of backticks within the code must be shorter than those around it, and may not touch them.
    longest = max(map(len, re.findall("`+", text)), default=0)
    ticks = "`" * (longest + 1)
    space = " " if longest else ""
    return Markup(f"{ticks}{space}{text}{space}{ticks}".replace("|", "\\|"))


_LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "×": r"$\times$",
    "±": r"$\pm$",
    "•": r"$\bullet$",
    tables.MINUS: "$-$",
    tables.NOTHING: "--",
}


def latex_text(text: str) -> str:
    """Text that LaTeX sets as it is, on one line."""
    return "".join(_LATEX.get(character, character) for character in _one_line(text))


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text)


_ESCAPES: Mapping[str, Callable[[str], str]] = {
    "md": markdown_text,
    "tex": latex_text,
    "txt": str,
}
"""Kind of template → how what it prints is escaped."""

# In place of Jinja's own, as LaTeX needs braces and percent signs for itself.
_LATEX_DELIMITERS: dict[str, Any] = {
    "variable_start_string": "<<",
    "variable_end_string": ">>",
    "block_start_string": "<%",
    "block_end_string": "%>",
    "comment_start_string": "<#",
    "comment_end_string": "#>",
}
