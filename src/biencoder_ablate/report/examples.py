"""Who gets what right that the other gets wrong: debates and points on which two arms differ, with the texts.

N test points that count, R runs of an arm (its seeds times its settings).
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from biencoder_ablate.config import Config, DataConfig
from biencoder_ablate.config.schema import cache_directory
from biencoder_ablate.data.corpus import Corpus, as_one_split
from biencoder_ablate.data.readers import load_corpus
from biencoder_ablate.data.text_cache import SplitTexts, cache_texts, cached_texts
from biencoder_ablate.report.analysis import Analysis
from biencoder_ablate.report.read import Protocol, Run
from biencoder_ablate.report.statistics import FloatArray
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
    pairs = list(itertools.combinations(arms.names, 2))
    if len(pairs) > MOST_PAIRS:
        pairs = [pair for pair in pairs if best in pair][:MOST_PAIRS]
    compared = [_side_by_side(analysis.primary, arms, a, b) for a, b in pairs]
    return [pair for pair in compared if pair is not None]


def _side_by_side(protocol: Protocol, arms: Arms, a: str, b: str) -> SideBySide | None:
    """Two arms, or None where they share no seed."""
    cells = {name: arms.cells[name] for name in (a, b)}
    seeds = sorted(set.intersection(*(set(cell.runs) for cell in (*cells[a], *cells[b]))))
    if not seeds:
        return None
    runs = {name: [cell.runs[seed] for cell in cells[name] for seed in seeds] for name in cells}  # R each

    # All runs have the same points; those that do not count under the protocol have no share.
    points = runs[a][0].outcomes
    shares = {}  # (all test points,), nan where one does not count
    for name in cells:
        correct = [run.outcomes.correct[protocol] for run in runs[name]]
        shares[name] = np.mean(correct, axis=0)
    by_debate: dict[str, list[int]] = defaultdict(list)
    for row in np.flatnonzero(~np.isnan(points.correct[protocol])).tolist():
        by_debate[points.debates[row]].append(row)
    debates = [
        (debate, len(rows), float(shares[a][rows].mean()), float(shares[b][rows].mean()))
        for debate, rows in by_debate.items()
    ]
    debates.sort(key=lambda debate: (debate[3] - debate[2], debate[0]))
    lead = shares[a] - shares[b]
    return SideBySide(
        a,
        b,
        num_runs=len(runs[a]),
        debates=tuple(debates),
        for_a=_examples(lead, shares[a], shares[b], runs[b]),
        for_b=_examples(-lead, shares[a], shares[b], runs[a]),
    )


def _examples(
    lead: FloatArray,
    share_a: FloatArray,
    share_b: FloatArray,
    losers: list[Run],
) -> tuple[Example, ...]:
    """The points with the greatest lead above 0, no two of one debate. Arrays are over all test points, nan where one
    does not count; `losers` are the runs of the arm that is behind."""
    points = losers[0].outcomes
    examples: dict[str, Example] = {}  # by debate
    for row in np.argsort(-lead, kind="stable").tolist():  # nan come last
        if not lead[row] > 0 or len(examples) == NUM_EXAMPLES:
            break
        debate = points.debates[row]
        if debate in examples:
            continue

        # What the losing arm puts first most often where it is wrong.
        wrong = [run.outcomes for run in losers if not run.outcomes.correct[Protocol.OFFICIAL][row]]
        instead, num_runs = None, 0
        if wrong:
            [(instead, num_runs)] = Counter(outcomes.first[row] for outcomes in wrong).most_common(1)
        examples[debate] = Example(
            points.ids[row],
            debate,
            a=float(share_a[row]),
            b=float(share_b[row]),
            instead=instead,
            instead_runs=num_runs,
            num_wrong=len(wrong),
        )
    return tuple(examples.values())


def load_texts(study: Study) -> SplitTexts:
    """The test split's texts, from the cache directory or from wherever a run's config says the corpus lies, if it is
    still the same one."""
    if not study.trained_here:
        return SplitTexts({})
    cache = cache_directory(Config(cache_dir=study.runs[0].config.get("cache_dir")))
    cached = cached_texts(cache, study.fingerprint)
    if cached is not None:
        return cached

    # Runs may have read the same corpus from several places: the first that still holds it will do.
    problem = "no run has a readable .hydra/config.yaml"
    tried = []
    for run in study.runs:
        settings = run.config.get("data")
        if not isinstance(settings, dict) or settings in tried:
            continue
        tried.append(settings)
        path = settings.get("path")
        places = [settings]
        # A relative path also as seen from where logs/ lies.
        if path is not None and not str(path).startswith(("/", "~")):
            places.append({**settings, "path": str(run.path.parents[2] / str(path))})
        for place in places:
            try:
                corpus = _corpus_of(run, place, study.fingerprint)
            except (ValueError, OSError, TypeError, AssertionError):
                problem = f"the corpus cannot be read from {path} any more"
                continue
            if corpus is not None:
                return cache_texts(cache, study.fingerprint, corpus)
            problem = f"the corpus of {path or 'this version of the package'} is not the one that these runs used"
    return SplitTexts({}, problem)


def _corpus_of(run: Run, settings: Mapping[str, Any], fingerprint: str) -> Corpus | None:
    """The corpus that a run used, read by these settings of the group `data`; None where it is another one by now.

    Of all folds of a cross-validation every pair is a pair of test. Raises what load_corpus does.
    """
    if not run.parts:
        corpus = load_corpus(DataConfig(**settings))
        return corpus if corpus.fingerprint == fingerprint else None
    corpus = load_corpus(DataConfig(**{**settings, "limit": None, "disjoint": False}))
    if corpus.folds.get("pairs") != run.parts[0].identity["folds"]["pairs"]:
        return None
    return replace(corpus, test=as_one_split(corpus))
