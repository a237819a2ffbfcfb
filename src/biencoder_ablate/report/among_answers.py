"""Whether the order of what is compared hangs on points being candidates: runs that ranked both noted both."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping

import numpy as np

from biencoder_ablate.report.analysis import Analysis
from biencoder_ablate.report.candidate_sets import candidates_of, measured_tasks
from biencoder_ablate.report.read import Metric, Run

ONLY_ANSWERS = "epc"
"""The task whose candidates are the answers of the split."""
_SHOWN = 0.0005
"""Two means that differ by less look equal in a sentence."""


def order_among_answers(analysis: Analysis) -> list[str]:
    """One sentence where the means of two arms are in another order once points are no candidates; else none.

    It names the two whose order is most clearly another, under the report's protocol and metric. Only runs that ranked
    points too, and noted where each counter came among the counters, can say it.
    """
    runs, arms = analysis.study.runs, analysis.main
    if candidates_of(runs[0]) != "all" or ONLY_ANSWERS not in measured_tasks(runs):
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
    """A run's mean score of the points that count, ranked among answers only; of a cross-validation over its folds."""
    scores = [_scores_among_answers(part, analysis) for part in run.parts or (run,)]
    return float(np.concatenate(scores).mean())


def _scores_among_answers(run: Run, analysis: Analysis) -> np.ndarray:
    """The scores of the points that count, as rankings.jsonl has their ranks among answers only."""
    field = "stage1_ranks" if analysis.metric is Metric.RECALL else "ranks"
    ranks = []
    with run.rankings_file.open(encoding="utf-8") as file:
        for line in file:
            if '"test"' not in line:
                continue
            record = json.loads(line)
            if record["split"] == "test":
                ranks.append(float(record[field][ONLY_ANSWERS]))
    counts = ~np.isnan(run.outcomes.correct[analysis.primary])
    scores: np.ndarray = analysis.metric.of_ranks(np.array(ranks)[counts])
    return scores
