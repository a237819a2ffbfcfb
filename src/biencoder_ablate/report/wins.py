"""Who gets what right that the other gets wrong: debates and points on which two arms differ, with the texts.

N test points that count, R runs of an arm (its seeds times its settings).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from biencoder_ablate.report.analysis import Analysis
from biencoder_ablate.report.balance import Arms
from biencoder_ablate.report.bootstrap import FloatArray
from biencoder_ablate.report.collect import Outcomes, Run
from biencoder_ablate.report.grouping import Study
from biencoder_ablate.report.statistics import head_pairs

MOST_PAIRS = 15  # of arms; beyond that, only those of the best arm
NUM_EXAMPLES = 4  # points each way, each of another debate


@dataclass(frozen=True)
class DebateShares:
    """Of a debate's points, the share that each of the two arms gets right, over its runs."""

    debate: str
    num_points: int
    a: float
    b: float


@dataclass(frozen=True)
class Example:
    """A point that one arm gets right more often: shares of runs, and what the others put first most often.

    `instead` names a candidate (…#counter or …#point) of the losing arm, put first in `instead_runs` of its
    `num_wrong` wrong runs; None where its official ranking is right all the same.
    """

    point: str
    debate: str
    a: float
    b: float
    instead: str | None
    instead_runs: int
    num_wrong: int


@dataclass(frozen=True)
class Wins:
    """Two arms side by side over the seeds they share; debates from a's greatest lead to b's."""

    a: str
    b: str
    num_runs: int
    debates: tuple[DebateShares, ...]
    for_a: tuple[Example, ...]
    for_b: tuple[Example, ...]


def all_wins(analysis: Analysis) -> list[Wins]:
    """Every pair of the main arms that share a seed; of many arms only the best one's pairs."""
    arms = analysis.main
    if arms is None:
        return []
    pairs = [tuple(name for name, _ in contrast.weights) for contrast in head_pairs(arms.names)]
    if len(pairs) > MOST_PAIRS and analysis.verdict is not None:
        best = analysis.verdict.best
        pairs = [pair for pair in pairs if best in pair][:MOST_PAIRS]
    found = [_wins(analysis, arms, a, b) for a, b in pairs]
    return [wins for wins in found if wins is not None]


def _wins(analysis: Analysis, arms: Arms, a: str, b: str) -> Wins | None:
    seeds = set.intersection(*(set(cell.runs) for name in (a, b) for cell in arms.cells[name]))
    if not seeds:
        return None
    runs = {name: [cell.runs[seed] for cell in arms.cells[name] for seed in sorted(seeds)] for name in (a, b)}
    first = _outcomes(runs[a][0])
    counts = np.flatnonzero(~np.isnan(getattr(first, analysis.primary)))
    shares = {name: _shares(runs[name], analysis.primary)[counts] for name in (a, b)}
    places: dict[str, list[int]] = defaultdict(list)
    for k, row in enumerate(counts):
        places[first.debates[row]].append(k)
    debates = [
        DebateShares(debate, len(rows), float(shares[a][rows].mean()), float(shares[b][rows].mean()))
        for debate, rows in places.items()
    ]
    difference = shares[a] - shares[b]
    examples = []
    for sign, loser in ((1, b), (-1, a)):
        best = _one_a_debate(sign * difference, [first.debates[row] for row in counts])
        examples.append(
            tuple(_example(first, int(counts[k]), float(shares[a][k]), float(shares[b][k]), runs[loser]) for k in best)
        )
    ordered = sorted(debates, key=lambda d: (d.b - d.a, d.debate))
    return Wins(a, b, len(runs[a]), tuple(ordered), *examples)


def _outcomes(run: Run) -> Outcomes:
    assert run.outcomes is not None
    return run.outcomes


def _shares(runs: Sequence[Run], protocol: str) -> FloatArray:
    return np.mean([getattr(_outcomes(run), protocol) for run in runs], axis=0)


def _one_a_debate(lead: FloatArray, debates: Sequence[str]) -> list[int]:
    """The points with the greatest lead above 0, no two of one debate."""
    chosen: list[int] = []
    for k in np.argsort(-lead, kind="stable"):
        if lead[k] <= 0 or len(chosen) == NUM_EXAMPLES:
            break
        if debates[k] not in {debates[j] for j in chosen}:
            chosen.append(int(k))
    return chosen


def _example(first: Outcomes, row: int, a: float, b: float, losers: Sequence[Run]) -> Example:
    wrong = [found for found in map(_outcomes, losers) if not found.official[row]]
    instead = Counter(found.first[row] for found in wrong).most_common(1)
    candidate, num = instead[0] if instead else (None, 0)
    return Example(first.ids[row], first.debates[row], a, b, candidate, num, len(wrong))


@dataclass(frozen=True)
class Texts:
    """The corpus's texts by candidate name (…#point, …#counter), or why there are none."""

    by_name: Mapping[str, str]
    problem: str = ""

    def get(self, name: str) -> str | None:
        return self.by_name.get(name)


def load_texts(study: Study) -> Texts:
    """The test split's texts, from wherever a run's config says the corpus lies, if it is still the same one."""
    from biencoder_ablate.config import DataConfig
    from biencoder_ablate.data.readers import load_corpus

    problem = "no run has a readable .hydra/config.yaml"
    seen = []
    for run in study.runs:
        asked = run.config.get("data")
        if not isinstance(asked, dict) or asked in seen:
            continue
        seen.append(asked)
        for settings in _places(asked, run):
            try:
                corpus = load_corpus(DataConfig(**settings))
            except (ValueError, OSError, TypeError, AssertionError):
                problem = f"the corpus cannot be read from {asked.get('path')} any more"
                continue
            if corpus.fingerprint == study.fingerprint:
                return Texts(
                    {f"{pair.id}#{kind}": getattr(pair, kind) for pair in corpus.test for kind in ("point", "counter")}
                )
            where = asked.get("path") or "this version of the package"
            problem = f"the corpus of {where} is not the one that these runs used"
    return Texts({}, problem)


def _places(settings: dict[str, Any], run: Run) -> list[dict[str, Any]]:
    """The data settings, and with a relative path also as seen from where logs/ lies."""
    path = settings.get("path")
    if path is None or Path(str(path)).expanduser().is_absolute():
        return [settings]
    return [settings, {**settings, "path": str(run.path.parents[2] / str(path))}]
