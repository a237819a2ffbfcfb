"""What a configuration's figures must be read beside: stage 1 before the head, baselines, other rules of selection."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from biencoder_ablate.config import Config, DataConfig
from biencoder_ablate.config.schema import cache_directory
from biencoder_ablate.data.corpus import Corpus
from biencoder_ablate.data.readers import load_corpus
from biencoder_ablate.evaluation.baselines import TITLES, baselines_above, baselines_of_run
from biencoder_ablate.report.analysis import Analysis, Kind
from biencoder_ablate.report.comparisons import MOST_NAMED, quoted
from biencoder_ablate.report.read import Metric, Protocol, Run
from biencoder_ablate.report.statistics import holm, sign_flip_p
from biencoder_ablate.report.study import Arms, Cell, Study
from biencoder_ablate.utils.seeding import generator

DEAD = 0.99  # share of a run's scored pairs with both logits at zero from which its head counts as dead
RULES = {"top1_clean": "clean val", "top1": "official val", "last": "last epoch"}  # by evaluation.select


@dataclass(frozen=True)
class Baseline:
    """What needs no training: its name in words and its test figures (top1, top1_clean, recall@10), as far as known."""

    label: str
    figures: Mapping[str, float]


def baselines(study: Study) -> tuple[Baseline, ...]:
    """The baselines of the study's runs, each once; those of several encoders with the encoder's name.

    A run that is older than its baselines has the corpus's, from the cache directory or worked out anew.
    """
    found: dict[str, dict[str, Mapping[str, float]]] = {}  # name → encoder's fingerprint → figures
    labels: dict[str, str] = {}
    for run in study.runs if study.trained_here else ():
        encoder = str(run.identity["model"]["fingerprint"])
        if encoder in labels:
            continue
        labels[encoder] = str((run.config.get("model") or {}).get("name") or encoder[:8])
        cache = cache_directory(Config(cache_dir=run.config.get("cache_dir")))
        for name, figures in baselines_of_run(run.result, run.identity, cache, partial(_corpus, run)).items():
            found.setdefault(name, {}).setdefault(encoder if name == "pretrained" else "", figures.get("test") or {})
    return tuple(
        Baseline(f"{words}, {labels[encoder]}" if len(found[name]) > 1 else words, figures)
        for name, words in TITLES.items()
        for encoder, figures in found.get(name, {}).items()
    )


def _corpus(run: Run) -> Corpus:
    """A run's corpus, from where its config says that it lies. Raises ValueError or OSError."""
    try:
        return load_corpus(DataConfig(**(run.config.get("data") or {})))
    except (TypeError, AssertionError) as error:
        raise ValueError(f"{run.path}: its config's data cannot be read ({error})") from error


def stage1(run: Run, protocol: Protocol, metric: Metric = Metric.TOP1) -> float | None:
    """A run's test figure before the head has its say; None where it is not known."""
    return run.test.get(f"{metric}_stage1{'_clean' if protocol is Protocol.CLEAN else ''}")


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of those that are there; None if none is."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    return float(np.mean(known)) if known else None


def idle(cells: Sequence[Cell], primary: Protocol, metric: Metric) -> str:
    """Why a head cannot be credited with its figure, or nothing: it is dead, changes nothing, or only makes it worse.

    The first two where they hold for most runs. Nothing is said of runs that do not re-rank.
    """
    runs = [run for cell in cells for run in cell.runs.values()]
    runs = [run for run in runs if (run.identity.get("evaluation") or {}).get("rerank") != "none"]
    before = [stage1(run, primary, metric) for run in runs]
    dead = [(run.result.get("selected") or {}).get("dead_pairs") or 0.0 for run in runs]
    if (num := sum(share >= DEAD for share in dead)) * 2 > len(runs):
        return f"head dead in {num} of {len(runs)} runs"
    if any(stage1(run, primary) is None for run in runs):  # they do not say what there was before the head
        return ""
    if (num := sum(_unchanged(run.test) for run in runs)) * 2 > len(runs):
        return f"head changes nothing in {num} of {len(runs)} runs"
    after, then = mean(run.test.get(primary.key(metric)) for run in runs), mean(before)
    return "no gain over stage 1" if None not in (after, then) and after <= then else ""  # type: ignore[operator]


def _unchanged(test: Mapping[str, Any]) -> bool:
    before = {"top1": "top1_stage1", "top1_clean": "top1_stage1_clean", "mrr": "mrr_stage1"}
    return all(test.get(name) == test.get(then) for name, then in before.items() if then in test or "clean" in name)


def below(figure: float | None, key: str, others: Sequence[Baseline]) -> list[Baseline]:
    """The baselines that are higher than a figure."""
    by_place = {place: {"test": other.figures} for place, other in enumerate(others)}
    return [others[place] for place in baselines_above(by_place, "test", key, figure, among=by_place)]


@dataclass(frozen=True)
class Selection:
    """What each rule of picking the epoch makes of the arms: `means[rule][arm]`, and of the effects of the parts.

    `declared` is the runs' own rule, None where they differ. `epochs[rule]` is the mean epoch picked.
    """

    declared: str | None
    means: Mapping[str, Mapping[str, float]]
    epochs: Mapping[str, float]
    effects: Mapping[str, Mapping[str, float]]


def selection(analysis: Analysis) -> Selection | None:
    """The arms' test figures as another rule would have picked the epoch; None without several epochs or rules."""
    arms, key = analysis.main, f"test/{analysis.key()}"
    picks = {rule: _picked(arms, rule, key) for rule in RULES}
    known = {rule: found for rule, found in picks.items() if found is not None}
    if len({tuple(found[1]) for found in known.values()}) < 2 or len(arms.names) < 2:
        return None
    declared = {(run.identity.get("evaluation") or {}).get("select", "top1") for run in analysis.study.runs}
    family = analysis.family(Kind.EFFECTS)
    means = {rule: found[0] for rule, found in known.items()}
    effects = {
        rule: {
            result.contrast.name: sum(weight * by_arm[name] for name, weight in result.contrast.weights)
            for result in (family.primary if family else ())
        }
        for rule, by_arm in means.items()
    }
    epochs = {rule: float(np.mean(found[1])) for rule, found in known.items()}
    return Selection(declared.pop() if len(declared) == 1 else None, means, epochs, effects)


def _picked(arms: Arms, rule: str, key: str) -> tuple[dict[str, float], list[int]] | None:
    """Mean of `key` at the epoch that a rule picks, arm by arm, and the epochs; None where runs lack the figures."""
    means, epochs = {}, []
    for name in arms.names:
        figures = []
        for cell in arms.cells[name]:
            for run in (cell.runs[seed] for seed in arms.seeds or cell.runs):
                records = [r for r in run.metrics if r["epoch"] >= 0 and r.get(key) is not None]
                if rule != "last":
                    records = [r for r in records if r.get(f"val/{rule}") is not None]
                if not records:
                    return None
                best = records[-1] if rule == "last" else max(records, key=lambda r: r[f"val/{rule}"])  # the first
                figures.append(best[key])
                epochs.append(best["epoch"])
        means[name] = float(np.mean(figures))
    return means, epochs


# --- leakage ---


@dataclass(frozen=True)
class Shift:
    """How one pair's difference changes from the clean to the official figure, over seeds."""

    name: str
    clean: float
    official: float
    p: float
    p_holm: float

    @property
    def swaps(self) -> bool:
        """Whether the two change places."""
        return self.clean * self.official < 0


@dataclass(frozen=True)
class Leakage:
    """Do texts shared between the splits change who is best?"""

    shifts: tuple[Shift, ...]
    sentence: str


def find_leakage(analysis: Analysis) -> Leakage | None:
    """The order of the arms under both figures, and how the same pairs' differences shift between them.

    Over the seeds that all arms share. None where there are none, where the analysis has no verdict on pairs, or where
    only one of the two figures is known.
    """
    family = next((family for family in analysis.families if family.kind in (Kind.PAIRS, Kind.PARTS)), None)
    if family is None or family.kind is not Kind.PAIRS or not family.beside or not family.arms.seeds:
        return None
    arms, clean, official = family.arms, family.primary, family.beside
    if analysis.primary is Protocol.OFFICIAL:
        clean, official = official, clean
    orders = {}  # from the best down
    for protocol in Protocol:
        means = arms.means(protocol)
        orders[protocol] = " > ".join(sorted(means, key=lambda name: -means[name]))
    p = []
    for a, b in zip(clean, official, strict=True):
        change = np.round(np.array([b.seed_estimates]) - np.array([a.seed_estimates]), 12)
        p.append(float(sign_flip_p(change, generator(0, "report", "leakage"))[0]))
    shifts = tuple(
        Shift(a.contrast.name, a.estimate, b.estimate, *both)
        for a, b, *both in zip(clean, official, p, holm(p).tolist(), strict=True)
    )
    pairs = [quoted(*(name for name, _ in result.contrast.weights)) for result in clean]
    swapped = [k for k, shift in enumerate(shifts) if shift.swaps]
    sure = [pairs[k] for k in swapped if clean[k].is_significant() or official[k].is_significant()]
    sentence = (
        "Texts shared between the splits do not change the order: under the official figure and the clean "
        f"one it is {orders[Protocol.CLEAN]}."
    )
    if swapped:
        of_all = f"All {len(pairs)}" if len(swapped) == len(pairs) else f"{len(swapped)} of the {len(pairs)}"
        few = len(swapped) <= MOST_NAMED
        which = "; ".join(pairs[k] for k in swapped) if few else f"{of_all} pairs"
        if not sure:
            tail = "neither figure can tell any of them apart, so that this may be chance"
        elif len(sure) == len(swapped):
            tail = f"{'each can' if len(sure) > 1 else 'they can'} be told apart under at least one figure"
        else:
            tail = f"of these, {'; '.join(sure)} can be told apart under at least one figure"
        sentence = (
            f"Texts shared between the splits change the order: it is {orders[Protocol.OFFICIAL]} by the official "
            f"figure and {orders[Protocol.CLEAN]} by the clean one. {which} change places; {tail}."
        )
    return Leakage(shifts, sentence)
