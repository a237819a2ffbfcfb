"""The verdict for programs: everything that a report concludes of its studies, as one JSON document.

docs/automation.md describes it. SCHEMA is raised when a key changes its meaning or goes; keys may be added.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from biencoder_ablate.report import diagnostics, sentences
from biencoder_ablate.report.analysis import Analysis
from biencoder_ablate.report.comparisons import last_look
from biencoder_ablate.report.design import declare
from biencoder_ablate.report.diagnostics import Baseline, baselines
from biencoder_ablate.report.examples import load_texts
from biencoder_ablate.report.folds import note_folds
from biencoder_ablate.report.ledger import SOURCES, Ledger
from biencoder_ablate.report.looks import analyse_at_looks
from biencoder_ablate.report.parts import void_comparisons, void_sentences
from biencoder_ablate.report.read import FINISHED, NOT_EVALUATED, Collection, Protocol, Sweep
from biencoder_ablate.report.study import make_studies
from biencoder_ablate.report.tables import MINUS, command, p_text
from biencoder_ablate.report.tuning import choices_json, turned
from biencoder_ablate.report.verdicts import Decision, decisions, in_words, what_would_decide
from biencoder_ablate.version import __version__

SCHEMA = 1
NOT_YET = 3
"""The exit code of `decide` where something is not decided."""


@dataclass(frozen=True, eq=False)
class Judged:
    """A study with the outcome of each of its comparisons, and the baselines beside it."""

    analysis: Analysis
    others: Sequence[Baseline]
    decisions: Sequence[Decision]

    @cached_property
    def headline(self) -> str:
        """The report's headline, after what it cannot be about: parts that are not alive in any run."""
        return " ".join([*void_sentences(self.analysis), sentences.headline(self.analysis, self.others)])

    @property
    def deciding(self) -> list[Decision]:
        """The comparisons that the question is about."""
        return [decision for decision in self.decisions if decision.decides]


def judge(
    collection: Collection,
    ledger: Ledger,
    protocol: Protocol | None = None,
    baseline: Sequence[str] = (),
) -> list[Judged]:
    """The studies that the runs make, with what is concluded of each, at the ledger's looks where it has any.

    Raises ValueError where no run has finished, where there is nothing to compare, and where looks are declared of
    scores that have no seeds.
    """
    runs = note_folds(collection).pooled or ()
    studies = [declare(study, baseline) for study in make_studies(runs)]
    if not studies:
        raise ValueError("no finished run to decide on; run the sweep's command again: it goes on where it stopped")
    judged = []
    for study in studies:
        check_looks(study.seeds, study.trained_here, ledger.looks)
        analysis = analyse_at_looks(study, protocol, ledger.looks, load_texts(study).cluster_of, ledger.margin)
        analysis = declared_in(ledger, analysis)
        judged.append(Judged(analysis, baselines(study), decisions(analysis)))
    if not any(each.decisions for each in judged):
        raise ValueError("nothing to decide: all finished runs are of one configuration, or no two can be compared")
    return judged


def declared_in(ledger: Ledger, analysis: Analysis, earlier: Sequence[int] = ()) -> Analysis:
    """The analysis with the margin and the earlier looks of a ledger, and further `earlier` ones."""
    seen = {*earlier, *ledger.earlier(analysis.study.name)}
    return replace(
        analysis,
        earlier=tuple(sorted(seen)),
        margin=ledger.margin,
        margin_declared_by=SOURCES.get(ledger.source, ""),
    )


def check_looks(seeds: Sequence[int], trained_here: bool, looks: Sequence[int]) -> None:
    """Raise ValueError where looks, which are numbers of seeds, are declared of scores without seeds."""
    if looks and not trained_here and len(seeds) < 2:
        raise ValueError("--looks: the table has no seeds, and looks are numbers of seeds; leave it out")


def at_looks(judged: Sequence[Judged]) -> dict[str, dict[str, dict[str, str]]]:
    """What declared looks have decided: study → look → comparison → outcome, as the ledger remembers it."""
    found: dict[str, dict[str, dict[str, str]]] = {}
    for each in judged:
        for decision in each.deciding:
            settled = each.analysis.settled.get(decision.result.contrast.name)
            if settled is not None:
                by_look = found.setdefault(each.analysis.study.name, {})
                by_look.setdefault(str(settled.look), {})[decision.name] = str(decision.outcome)
    return found


def remember(ledger: Ledger, judged: Sequence[Judged]) -> str:
    """Remember this look at the studies and what it decided; returns why that cannot be, or nothing."""
    return ledger.add({each.analysis.study.name: len(each.analysis.study.seeds) for each in judged}, at_looks(judged))


def lacking(collection: Collection) -> list[str]:
    """Configurations of which no run has finished, by their overrides: comparisons with them are not there yet."""
    finished, others = set(), {}
    for run in collection.runs:
        settings = tuple(item for item in run.overrides if not item.startswith("seed="))
        if run.status == FINISHED:
            finished.add(settings)
        elif run.overrides:
            others[settings] = " ".join(settings) or "(no overrides)"
    return [words for settings, words in others.items() if settings not in finished]


def is_decided(collection: Collection, judged: Sequence[Judged]) -> bool:
    """Whether every comparison that the question is about has an outcome, and no configuration is missing."""
    open_ones = [each for study in judged for each in study.deciding if not each.is_decided]
    compared = all(study.deciding for study in judged)
    return compared and not open_ones and not lacking(collection)


def next_command(sweep: Sweep, num_seeds: int, seeds: Sequence[int]) -> str | None:
    """The command that goes on with a sweep up to so many seeds; None for a search, which chooses its runs itself.

    The sweep keeps its name, so that its runs stay together.
    """
    if any(item.startswith("hydra/sweeper=") for item in sweep.overrides):
        return None
    kept = [item for item in sweep.overrides if not item.startswith(("seed=", "sweep_name=", "plan=", "rerun="))]
    first = [*seeds]
    wanted = f"range(0,{num_seeds})"
    if first != list(range(len(first))):
        # Seeds of one's own are kept, and the next ones follow the highest.
        more = range(max(first, default=-1) + 1, max(first, default=-1) + 1 + num_seeds - len(first))
        wanted = ",".join(map(str, [*first, *more]))
    overrides = [*kept, f"seed={wanted}", f"sweep_name={sweep.path.name}"]
    return command(replace(sweep, overrides=tuple(overrides)))


def go_on(collection: Collection, judged: Sequence[Judged]) -> dict[str, Any]:
    """How many seeds would decide all that more seeds can decide, and the command that makes their runs.

    Runs that are listed and not finished come first. No command for another program's runs, for several sweeps at once,
    and where no number of seeds would decide anything.
    """
    nothing: dict[str, Any] = {"seeds": None, "command": None}
    if is_decided(collection, judged):
        return nothing
    sweep = collection.sweeps[0] if len(collection.sweeps) == 1 else None
    open_ones = [each for study in judged for each in study.deciding if not each.is_decided]
    needed = [each.seeds_needed for each in open_ones if each.seeds_needed is not None]
    seeds = max(needed, default=None)
    looks = judged[0].analysis.looks
    present = judged[0].analysis.study.seeds
    if looks:  # on to the next one that was declared
        seeds = next((look for look in looks if look > len(present)), None)
    if sweep is not None and sweep.looks:  # its own command goes on from look to look
        return {"seeds": next_look(judged), "command": command(sweep) if next_look(judged) else None}
    if sweep is None:
        return {"seeds": seeds, "command": None}

    # Runs that only have to be evaluated come before any that must be trained.
    to_evaluate = next((run.evaluate for run in collection.runs if run.evaluate), None)
    if to_evaluate:
        return {"seeds": seeds, "command": to_evaluate}
    finished = {run.name for run in collection.runs if run.status in (FINISHED, NOT_EVALUATED)}
    if not finished.issuperset(sweep.names):
        # The sweep may have been started last with fewer seeds than it lists.
        listed = _listed_seeds(collection)
        follow_up = next_command(sweep, len(listed), listed) if listed else command(sweep)
        return {"seeds": seeds, "command": follow_up}
    if seeds is None or seeds <= len(present):
        return nothing
    return {"seeds": seeds, "command": next_command(sweep, seeds, present)}


def next_look(judged: Sequence[Judged]) -> int | None:
    """The first declared look at which something open was not looked at yet; None after the last."""
    following = []
    for each in judged:
        fewest = [len(decision.result.seeds) for decision in each.deciding if not decision.is_decided]
        following += [look for look in each.analysis.looks if fewest and look > min(fewest)]
    return min(following, default=None)


def _listed_seeds(collection: Collection) -> list[int]:
    """The seeds of all runs that there are or that are listed, as their overrides have them, ascending."""
    seeds = set()
    for run in collection.runs:
        for key, _, value in (item.partition("=") for item in run.overrides):
            if key == "seed" and value.isdecimal():
                seeds.add(int(value))
    return sorted(seeds)


# --- as JSON ---


def verdict_json(collection: Collection, judged: Sequence[Judged], ledger: Ledger) -> dict[str, Any]:
    """The whole document: what docs/automation.md describes. Numbers that are not known are null."""
    analysis = judged[0].analysis
    decided = is_decided(collection, judged)
    document = {
        "schema": SCHEMA,
        "version": __version__,
        "decided": decided,
        "exit_code": 0 if decided else NOT_YET,
        "metric": analysis.measure,
        "protocol": str(analysis.primary) if analysis.study.trained_here else None,
        "margin": ledger.margin,
        "margin_declared_by": ledger.source or None,
        "next": go_on(collection, judged),
        "runs": _runs_json(collection),
        "studies": [_study_json(each, collection, judged) for each in judged],
    }
    cleaned: dict[str, Any] = _finite(document)
    return cleaned


def _finite(value: Any) -> Any:
    """A value with null for numbers that are not finite."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _runs_json(collection: Collection) -> dict[str, Any]:
    """How many runs there are, which of them do not count and why, and what was dropped or found twice."""
    runs = collection.runs
    others = [run for run in runs if run.status != FINISHED]
    return {
        "found": len(runs),
        "finished": len(runs) - len(others),
        "not_finished": [{"name": run.name, "status": run.status, "why": run.why} for run in others],
        "configurations_without_a_run": lacking(collection),
        "notes": list(collection.notes),
    }


def _study_json(judged: Judged, collection: Collection, studies: Sequence[Judged]) -> dict[str, Any]:
    analysis = judged.analysis
    study = analysis.study
    outcomes = study.runs[0].outcomes
    num_points = analysis.num_points[analysis.primary]
    earlier = analysis.undeclared
    settings_left_out = {text for family in analysis.families for text in family.arms.left_out}
    return {
        "corpus": study.name,
        "settings": "tuned" if study.tuned else "common",
        "tuning": choices_json(study, collection.tunings),
        "turned_by_tuning": what_tuning_turns(judged, studies),
        "headline": judged.headline,
        "seeds": study.seeds,
        "queries": num_points,
        "groups": analysis.num_debates[analysis.primary],
        "looks": {
            "declared": list(analysis.looks),
            "undeclared": earlier,
            "num_undeclared": len(earlier),
            "reached": last_look(analysis.looks, len(study.seeds), analysis.until),
        },
        "dropped": {
            "queries_that_do_not_count": len(outcomes.ids) - num_points,
            "missing_queries": {cell.name: _most_missing(cell.runs.values()) for cell in study.cells},
            "settings_left_out": sorted(settings_left_out),
            "not_asked": list(analysis.notes),
        },
        "configurations": [_cell_json(judged, name) for name in analysis.summaries],
        "without_training": [
            {"name": other.label, "value": other.figures.get(analysis.key())} for other in judged.others
        ],
        "comparisons": [_comparison_json(each, judged, collection) for each in judged.decisions],
    }


def _most_missing(runs: Any) -> int:
    """The most queries that any of a configuration's runs lacks; they count as 0."""
    return max(run.outcomes.num_missing for run in runs)


def _cell_json(judged: Judged, name: str) -> dict[str, Any]:
    """A configuration's mean, and what keeps it from being believed: a dead head, a baseline that is higher."""
    analysis = judged.analysis
    summary = analysis.summaries[name][analysis.primary]
    cell = next(cell for cell in analysis.study.cells if cell.name == name)
    remarks = [cell.missing_queries]
    if analysis.study.trained_here:
        remarks.append(diagnostics.inactive_head([cell], analysis.primary, analysis.metric))
    higher = diagnostics.below(summary.mean, analysis.key(), judged.others)
    remarks += [f"below {other.label}" for other in higher]
    return {
        "name": name,
        "mean": summary.mean,
        "seeds": summary.num_seeds,
        "remarks": [remark for remark in remarks if remark],
    }


def _comparison_json(decision: Decision, judged: Judged, collection: Collection) -> dict[str, Any]:
    analysis = judged.analysis
    result, sign = decision.result, decision.sign
    num_debates = analysis.num_debates[analysis.primary]
    interval = sorted((sign * result.interval.low, sign * result.interval.high))
    at_once = sorted((sign * result.family_low, sign * result.family_high))
    settled = analysis.settled.get(result.contrast.name) if decision.decides else None
    seeds = None if decision.is_decided else decision.seeds_needed
    present = analysis.study.seeds
    follow_up = None
    has_looks = any(sweep.looks for sweep in collection.sweeps)
    if seeds is not None and seeds > len(present) and len(collection.sweeps) == 1 and not has_looks:
        follow_up = next_command(collection.sweeps[0], seeds, present)
    return {
        "name": decision.name,
        "family": decision.family,
        "role": str(decision.role),
        "decides": decision.decides,
        "verdict": str(decision.outcome),
        "words": in_words(decision),
        "told_apart": result.is_significant(),
        "within_margin": decision.within_margin if decision.margin is not None else None,
        "estimate": decision.estimate,
        "interval": interval,
        "family_interval": at_once,
        "p": result.p,
        "p_holm": result.p_family,
        "p_margin": decision.p_margin,
        "num_seeds": len(result.seeds),
        "num_groups": num_debates,
        "num_tests": result.num_tests,
        "num_looks": result.num_looks,
        "void": void_comparisons(analysis).get(result.contrast.name),
        "decided_at": settled.look if settled else None,
        "notes": list(result.notes),
        "would_decide": None
        if decision.is_decided
        else {
            "words": what_would_decide(decision, num_debates, analysis.words.groups),
            "seeds": seeds,
            "groups": decision.debates_needed,
            "times_both": decision.times_both,
            "command": follow_up,
        },
    }


# --- as lines ---


def lines(collection: Collection, judged: Sequence[Judged], ledger: Ledger) -> list[str]:
    """What `decide` prints: a line for each comparison that the question is about, the headline, and how to go on."""
    said = []
    for each in judged:
        if len(judged) > 1:
            said.append(f"{each.analysis.study.name}:")
        said += [describe(decision, each.analysis) for decision in each.deciding]
        said.append(each.headline)
        if each.analysis.added_after_a_look:
            said.append(each.analysis.added_after_a_look)
        said += what_tuning_turns(each, judged)
    said += ledger.changed(at_looks(judged))
    if ledger.margin is None:
        said.append("No margin was declared, so that nothing can be said to be removable or equal; see --margin.")
    if ledger.source == "after_a_look":
        said.append("The margin was declared after a look at the figures, which it should not depend on.")
    missing = lacking(collection)
    if missing:
        said.append(f"No run has finished of: {'; '.join(missing)}.")
    said += [sentences.tally(collection.runs), *collection.notes]
    follow_up = go_on(collection, judged)["command"]
    if is_decided(collection, judged):
        said.append("decided")
    else:
        said.append(f"not decided; next: {follow_up}" if follow_up else "not decided")
    return said


def what_tuning_turns(judged: Judged, studies: Sequence[Judged]) -> list[str]:
    """Where another study has the same runs at common settings: a sentence for each verdict that is another one where
    each variant has settings of its own. None for a study that was not tuned."""
    if not judged.analysis.study.tuned:
        return []
    said = []
    for other in studies:
        study = other.analysis.study
        if not study.tuned and study.fingerprint == judged.analysis.study.fingerprint:
            said += turned(other.decisions, judged.decisions)
    return said


def describe(decision: Decision, analysis: Analysis) -> str:
    """A comparison as a line: its outcome, its size and how sure, and what would decide it."""
    result = decision.result
    ends = sorted((decision.sign * result.family_low, decision.sign * result.family_high))
    parts = [f"{decision.name}: {in_words(decision)}"]
    why_void = void_comparisons(analysis).get(result.contrast.name)
    if why_void:
        parts = [f"{decision.name}: {why_void}", in_words(decision)]
    if math.isfinite(decision.estimate):
        size = f"{decision.estimate:+.3f}"
        if math.isfinite(ends[0]):
            at_once = " for all at once" if result.num_tests > 1 else ""
            size += f", 95% interval{at_once} {ends[0]:+.3f} to {ends[1]:+.3f}"
        size += f"; Holm p {p_text(result.p_family)}"
        if decision.p_margin is not None:
            size += f", of the margin {p_text(decision.p_margin)}"
        parts.append(size.replace("-", MINUS))
    else:
        parts.append("no seed in common")
    settled = analysis.settled.get(result.contrast.name) if decision.decides else None
    if settled is not None:
        parts.append(f"decided at the look at {settled.look} seeds")
    needed = what_would_decide(decision, analysis.num_debates[analysis.primary], analysis.words.groups)
    if needed:
        parts.append(needed)
    return "; ".join(parts)
