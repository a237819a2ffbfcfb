"""What the report says in words, the same on the page and in Markdown: what was declared, what was found."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from biencoder_ablate.report.fill import fill
from biencoder_ablate.report.questions import ALPHA, Analysis, Family, Kind, quoted
from biencoder_ablate.report.read import FINISHED, Protocol, Run
from biencoder_ablate.report.significance import MAX_EXACT_SEEDS, seeds_needed
from biencoder_ablate.report.study import Arms, Study
from biencoder_ablate.report.tables import effect_text

MOST_LISTED = 6  # settings in a sentence


def declared(analysis: Analysis) -> list[str]:
    """What was fixed before any figure was seen: templates/declared.txt.j2 says it alike for every sweep."""
    selects = {(run.identity.get("evaluation") or {}).get("select", "top1") for run in analysis.study.runs}
    names = {"top1": "official val top-1", "top1_clean": "clean val top-1"}
    selected = " or ".join(names.get(select, f"val {select}") for select in sorted(selects))
    text = fill(
        "declared.txt.j2", str, {}, analysis=analysis, clean=Protocol.CLEAN, official=Protocol.OFFICIAL,
        selected=selected, alpha=ALPHA, most_exact=MAX_EXACT_SEEDS, needed=seeds_needed(6, ALPHA),
    )  # fmt: skip
    return [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]


def findings(analysis: Analysis) -> list[str]:
    """What follows the verdict: the parts of the head, the other figure, each setting, the other axes, leakage."""
    said = []
    pairs = analysis.family(Kind.PAIRS)
    if pairs is not None:
        arms, left_out = pairs.arms, f"{_few(pairs.arms.left_out)}."
        if len(arms.settings) > 1:
            said.append(f"Averaged over {_settings_in_words(analysis.study, arms)}.")
            said += [f"Not in that average: {left_out}"] if arms.left_out else []
        elif arms.left_out:
            said.append(f"The verdict is for {arms.settings[0]} alone. Not in it: {left_out}")
    said += effects(analysis)
    if pairs is not None and pairs.verdict_beside is not None:
        said.append(f"By the {analysis.primary.other} figure: {_lowered(pairs.verdict_beside.sentence)}")
    said += _settings(analysis)
    for family in analysis.families:
        if family.kind is Kind.INTERACTION:
            said.append(_interaction(analysis, family))
        elif family.kind in (Kind.AXIS, Kind.VARIANTS) and family.verdict is not None:
            what = "With the ReLU before linear2 as well" if family.kind is Kind.VARIANTS else family.subject
            said.append(f"{what[0].upper()}{what[1:]}: {_lowered(family.verdict.sentence)}")
    if analysis.leakage is not None:
        said.append(analysis.leakage.sentence)
    return [*said, *analysis.notes]


def effects(analysis: Analysis) -> list[str]:
    """What each part of the head does, where all four heads can be compared."""
    family = analysis.family(Kind.EFFECTS)
    if family is None:
        return []
    layernorm, relu, together = (effect_text(result) for result in family.primary)
    told = [result.contrast.name for result in family.primary if result.told_apart(ALPHA)]
    conclusion = f"Told apart from 0: {', '.join(told)}." if told else "None of it can be told apart from 0."
    if not told and (few := _too_few(family)):
        conclusion = f"Too few seeds to tell any of it apart from 0: {few}."
    return [
        f"LayerNorm changes {analysis.primary} test top-1 by {layernorm}, ReLU by {relu}; both together "
        f"by {together} beyond the sum of the two. {conclusion}"
    ]


def _too_few(family: Family) -> str:
    """How many seeds a family has and needs, where its tests cannot reach ALPHA; else nothing."""
    have, num_tests = min(len(result.seeds) for result in family.primary), len(family.primary)
    needed = seeds_needed(num_tests, ALPHA)
    return f"{have or 'none'} in common, {needed} are needed for {num_tests} tests" if have < needed else ""


def _interaction(analysis: Analysis, family: Family) -> str:
    main, axis = analysis.study.axes[0].name, family.subject
    told = [f"{result.contrast.name} ({effect_text(result)})" for result in family.primary if result.told_apart(ALPHA)]
    if told:
        return f"What the {main} does depends on {axis}: {_few(told)}."
    if few := _too_few(family):
        return f"Too few seeds to tell whether what the {main} does depends on {axis}: {few}."
    return f"That what the {main} does depends on {axis} cannot be told ({len(family.primary)} tests)."


def _few(things: Sequence[str]) -> str:
    more = len(things) - MOST_LISTED
    return "; ".join(things[:MOST_LISTED]) + (f"; and {more} more" if more > 0 else "")


def _lowered(sentence: str) -> str:
    """A verdict's sentence as it follows a colon; names of groups keep their case."""
    starts = ("No clear", "Too few")
    return sentence[0].lower() + sentence[1:] if sentence.startswith(starts) else sentence


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
    """What must be known of a family's comparisons: the verdict, the average, and notes, on which unless on all."""
    said = [family.verdict.sentence] if family.verdict else []
    if family.kind is not Kind.SETTING and len(family.arms.settings) > 1:
        said.append(f"Averaged over {_settings_in_words(study, family.arms)}.")
    by_note: dict[str, list[str]] = {}
    for result in family.primary:
        for note in result.notes:
            by_note.setdefault(note, []).append(result.contrast.name)
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
            answers.setdefault(answer, []).append(family.subject)
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
            said.append(f"{answer} in the only setting, {settings[0]}")
    return [f"Setting by setting, each a family of its own: {'; '.join(said)}."]


def tally(runs: Sequence[Run]) -> str:
    """How many runs there are and how they ended."""
    counts = Counter(run.status for run in runs)
    total = len(runs)
    if counts[FINISHED] == total:
        return f"All {total} runs found have finished." if total > 1 else "One run found, finished."
    parts = [f"{num} {status}" for status, num in counts.most_common() if status != FINISHED]
    return f"{counts[FINISHED]} of {total} runs found have finished; {', '.join(parts)}."
