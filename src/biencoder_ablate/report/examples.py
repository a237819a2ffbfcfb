"""Who gets what right that the other gets wrong: debates and points on which two arms differ, with the texts.

N test points that count, R runs of an arm (its seeds times its settings).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from biencoder_ablate.config import Config, DataConfig
from biencoder_ablate.config.schema import cache_directory
from biencoder_ablate.data.readers import load_corpus
from biencoder_ablate.data.text_cache import SplitTexts, cache_texts, cached_texts
from biencoder_ablate.report.analysis import Analysis
from biencoder_ablate.report.comparisons import every_pair
from biencoder_ablate.report.read import Protocol
from biencoder_ablate.report.study import Arms, Study

MOST_PAIRS = 15  # of arms; beyond that, only those of the best arm
NUM_EXAMPLES = 4  # points each way, each of another debate


@dataclass(frozen=True)
class Example:
    """A point that one arm gets right more often: shares of runs, and what the others put first most often.

    `instead` names a candidate (…#counter or …#point) of the losing arm, put first in `instead_runs` of its `num_wrong`
    wrong runs; None where its official ranking is right all the same.
    """

    point: str
    debate: str
    a: float
    b: float
    instead: str | None
    instead_runs: int
    num_wrong: int


@dataclass(frozen=True)
class SideBySide:
    """Two arms over the seeds they share, and examples for either; `debates` are rows of a debate, its number of points
    and the share that a gets right, and that b does, over their runs, from a's greatest lead to b's."""

    a: str
    b: str
    num_runs: int
    debates: tuple[tuple[str, int, float, float], ...]
    for_a: tuple[Example, ...]
    for_b: tuple[Example, ...]


def side_by_side(analysis: Analysis) -> list[SideBySide]:
    """Every pair of the main arms that share a seed; of many arms only the best one's pairs."""
    if analysis.verdict is None:
        return []
    arms, best = analysis.main, analysis.verdict.best
    pairs = [tuple(name for name, _ in contrast.weights) for contrast in every_pair(arms.names)]
    if len(pairs) > MOST_PAIRS:
        pairs = [pair for pair in pairs if best in pair][:MOST_PAIRS]
    compared = [_side_by_side(analysis.primary, arms, a, b) for a, b in pairs]
    return [pair for pair in compared if pair is not None]


def _side_by_side(protocol: Protocol, arms: Arms, a: str, b: str) -> SideBySide | None:
    seeds = set.intersection(*(set(cell.runs) for name in (a, b) for cell in arms.cells[name]))
    if not seeds:
        return None
    runs = {name: [cell.runs[seed] for cell in arms.cells[name] for seed in sorted(seeds)] for name in (a, b)}
    first = runs[a][0].outcomes
    rows_that_count = np.flatnonzero(~np.isnan(first.correct[protocol]))
    shares = {
        name: np.mean([run.outcomes.correct[protocol] for run in runs[name]], axis=0)[rows_that_count]
        for name in (a, b)
    }
    by_debate: dict[str, list[int]] = defaultdict(list)
    for k, row in enumerate(rows_that_count.tolist()):
        by_debate[first.debates[row]].append(k)
    debates = [
        (debate, len(ks), float(shares[a][ks].mean()), float(shares[b][ks].mean())) for debate, ks in by_debate.items()
    ]
    examples: list[tuple[Example, ...]] = []
    for winner, loser in ((a, b), (b, a)):
        chosen: dict[str, Example] = {}  # the points with the greatest lead above 0, no two of one debate
        lead = shares[winner] - shares[loser]
        for k in np.argsort(-lead, kind="stable").tolist():
            row = int(rows_that_count[k])
            debate = first.debates[row]
            if lead[k] <= 0 or len(chosen) == NUM_EXAMPLES:
                break
            if debate not in chosen:
                shares_here = float(shares[a][k]), float(shares[b][k])
                wrong = [r.outcomes for r in runs[loser] if not r.outcomes.correct[Protocol.OFFICIAL][row]]
                instead = Counter(outcomes.first[row] for outcomes in wrong).most_common(1)
                candidate, num = instead[0] if instead else (None, 0)
                chosen[debate] = Example(first.ids[row], debate, *shares_here, candidate, num, len(wrong))
        examples.append(tuple(chosen.values()))
    return SideBySide(a, b, len(runs[a]), tuple(sorted(debates, key=lambda row: (row[3] - row[2], row[0]))), *examples)


def load_texts(study: Study) -> SplitTexts:
    """The test split's texts, from the cache directory or from wherever a run's config says the corpus lies, if it is
    still the same one."""
    if not study.trained_here:
        return SplitTexts({})
    cache = cache_directory(Config(cache_dir=study.runs[0].config.get("cache_dir")))
    cached = cached_texts(cache, study.fingerprint)
    return _read_texts(study, cache) if cached is None else cached


def _read_texts(study: Study, cache: Path) -> SplitTexts:
    problem = "no run has a readable .hydra/config.yaml"
    seen = []
    for run in study.runs:
        asked = run.config.get("data")
        if not isinstance(asked, dict) or asked in seen:
            continue
        seen.append(asked)
        path = asked.get("path")
        candidates = [asked]
        if path is not None and not Path(str(path)).expanduser().is_absolute():  # also as seen from where logs/ lies
            candidates.append({**asked, "path": str(run.path.parents[2] / str(path))})
        for settings in candidates:
            try:
                corpus = load_corpus(DataConfig(**settings))
            except (ValueError, OSError, TypeError, AssertionError):
                problem = f"the corpus cannot be read from {path} any more"
                continue
            if corpus.fingerprint == study.fingerprint:
                return cache_texts(cache, study.fingerprint, corpus)
            problem = f"the corpus of {path or 'this version of the package'} is not the one that these runs used"
    return SplitTexts({}, problem)
