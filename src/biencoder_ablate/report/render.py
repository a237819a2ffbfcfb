"""What a report shows, section by section, built once; templates/ write it down as a page and as Markdown.

A block is a kind with what it shows: ("paragraph" | "note" | "list", sentences), ("heading", text), ("table", Table),
("picture", Picture), ("debates", Debates). Everything is escaped where it is printed.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from biencoder_ablate.report import sentences
from biencoder_ablate.report.examples import SideBySide, Texts
from biencoder_ablate.report.plots import all_arms
from biencoder_ablate.report.questions import Analysis, Family, Kind
from biencoder_ablate.report.read import Collection
from biencoder_ablate.report.style import Picture
from biencoder_ablate.report.tables import (
    Column,
    Table,
    Value,
    constants_table,
    debates_table,
    family_table,
    groups_table,
    leakage_table,
    missing_table,
    overview_table,
    runs_table,
    shown,
    tasks_table,
    versions_table,
)

MOST_MARKDOWN_ROWS = 60  # of a table of runs; the page and runs.csv have all
Block = tuple[str, Any]


@dataclass(frozen=True, eq=False)
class Debates:
    """Pairs of arms debate by debate, each with its table, and the texts."""

    primary: str
    pairs: tuple[tuple[SideBySide, Table], ...]
    texts: Texts


@dataclass(frozen=True, eq=False)
class Section:
    """`key` names it in links; one for the page alone is too long for anything else."""

    key: str
    title: str
    blocks: tuple[Block, ...]
    page_only: bool = False


@dataclass(frozen=True, eq=False)
class StudyReport:
    """Everything that is shown of one study: its verdict, what follows it at once, and the sections.

    `prefix` begins its ids, `folder` is where its figures lie.
    """

    analysis: Analysis
    opening: tuple[Block, ...]
    sections: tuple[Section, ...]
    pictures: tuple[Picture, ...]
    prefix: str
    folder: str

    @property
    def title(self) -> str:
        """The question on top of the page."""
        axes = self.analysis.study.axes
        return f"Which {axes[0].name.split('.')[-1]}?" if axes else "One configuration"

    @property
    def facts(self) -> str:
        """How much there was to answer it with."""
        analysis, study = self.analysis, self.analysis.study
        points, debates = analysis.num_points[analysis.primary], analysis.num_debates[analysis.primary]
        return (
            f"corpus {study.name} · {len(study.runs)} finished runs, {len(study.cells)} configurations, "
            f"{len(study.seeds)} seeds · {points} {analysis.primary} test points of {debates} debates"
        )


def study_report(
    analysis: Analysis,
    pictures: Sequence[Picture],
    pairs: Sequence[SideBySide],
    texts: Texts,
    prefix: str = "",
    folder: str = "figures",
) -> StudyReport:
    """The sections on one study, those without contents left out."""
    study = analysis.study
    overview = overview_table(analysis)
    learning = _pictures(pictures, "learning_curves", "learning_curves_by_setting", "dead_pairs")
    about_leakage: list[Block] = []
    if analysis.leakage is not None:
        about_leakage = [("paragraph", [analysis.leakage.sentence]), ("table", leakage_table(analysis.leakage))]
    best = analysis.verdict.best if analysis.verdict else None
    ordered = sorted(pairs, key=lambda pair: pair is not next((p for p in pairs if best in (p.a, p.b)), pairs[0]))
    tables = tuple((pair, debates_table(pair, f"{prefix}debates{k}")) for k, pair in enumerate(ordered))
    debates: list[Block] = [("debates", Debates(analysis.primary, tables, texts))] if pairs else []
    reproduce = [constants_table(study), versions_table(study), runs_table(study)]
    tasks: list[Block] = [*_pictures(pictures, "tasks"), ("table", tasks_table(all_arms(analysis)))]
    sections: list[tuple[str, str, list[Block]]] = [
        ("configurations", "Configurations", [("table", groups_table(analysis)), *_pictures(pictures, "seeds")]),
        ("differences", "Differences", _differences(analysis, pictures)),
        ("learning", "Learning", learning),
        ("leakage", "Leakage", about_leakage),
        ("tasks", "The eight tasks", tasks),
        ("debates", "Debate by debate", debates),
        ("declared", "Declared beforehand", [("list", sentences.declared(analysis))]),
        ("reproduce", "Settings, versions, commands", [("table", table) for table in reproduce]),
    ]
    opening: list[Block] = [("table", overview)] if overview else []
    if said := sentences.findings(analysis):
        opening.append(("list", said))
    return StudyReport(
        analysis,
        tuple(opening),
        tuple(Section(key, title, tuple(blocks), key == "debates") for key, title, blocks in sections if blocks),
        tuple(pictures),
        prefix,
        folder,
    )


def missing_section(collection: Collection, studies: Sequence[StudyReport]) -> Section:
    """Which runs and seeds are not there, and how to go on."""
    table = missing_table(collection.runs, [report.analysis.study for report in studies], collection.sweeps)
    said = [sentences.tally(collection.runs), *collection.notes]
    if not table.rows:
        return Section("missing", "What is missing", (("list", [*said, "Every configuration has every seed."]),))
    return Section("missing", "What is missing", (("list", said), ("table", table)))


def _differences(analysis: Analysis, pictures: Sequence[Picture]) -> list[Block]:
    blocks, within = _pictures(pictures, "forest"), _pictures(pictures, "forest_by_setting")
    for k, family in enumerate(analysis.families):
        (within if family.kind is Kind.SETTING else blocks).extend(_family(analysis, family, f"family{k}"))
    return [*blocks, *([("heading", "Setting by setting"), *within] if within else [])]


def _family(analysis: Analysis, family: Family, key: str) -> list[Block]:
    said = [family.verdict.sentence] if family.verdict else []
    if family.kind is not Kind.SETTING and len(family.arms.settings) > 1:
        said.append(f"Averaged over {sentences.settings_in_words(analysis.study, family.arms)}.")
    return [("table", family_table(family, analysis.primary, key)), ("note", said + sentences.notes(family))]


def _pictures(pictures: Sequence[Picture], *names: str) -> list[Block]:
    """The pictures of these names, or of these names and a page number."""
    return [("picture", p) for name in names for p in pictures if re.fullmatch(rf"{name}(_\d+)?", p.name)]


# --- written down ---


def page(studies: Sequence[StudyReport], last: Section, command: str, version: str) -> str:
    """The report as one HTML page that holds everything it shows: verdict first, no network, all text escaped."""
    templates = resources.files("biencoder_ablate.report").joinpath("templates")
    script, css = (templates.joinpath(name).read_text("utf-8") for name in ("page.js", "page.css"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return _template("page.html.j2").render(
        studies=studies, last=last, command=command, version=version, script=Markup(script), css=Markup(css),
        digest=digest,
    )  # fmt: skip


def markdown(studies: Sequence[StudyReport], last: Section, command: str) -> str:
    """report.md: what the page says, for a repository or a terminal; figures are linked, texts are on the page."""
    template = _template("report.md.j2", finalize=markdown_text)
    return template.render(studies=studies, last=last, command=Markup(command))


def _template(name: str, **settings: Any) -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("biencoder_ablate.report"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, **settings,
    )  # fmt: skip
    environment.filters |= {
        "base64": lambda data: base64.b64encode(data).decode(),
        "shown": shown,
        "cell": markdown_cell,
        "shortened": shortened,
    }
    return environment.get_template(name)


def markdown_text(value: object) -> Markup:
    """Anything as text that Markdown shows as it is; what is marked as Markdown stays."""
    if isinstance(value, Markup):
        return value
    text = re.sub(r"([\\`*_{}\[\]<>|#~$])", r"\\\1", str(value))
    return Markup(re.sub(r"\s+", " ", text))


def markdown_cell(value: Value, column: Column) -> Markup:
    """A table's value; code between as many backticks as it takes."""
    text = re.sub(r"\s+", " ", shown(value, column))
    if not column.code or not text:
        return markdown_text(text)
    ticks = "`" * (max((len(run) for run in re.findall("`+", text)), default=0) + 1)
    space = " " if "`" in text else ""
    return Markup(f"{ticks}{space}{text}{space}{ticks}".replace("|", "\\|"))


def shortened(table: Table) -> tuple[Table, int]:
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
