"""The table for a paper: rows of configurations with marks for what is told apart, then what needs no training."""

from __future__ import annotations

import re
import string
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from biencoder_ablate.report.analysis import Analysis, Kind
from biencoder_ablate.report.comparisons import GroupSummary, summarise
from biencoder_ablate.report.diagnostics import Baseline
from biencoder_ablate.report.read import Protocol
from biencoder_ablate.report.statistics import ALPHA
from biencoder_ablate.report.tables import METRIC, NOTHING, format_value, interval_text


@dataclass(frozen=True)
class PaperRow:
    """A row: its names, its number of seeds, then for each protocol the mean, with its ± where there are several seeds.

    `letter` is what other rows call it, `marks` are of what it is told apart from.
    """

    names: Sequence[str]
    seeds: str
    means: Sequence[tuple[str, str]]
    interval: str
    letter: str = ""
    marks: str = ""


@dataclass(frozen=True)
class PaperTable:
    """Blocks of rows with a rule between them; each row's names stand under `names`, its means under `figures`."""

    names: Sequence[str]
    figures: Sequence[str]
    blocks: Sequence[Sequence[PaperRow]]
    caption: Sequence[str]
    label: str


def paper_table(analysis: Analysis, others: Sequence[Baseline]) -> PaperTable:
    """The configurations' table, after the verdict's averages where there are several settings; the baselines last."""
    study, star = analysis.study, analysis.star
    averaged = len(analysis.main.settings) > 1
    letters, marks, explained = _marks(analysis)
    names = ["change"] if star else [axis.name for axis in study.axes] or ["configuration"]
    num_names = len(names)

    # Of an average, what the verdict is about comes first; else a configuration is an arm, and has its marks.
    arms = []
    arm_of = {}
    for k, name in enumerate(analysis.main.names):
        (first, *_) = analysis.main.cells[name]
        arm_of[first.name] = name
        if averaged:
            by_protocol = {each: summarise(analysis.main.groups(each)[k]) for each in analysis.protocols}
            row_names = [name, *["mean"] * (num_names - 1)]
            arms.append(_row(analysis, row_names, by_protocol, letters.get(name, ""), marks.get(name, "")))
    cells = []
    in_order = sorted(study.cells, key=lambda cell: star is not None and cell is not star.centre)
    for cell in in_order:
        row_names = [level.text for level in cell.levels] or [cell.name]
        if star:
            row_names = [star.changes.get(cell.name, "none: the centre")]
        arm = "" if averaged else arm_of.get(cell.name, "")
        summaries = analysis.summaries[cell.name]
        cells.append(_row(analysis, row_names, summaries, letters.get(arm, ""), marks.get(arm, "")))

    baselines = []
    for other in others:
        values = [other.figures.get(analysis.key(protocol)) for protocol in analysis.protocols]
        means = [(format_value(value, METRIC), "") for value in values]
        baselines.append(PaperRow([other.label, *[""] * (num_names - 1)], NOTHING, means, NOTHING))

    test = "test " if study.trained_here else ""
    figures = [f"{test}{analysis.measure}"]
    if analysis.protocols_differ and study.trained_here:
        figures = [f"{protocol} {name}" for protocol in analysis.protocols for name in figures]
    return PaperTable(
        names,
        figures,
        [block for block in (arms, cells, baselines) if block],
        _caption(analysis, explained, bool(baselines)),
        f"tab:{re.sub('[^a-z0-9]+', '-', study.name.lower()).strip('-')}",
    )


def _row(
    analysis: Analysis,
    names: Sequence[str],
    summaries: dict[Protocol, GroupSummary],
    letter: str,
    marks: str,
) -> PaperRow:
    first = summaries[analysis.primary]
    means = []
    for protocol in analysis.protocols:
        summary = summaries[protocol]
        deviation = format_value(summary.standard_deviation, METRIC)
        means.append((format_value(summary.mean, METRIC), "" if deviation == NOTHING else deviation))
    return PaperRow(names, str(first.num_seeds), means, interval_text(first.low, first.high), letter, marks)


def _marks(analysis: Analysis) -> tuple[dict[str, str], dict[str, str], str]:
    """A letter for each arm, the marks of those told apart from others, and what the marks mean.

    Against a baseline the mark is a star. Of pairs it is the letters of the arms that one is significantly above.
    """
    parts, pairs = analysis.family(Kind.PARTS), analysis.family(Kind.PAIRS)
    holm = f"Holm p < {ALPHA:g}"
    if parts is not None:
        marks = {}
        for result in parts.primary:
            (arm,) = (name for name, weight in result.contrast.weights if weight > 0)
            if result.is_significant():
                marks[arm] = "*"
        baseline = "the centre" if analysis.star else parts.baseline
        return {}, marks, f"*: told apart from {baseline} ({holm}, {len(parts.primary)} comparisons)."
    if pairs is None or len(pairs.arms.names) > len(string.ascii_lowercase):
        return {}, {}, ""
    letters = dict(zip(pairs.arms.names, string.ascii_lowercase, strict=False))
    lower = defaultdict(list)
    for result in pairs.primary:
        if result.is_significant():
            sign = 1 if result.estimate > 0 else -1
            by_weight = {weight * sign: name for name, weight in result.contrast.weights}
            lower[by_weight[1]].append(letters[by_weight[-1]])
    marks = {name: "".join(sorted(below)) for name, below in lower.items()}
    return (
        letters,
        marks,
        f"Superscripts: significantly above the rows of these letters ({holm}, {len(pairs.primary)} comparisons).",
    )


def _caption(analysis: Analysis, explained: str, with_baselines: bool) -> list[str]:
    measure = f"{analysis.measure[0].upper()}{analysis.measure[1:]}"
    sentences = [
        f"{measure} on {analysis.study.name} ({analysis.asked}): mean ± standard deviation over seeds, and the 95% "
        "interval of the mean (Student's t).",
    ]
    if analysis.study.trained_here:
        sentences.append("The epoch is chosen on the validation split.")
    if analysis.star:
        sentences.append(f"Each row changes one thing of the centre ({analysis.star.centre.name}).")
    if explained:
        sentences.append(explained)
    if with_baselines:
        sentences.append("Below the last rule: what needs no training.")
    return sentences
