"""The questions that a report asks of its runs, each as one family of comparisons, and the answers.

Which questions are asked depends on what was varied and which runs there are, never on their figures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from biencoder_ablate.report import comparisons as contrasts
from biencoder_ablate.report.comparisons import (
    HEADS,
    Contrast,
    ContrastResult,
    Verdict,
    against,
    every_pair,
    factorial_effects,
    quoted,
    verdict,
)
from biencoder_ablate.report.read import Metric, Protocol
from biencoder_ablate.report.statistics import seeds_needed
from biencoder_ablate.report.study import Arms, Axis, Level, Study, arms_of, cell_name

MOST_CELLS = 12  # configurations compared each with each where no axis can be: 66 pairs
SWITCHES = {("0", "1"), ("false", "true"), ("no", "yes"), ("off", "on"), ("without", "with")}  # levels without a name


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
    """One family of tests: `primary` decides, `beside` are the same comparisons of the other figure.

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
        first, have = self.primary[0], min(len(result.seeds) for result in self.primary)
        needed = seeds_needed(first.num_tests * first.num_looks)
        seeds = f"{have or 'no'} seed{'' if have == 1 else 's'}"
        tests = "one test needs" if first.num_tests == 1 else f"{first.num_tests} tests need"
        return f"{seeds} of the {needed} that {tests}" if have < needed else ""


@dataclass(frozen=True, eq=False)
class Analysis:
    """All answers on one study. `primary` is clean, or official where no test point counts as clean.

    `num_points` and `num_debates` are of the points that count. `summaries` hold a cell's figures under both protocols,
    by its name. `main` are the arms that the verdict is about: the levels of the main axis averaged over settings, or
    the cells themselves where there is no setting that all levels ran in. `notes` name questions that cannot be asked.
    """

    study: Study
    primary: Protocol
    num_points: dict[Protocol, int]
    num_debates: dict[Protocol, int]
    summaries: dict[str, dict[Protocol, contrasts.GroupSummary]]
    main: Arms
    families: tuple[Family, ...]
    notes: tuple[str, ...]
    looks: tuple[int, ...] = ()
    earlier: tuple[int, ...] = ()  # numbers of seeds that earlier reports in the same place have seen

    @property
    def added_after_a_look(self) -> str:
        """What optional stopping does to the p-values, where seeds were added after a look that no plan declared."""
        seen = [num for num in self.earlier if num < len(self.study.seeds)]
        if not seen or self.looks:
            return ""
        return (
            f"Seeds were added after a look: earlier reports here had fewer ({', '.join(map(str, seen))}). "
            "Looking until something is told apart finds something more often than 1 time in 20; --looks declares when "
            "to look, and shares alpha among the looks."
        )

    @property
    def measure(self) -> str:
        """What a point scores, in words: top-1, MRR."""
        return self.study.runs[0].outcomes.measure

    def figure(self, starts: bool = False) -> str:
        """The figure that decides, as a sentence has or starts with it: clean test top-1; or an outside measure."""
        name = f"{self.primary} test {self.measure}" if self.study.trained_here else self.measure
        return name[0].upper() + name[1:] if starts else name

    @property
    def asked(self) -> str:
        """What counts, in words: 550 clean test points of 74 debates, or 40 queries in 10 groups."""
        points, debates = self.num_points[self.primary], self.num_debates[self.primary]
        if not self.study.trained_here:
            return f"{points} queries in {debates} groups"
        return f"{points} {self.primary} test points of {debates} debates"

    @property
    def metric(self) -> Metric:
        """What decides, if it is one of this program's."""
        return next((metric for metric in Metric if metric.label == self.measure), Metric.TOP1)

    def key(self, protocol: Protocol | None = None) -> str:
        """That figure's name in records and results."""
        return (protocol or self.primary).key(self.metric)

    def of(self, *kinds: Kind) -> list[Family]:
        """The families of these kinds, kind by kind."""
        return [family for kind in kinds for family in self.families if family.kind is kind]

    def family(self, kind: Kind) -> Family | None:
        """The first family of a kind."""
        return next(iter(self.of(kind)), None)

    @property
    def protocols(self) -> list[Protocol]:
        """Those that some test point counts under, the primary first."""
        return [protocol for protocol in (self.primary, self.primary.other) if self.num_points[protocol]]

    @property
    def verdict(self) -> Verdict | None:
        """The verdict on the main axis."""
        pairs = self.family(Kind.PAIRS)
        return pairs.verdict if pairs else None

    @property
    def headline(self) -> str:
        """The verdict as a sentence, or why there is none; then which queries another program's runs lack."""
        missing = [f"{quoted(cell.name)}: {cell.missing_queries}." for cell in self.study.cells if cell.missing_queries]
        return " ".join([self._verdict_sentence(), *missing])

    def _verdict_sentence(self) -> str:
        if self.verdict is not None:
            return self.verdict.sentence
        if parts := self.family(Kind.PARTS):
            return self._against_baseline(parts)
        if len(self.study.cells) > 1:
            axis = self.study.axes[0].name
            return f"No verdict over all settings: no setting has finished runs of every {axis}."
        only = self.summaries[self.study.cells[0].name][self.primary]
        sure = f" (95% interval {only.low:.3f} to {only.high:.3f})" if only.num_seeds > 1 else ""
        seeds = f"{only.num_seeds} seeds" if only.num_seeds > 1 else "one seed, which says nothing of others"
        return (
            "Nothing to compare: all finished runs are of one configuration. "
            f"Its {self.figure()} is {only.mean:.3f}{sure}, over {seeds}."
        )

    def _against_baseline(self, parts: Family) -> str:
        sides: dict[str, list[str]] = {"lower": [], "higher": [], "not told apart": []}
        for result in parts.primary:
            told = ("higher" if result.estimate > 0 else "lower") if result.is_significant() else "not told apart"
            sides[told].append(result.contrast.name)
        if not (sides["lower"] or sides["higher"]) and parts.too_few_seeds:
            return f"Too few seeds to tell anything apart from {quoted(parts.baseline)}: {parts.too_few_seeds}."
        said = [f"{side} {quoted(*names)}" for side, names in sides.items() if names]
        return f"Against {quoted(parts.baseline)}: {'; '.join(said)}."


def analyse(
    study: Study,
    protocol: Protocol | None = None,
    looks: Sequence[int] = (),
    cluster_of: Mapping[str, str] | None = None,
) -> Analysis:
    """Ask everything that the study's runs can answer.

    `protocol` decides: clean, unless no point counts as clean. `looks` are declared numbers of seeds, as compare() has
    them. `cluster_of` names the cluster of debates that are one under several names.
    """
    joined = cluster_of or {}
    debates = {
        protocol: [joined.get(name, name) for name in study.runs[0].outcomes.debates_of(protocol)]
        for protocol in Protocol
    }
    primary = protocol or Protocol.CLEAN
    primary = primary if debates[primary] else primary.other
    asker = _Analyser(study, primary, debates, tuple(looks))
    if len(study.cells) > 1:
        asker.ask_all()
    verdicts = (family for family in asker.families if family.kind in (Kind.PAIRS, Kind.PARTS))
    main = next(verdicts, None) or next(iter(asker.families[:1]), None)
    arms = main.arms if main and main.kind is not Kind.SETTING else _each_cell(study)
    return Analysis(
        study,
        primary,
        {protocol: len(names) for protocol, names in debates.items()},
        {protocol: len(set(names)) for protocol, names in debates.items()},
        {
            cell.name: {
                protocol: contrasts.summarise(cell.outcomes(protocol)) for protocol in Protocol if debates[protocol]
            }
            for cell in study.cells
        },
        arms,
        tuple(asker.families),
        tuple(asker.notes),
        tuple(looks),
    )


@dataclass(frozen=True, eq=False)
class _Analyser:
    """Asks one question after the other; `families` and `notes` grow."""

    study: Study
    primary: Protocol
    debates: dict[Protocol, list[str]]
    looks: tuple[int, ...]
    families: list[Family] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def ask_all(self) -> None:
        study = self.study
        main, *others = study.axes
        plain = {level.key for level in main.levels if level.key == level.label}
        standard = tuple(level for level in main.levels if level.label in plain or level.key not in plain)
        if len(standard) < 2:
            standard = main.levels
        factors = [k for k, axis in enumerate(study.axes) if len(axis.levels) == 2]
        if main.baseline is None and 0 in factors and len(factors) > 1 and self._factorial(factors):
            others = [axis for axis in others if len(axis.levels) > 2]
        else:
            self._over_settings(0, standard, Kind.PARTS if main.baseline else Kind.PAIRS)
            for k in range(1, len(study.axes)):
                self._interaction(standard, k)
            if others or not self.families:
                self._setting_by_setting(standard)
            if len(standard) < len(main.levels):
                self._over_settings(0, main.levels, Kind.VARIANTS)
        for axis in others:
            self._over_settings(study.axes.index(axis), axis.levels, Kind.AXIS)
        if not self.families and len(study.cells) <= MOST_CELLS:  # no axis's levels meet under otherwise equal settings
            self._ask(Kind.PAIRS, "configuration", "Every pair of configurations", _each_cell(study))

    def _ask(self, kind: Kind, subject: str, title: str, arms: Arms, asked: Sequence[Contrast] | None = None) -> None:
        """Compare under both protocols; without `asked` every pair of the arms, with a verdict."""
        results: dict[Protocol, tuple[ContrastResult, ...]] = {protocol: () for protocol in Protocol}
        verdicts: dict[Protocol, Verdict] = {}
        for protocol, debates in self.debates.items():
            if debates:
                groups = arms.groups(protocol)
                results[protocol] = contrasts.compare(
                    groups, debates, asked or every_pair(arms.names), looks=self.looks
                )
                if asked is None:
                    verdicts[protocol] = verdict(groups, results[protocol])
        first, second = (self.primary, self.primary.other)
        answers = results[first], results[second], verdicts.get(first), verdicts.get(second)
        self.families.append(Family(kind, subject, title, arms, *answers))

    def _factorial(self, factors: Sequence[int]) -> bool:
        """The 2^k of these axes of two levels, averaged over settings of the others, if it is complete."""
        axes = [self.study.axes[k] for k in factors]
        chosen = [
            {k: axis.levels[number >> place & 1] for place, (k, axis) in enumerate(zip(factors, axes, strict=True))}
            for number in range(2 ** len(factors))
        ]
        arms = arms_of(self.study, [(cell_name(axes, list(levels.values())), levels) for levels in chosen])
        if arms is None:
            return False
        effects = []
        for effect in factorial_effects([axis.name for axis in axes], arms.names):
            axis = next((axis for axis in axes if axis.name == effect.name), None)
            if axis is not None and (axis.levels[0].label, axis.levels[1].label) not in SWITCHES:
                effect = Contrast(f"{axis.name} ({axis.levels[1].label} − {axis.levels[0].label})", effect.weights)
            effects.append(effect)
        title = f"The {len(axes)} factors and their interactions"
        self._ask(Kind.EFFECTS, " × ".join(axis.name for axis in axes), title, arms, effects)
        if len(arms.names) <= MOST_CELLS:
            self._ask(Kind.PAIRS, "configuration", "Every pair of configurations", arms)
        return True

    def _over_settings(self, k: int, levels: Sequence[Level], kind: Kind) -> None:
        """All pairs of an axis's levels, averaged over settings; for heads, the 2×2 effects before them."""
        axis = self.study.axes[k]
        arms = arms_of(self.study, [(axis.in_words(level), {k: level}) for level in levels])
        plural = "heads" if axis.name == "head" else f"levels of {axis.name}"
        if arms is None:
            self.notes.append(
                f"{plural.capitalize()} are not compared over settings: no setting has finished runs of all."
            )
            return
        before = kind is Kind.VARIANTS
        if kind is not Kind.AXIS and (four := _four_heads(axis, levels, before)):
            title = "The same with the ReLU before linear2" if before else "LayerNorm, ReLU, and their interaction"
            effects = factorial_effects(("LayerNorm", "ReLU"), [level.label for level in four])
            self._ask(Kind.EFFECTS_BEFORE if before else Kind.EFFECTS, axis.name, title, arms, effects)
        title = {
            Kind.PAIRS: f"Every pair of {plural}",
            Kind.PARTS: f"{axis.name.capitalize()}: each against {axis.baseline and axis.in_words(axis.baseline)}",
            Kind.VARIANTS: "Every pair of heads, with those that have the ReLU before linear2",
            Kind.AXIS: f"{axis.name.capitalize()}: every pair of levels",
        }[kind]
        self._ask(kind, axis.name, title, arms, _compared(axis, levels, [axis.in_words(level) for level in levels]))

    def _interaction(self, levels: Sequence[Level], k: int) -> None:
        """Does what the main axis does depend on another axis? Against that axis's first usable level."""
        main, axis = self.study.axes[0], self.study.axes[k]
        usable = [other for other in axis.levels if arms_of(self.study, [("", {0: lv, k: other}) for lv in levels])]
        names = {other: {lv: f"{lv.label}, {axis.in_words(other)}" for lv in levels} for other in usable}
        chosen = [(name, {0: lv, k: other}) for other in usable for lv, name in names[other].items()]
        arms = arms_of(self.study, chosen) if len(usable) > 1 else None
        if arms is None:
            self.notes.append(
                f"Whether {main.name} and {axis.name} interact is not asked: it needs two levels of {axis.name} "
                f"with finished runs of every {main.name}, all else equal."
            )
            return
        four = _four_heads(main, levels)
        effects: dict[str, Sequence[Contrast]] = {}
        for other in usable:
            pairs = _compared(main, levels, list(names[other].values())) or every_pair(
                list(names[other].values()), [level.label for level in levels]
            )
            effects[axis.in_words(other)] = (
                factorial_effects(("LayerNorm", "ReLU"), [names[other][lv] for lv in four]) if four else pairs
            )
        title = f"Does what the {main.name} does depend on {axis.name}?"
        self._ask(Kind.INTERACTION, axis.name, title, arms, contrasts.setting_interactions(effects))

    def _setting_by_setting(self, levels: Sequence[Level]) -> None:
        """All pairs of the main axis's levels within each setting, each setting a family of its own."""
        main, *others = self.study.axes
        for setting in dict.fromkeys(cell.levels[1:] for cell in self.study.cells):
            cells = {cell.levels[0]: cell for cell in self.study.cells if cell.levels[1:] == setting}
            here = {main.in_words(level): (cells[level],) for level in levels if level in cells}
            if len(here) > 1:
                seeds = set.intersection(*(set(cell.runs) for (cell,) in here.values()))
                words = ", ".join(axis.in_words(level) for axis, level in zip(others, setting, strict=True))
                asked = _compared(main, [level for level in levels if level in cells], list(here))
                self._ask(Kind.SETTING, words, words, Arms(tuple(here), (words,), here, tuple(sorted(seeds))), asked)


def _compared(axis: Axis, levels: Sequence[Level], names: Sequence[str]) -> tuple[Contrast, ...] | None:
    """Each of the levels, under these names, against the axis's baseline, where there is one among them."""
    if axis.baseline is None or axis.baseline not in levels:
        return None
    by_level = dict(zip(levels, names, strict=True))
    others = [level for level in levels if level != axis.baseline]
    baseline = by_level[axis.baseline]
    return against(baseline, [by_level[level] for level in others], [axis.in_words(level) for level in others])


def _each_cell(study: Study) -> Arms:
    """Every configuration by itself."""
    cells = {cell.name: (cell,) for cell in study.cells}
    return Arms(tuple(cells), (), cells, tuple(sorted(set.intersection(*(set(cell.runs) for cell in study.cells)))))


def _four_heads(axis: Axis, levels: Sequence[Level], before: bool = False) -> list[Level]:
    """The levels of the 2×2 design, where the axis has all four; `before` where its ReLUs are before linear2."""
    if axis.name != "head":
        return []
    by_head = {(level.key, level.key != level.label): level for level in levels}
    wanted = [(head, before and "relu" in head) for head in HEADS]
    return [by_head[head] for head in wanted] if set(wanted) <= set(by_head) else []
