"""What a report shows, section by section, whatever the format: page.py and markdown_report.py write it down."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from biencoder_ablate.report import words
from biencoder_ablate.report.analysis import Analysis, Family
from biencoder_ablate.report.beside_source import BesideSource
from biencoder_ablate.report.collect import Collection
from biencoder_ablate.report.figures import all_arms
from biencoder_ablate.report.grouping import Study
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
from biencoder_ablate.report.wins import Texts, Wins


@dataclass(frozen=True, eq=False)
class StudyParts:
    """Everything that is shown of one study."""

    analysis: Analysis
    pictures: Sequence[Picture]
    wins: Sequence[Wins]
    texts: Texts


@dataclass(frozen=True)
class Heading:
    """A heading within a section."""

    text: str


@dataclass(frozen=True)
class Words:
    """Sentences: a `list`, or one `paragraph` or small `note` each."""

    sentences: tuple[str, ...]
    kind: str = "list"


@dataclass(frozen=True, eq=False)
class Debates:
    """Debate by debate, with the texts: too long for anything but the page."""

    parts: StudyParts


Block = Heading | Words | Table | Picture | Debates


@dataclass(frozen=True, eq=False)
class Section:
    """`key` names it in links."""

    key: str
    title: str
    blocks: tuple[Block, ...]


def opening(analysis: Analysis) -> list[Block]:
    """What follows the verdict itself: the overview of settings, and what else was found."""
    overview = overview_table(analysis)
    return [*([overview] if overview else []), *_sentences(words.findings(analysis))]


def study_sections(parts: StudyParts) -> list[Section]:
    """The sections on one study, those without contents left out."""
    analysis, study = parts.analysis, parts.analysis.study
    learning = _pictures(parts, "learning_curves", "learning_curves_by_setting", "dead_pairs")
    leakage = leakage_table(analysis)
    about_leakage: list[Block] = []
    if leakage is not None and analysis.leakage is not None:
        about_leakage = [Words((analysis.leakage.sentence,), "paragraph"), leakage]
    sections: list[tuple[str, str, list[Block]]] = [
        ("configurations", "Configurations", [groups_table(analysis), *_pictures(parts, "seeds")]),
        ("differences", "Differences", _differences(parts)),
        ("learning", "Learning", learning),
        ("leakage", "Leakage", about_leakage),
        ("tasks", "The eight tasks", [*_pictures(parts, "tasks"), tasks_table(all_arms(analysis))]),
        ("debates", "Debate by debate", [Debates(parts)] if parts.wins else []),
        ("declared", "Declared beforehand", _sentences(words.declared(analysis))),
        (
            "reproduce",
            "Settings, versions, commands",
            [constants_table(study), versions_table(study), runs_table(study)],
        ),
    ]
    return [Section(key, title, tuple(blocks)) for key, title, blocks in sections if blocks]


def source_section(source: BesideSource) -> Section:
    """The source study's logs, and our runs where they have its figures."""
    problem = [Words((source.problem,), "note")] if source.problem else []
    return Section("source", "Beside the source study", (*problem, *source.pictures, source.table))


def missing_section(collection: Collection, studies: Sequence[Study]) -> Section:
    """Which runs and seeds are not there, and how to go on."""
    table = missing_table(collection.runs, studies, collection.sweeps)
    said = [words.tally(collection.runs), *collection.notes]
    if not table.rows:
        said.append("Every configuration has every seed.")
    return Section("missing", "What is missing", (Words(tuple(said)), *([table] if table.rows else [])))


def _sentences(said: Sequence[str]) -> list[Block]:
    return [Words(tuple(said))] if said else []


def _differences(parts: StudyParts) -> list[Block]:
    analysis = parts.analysis
    if not analysis.families:
        return []
    blocks = _pictures(parts, "forest")
    within: list[Block] = []
    for k, family in enumerate(analysis.families):
        (within if family.kind == "setting" else blocks).extend(_family(analysis, family, f"family{k}"))
    if within:
        blocks += [Heading("Setting by setting"), *_pictures(parts, "forest_by_setting"), *within]
    return blocks


def _family(analysis: Analysis, family: Family, key: str) -> list[Block]:
    said = [family.verdict.sentence] if family.verdict else []
    if family.kind != "setting" and len(family.arms.settings) > 1:
        said.append(f"Averaged over {words.settings_in_words(analysis.study, family.arms)}.")
    said += words.notes(family)
    return [family_table(family, analysis.primary, key), *([Words(tuple(said), "note")] if said else [])]


def _pictures(parts: StudyParts, *names: str) -> list[Block]:
    """The pictures of these names, or of these names and a page number."""
    return [p for name in names for p in parts.pictures if p.name == name or p.name.rstrip("0123456789") == f"{name}_"]
