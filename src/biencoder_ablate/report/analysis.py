"""The questions that a report asks of its runs, each as one family of comparisons, and the answers.

Which questions are asked depends on what was varied and which runs there are, never on their figures.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from biencoder_ablate.report.balance import Arms, arms_of, outcomes
from biencoder_ablate.report.grouping import BEFORE, Axis, Study, in_words
from biencoder_ablate.report.leakage import Leakage, leakage
from biencoder_ablate.report.statistics import (
    HEADS,
    Contrast,
    ContrastResult,
    GroupSummary,
    compare,
    factorial_effects,
    head_pairs,
    setting_interactions,
    summarise,
)
from biencoder_ablate.report.verdict import Verdict, verdict

ALPHA = 0.05
NUM_RESAMPLES = 10_000
MOST_CELLS = 12  # configurations compared each with each where no axis can be: 66 pairs
PROTOCOLS = ("clean", "official")


@dataclass(frozen=True, eq=False)
class Family:
    """One family of tests: `primary` decides, `beside` are the same comparisons of the other figure.

    kind: effects, pairs, interaction, setting (pairs within one setting), axis or variants. `subject` is what
    varies: an axis, or the setting that all comparisons are within.
    """

    kind: str
    subject: str
    title: str
    arms: Arms
    primary: tuple[ContrastResult, ...]
    beside: tuple[ContrastResult, ...]
    verdict: Verdict | None = None
    verdict_beside: Verdict | None = None


@dataclass(frozen=True, eq=False)
class Analysis:
    """All answers on one study. `primary` is clean, or official where no test point counts as clean.

    `summaries` hold a cell's figures under both protocols, by its name. `main` are the arms that the verdict
    is about: the levels of the main axis averaged over settings, or the cells themselves where there is no
    setting that all levels ran in. None where there is nothing to compare.
    """

    study: Study
    primary: str
    num_points: dict[str, int]
    num_debates: dict[str, int]
    summaries: dict[str, dict[str, GroupSummary]]
    main: Arms | None
    families: tuple[Family, ...]
    leakage: Leakage | None
    notes: tuple[str, ...]

    def family(self, kind: str) -> Family | None:
        """The first family of a kind."""
        return next((family for family in self.families if family.kind == kind), None)

    @property
    def verdict(self) -> Verdict | None:
        """The verdict on the main axis."""
        pairs = self.family("pairs")
        return pairs.verdict if pairs else None

    @property
    def headline(self) -> str:
        """The verdict as a sentence, or why there is none."""
        if self.verdict is not None:
            return self.verdict.sentence
        if len(self.study.cells) < 2:
            return f"Nothing to compare: all finished runs are of one configuration. {self._only_figure}"
        axis = self.study.axes[0].name
        return f"No verdict over all settings: no setting has finished runs of every {axis}."

    @property
    def _only_figure(self) -> str:
        found = self.summaries[self.study.cells[0].name][self.primary]
        sure = f" (95% interval {found.low:.3f} to {found.high:.3f})" if found.num_seeds > 1 else ""
        seeds = f"{found.num_seeds} seeds" if found.num_seeds > 1 else "one seed, which says nothing of others"
        return f"Its {self.primary} test top-1 is {found.mean:.3f}{sure}, over {seeds}."


def analyse(study: Study) -> Analysis:
    """Ask everything that the study's runs can answer."""
    run = study.runs[0]
    assert run.outcomes is not None
    counts = ~np.isnan(run.outcomes.clean)
    debates = {
        "clean": [d for d, counted in zip(run.outcomes.debates, counts, strict=True) if counted],
        "official": list(run.outcomes.debates),
    }
    primary = "clean" if counts.any() else "official"
    asker = _Asker(study, primary, debates)
    families, notes = _ask(asker)
    pairs = next((family for family in families if family.kind == "pairs"), None)
    return Analysis(
        study,
        primary,
        {protocol: len(names) for protocol, names in debates.items()},
        {protocol: len(set(names)) for protocol, names in debates.items()},
        {
            cell.name: {protocol: summarise(outcomes(cell, protocol)) for protocol in PROTOCOLS if debates[protocol]}
            for cell in study.cells
        },
        pairs.arms if pairs else None,
        tuple(families),
        leakage(pairs.arms, pairs.primary, pairs.beside, ALPHA) if pairs and primary == "clean" else None,
        tuple(notes),
    )


@dataclass(frozen=True, eq=False)
class _Asker:
    study: Study
    primary: str
    debates: dict[str, list[str]]

    def ask(
        self, kind: str, subject: str, title: str, arms: Arms, contrasts: Sequence[Contrast], judge: bool = False
    ) -> Family:
        """Compare under both protocols; `judge` where the contrasts hold every pair of the arms."""
        found: dict[str, tuple[ContrastResult, ...]] = {}
        verdicts: dict[str, Verdict] = {}
        for protocol in PROTOCOLS:
            if not self.debates[protocol]:
                found[protocol] = ()
                continue
            groups = arms.groups(protocol)
            results = compare(groups, self.debates[protocol], contrasts, num_resamples=NUM_RESAMPLES)
            found[protocol] = results
            if judge:
                verdicts[protocol] = verdict(groups, results, ALPHA)
        other = "official" if self.primary == "clean" else "clean"
        return Family(
            kind,
            subject,
            title,
            arms,
            found[self.primary],
            found[other],
            verdicts.get(self.primary),
            verdicts.get(other),
        )


def _ask(asker: _Asker) -> tuple[list[Family], list[str]]:
    study = asker.study
    notes: list[str] = []
    if len(study.cells) < 2:
        return [], notes
    main = study.axes[0]
    levels = _standard(main)
    families = _over_settings(asker, 0, levels, "pairs", notes)
    for k in range(1, len(study.axes)):
        families += _interaction(asker, levels, k, notes)
    families += _setting_by_setting(asker, families, levels)
    if len(levels) < len(main.levels):
        families += _over_settings(asker, 0, main.levels, "variants", notes)
    for k in range(1, len(study.axes)):
        families += _over_settings(asker, k, study.axes[k].levels, "axis", notes)
    if not families and len(study.cells) <= MOST_CELLS:
        families.append(_cell_by_cell(asker))
    return families, notes


def _cell_by_cell(asker: _Asker) -> Family:
    """All pairs of configurations, where no axis's levels meet under otherwise equal settings."""
    cells = asker.study.cells
    seeds = set.intersection(*(set(cell.runs) for cell in cells))
    arms = Arms(tuple(cell.name for cell in cells), (), {cell.name: (cell,) for cell in cells}, tuple(sorted(seeds)))
    return asker.ask("pairs", "configuration", "Every pair of configurations", arms, head_pairs(arms.names), judge=True)


def _standard(axis: Axis) -> tuple[str, ...]:
    """The levels that the main verdict is about: without the ReLU before linear2 where both places occur."""
    levels = tuple(level for level in axis.levels if not level.endswith(BEFORE))
    return levels if axis.name == "head" and len(levels) > 1 else axis.levels


def _over_settings(asker: _Asker, k: int, levels: Sequence[str], kind: str, notes: list[str]) -> list[Family]:
    """All pairs of an axis's levels, averaged over settings; for heads, the 2×2 effects before them."""
    study, axis = asker.study, asker.study.axes[k]
    arms = arms_of(study, [(in_words(axis, level), {k: level}) for level in levels])
    if arms is None:
        notes.append(
            f"{_plural(axis).capitalize()} are not compared over settings: no setting has finished runs of all."
        )
        return []
    families = []
    heads = {head: head for head in HEADS}
    before = {head: head + BEFORE * ("relu" in head) for head in HEADS}
    if axis.name == "head" and kind == "pairs" and set(HEADS) <= set(levels):
        title = "LayerNorm, ReLU, and their interaction"
        families.append(asker.ask("effects", axis.name, title, arms, factorial_effects(heads)))
    if kind == "variants" and set(before.values()) <= set(levels):
        title = "The same with the ReLU before linear2"
        families.append(asker.ask("effects before", axis.name, title, arms, factorial_effects(before)))
    title = {
        "pairs": f"Every pair of {_plural(axis)}",
        "variants": "Every pair of heads, with those that have the ReLU before linear2",
        "axis": f"{axis.name.capitalize()}: every pair of levels",
    }[kind]
    return [*families, asker.ask(kind, axis.name, title, arms, head_pairs(arms.names), judge=True)]


def _interaction(asker: _Asker, levels: Sequence[str], k: int, notes: list[str]) -> list[Family]:
    """Does what the main axis does depend on another axis? Against that axis's first usable level."""
    study, main, axis = asker.study, asker.study.axes[0], asker.study.axes[k]
    usable = [
        level for level in axis.levels if arms_of(study, [(head, {0: head, k: level}) for head in levels]) is not None
    ]
    chosen = [(f"{head}, {in_words(axis, level)}", {0: head, k: level}) for level in usable for head in levels]
    arms = arms_of(study, chosen) if len(usable) > 1 else None
    if arms is None:
        notes.append(
            f"Whether {main.name} and {axis.name} interact is not asked: it needs two levels of {axis.name} "
            f"with finished runs of every {main.name}, all else equal."
        )
        return []
    effects = {}
    for level in usable:
        names = {head: f"{head}, {in_words(axis, level)}" for head in levels}
        four = main.name == "head" and set(HEADS) <= set(levels)
        effects[in_words(axis, level)] = (
            factorial_effects(names)
            if four
            else tuple(
                Contrast(pair.name, tuple((names[head], weight) for head, weight in pair.weights))
                for pair in head_pairs(tuple(levels))
            )
        )
    title = f"Does what the {main.name} does depend on {axis.name}?"
    return [asker.ask("interaction", axis.name, title, arms, setting_interactions(effects))]


def _setting_by_setting(asker: _Asker, families: Sequence[Family], levels: Sequence[str]) -> list[Family]:
    """All pairs of the main axis's levels within each setting, each setting a family of its own."""
    study, main = asker.study, asker.study.axes[0]
    pooled = next((family for family in families if family.kind == "pairs"), None)
    if pooled is not None and len(study.axes) == 1:
        return []
    found = []
    for rest in dict.fromkeys(cell.levels[1:] for cell in study.cells):
        cells = {cell.levels[0]: cell for cell in study.cells if cell.levels[1:] == rest}
        here = [level for level in levels if level in cells]
        if len(here) < 2:
            continue
        seeds = sorted(set.intersection(*(set(cells[level].runs) for level in here)))
        words = ", ".join(in_words(axis, level) for axis, level in zip(study.axes[1:], rest, strict=True))
        names = tuple(in_words(main, level) for level in here)
        arms = Arms(
            names,
            (words,),
            {name: (cells[level],) for name, level in zip(names, here, strict=True)},
            tuple(seeds),
        )
        found.append(asker.ask("setting", words, words, arms, head_pairs(names), judge=True))
    return found


def _plural(axis: Axis) -> str:
    return "heads" if axis.name == "head" else f"levels of {axis.name}"
