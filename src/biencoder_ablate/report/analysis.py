"""The questions that a report asks of its runs, each as one family of comparisons, and the answers.

Which questions are asked depends on what was varied and which runs there are, never on their figures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

import numpy as np

from biencoder_ablate.report.comparisons import (
    HEADS,
    Contrast,
    ContrastResult,
    GroupSummary,
    Verdict,
    against,
    compare,
    every_pair,
    factorial_effects,
    quoted,
    setting_interactions,
    summarise,
    verdict,
)
from biencoder_ablate.report.design import Star, star_of
from biencoder_ablate.report.read import Metric, Protocol, Run
from biencoder_ablate.report.statistics import seeds_needed
from biencoder_ablate.report.study import Arms, Axis, Cell, Level, Study, arms_of, cell_name, make_studies, shared_seeds
from biencoder_ablate.report.words import Words, words_of

MOST_CELLS = 12  # configurations compared each with each where no axis can be: 66 pairs
SWITCHES = {
    ("0", "1"),
    ("false", "true"),
    ("no", "yes"),
    ("off", "on"),
    ("without", "with"),
}  # levels without a name
HEAD_FACTORS = ("LayerNorm", "ReLU")
CHANGES = "changes"  # subject of the family that compares each change with the centre


class Kind(Enum):
    """What a family of comparisons asks."""

    EFFECTS = auto()  # main effects and interactions of a complete 2^k: LayerNorm and ReLU, or whatever factors
    PAIRS = auto()  # every pair of the main axis's levels: the verdict
    PARTS = auto()  # each of the main axis's levels against the baseline, in place of pairs
    EFFECTS_BEFORE = auto()  # the effects with the ReLU before linear2
    VARIANTS = auto()  # every pair of heads, those with the ReLU before linear2 too
    INTERACTION = auto()  # does what the main axis does depend on another?
    AXIS = auto()  # every pair of another axis's levels
    SETTING = auto()  # every pair of the main axis's levels within one setting


@dataclass(frozen=True, eq=False)
class Family:
    """One family of tests: `primary` decides, `beside` are the same comparisons under the other protocol.

    `subject` is what varies: an axis, or the setting that all comparisons are within.
    """

    kind: Kind
    subject: str
    title: str
    arms: Arms
    primary: tuple[ContrastResult, ...]
    beside: tuple[ContrastResult, ...]
    verdict: Verdict | None
    verdict_beside: Verdict | None

    @property
    def baseline(self) -> str:
        """The arm that the others are compared with: in a family of Kind.PARTS, the one with a weight below 0."""
        return next(name for name, weight in self.primary[0].contrast.weights if weight < 0)

    @property
    def too_few_seeds(self) -> str:
        """Words like "3 seeds of the 8 that 6 tests need", where its tests cannot reach ALPHA; else nothing."""
        first = self.primary[0]
        num_seeds = min(len(result.seeds) for result in self.primary)
        needed = seeds_needed(first.num_tests * first.num_looks)
        if num_seeds >= needed:
            return ""
        seeds = "1 seed" if num_seeds == 1 else f"{num_seeds or 'no'} seeds"
        tests = "one test needs" if first.num_tests == 1 else f"{first.num_tests} tests need"
        return f"{seeds} of the {needed} that {tests}"


@dataclass(frozen=True)
class Settled:
    """A comparison that a declared look has decided: at how many seeds, with what result and Holm p of the margin."""

    look: int
    result: ContrastResult
    p_margin: float | None


@dataclass(frozen=True, eq=False)
class Analysis:
    """All answers on one study. `primary` is clean, or official where no test point counts as clean.

    `num_points` and `num_debates` count the points that a protocol has, and their debates. `summaries` hold a cell's
    scores under both protocols, by its name. `main` are the arms that the verdict is about: the levels of the main axis
    averaged over settings, or the cells themselves where there is no setting that all levels ran in, or of a `star`.
    `notes` name questions that cannot be asked. `earlier` are the numbers of seeds that earlier reports in the same
    place had. `cluster_of` is analyse()'s. Where no run scores otherwise under one protocol than under the other,
    `protocols_differ` is false and families have nothing `beside`. `margin` is the smallest difference that matters,
    where one was declared, and `margin_declared_by` says how. Of declared looks, `until` is the one that this is, and
    `settled` are those of the first family's comparisons that it or one before has decided, by contrast.
    """

    study: Study
    primary: Protocol
    num_points: dict[Protocol, int]
    num_debates: dict[Protocol, int]
    summaries: dict[str, dict[Protocol, GroupSummary]]
    main: Arms
    families: tuple[Family, ...]
    notes: tuple[str, ...]
    looks: tuple[int, ...] = ()
    earlier: tuple[int, ...] = ()
    star: Star | None = None
    cluster_of: Mapping[str, str] = field(default_factory=dict)
    protocols_differ: bool = True
    margin: float | None = None
    margin_declared_by: str = ""
    until: int | None = None
    settled: Mapping[str, Settled] = field(default_factory=dict)

    @property
    def words(self) -> Words:
        """What the report calls a query, its answer and a group of queries."""
        return words_of(self.study.runs)

    @property
    def undeclared(self) -> list[int]:
        """The numbers of seeds of earlier looks that had fewer and that nobody declared: none where looks were, since
        whoever looks in between sees what the last of these decided."""
        return [] if self.looks else [num_seeds for num_seeds in self.earlier if num_seeds < len(self.study.seeds)]

    @property
    def added_after_a_look(self) -> str:
        """What optional stopping does to the p-values, where seeds were added after a look that no plan declared."""
        if not self.undeclared:
            return ""
        fewer = ", ".join(map(str, self.undeclared))
        return (
            f"Seeds were added after a look: earlier reports here had fewer ({fewer}). "
            "Looking until something is told apart finds something more often than 1 time in 20; --looks declares when "
            "to look, and shares alpha among the looks."
        )

    @property
    def measure(self) -> str:
        """What a point scores, in words: top-1, MRR."""
        return self.study.runs[0].outcomes.measure

    def figure(self, starts: bool = False) -> str:
        """The metric that decides, as a sentence has or starts with it: clean test top-1; or another program's."""
        name = self.measure
        if self.study.trained_here:
            name = f"{self.primary} test {name}" if self.protocols_differ else f"test {name}"
        return name[0].upper() + name[1:] if starts else name

    @property
    def asked(self) -> str:
        """What counts, in words: 550 clean test points of 74 debates, or 40 queries in 10 groups."""
        points = self.num_points[self.primary]
        debates = self.num_debates[self.primary]
        words = self.words
        if not self.study.trained_here:
            return f"{points} {words.plural} in {debates} {words.groups}"
        kind = f"{self.primary} test" if self.protocols_differ else "test"
        return f"{points} {kind} {words.plural} of {debates} {words.groups}"

    @property
    def metric(self) -> Metric:
        """What decides, if it is one of this program's."""
        return next(
            (metric for metric in Metric if metric.label == self.measure),
            Metric.TOP1,
        )

    def key(self, protocol: Protocol | None = None) -> str:
        """The metric's key in records and results, under the protocol that decides unless given."""
        return (protocol or self.primary).key(self.metric)

    def of(self, *kinds: Kind) -> list[Family]:
        """The families of these kinds, kind by kind."""
        return [family for kind in kinds for family in self.families if family.kind is kind]

    def family(self, kind: Kind) -> Family | None:
        """The first family of a kind."""
        return next(iter(self.of(kind)), None)

    @property
    def protocols(self) -> list[Protocol]:
        """Those that some test point counts under, the primary first; one where both are equal."""
        both = (self.primary, self.primary.other) if self.protocols_differ else (self.primary,)
        return [protocol for protocol in both if self.num_points[protocol]]

    @property
    def verdict(self) -> Verdict | None:
        """The verdict on the main axis."""
        pairs = self.family(Kind.PAIRS)
        return pairs.verdict if pairs else None

    def unasked(self, cells: Sequence[Cell]) -> str:
        """Whether some cells take part in the verdict, in other comparisons only, or in none; nothing if in it."""
        if not self.families:
            return ""
        asked = {id(cell) for cells_of_arm in self.main.cells.values() for cell in cells_of_arm}
        if any(id(cell) in asked for cell in cells):
            return ""
        for family in self.families:
            asked.update(id(cell) for of_arm in family.arms.cells.values() for cell in of_arm)
        in_others = any(id(cell) in asked for cell in cells)
        return "not in the verdict" if in_others else "in no comparison"

    @property
    def headline(self) -> str:
        """The verdict as a sentence, or why there is none; then how many queries another program's runs lack."""
        return " ".join([self._verdict_sentence(), *self.missing_queries])

    @property
    def missing_queries(self) -> list[str]:
        """A sentence for each configuration of another program that lacks queries, which count as 0."""
        cells = [cell for cell in self.study.cells if cell.missing_queries]
        return [f"{quoted(cell.name)}: {cell.missing_queries}." for cell in cells]

    def _verdict_sentence(self) -> str:
        if self.verdict is not None:
            return self.verdict.sentence
        parts = self.family(Kind.PARTS)
        if parts is not None:
            return _against_baseline_in_words(parts)
        if len(self.study.cells) > 1:
            axis = self.study.axes[0].name
            return f"No verdict over all settings: no setting has finished runs of every {axis}."

        only = self.summaries[self.study.cells[0].name][self.primary]
        seeds = "one seed, which says nothing of others"
        interval = ""
        if only.num_seeds > 1:
            seeds = f"{only.num_seeds} seeds"
            interval = ", the same with each seed"
            if math.isfinite(only.low):
                interval = f" (95% interval {only.low:.3f} to {only.high:.3f})"
        return (
            "Nothing to compare: all finished runs are of one configuration. "
            f"Its {self.figure()} is {only.mean:.3f}{interval}, over {seeds}."
        )


def _against_baseline_in_words(parts: Family) -> str:
    """Which arms are lower, higher and not told apart from the baseline, as a sentence."""
    if parts.subject == CHANGES:
        return _against_centre_in_words(parts)
    sides: dict[str, list[str]] = {
        "lower": [],
        "higher": [],
        "not told apart": [],
    }
    for result in parts.primary:
        side = "not told apart"
        if result.is_significant():
            side = "higher" if result.estimate > 0 else "lower"
        sides[side].append(result.contrast.name)

    baseline = quoted(parts.baseline)
    if not (sides["lower"] or sides["higher"]) and parts.too_few_seeds:
        return f"Too few seeds to tell anything apart from {baseline}: {parts.too_few_seeds}."
    listed = [f"{side} {quoted(*names)}" for side, names in sides.items() if names]
    return f"Against {baseline}: {'; '.join(listed)}."


def _against_centre_in_words(changes: Family) -> str:
    """What is higher and lower than the centre and by how much, the largest first, and what is not told apart."""
    sides: dict[str, list[str]] = {"higher": [], "lower": []}
    untold = []
    for result in changes.primary:
        if result.is_significant():
            side = "higher" if result.estimate > 0 else "lower"
            sides[side].append(f"{quoted(result.contrast.name)} (by {abs(result.estimate):.3f})")
        else:
            untold.append(result.contrast.name)

    clauses = [f"{side} with {', '.join(named)}" for side, named in sides.items() if named]
    if clauses and untold:
        clauses.append(f"not told apart with {quoted(*untold)}")
    if clauses:
        return f"Against the centre, the metric is {'; '.join(clauses)}."
    largest = changes.primary[0]
    seen = ""
    if math.isfinite(largest.estimate):
        side = "higher" if largest.estimate > 0 else "lower"
        seen = (
            f" The largest difference seen is with {quoted(largest.contrast.name)}: {abs(largest.estimate):.3f} {side}."
        )
        if not largest.estimate:
            seen = " All means are equal."
    if changes.too_few_seeds:
        return f"Too few seeds to tell any change from the centre: {changes.too_few_seeds}.{seen}"
    return f"No change can be told from the centre.{seen}"


def analyse(
    study: Study,
    protocol: Protocol | None = None,
    looks: Sequence[int] = (),
    cluster_of: Mapping[str, str] | None = None,
    until: int | None = None,
    settled: Mapping[str, Settled] | None = None,
) -> Analysis:
    """Ask everything that the study's runs can answer.

    `protocol` decides: clean, unless no point counts as clean. `looks` are declared numbers of seeds, none `until`, as
    compare() has them; `settled` are comparisons of the first family that earlier ones have decided (looks.py).
    `cluster_of` names the cluster of debates that are one under several names.
    """
    clusters = cluster_of or {}
    debates = {}  # the debate of each point that counts
    for each in Protocol:
        names = study.runs[0].outcomes.debates_of(each)
        debates[each] = [clusters.get(name, name) for name in names]
    primary = protocol or Protocol.CLEAN
    if not debates[primary]:
        primary = primary.other

    notes: list[str] = []
    star = star_of(study)
    questions = []
    if star is not None:
        questions = _changes(study, star)
    elif len(study.cells) > 1:
        questions = _questions(study, notes)
    differ = _protocols_differ(study)
    asked = debates if differ else debates | {primary.other: []}
    stays = {name: each.result for name, each in (settled or {}).items()}
    families = []
    for number, question in enumerate(questions):
        families.append(_answer(question, primary, asked, looks, until, {} if number else stays))

    # The main arms are what the verdict is about, or whatever was asked first.
    main = next(
        (family for family in families if family.kind in (Kind.PAIRS, Kind.PARTS)),
        None,
    )
    if main is None and families:
        main = families[0]
    if main is None or main.kind is Kind.SETTING:
        arms = _arms_of_cells({cell.name: cell for cell in study.cells})
    else:
        arms = main.arms

    summaries: dict[str, dict[Protocol, GroupSummary]] = {}
    for cell in study.cells:
        summaries[cell.name] = {each: summarise(cell.outcomes(each)) for each in Protocol if debates[each]}
    return Analysis(
        study,
        primary,
        {each: len(names) for each, names in debates.items()},
        {each: len(set(names)) for each, names in debates.items()},
        summaries,
        arms,
        tuple(families),
        tuple(notes),
        tuple(looks),
        star=star,
        cluster_of=clusters,
        protocols_differ=differ,
        until=until,
        settled=settled or {},
    )


def _protocols_differ(study: Study) -> bool:
    """Whether some run scores otherwise under the official protocol than under the clean one.

    Where no text is shared between or within the splits, both have the same queries, candidates and scores.
    """
    for run in study.runs:
        correct = run.outcomes.correct
        if not np.array_equal(correct[Protocol.CLEAN], correct[Protocol.OFFICIAL]):
            return True
        for name in ("top1_stage1", "mrr_stage1"):
            clean = run.test.get(f"{name}_clean")
            if clean is not None and clean != run.test.get(name):
                return True
    return False


# --- the questions ---


def planned_families(runs: Sequence[Run]) -> list[tuple[str, int, int]]:
    """What a report on these runs will ask once they have finished: each family's title, and its numbers of tests and
    of seeds. Families within one setting are left out."""
    families = []
    for study in make_studies(runs):
        for question in _questions(study, []) if len(study.cells) > 1 else []:
            if question.kind is not Kind.SETTING:
                contrasts = question.contrasts or every_pair(question.arms.names)
                families.append((question.title, len(contrasts), len(question.arms.seeds)))
    return families


@dataclass(frozen=True, eq=False)
class _Question:
    """A family before it is worked out. Without contrasts it is every pair of the arms, with a verdict."""

    kind: Kind
    subject: str
    title: str
    arms: Arms
    contrasts: Sequence[Contrast] = ()


def _answer(
    question: _Question,
    primary: Protocol,
    debates: Mapping[Protocol, list[str]],
    looks: Sequence[int],
    until: int | None,
    settled: Mapping[str, ContrastResult],
) -> Family:
    """A question's comparisons under both protocols; those that are `settled` stay under the one that decides."""
    arms = question.arms
    contrasts = question.contrasts or every_pair(arms.names)
    results: dict[Protocol, tuple[ContrastResult, ...]] = {}
    verdicts: dict[Protocol, Verdict | None] = {}
    for protocol, names in debates.items():
        groups = arms.groups(protocol) if names else []
        stays = settled if protocol is primary else {}
        results[protocol] = compare(groups, names, contrasts, looks, until, stays) if names else ()
        verdicts[protocol] = verdict(groups, results[protocol]) if names and not question.contrasts else None
    if question.subject == CHANGES:  # the largest first
        in_order = sorted(
            range(len(contrasts)),
            key=lambda k: -abs(np.nan_to_num(results[primary][k].estimate)),
        )
        for protocol, unordered in results.items():
            results[protocol] = tuple(unordered[k] for k in in_order) if unordered else ()
    return Family(
        question.kind,
        question.subject,
        question.title,
        arms,
        results[primary],
        results[primary.other],
        verdicts[primary],
        verdicts[primary.other],
    )


def _questions(study: Study, notes: list[str]) -> list[_Question]:
    """Everything that a study of several configurations, which is no star, can be asked; `notes` get what it cannot."""
    main, *others = study.axes

    # A head with the ReLU before linear2 is a variant of one that is there without: a further question.
    usual = {level.key for level in main.levels if level.key == level.label}
    levels = [level for level in main.levels if level.label in usual or level.key not in usual]
    if len(levels) < 2:
        levels = list(main.levels)

    # A complete design of factors with two levels each is asked for effects; else the main axis leads.
    questions: list[_Question] = []
    factors = [k for k, axis in enumerate(study.axes) if len(axis.levels) == 2]
    if main.baseline is None and 0 in factors and len(factors) > 1:
        questions = _factorial(study, factors)
    if questions:
        others = [axis for axis in others if len(axis.levels) > 2]
    else:
        kind = Kind.PARTS if main.baseline else Kind.PAIRS
        questions += _over_settings(study, main, levels, kind, notes)
        for axis in others:
            questions += _interaction(study, axis, levels, notes)
        if others or not questions:
            questions += _setting_by_setting(study, levels)
        if len(levels) < len(main.levels):
            questions += _over_settings(study, main, main.levels, Kind.VARIANTS, notes)
    for axis in others:
        questions += _over_settings(study, axis, axis.levels, Kind.AXIS, notes)

    if not questions and len(study.cells) <= MOST_CELLS:  # no axis's levels meet under otherwise equal settings
        questions.append(_every_configuration(_arms_of_cells({cell.name: cell for cell in study.cells})))
    return questions


def _changes(study: Study, star: Star) -> list[_Question]:
    """Each change against the centre, as one family; then the levels of each axis that has several changes."""
    centre = star.centre.name
    cells = {centre: star.centre} | {cell.name: cell for cell in study.cells}
    contrasts = against(centre, list(star.changes), list(star.changes.values()))
    title = f"Each change against the centre, which is {centre}"
    questions = [_Question(Kind.PARTS, CHANGES, title, _arms_of_cells(cells), contrasts)]

    # Three heads beside the centre's are also a question of which head, with all else as in the centre.
    for k, axis in enumerate(study.axes):
        others = [*star.centre.levels[:k], *star.centre.levels[k + 1 :]]
        here = {}
        for cell in study.cells:
            if [*cell.levels[:k], *cell.levels[k + 1 :]] == others:
                here[cell.levels[k]] = cell
        levels = [level for level in axis.levels if level in here]
        if len(levels) < 3:
            continue
        arms = _arms_of_cells({axis.in_words(level): here[level] for level in levels})
        four = _four_heads(axis, levels)
        if four:
            title = "LayerNorm, ReLU, and their interaction, all else as in the centre"
            names = [axis.in_words(level) for level in four]
            effects = factorial_effects(HEAD_FACTORS, names)
            questions.append(_Question(Kind.EFFECTS, axis.name, title, arms, effects))
        title = f"{axis.name.capitalize()}: every pair of levels, all else as in the centre"
        questions.append(_Question(Kind.AXIS, axis.name, title, arms))
    return questions


def _every_configuration(arms: Arms) -> _Question:
    return _Question(Kind.PAIRS, "configuration", "Every pair of configurations", arms)


def _factorial(study: Study, factors: Sequence[int]) -> list[_Question]:
    """The 2^k of these axes of two levels, averaged over settings of the others; nothing if it is not complete."""
    axes = {study.axes[k].name: study.axes[k] for k in factors}
    chosen = []
    for number in range(2 ** len(factors)):  # in counting order, the first factor's bit the lowest
        levels = {k: study.axes[k].levels[number >> place & 1] for place, k in enumerate(factors)}
        chosen.append((cell_name(list(axes.values()), list(levels.values())), levels))
    arms = arms_of(study, chosen)
    if arms is None:
        return []

    # A main effect says from which level to which it goes, unless it is a switch.
    effects = []
    for effect in factorial_effects(list(axes), arms.names):
        name = effect.name
        if name in axes:
            low, high = axes[name].levels
            if (low.label, high.label) not in SWITCHES:
                name = f"{name} ({high.label} − {low.label})"
        effects.append(Contrast(name, effect.weights))
    title = f"The {len(axes)} factors and their interactions"
    questions = [_Question(Kind.EFFECTS, " × ".join(axes), title, arms, effects)]
    if len(arms.names) <= MOST_CELLS:
        questions.append(_every_configuration(arms))
    return questions


def _over_settings(
    study: Study,
    axis: Axis,
    levels: Sequence[Level],
    kind: Kind,
    notes: list[str],
) -> list[_Question]:
    """All pairs of an axis's levels, averaged over settings; for heads, the 2×2 effects before them."""
    k = study.axes.index(axis)
    names = [axis.in_words(level) for level in levels]
    arms = arms_of(
        study,
        [(name, {k: level}) for name, level in zip(names, levels, strict=True)],
    )
    plural = "heads" if axis.name == "head" else f"levels of {axis.name}"
    if arms is None:
        notes.append(f"{plural.capitalize()} are not compared over settings: no setting has finished runs of all.")
        return []

    questions = []
    before = kind is Kind.VARIANTS
    four = _four_heads(axis, levels, before)
    if four and kind is not Kind.AXIS:
        title = "The same with the ReLU before linear2" if before else "LayerNorm, ReLU, and their interaction"
        effects = factorial_effects(HEAD_FACTORS, [level.label for level in four])
        effects_kind = Kind.EFFECTS_BEFORE if before else Kind.EFFECTS
        questions.append(_Question(effects_kind, axis.name, title, arms, effects))

    if kind is Kind.PAIRS:
        title = f"Every pair of {plural}"
    elif kind is Kind.VARIANTS:
        title = "Every pair of heads, with those that have the ReLU before linear2"
    elif kind is Kind.PARTS and axis.baseline:
        title = f"{axis.name.capitalize()}: each against {axis.in_words(axis.baseline)}"
    else:
        title = f"{axis.name.capitalize()}: every pair of levels"
    contrasts = _against_baseline(axis, levels, names)
    return [*questions, _Question(kind, axis.name, title, arms, contrasts)]


def _interaction(
    study: Study,
    axis: Axis,
    levels: Sequence[Level],
    notes: list[str],
) -> list[_Question]:
    """Does what the main axis does depend on another axis? Against that axis's first usable level."""
    main = study.axes[0]
    k = study.axes.index(axis)
    four = _four_heads(main, levels)

    # The same effects, or pairs, in each setting where every level of the main axis has runs.
    chosen: list[tuple[str, dict[int, Level]]] = []
    effects: dict[str, Sequence[Contrast]] = {}
    for setting in axis.levels:
        setting_name = axis.in_words(setting)
        names = {level: f"{level.label}, {setting_name}" for level in levels}
        arms_here = [(name, {0: level, k: setting}) for level, name in names.items()]
        if not arms_of(study, arms_here):
            continue
        chosen += arms_here
        listed = list(names.values())
        if four:
            effects[setting_name] = factorial_effects(
                HEAD_FACTORS,
                [names[level] for level in four],
            )
        else:
            pairs = every_pair(listed, [level.label for level in levels])
            effects[setting_name] = _against_baseline(main, levels, listed) or pairs

    arms = arms_of(study, chosen) if len(effects) > 1 else None
    if arms is None:
        notes.append(
            f"Whether {main.name} and {axis.name} interact is not asked: it needs two levels of {axis.name} "
            f"with finished runs of every {main.name}, all else equal."
        )
        return []
    title = f"Does what the {main.name} does depend on {axis.name}?"
    return [_Question(Kind.INTERACTION, axis.name, title, arms, setting_interactions(effects))]


def _setting_by_setting(study: Study, levels: Sequence[Level]) -> list[_Question]:
    """All pairs of the main axis's levels within each setting, each setting a family of its own."""
    main, *others = study.axes
    questions = []
    for setting in dict.fromkeys(cell.levels[1:] for cell in study.cells):
        cells = {cell.levels[0]: cell for cell in study.cells if cell.levels[1:] == setting}
        here = [level for level in levels if level in cells]
        if len(here) < 2:
            continue
        title = ", ".join(axis.in_words(level) for axis, level in zip(others, setting, strict=True))
        arms = _arms_of_cells(
            {main.in_words(level): cells[level] for level in here},
            (title,),
        )
        contrasts = _against_baseline(main, here, arms.names)
        questions.append(_Question(Kind.SETTING, title, title, arms, contrasts))
    return questions


def _against_baseline(
    axis: Axis,
    levels: Sequence[Level],
    names: Sequence[str],
) -> tuple[Contrast, ...]:
    """Each of the levels, under these names, against the axis's baseline; nothing unless that is one of them."""
    if axis.baseline is None or axis.baseline not in levels:
        return ()
    others = dict(zip(levels, names, strict=True))
    baseline = others.pop(axis.baseline)
    return against(
        baseline,
        list(others.values()),
        [axis.in_words(level) for level in others],
    )


def _arms_of_cells(cells: Mapping[str, Cell], settings: tuple[str, ...] = ()) -> Arms:
    """Each of the configurations by itself as an arm."""
    seeds = tuple(sorted(shared_seeds(list(cells.values()))))
    return Arms(
        tuple(cells),
        settings,
        {name: (cell,) for name, cell in cells.items()},
        seeds,
    )


def _four_heads(axis: Axis, levels: Sequence[Level], before: bool = False) -> list[Level]:
    """The levels of the 2×2 design, where the axis has all four; `before` where its ReLUs are before linear2."""
    by_head = {(level.key, level.key != level.label): level for level in levels}
    four = [by_head.get((head, before and "relu" in head)) for head in HEADS]
    if axis.name != "head":
        return []
    return [level for level in four if level is not None] if None not in four else []
