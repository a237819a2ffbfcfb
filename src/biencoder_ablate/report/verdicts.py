"""Keep, remove, equal or not yet: the outcome of each declared comparison, and what would decide those that are open.

A part is told apart from 0 as everywhere in the report (comparisons.py), and may be removed if it is worth less than a
margin that was declared beforehand (margins.py). The margin has no default: without one nothing may be removed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from biencoder_ablate.report.analysis import CHANGES, Analysis, Family, Kind
from biencoder_ablate.report.comparisons import ContrastResult
from biencoder_ablate.report.margins import NEVER, Design, Enough, as_moments, equality_p, margin_p
from biencoder_ablate.report.parts import void_comparisons
from biencoder_ablate.report.read import WITHOUT
from biencoder_ablate.report.sentences import Answer
from biencoder_ablate.report.statistics import ALPHA, holm, seeds_needed
from biencoder_ablate.report.tables import p_text


class Role(StrEnum):
    """What a comparison is of: a part (with minus without), two systems, or whether one effect depends on another."""

    PART = "part"
    SYSTEMS = "systems"
    INTERACTION = "interaction"


class Outcome(StrEnum):
    """What is concluded of a comparison; the first two are of parts, the third and fourth of all else."""

    EARNS = "earns_its_place"
    HARMS = "does_harm"
    HIGHER = "higher"
    LOWER = "lower"
    REMOVABLE = "may_be_removed"
    EQUAL = "equal"
    NOT_YET = "not_yet"


@dataclass(frozen=True)
class Decision:
    """What is concluded of one comparison, and on what grounds.

    `sign` turns the contrast into what the part brings: −1 where the contrast is without minus with. `p_margin` is
    Holm's p that the difference is the margin or more, None without a margin; `within_margin` says that it is below
    ALPHA. `to_tell_apart` and `to_clear` are what would decide it, one way or the other, if the difference stays as it
    is. `decides` marks the comparisons that the question is about; the others stand beside them.
    """

    name: str
    family: str
    role: Role
    sign: float
    result: ContrastResult
    outcome: Outcome
    margin: float | None
    p_margin: float | None
    to_tell_apart: Enough
    to_clear: Enough
    decides: bool

    @property
    def estimate(self) -> float:
        """What the part brings, or by how much the first system is above the second."""
        return self.sign * self.result.estimate

    @property
    def within_margin(self) -> bool:
        return self.p_margin is not None and self.p_margin < ALPHA

    @property
    def is_decided(self) -> bool:
        return self.outcome is not Outcome.NOT_YET

    @property
    def seeds_needed(self) -> int | None:
        """The fewest seeds, in all, that would decide it on these debates; None where no number of them would.

        One seed shows no spread: the number that the tests need whatever the figures, at least 3.
        """
        result = self.result
        num_seeds = len(result.seeds)
        if num_seeds < 2:
            return max(3, seeds_needed(result.num_tests * result.num_looks))
        fewest = _fewest(self.to_tell_apart.seeds, self.to_clear.seeds)
        return None if fewest is None else max(fewest, num_seeds + 1)

    @property
    def debates_needed(self) -> int | None:
        """The fewest debates, in all, that would decide it; None where no number of them would."""
        return _fewest(self.to_tell_apart.debates, self.to_clear.debates)

    @property
    def times_both(self) -> int | None:
        """How many times the seeds and the debates that there are would decide it together; None where none would."""
        return _fewest(self.to_tell_apart.times_both, self.to_clear.times_both)


def _fewest(*numbers: int | None) -> int | None:
    return min((number for number in numbers if number is not None), default=None)


def decisions(analysis: Analysis) -> list[Decision]:
    """The outcome of every comparison of a study, family by family; those of the first family decide.

    Its interactions do not: the variance of one is four times that of an effect, and it is no part. Raises ValueError
    for a margin that is no finite number above 0.
    """
    check_margin(analysis.margin)
    scale = score_range(analysis)
    found = []
    for number, family in enumerate(analysis.families):
        found += _of_family(
            analysis,
            family,
            scale,
            is_main=number == 0,
        )
    return found


def check_margin(margin: float | None) -> None:
    """Raise ValueError for a margin that is no finite number above 0."""
    if margin is not None and not (math.isfinite(margin) and margin > 0):
        raise ValueError(
            f"margin={margin:g}: must be a number above 0, the smallest difference that matters to you, such as 0.01 "
            "for one query in a hundred"
        )


def score_range(analysis: Analysis) -> float:
    """How far two scores of a point may lie apart: 1 for hits, reciprocal ranks and nDCG; else as far as any two do."""
    scores = [run.outcomes.correct[analysis.primary] for run in analysis.study.runs]
    low = min(float(np.nanmin(row)) for row in scores)
    high = max(float(np.nanmax(row)) for row in scores)
    return 1.0 if low >= 0 and high <= 1 else high - low


@dataclass(frozen=True)
class _Test:
    """A comparison before its margin test: `span` is how far its value at one point can lie from 0."""

    result: ContrastResult
    role: Role
    sign: float
    span: float


def _of_family(
    analysis: Analysis,
    family: Family,
    scale: float,
    is_main: bool,
) -> list[Decision]:
    margin = analysis.margin
    tests = []
    for result in family.primary:
        role = role_of(family, result)
        sign = -1.0 if role is Role.PART and family.subject == WITHOUT else 1.0
        weights = [abs(weight) for _, weight in result.contrast.weights]
        tests.append(_Test(result, role, sign, scale * sum(weights) / 2))
    p_values: Sequence[float | None] = [None] * len(tests)
    if margin is not None:
        p_values = _margin_p_values(analysis, tests, margin)
    if is_main:  # what an earlier look has decided stays as it was then
        for place, test in enumerate(tests):
            settled = analysis.settled.get(test.result.contrast.name)
            if settled is not None:
                p_values = [*p_values[:place], settled.p_margin, *p_values[place + 1 :]]

    found = []
    for test, p in zip(tests, p_values, strict=True):
        to_tell_apart, to_clear = _what_would_decide(analysis, test, margin)
        found.append(
            Decision(
                name=_name(family, test.result),
                family=family.title,
                role=test.role,
                sign=test.sign,
                result=test.result,
                outcome=_outcome(test, p),
                margin=margin,
                p_margin=p,
                to_tell_apart=to_tell_apart,
                to_clear=to_clear,
                decides=is_main and (test.role is not Role.INTERACTION or family.kind is Kind.INTERACTION),
            )
        )
    return found


def role_of(family: Family, result: ContrastResult) -> Role:
    """What a comparison is of.

    A part is a switch among the effects of a design, or what a recipe was run without. A factor with two levels of
    which neither is without it (its name says from which to which) is a choice between systems.
    """
    name = result.contrast.name
    if family.kind is Kind.INTERACTION:
        return Role.INTERACTION
    if family.kind in (Kind.EFFECTS, Kind.EFFECTS_BEFORE):
        if " × " in name:
            return Role.INTERACTION
        return Role.SYSTEMS if name.endswith(")") else Role.PART
    if family.kind is Kind.PARTS and family.subject == WITHOUT:
        return Role.PART
    return Role.SYSTEMS


def _name(family: Family, result: ContrastResult) -> str:
    """The part, or the two systems that are compared."""
    name = result.contrast.name
    if family.kind is not Kind.PARTS:
        return name
    if family.subject == WITHOUT:
        return name.removeprefix(f"{WITHOUT}=")
    baseline = "the centre" if family.subject == CHANGES else family.baseline
    return f"{name} − {baseline}"


def _margin_p_values(analysis: Analysis, tests: Sequence[_Test], margin: float) -> list[float]:
    """Holm's p of the family's margin tests, shared among the looks; 1 before the first declared look."""
    num_points = analysis.num_points[analysis.primary]
    p_values = []
    for test in tests:
        interval, num_seeds = test.result.interval, len(test.result.seeds)
        if not math.isfinite(interval.estimate):
            p_values.append(1.0)
            continue
        moments = as_moments(interval, num_seeds, test.sign)
        one_sided = margin_p if test.role is Role.PART else equality_p
        p_values += one_sided(moments, margin, test.span, num_points).tolist()

    if analysis.looks:
        early = [len(test.result.seeds) < min(analysis.looks) for test in tests]
        p_values = np.where(early, 1.0, p_values).tolist()
    num_looks = tests[0].result.num_looks
    adjusted: list[float] = np.minimum(1, num_looks * holm(p_values)).tolist()
    return adjusted


def _outcome(test: _Test, p_margin: float | None) -> Outcome:
    """Told apart comes first: a part that earns its place does so also where it is worth less than the margin."""
    is_part = test.role is Role.PART
    if test.result.is_significant():
        if test.sign * test.result.estimate > 0:
            return Outcome.EARNS if is_part else Outcome.HIGHER
        return Outcome.HARMS if is_part else Outcome.LOWER
    if p_margin is not None and p_margin < ALPHA:
        return Outcome.REMOVABLE if is_part else Outcome.EQUAL
    return Outcome.NOT_YET


def _what_would_decide(
    analysis: Analysis,
    test: _Test,
    margin: float | None,
) -> tuple[Enough, Enough]:
    """How many seeds or debates would tell the difference apart from 0, and show that it is below the margin."""
    result = test.result
    if len(result.seeds) < 2 or not math.isfinite(result.interval.variance):
        return NEVER, NEVER
    num_tests = result.num_tests * result.num_looks
    design = Design(
        replace(result.interval, estimate=test.sign * result.estimate),
        len(result.seeds),
        analysis.num_debates[analysis.primary],
        num_tests,
    )
    to_tell_apart = design.to_tell_apart(seeds_needed(num_tests))
    if margin is None:
        return to_tell_apart, NEVER
    num_points = analysis.num_points[analysis.primary]
    both_sides = test.role is not Role.PART
    return to_tell_apart, design.to_clear(margin, test.span, num_points, both_sides)


# --- in words ---

OUTCOMES = {
    Outcome.EARNS: "earns its place",
    Outcome.HARMS: "does harm",
    Outcome.HIGHER: "higher",
    Outcome.LOWER: "lower",
    Outcome.REMOVABLE: "may be removed",
    Outcome.EQUAL: "equal within the margin",
    Outcome.NOT_YET: "not yet",
}


def in_words(decision: Decision) -> str:
    """The outcome in a few words: "earns its place, by less than the margin"."""
    words = OUTCOMES[decision.outcome]
    told_above = decision.outcome in (Outcome.EARNS, Outcome.HIGHER, Outcome.LOWER)
    return f"{words}, by less than the margin" if told_above and decision.within_margin else words


def what_would_decide(decision: Decision, num_debates: int, groups: str) -> str:
    """What a comparison that is not decided would take, as a sentence goes on; nothing for one that is.

    `groups` are what the debates are called.
    """
    if decision.is_decided:
        return ""
    num_seeds = len(decision.result.seeds)
    seeds, debates = decision.seeds_needed, decision.debates_needed
    if num_seeds < 2:
        return f"{num_seeds or 'no'} seed{'s' * (num_seeds != 1)} cannot show what another would do; {seeds} are needed"
    more_seeds = (
        "" if seeds is None else f"about {seeds - num_seeds} more seed{'s' * (seeds - num_seeds != 1)} ({seeds} in all)"
    )
    more_debates = ""
    if debates is not None and debates > num_debates:
        more_debates = f"about {debates - num_debates} more {groups} ({debates} in all)"
    if seeds is not None:
        return f"{more_seeds}{', or ' if more_debates else ''}{more_debates}"
    if more_debates:
        return f"no number of seeds can, as {num_debates} {groups} are too few; {more_debates} would"
    times = decision.times_both
    if times is not None:
        both = f"about {times * num_seeds} seeds and {times * num_debates} {groups}"
        return f"neither more seeds nor more {groups} alone would; together, {both} would"
    return f"no number of seeds and {groups} would, if the difference stays as it is"


STATUSES = {
    Outcome.EARNS: "earns",
    Outcome.HIGHER: "earns",
    Outcome.HARMS: "costs",
    Outcome.LOWER: "costs",
    Outcome.REMOVABLE: "removable",
    Outcome.EQUAL: "removable",
}
"""Outcome → how its answer is coloured; those that are not decided keep their status."""


def with_verdicts(
    answers: Sequence[Answer],
    decided: Sequence[Decision],
    analysis: Analysis,
) -> list[Answer]:
    """The report's answers with the outcome in place of their words, and with what would decide those that are open.

    An answer that names what is ahead of what keeps its words unless its comparison is decided by the margin.
    """
    by_name = {decision.name: decision for decision in reversed(decided)}
    by_name |= {decision.name.replace(" × ", " and ") + " together": decision for decision in by_name.values()}
    best = analysis.verdict.best if analysis.verdict else ""
    found = []
    for answer in answers:
        names = [answer.part, f"{answer.part} − {best}", f"{best} − {answer.part}"]
        if analysis.families[0].kind is Kind.PARTS:
            names.append(next((name for name in by_name if name.startswith(f"{answer.part} − ")), ""))
        decision = next((by_name[name] for name in names if name in by_name), None)
        found.append(answer if decision is None else _with_verdict(answer, decision, analysis))
    return found


def _with_verdict(answer: Answer, decision: Decision, analysis: Analysis) -> Answer:
    needed = what_would_decide(decision, analysis.num_debates[analysis.primary], analysis.words.groups)
    detail = f"{answer.detail}; {needed}" if needed else answer.detail
    p = decision.p_margin
    if p is not None:
        detail = detail.replace("Holm p ", f"margin p {p_text(p)}, Holm p ", 1)
    if decision.role is Role.PART or decision.outcome in (Outcome.EQUAL, Outcome.NOT_YET):
        status = STATUSES.get(decision.outcome, answer.status)
        return replace(answer, status=status, words=in_words(decision), detail=detail)
    words = f"{answer.words}, by less than the margin" if decision.within_margin else answer.words
    return replace(answer, words=words, detail=detail)


def with_void_parts(answers: Sequence[Answer], analysis: Analysis) -> list[Answer]:
    """The answers, those first of all with why they say nothing whose comparison is of parts that are not alive."""
    void = void_comparisons(analysis)
    best = analysis.verdict.best if analysis.verdict else ""
    found = []
    for answer in answers:
        names = [answer.part, f"{WITHOUT}={answer.part}", f"{answer.part} − {best}", f"{best} − {answer.part}"]
        why = next((void[name] for name in names if name in void), "")
        found.append(replace(answer, words=f"{why}; {answer.words}") if why else answer)
    return found
