"""What the report says in words, the same on the page, in Markdown and on the screen: first the answers."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from biencoder_ablate.report import diagnostics as yardsticks
from biencoder_ablate.report.analysis import Analysis, Family, Kind
from biencoder_ablate.report.comparisons import MOST_NAMED, ContrastResult, Verdict, quoted, verdict
from biencoder_ablate.report.diagnostics import Baseline, Selection
from biencoder_ablate.report.read import FINISHED, WITHOUT, Metric, Run
from biencoder_ablate.report.statistics import ALPHA
from biencoder_ablate.report.study import Arms, Study
from biencoder_ablate.report.tables import MINUS, effect_text, p_text

MOST_LISTED = 6  # settings in a sentence, levels among the answers
MOST_CHARACTERS = 200  # of settings by name: beyond that it reads like a compiler
WORDS = {
    "earns": "earns its place",
    "costs": "does not earn its place",
    "untold": "cannot be told from nothing",
    "unknown": "not known at this number of seeds",
}
"""By an answer's status, the verdict on a part."""


@dataclass(frozen=True)
class Answer:
    """One line: a part, the verdict on it in a few words, its size and how sure. `status` is how it is coloured.

    status: earns, costs, untold (cannot be told from nothing), or unknown (at this number of seeds).
    """

    part: str
    status: str
    words: str
    detail: str

    def __str__(self) -> str:
        return f"{self.part}: {self.words}; {self.detail}"


def answers(analysis: Analysis) -> list[Answer]:
    """A line for each part of the head; where no parts were varied, for each level of what was, against the best."""
    family = analysis.family(Kind.EFFECTS)
    if family is not None:
        quiet = [result for result in family.primary if "×" in result.contrast.name and not result.is_significant()]
        if len(quiet) < 2:
            return [_of_part(analysis, family, result) for result in family.primary]
        loud = [_of_part(analysis, family, result) for result in family.primary if result not in quiet]
        return [*loud, _quiet_interactions(analysis, family, quiet)]
    if (parts := analysis.family(Kind.PARTS)) is not None:
        return [_against_baseline(analysis, parts, result) for result in parts.primary]
    family, best = analysis.family(Kind.PAIRS), analysis.verdict.best if analysis.verdict else ""
    if family is None:
        return []
    lines = []
    for result in family.primary:
        weights = dict(result.contrast.weights)
        if best in weights:
            (other,) = set(weights) - {best}
            status, loses = _status(family, result), f"loses to {quoted(best)}"
            words = WORDS | {"earns": loses, "costs": loses, "untold": f"cannot be told from {quoted(best)}"}
            behind = -weights[best] * result.estimate
            size = f"{_points(analysis, behind)} {'ahead of' if behind > 0 else 'behind'} {quoted(best)}"
            sure = _sure(analysis, result, -weights[best])
            lines.append(Answer(other, "costs" if status == "earns" else status, words[status], f"{size}{sure}"))
    return lines[:MOST_LISTED]


def _against_baseline(analysis: Analysis, family: Family, result: ContrastResult) -> Answer:
    """A system beside the baseline; a part taken out of a recipe earns its place where the figure falls without it."""
    status, size = _status(family, result), _points(analysis, result.estimate)
    moves, baseline = "higher" if result.estimate > 0 else "lower", quoted(family.baseline)
    part = result.contrast.name.removeprefix(f"{WITHOUT}=")
    words, detail = WORDS, f"{size} {moves} without it"
    if family.subject == WITHOUT:
        status = {"earns": "costs", "costs": "earns"}.get(status, status)
    else:
        told = {"earns": f"above {baseline}", "costs": f"below {baseline}", "untold": f"cannot be told from {baseline}"}
        words, detail = WORDS | told, f"{size} {moves} than {baseline}"
    return Answer(part, status, words[status], f"{detail}{_sure(analysis, result)}")


def _of_part(analysis: Analysis, family: Family, result: ContrastResult) -> Answer:
    status, both = _status(family, result), result.contrast.name.split(" × ")
    words = WORDS[status]
    told, size = status in ("earns", "costs"), _points(analysis, result.estimate)
    if len(both) > 1:
        words = f"{'more' if status == 'earns' else 'less'} than their sum" if told else words
        parts = "their effects" if len(both) == 2 else "their effects and lesser interactions"
        detail = f"{size} {'more' if result.estimate > 0 else 'less'} than the sum of {parts}"
        return Answer(f"{' and '.join(both)} together", status, words, f"{detail}{_sure(analysis, result)}")
    does = "brings" if result.estimate > 0 else "costs"
    return Answer(both[0], status, words, f"it {does} {size}{'' if told else ' so far'}{_sure(analysis, result)}")


def _quiet_interactions(analysis: Analysis, family: Family, results: Sequence[ContrastResult]) -> Answer:
    """One line for the interactions of three or more factors that are not told apart from 0."""
    largest = max(results, key=lambda result: abs(result.estimate))
    status = _status(family, largest)
    detail = f"of {len(results)} the largest so far is {largest.contrast.name}: {_points(analysis, largest.estimate)}"
    return Answer("Interactions", status, WORDS[status], f"{detail}{_sure(analysis, largest)}")


def _status(family: Family, result: ContrastResult) -> str:
    if result.is_significant():
        return "earns" if result.estimate > 0 else "costs"
    return "unknown" if family.too_few_seeds else "untold"


def _points(analysis: Analysis, share: float) -> str:
    """A difference in points of the test set: "3.4 points in 100 (about 19 of 550)"; plainly, of another measure."""
    if math.isfinite(share) and analysis.measure != Metric.TOP1.label:
        return f"{abs(share):.3f}{f' {analysis.measure}' if analysis.measure != 'value' else ''}"
    if not math.isfinite(share):
        return "an unknown number of points (no seed in common)"
    total = analysis.num_points[analysis.primary]
    num = round(abs(share) * total)
    about = f"about {num}" if num else "less than one" if share else "none"
    return f"{100 * abs(share):.1f} points in 100 ({about} of {total})"


def _sure(analysis: Analysis, result: ContrastResult, sign: float = 1.0) -> str:
    """How sure `sign` times a difference is, as a sentence goes on: the family's interval, which holds for all its
    comparisons at once as the verdict does, in points in 100 if it is of top-1; and p."""
    if not math.isfinite(result.family_low):
        return ", with no interval yet"
    ends = sorted((sign * result.family_low, sign * result.family_high))
    top1 = analysis.measure == Metric.TOP1.label
    low, high = (f"{100 * end:+.1f}" if top1 else f"{end:+.3f}" for end in ends)
    low, high = ((text if end else text[1:]).replace("-", MINUS) for text, end in zip((low, high), ends, strict=True))
    at_once = " for all at once" if result.num_tests > 1 else ""
    return f", 95% interval{at_once} {low} to {high}; Holm p {p_text(result.p_family)}"


def headline(analysis: Analysis, others: Sequence[Baseline]) -> str:
    """The verdict in a sentence or two. No arm is named for a figure that is stage 1's, or without what beats it."""
    found, said = analysis.verdict, analysis.headline
    if found is None:
        return said
    arms = analysis.main
    why = {name: yardsticks.inactive_head(arms.cells[name], analysis.primary, analysis.metric) for name in arms.names}
    means = arms.means(analysis.primary)
    best = found.best
    if why[best]:
        working = [name for name in arms.names if not why[name]]
        said = f"{quoted(best)} has the highest mean ({means[best]:.3f}) and no claim to it: {why[best]}. "
        if not working:
            return f"No head brings anything over its own stage 1. {said}"
        best = max(working, key=lambda name: means[name])
        rest = _verdict_among(analysis, working) if len(working) > 1 else None
        said += (
            f"Of those that do something: {_shorter(rest)}"
            if rest
            else f"Only {quoted(best)} does something ({means[best]:.3f})."
        )
    if higher := yardsticks.below(means[best], analysis.key(), others):
        *named, last = [f"{other.label} ({other.figures[analysis.key()]:.3f})" for other in higher]
        need = f"{', '.join(named)} and {last}, which need" if named else f"{last}, which needs"
        said += f" That is below {need} no training."
    return said


def _verdict_among(analysis: Analysis, names: Sequence[str]) -> Verdict:
    """The verdict on some of the arms, with the p-values of the whole family."""
    family = analysis.family(Kind.PAIRS)
    assert family is not None
    groups = [group for group in family.arms.groups(analysis.primary) if group.name in names]
    results = [result for result in family.primary if {name for name, _ in result.contrast.weights} <= set(names)]
    return verdict(groups, results)


def selected(found: Selection) -> str:
    """Whether the order of the arms hangs on which epoch is picked, and by how much those differ that change places."""
    rules, names = list(found.means), list(found.means[next(iter(found.means))])
    swapped: dict[tuple[str, str], float] = {}  # pair → the most that the two differ by, under any rule
    for a, b in itertools.combinations(names, 2):
        leads = [round(found.means[rule][a] - found.means[rule][b], 9) for rule in rules]
        if min(leads) < 0 < max(leads):
            swapped[a, b] = max(map(abs, leads))
    if not swapped:
        return "Whichever rule picks the epoch, the order is the same."
    pairs = "; ".join(quoted(*pair) for pair in swapped)
    if len(swapped) > MOST_NAMED:
        pairs = f"{len(swapped)} of the {math.comb(len(names), 2)} pairs"
    return (
        f"By another rule of picking the epoch {pairs} change places; under no rule are they more than "
        f"{100 * max(swapped.values()):.1f} points in 100 apart."
    )


def findings(analysis: Analysis) -> list[str]:
    """What follows the answers: what they are averaged over, the other figure, each setting, the other axes."""
    said = []
    pairs = analysis.family(Kind.PAIRS)
    if pairs is not None:
        arms, left_out = pairs.arms, f"{_few(pairs.arms.left_out)}."
        if len(left_out) > MOST_CHARACTERS:
            left_out = f"{len(arms.left_out)} settings, in which not every {pairs.subject} has finished runs."
        if len(arms.settings) > 1:
            said.append(f"Averaged over {_settings_in_words(analysis.study, arms)}.")
            said += [f"Not in that average: {left_out}"] if arms.left_out else []
        elif arms.left_out:
            here = arms.settings[0] if len(arms.settings[0]) < MOST_CHARACTERS else "one setting"
            said.append(f"The verdict is for {here} alone. Not in it: {left_out}")
    if pairs is not None and pairs.verdict_beside is not None:
        said.append(f"By the {analysis.primary.other} figure: {_shorter(pairs.verdict_beside)}")
    said += _settings(analysis)
    open_axes = []
    for family in analysis.families:
        if family.kind is Kind.INTERACTION:
            said.append(_interaction(analysis, family))
        elif family.kind in (Kind.AXIS, Kind.VARIANTS) and family.verdict is not None:
            what = "with the ReLU before linear2 as well" if family.kind is Kind.VARIANTS else family.subject
            if family.verdict.status == "too_few_seeds":
                open_axes.append(f"{what} (highest so far: {family.verdict.best})")
            else:
                said.append(f"{what[0].upper()}{what[1:]}: {_shorter(family.verdict)}")
    return said + [f"Too few seeds to name a winner: {'; '.join(open_axes)}." for _ in open_axes[:1]]


def _interaction(analysis: Analysis, family: Family) -> str:
    main, axis = analysis.study.axes[0].name, family.subject
    told = [f"{result.contrast.name} ({effect_text(result)})" for result in family.primary if result.is_significant()]
    if told:
        return f"What the {main} does depends on {axis}: {_few(told)}."
    if few := family.too_few_seeds:
        return f"Too few seeds to tell whether what the {main} does depends on {axis}: {few}."
    return f"That what the {main} does depends on {axis} cannot be told ({len(family.primary)} tests)."


def _few(things: Sequence[str]) -> str:
    more = len(things) - MOST_LISTED
    return "; ".join(things[:MOST_LISTED]) + (f"; and {more} more" if more > 0 else "")


def _shorter(found: Verdict) -> str:
    """A further verdict as it follows a colon; names of groups keep their case."""
    if found.status == "too_few_seeds":
        return f"too few seeds to name a winner; the highest mean so far is that of {quoted(found.best)}."
    return found.sentence.replace("No clear", "no clear", 1) if found.winner is None else found.sentence


def _settings_in_words(study: Study, arms: Arms) -> str:
    """What an average goes over: the axes' levels where every combination of them is there, else a list."""
    num = len(arms.settings)
    levels = [[cell.levels for cell in arms.cells[name]] for name in arms.names]
    free = [
        k for k in range(len(study.axes)) if all([a[k] for a in levels[0]] == [b[k] for b in arm] for arm in levels)
    ]
    seen = {k: list(dict.fromkeys(cell_levels[k].label for cell_levels in levels[0])) for k in free}
    if math.prod(len(labels) for labels in seen.values()) == num:
        crossed = [f"{study.axes[k].name} ({', '.join(labels)})" for k, labels in seen.items() if len(labels) > 1]
        return f"{num} settings: {' × '.join(crossed)}"
    return f"{num} settings: {'; '.join(arms.settings)}"


def about(study: Study, family: Family) -> list[str]:
    """What must be known of a family's comparisons: what they average over, and notes, on which unless on all."""
    said = []
    if family.kind is not Kind.SETTING and len(family.arms.settings) > 1:
        said.append(f"Averaged over {_settings_in_words(study, family.arms)}.")
    by_note: dict[str, list[str]] = {}
    for result in family.primary:
        for note in result.notes:
            by_note.setdefault(note, []).append(result.contrast.name)
    of_models = {r.contrast.name: r.p_debates for r in family.primary if r.p_debates is not None}
    if of_models:
        told = [f"{name} (Holm p {p_text(p)})" for name, p in of_models.items() if p < ALPHA]
        said.append(
            f"One seed: of these very models, over further debates, {_few(told) or 'nothing'} can be told from 0 "
            "(paired sign-flip test, by debates). Whether another seed of the setting would do so, it cannot show."
        )
    for note, names in by_note.items():
        said.append(f"Note: {note}." if len(names) == len(family.primary) else f"Note on {_few(names)}: {note}.")
    return said


def _settings(analysis: Analysis) -> list[str]:
    """One sentence for all settings, those with the same answer together."""
    answers: dict[str, list[str]] = {}
    for family in analysis.of(Kind.SETTING):
        if (verdict := family.verdict) is not None:
            answer = f"no clear winner among {quoted(*verdict.not_told_apart)}"
            if verdict.winner is not None:
                answer = f"{quoted(verdict.winner)} wins"
            elif verdict.status == "too_few_seeds":
                answer = f"too few seeds to tell, {quoted(verdict.best)} highest"
            where = family.subject if len(family.subject) < MOST_CHARACTERS // 2 else "one setting"
            answers.setdefault(answer, []).append(where)
    if not answers:
        return []
    said = []
    for answer, settings in answers.items():
        if len(answers) > 1:
            some = " | ".join(settings) if len(settings) <= MOST_LISTED else f"{len(settings)} settings"
            said.append(f"{answer} (at {some})")
        elif len(settings) > 1:
            said.append(f"{answer} in each of the {len(settings)} settings")
        else:
            said.append(f"{answer} in the only setting{'' if settings[0] == 'one setting' else f', {settings[0]}'}")
    return [f"Setting by setting, each a family of its own: {'; '.join(said)}."]


def tally(runs: Sequence[Run]) -> str:
    """How many runs there are and how they ended."""
    counts = Counter(run.status for run in runs)
    total = len(runs)
    if counts[FINISHED] == total:
        return f"All {total} runs found have finished." if total > 1 else "One run found, finished."
    parts = [f"{num} {status}" for status, num in counts.most_common() if status != FINISHED]
    return f"{counts[FINISHED]} of {total} runs found have finished; {', '.join(parts)}."
