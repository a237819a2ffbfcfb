"""What the runs of a study ranked, in words, and whether the verdict's order hangs on points being candidates."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from biencoder_ablate.data.candidate_choice import IN_WORDS, measured_candidates
from biencoder_ablate.evaluation.candidates import TASKS
from biencoder_ablate.report.read import Metric, Run

if TYPE_CHECKING:
    from biencoder_ablate.report.analysis import Analysis
    from biencoder_ablate.report.study import Study

ONLY_ANSWERS = "epc"
"""The task whose candidates are the answers of the split."""
_SHOWN = 0.0005
"""Two means that differ by less look equal in a sentence."""


def candidates_of(run: Run) -> str | None:
    """What a run ranked, answers or all; None of another program's."""
    return measured_candidates(run.identity, run.result) if run.result else None


def ranked(study: Study) -> str:
    """Among what the runs looked for answers, in words; empty of another program's runs."""
    first = study.runs[0]
    candidates = candidates_of(first)
    if candidates is None:
        return ""
    # Only a text of a pair is called after it.
    in_pairs = any(name.endswith(("#counter", "#point")) for name in first.outcomes.first)
    if candidates == "answers" and not in_pairs:
        return "ranked among the documents"
    return f"ranked {IN_WORDS[candidates]} of the split"


def tell_apart(studies: Sequence[Study]) -> list[Study]:
    """The studies, with what was ranked in the names of those whose corpus was ranked in more than one way."""
    names = [study.name for study in studies]
    told = []
    for study in studies:
        words = ranked(study)
        if words and names.count(study.name) > 1:
            study = replace(study, name=f"{study.name}, {words}")
        told.append(study)
    return told


def measured_tasks(study: Study) -> tuple[str, ...]:
    """The tasks of Wachsmuth et al. 2018 that all runs were measured on; the last one is official."""
    return tuple(task for task in TASKS if all(task in run.test.get("tasks", ()) for run in study.runs))


def tasks_title(tasks: Sequence[str]) -> str:
    """What a section on these tasks is called."""
    return "The eight tasks" if len(tasks) == len(TASKS) else "The tasks among counters"


def order_among_answers(analysis: Analysis) -> list[str]:
    """One sentence where the means of two arms are in another order once points are no candidates; else none.

    It names the two whose order is most clearly another, under the report's protocol and metric. Only runs that ranked
    points too, and noted where each counter came among the counters, can say it.
    """
    study, arms = analysis.study, analysis.main
    if candidates_of(study.runs[0]) != "all" or ONLY_ANSWERS not in measured_tasks(study):
        return []
    here = arms.means(analysis.primary)
    among_answers = _means_among_answers(analysis)
    most, pair = _SHOWN, None
    for a, b in itertools.combinations(arms.names, 2):
        here_apart, there_apart = here[a] - here[b], among_answers[a] - among_answers[b]
        apart = min(abs(here_apart), abs(there_apart))
        if here_apart * there_apart < 0 and apart >= most:
            most, pair = apart, (a, b) if here_apart > 0 else (b, a)
    if pair is None:
        return []
    a, b = pair
    return [
        f"Among answers only (task {ONLY_ANSWERS}) the order is another: “{b}” has {among_answers[b]:.3f} and “{a}” "
        f"{among_answers[a]:.3f}, where with points among the candidates they have {here[b]:.3f} and {here[a]:.3f} "
        "(evaluation.candidates=answers measures and trains for the former)."
    ]


def _means_among_answers(analysis: Analysis) -> Mapping[str, float]:
    """Each arm's mean over its cells and seeds, of the points that count, ranked among answers only."""
    arms = analysis.main
    means = {}
    for name, cells in arms.cells.items():
        seeds = arms.seeds or sorted(set.intersection(*(set(cell.runs) for cell in cells)))
        scores = [_score_among_answers(cell.runs[seed], analysis) for cell in cells for seed in seeds]
        means[name] = float(np.mean(scores))
    return means


def _score_among_answers(run: Run, analysis: Analysis) -> float:
    """A run's mean score of the points that count, ranked among answers only."""
    field = "stage1_ranks" if analysis.metric is Metric.RECALL else "ranks"
    ranks = []
    with (run.path / "rankings.jsonl").open(encoding="utf-8") as file:
        for line in file:
            if '"test"' not in line:
                continue
            record = json.loads(line)
            if record["split"] == "test":
                ranks.append(float(record[field][ONLY_ANSWERS]))
    counts = ~np.isnan(run.outcomes.correct[analysis.primary])
    scores = analysis.metric.of_ranks(np.array(ranks)[counts])
    return float(scores.mean())
