"""What the report says in words, the same on the page, in Markdown and on the screen: first the answers."""

from __future__ import annotations

import itertools
import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from biencoder_ablate.report import diagnostics
from biencoder_ablate.report.analysis import CHANGES, Analysis, Family, Kind
from biencoder_ablate.report.comparisons import (
    MOST_NAMED,
    ContrastResult,
    Verdict,
    quoted,
    verdict,
)
from biencoder_ablate.report.diagnostics import Baseline, Selection
from biencoder_ablate.report.read import FINISHED, WITHOUT, Metric, Run
from biencoder_ablate.report.statistics import ALPHA
from biencoder_ablate.report.study import Arms, Study
from biencoder_ablate.report.tables import MINUS, effect_text, p_text
from biencoder_ablate.report.words import words_of

SAME = 1e-9  # means that differ by less are equal
MOST_LISTED = 6  # settings in a sentence, levels among the answers
MOST_CHARACTERS = 200  # of settings by name; beyond that a sentence only counts them
VERDICTS = {
    "earns": "earns its place",
    "costs": "does not earn its place",
    "untold": "cannot be told from nothing",
    "unknown": "not known at this number of seeds",
}
"""Status of an answer → the verdict on a part in words."""


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
    parts = analysis.family(Kind.PARTS)
    if parts is not None:
        return [_baseline_answer(analysis, parts, result) for result in parts.primary]
    effects = analysis.family(Kind.EFFECTS)
    if effects is not None:
        return _effect_answers(analysis, effects)
    pairs = analysis.family(Kind.PAIRS)
    if pairs is None or pairs.verdict is None:
        return []

    best = pairs.verdict.best
    rival = quoted(best)
    words = VERDICTS | {
        "costs": f"loses to {rival}",
        "untold": f"cannot be told from {rival}",
    }
    lines = []
    for result in pairs.primary:
        weights = dict(result.contrast.weights)
        if best not in weights:
            continue
        (other,) = set(weights) - {best}

        # The sign turns the difference into the other's lead over the best, whichever of the two is named first.
        sign = -weights[best]
        lead = sign * result.estimate
        direction = "ahead of" if lead > 0 else "behind"
        status = "costs" if result.is_significant() else _status(pairs, result)
        certainty = _certainty(analysis, result, sign)
        lines.append(
            Answer(
                part=other,
                status=status,
                words=words[status],
                detail=f"{_size(analysis, lead)} {direction} {rival}{certainty}",
            )
        )
    return lines[:MOST_LISTED]


def reading(analysis: Analysis) -> str:
    """How to read the answers: what is compared, and what their words mean; nothing where nothing is compared."""
    if not analysis.families:
        return ""
    words = analysis.words
    parts = analysis.family(Kind.PARTS)
    compared = "Each line is one comparison"
    if analysis.star is not None:
        compared = f"Each line is one change, compared with the centre ({analysis.star.centre.name})"
    elif parts is not None:
        compared = f"Each line is compared with {quoted(parts.baseline)}"
    elif analysis.family(Kind.EFFECTS):
        compared = "Each line is one part: its effect with and without it, averaged over the other parts"
    return (
        f"{compared}, in {analysis.figure()}. A 95% interval is where the difference over more seeds and "
        f"{words.groups} lies; “for all at once” means that all intervals here hold together. Holm p is the chance of "
        "so large a difference where there is none, corrected for the number of comparisons; below "
        f"{ALPHA:g} the two are told apart."
    )


def _effect_answers(analysis: Analysis, family: Family) -> list[Answer]:
    """A line for each factor and interaction; those interactions that are not significant share one."""
    # One interaction that is not significant, as of two factors, keeps its line; several would bury the factors.
    quiet = [result for result in family.primary if "×" in result.contrast.name and not result.is_significant()]
    if len(quiet) < 2:
        quiet = []

    lines = []
    for result in family.primary:
        if result in quiet:
            continue
        factors = result.contrast.name.split(" × ")
        significant = result.is_significant()
        status = _status(family, result)
        words = VERDICTS[status]
        size = _size(analysis, result.estimate)
        certainty = _certainty(analysis, result)
        higher = result.estimate > 0
        if len(factors) == 1:
            verb = "brings" if higher else "costs"
            so_far = "" if significant else " so far"
            lines.append(
                Answer(
                    part=factors[0],
                    status=status,
                    words=words,
                    detail=f"it {verb} {size}{so_far}{certainty}",
                )
            )
            continue

        # An interaction is what the factors bring together, beyond what each brings by itself.
        direction = "more" if higher else "less"
        if significant:
            words = f"{direction} than their sum"
        effects = "their effects" if len(factors) == 2 else "their effects and lesser interactions"
        lines.append(
            Answer(
                part=f"{' and '.join(factors)} together",
                status=status,
                words=words,
                detail=f"{size} {direction} than the sum of {effects}{certainty}",
            )
        )

    if quiet:
        largest = max(
            quiet,
            key=lambda result: abs(result.estimate),
        )
        status = _status(family, largest)
        size = _size(analysis, largest.estimate)
        certainty = _certainty(analysis, largest)
        lines.append(
            Answer(
                part="Interactions",
                status=status,
                words=VERDICTS[status],
                detail=f"of {len(quiet)} the largest so far is {largest.contrast.name}: {size}{certainty}",
            )
        )
    return lines


def _baseline_answer(
    analysis: Analysis,
    family: Family,
    result: ContrastResult,
) -> Answer:
    """A system beside the baseline; or a part of a recipe, which was taken out."""
    status = _status(family, result)
    part = result.contrast.name.removeprefix(f"{WITHOUT}=")
    direction = "higher" if result.estimate > 0 else "lower"
    words = VERDICTS
    reference = "without it"
    if family.subject == WITHOUT:
        # A part earns its place where the metric falls without it.
        opposite = {
            "earns": "costs",
            "costs": "earns",
        }
        status = opposite.get(status, status)
    else:
        baseline = "the centre" if family.subject == CHANGES else quoted(family.baseline)
        reference = f"than {baseline}"
        words = words | {
            "earns": f"above {baseline}",
            "costs": f"below {baseline}",
            "untold": f"cannot be told from {baseline}",
        }
    size = _size(analysis, result.estimate)
    certainty = _certainty(analysis, result)
    seen = f"{size} {direction} {reference}" if result.estimate else "no difference seen"
    return Answer(
        part=part,
        status=status,
        words=words[status],
        detail=f"{seen}{certainty}",
    )


def _status(family: Family, result: ContrastResult) -> str:
    if result.is_significant():
        return "earns" if result.estimate > 0 else "costs"
    return "unknown" if family.too_few_seeds else "untold"


def _size(analysis: Analysis, difference: float) -> str:
    """How large a difference is, without its sign: "0.034 (about 19 of 550 queries)"; of another metric "0.034 MRR"."""
    if not math.isfinite(difference):
        return "an unknown amount (no seed in common)"
    size = abs(difference)
    if analysis.measure != Metric.TOP1.label:
        unit = "" if analysis.measure == "value" else f" {analysis.measure}"
        return f"{size:.3f}{unit}"

    # Top-1 is a share of queries, so that a difference is a number of them.
    total = analysis.num_points[analysis.primary]
    num_points = round(size * total)
    about = "none"
    if num_points:
        about = f"about {num_points}"
    elif size:
        about = "less than one"
    return f"{size:.3f} ({about} of {analysis.words.queries(total)})"


def _certainty(
    analysis: Analysis,
    result: ContrastResult,
    sign: float = 1.0,
) -> str:
    """How sure `sign` times a difference is, as a sentence goes on: the family's interval and Holm's p.

    The interval holds for all comparisons of the family at once, as the verdict does. Of a difference that is not told
    apart from 0 the interval's end farther from 0 comes first: it says what is ruled out.
    """
    if not math.isfinite(result.family_low):
        return f"; no interval: {_why_no_interval(result)}"
    ends = []
    for end in sorted((sign * result.family_low, sign * result.family_high)):
        text = f"{end:+.3f}".replace("-", MINUS)
        ends.append(text if end else text[1:])  # 0 itself has no sign

    # Rounded up, as the bound must hold.
    farthest = max(-result.family_low, result.family_high)
    bound = math.ceil(1000 * farthest - 1e-9) / 1000
    ruled_out = ""
    if bound and not result.is_significant():
        ruled_out = f"; any difference is smaller than {bound:.3f}"

    # Of a single comparison the two intervals are one.
    at_once = " for all at once" if result.num_tests > 1 else ""
    return f"{ruled_out}; 95% interval{at_once} {ends[0]} to {ends[1]}; Holm p {p_text(result.p_family)}"


def _why_no_interval(result: ContrastResult) -> str:
    """What an interval would need: seeds in common, or more than one of seeds and groups."""
    if not result.seeds:
        return "no seed in common"
    return "one seed" if len(result.seeds) == 1 else "all in one group"


def headline(analysis: Analysis, others: Sequence[Baseline]) -> str:
    """The verdict in a sentence or two.

    No arm wins by what its stage 1 has found, and none is named without the baselines (`others`) and the configurations
    that are higher.
    """
    pairs = analysis.family(Kind.PAIRS)
    if analysis.family(Kind.PARTS) or pairs is None or pairs.verdict is None:
        return analysis.headline
    sentence = pairs.verdict.sentence
    best = pairs.verdict.best
    arms = analysis.main
    means = arms.means(analysis.primary)
    why_idle = {
        name: diagnostics.inactive_head(arms.cells[name], analysis.primary, analysis.metric) for name in arms.names
    }

    # Where the head of the best arm does nothing, the verdict is among the arms whose heads do something.
    if why_idle[best]:
        sentence = f"{quoted(best)} has the highest mean ({means[best]:.3f}) and no claim to it: {why_idle[best]}. "
        active = [name for name in arms.names if not why_idle[name]]
        if not active:
            sentence = f"No head brings anything over its own stage 1. {sentence}".rstrip()
            return f"{sentence}{_higher_rows(analysis, best, means[best], sentence)}"
        best = max(active, key=means.__getitem__)
        if len(active) > 1:
            # With the p-values of the whole family: leaving arms out must not make the others more significant.
            groups = [group for group in pairs.arms.groups(analysis.primary) if group.name in active]
            among = [result for result in pairs.primary if dict(result.contrast.weights).keys() <= set(active)]
            sentence += f"Of those that do something: {_continued(verdict(groups, among))}"
        else:
            sentence += f"Only {quoted(best)} does something ({means[best]:.3f})."

    # Who needs no training and is higher belongs to the verdict.
    higher = diagnostics.below(means[best], analysis.key(), others)
    if higher:
        *named, last = [f"{other.label} ({other.figures[analysis.key()]:.3f})" for other in higher]
        listed = f"{', '.join(named)} and {last}, which need" if named else f"{last}, which needs"
        sentence += f" That is below {listed} no training."
    sentence += _higher_rows(analysis, best, means[best], sentence)
    return " ".join([sentence, *analysis.missing_queries])


def _higher_rows(analysis: Analysis, best: str, mean: float, said: str) -> str:
    """A sentence on the configurations with a higher mean than the arm that is named as the best; or nothing.

    The verdict may average over settings, leave some out, or go by the seeds that all arms share: rows of the table may
    lie above it. Those that are named in what was `said` are not named again.
    """
    arms, primary = analysis.main, analysis.primary
    averaged = len(arms.settings) > 1
    own = arms.cells[best]
    arm_of = {id(cells[0]): name for name, cells in arms.cells.items() if not averaged}
    figures = {cell.name: analysis.summaries[cell.name][primary].mean for cell in analysis.study.cells}
    least = mean if averaged else min(mean, figures[own[0].name])

    higher = []
    for cell in analysis.study.cells:
        name = arm_of.get(id(cell), cell.name)
        is_best = not averaged and cell is own[0]
        if figures[cell.name] > least + SAME and not is_best and quoted(name) not in said:
            higher.append(cell.name)
    if not higher:
        return ""
    higher.sort(key=lambda name: -figures[name])
    named = [f"{quoted(name)} ({figures[name]:.3f})" for name in higher[:MOST_NAMED]]
    if len(higher) > MOST_NAMED:
        named.append(f"and {len(higher) - MOST_NAMED} more")
    if averaged:
        return f" That is an average; single configurations above it are {', '.join(named)}."
    return f" The table has higher means: {', '.join(named)}."


def selected(selection: Selection) -> str:
    """Whether the order of the arms hangs on which epoch is picked, and by how much those differ that change places."""
    by_rule = list(selection.means.values())  # arm → mean, for each rule
    pairs = list(itertools.combinations(by_rule[0], 2))
    swapped: dict[tuple[str, str], float] = {}  # pair → the most that the two differ by, under any rule
    for a, b in pairs:
        leads = [round(means[a] - means[b], 9) for means in by_rule]
        if min(leads) < 0 < max(leads):
            swapped[a, b] = max(map(abs, leads))
    if not swapped:
        return "Whichever rule picks the epoch, the order is the same."

    # Many pairs are counted rather than named.
    named = "; ".join(quoted(*pair) for pair in swapped)
    if len(swapped) > MOST_NAMED:
        named = f"{len(swapped)} of the {len(pairs)} pairs"
    return (
        f"By another rule of picking the epoch {named} change places; under no rule are they more than "
        f"{max(swapped.values()):.3f} apart."
    )


def findings(analysis: Analysis) -> list[str]:
    """What follows the answers: what they are averaged over, the other protocol, each setting, the other axes."""
    sentences = []
    pairs = analysis.family(Kind.PAIRS)
    if pairs is not None:
        arms = pairs.arms
        left_out = f"{_listed(arms.left_out)}."
        if len(left_out) > MOST_CHARACTERS:
            left_out = f"{len(arms.left_out)} settings, in which not every {pairs.subject} has finished runs."

        # What the verdict goes over, and which settings it had to leave out.
        if len(arms.settings) > 1:
            sentences.append(_averaged(analysis.study, arms))
            if arms.left_out:
                sentences.append(f"Not in that average: {left_out}")
        elif arms.left_out:
            (where,) = arms.settings
            if len(where) >= MOST_CHARACTERS:
                where = "one setting"
            sentences.append(f"The verdict is for {where} alone. Not in it: {left_out}")
        if pairs.verdict_beside is not None:
            sentences.append(f"By the {analysis.primary.other} figure: {_continued(pairs.verdict_beside)}")
    sentences += _setting_verdicts(analysis)

    # The other axes: those without enough seeds share a last sentence.
    undecided = []
    for family in analysis.families:
        if family.kind is Kind.INTERACTION:
            sentences.append(_interaction(analysis, family))
        elif family.kind in (Kind.AXIS, Kind.VARIANTS) and family.verdict is not None:
            subject = "with the ReLU before linear2 as well" if family.kind is Kind.VARIANTS else family.subject
            if analysis.star is not None:
                subject += ", all else as in the centre"
            if family.verdict.status == "too_few_seeds":
                undecided.append(f"{subject} (highest so far: {family.verdict.best})")
            else:
                sentences.append(f"{subject[0].upper()}{subject[1:]}: {_continued(family.verdict)}")
    if undecided:
        sentences.append(f"Too few seeds to name a winner: {'; '.join(undecided)}.")
    return sentences


def _interaction(analysis: Analysis, family: Family) -> str:
    """Whether what the main axis does depends on the family's axis."""
    depends = f"the {analysis.study.axes[0].name} does depends on {family.subject}"
    effects = [
        f"{result.contrast.name} ({effect_text(result)})" for result in family.primary if result.is_significant()
    ]
    if effects:
        return f"What {depends}: {_listed(effects)}."
    if family.too_few_seeds:
        return f"Too few seeds to tell whether what {depends}: {family.too_few_seeds}."
    return f"That what {depends} cannot be told ({len(family.primary)} tests)."


def _listed(names: Sequence[str]) -> str:
    """The first of the names, and how many more there are."""
    listed = "; ".join(names[:MOST_LISTED])
    num_more = len(names) - MOST_LISTED
    return f"{listed}; and {num_more} more" if num_more > 0 else listed


def _continued(verdict: Verdict) -> str:
    """A further verdict as it follows a colon; names of groups keep their case."""
    if verdict.status == "too_few_seeds":
        return f"too few seeds to name a winner; the highest mean so far is that of {quoted(verdict.best)}."
    return verdict.sentence if verdict.winner else verdict.sentence.replace("No clear", "no clear", 1)


def _averaged(study: Study, arms: Arms) -> str:
    """What an average goes over: the axes' levels where every combination of them is there, else a list."""
    # Axes on which every arm has the same level in the same setting, and their levels in order.
    columns = [list(zip(*(cell.levels for cell in arms.cells[name]), strict=True)) for name in arms.names]
    labels = {
        axis.name: list(dict.fromkeys(level.label for level in by_arm[0]))
        for axis, *by_arm in zip(study.axes, *columns, strict=True)
        if len(set(by_arm)) == 1
    }
    num_settings = len(arms.settings)
    listed = "; ".join(arms.settings)
    if math.prod(map(len, labels.values())) == num_settings:
        listed = " × ".join(f"{name} ({', '.join(levels)})" for name, levels in labels.items() if len(levels) > 1)
    return f"Averaged over {num_settings} settings: {listed}."


def about(study: Study, family: Family) -> list[str]:
    """What must be known of a family's comparisons: what they average over, and notes, on which unless on all."""
    sentences = []
    if family.kind is not Kind.SETTING and len(family.arms.settings) > 1:
        sentences.append(_averaged(study, family.arms))

    # Notes with the comparisons that they are on; one on all names none.
    notes: dict[str, list[str]] = defaultdict(list)  # note → comparisons
    by_debates: dict[str, float] = {}  # comparison → p over debates, where there is one seed
    for result in family.primary:
        name = result.contrast.name
        for note in result.notes:
            notes[note].append(name)
        if result.p_debates is not None:
            by_debates[name] = result.p_debates
    if by_debates:
        groups = words_of(study.runs).groups
        significant = [f"{name} (Holm p {p_text(p)})" for name, p in by_debates.items() if p < ALPHA]
        sentences.append(
            f"One seed: of these very models, over further {groups}, {_listed(significant) or 'nothing'} can be told "
            f"from 0 (paired sign-flip test, by {groups}). Whether another seed of the setting would do so, it cannot "
            "show."
        )
    for note, names in notes.items():
        on = "" if len(names) == len(family.primary) else f" on {_listed(names)}"
        sentences.append(f"Note{on}: {note}.")
    return sentences


def _setting_verdicts(analysis: Analysis) -> list[str]:
    """One sentence for all settings, those with the same answer together; none where none was asked by itself."""
    settings_by_answer: dict[str, list[str]] = defaultdict(list)
    for family in analysis.of(Kind.SETTING):
        verdict = family.verdict
        if verdict is None:
            continue
        if verdict.winner is not None:
            answer = f"{quoted(verdict.winner)} wins"
        elif verdict.status == "too_few_seeds":
            answer = f"too few seeds to tell, {quoted(verdict.best)} highest"
        else:
            answer = f"no clear winner among {quoted(*verdict.not_told_apart)}"
        settings_by_answer[answer].append(
            family.subject if len(family.subject) < MOST_CHARACTERS // 2 else "one setting"
        )

    # Only where settings disagree must each answer say where it holds.
    clauses = []
    for answer, settings in settings_by_answer.items():
        num_settings = len(settings)
        if len(settings_by_answer) > 1:
            where = " | ".join(settings) if num_settings <= MOST_LISTED else f"{num_settings} settings"
            clauses.append(f"{answer} (at {where})")
        elif num_settings > 1:
            clauses.append(f"{answer} in each of the {num_settings} settings")
        else:
            where = "" if settings[0] == "one setting" else f", {settings[0]}"
            clauses.append(f"{answer} in the only setting{where}")
    return [f"Setting by setting, each a family of its own: {'; '.join(clauses)}."] if clauses else []


def tally(runs: Sequence[Run]) -> str:
    """How many runs there are and how they ended."""
    counts = Counter(run.status for run in runs)
    total = len(runs)
    num_finished = counts.pop(FINISHED, 0)
    if num_finished == total:
        return f"All {total} runs found have finished." if total > 1 else "One run found, finished."
    others = [f"{num} {status}" for status, num in counts.most_common()]
    return f"{num_finished} of {total} runs found have finished; {', '.join(others)}."
