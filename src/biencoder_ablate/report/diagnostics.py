"""What a configuration's metrics must be read beside.

Stage 1 before the head, heads that do nothing, baselines, other rules of picking the epoch, and leakage.
"""

from __future__ import annotations

import math
from collections import defaultdict
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
from biencoder_ablate.runs.records import Record, select_epoch
from biencoder_ablate.utils.seeding import generator

DEAD = 0.99  # share of a run's scored pairs with both logits at zero from which its head counts as dead
RULES = {"top1_clean": "clean val", "top1": "official val", "last": "last epoch"}  # by evaluation.select


@dataclass(frozen=True)
class Baseline:
    """What needs no training: its name in words and its test metrics (top1, top1_clean, recall@10), as far as known."""

    label: str
    figures: Mapping[str, float]


def baselines(study: Study) -> tuple[Baseline, ...]:
    """The baselines of the study's runs, each once; where runs have several encoders, with the encoder's name.

    A run older than its baselines gets the corpus's, from the cache directory or computed now.
    """
    labels: dict[str, str] = {}  # encoder's fingerprint → its name
    by_name: dict[str, dict[str, Mapping[str, float]]] = defaultdict(dict)  # baseline → encoder → test metrics
    for run in study.runs if study.trained_here else ():
        encoder = str(run.identity["model"]["fingerprint"])
        if encoder in labels:
            continue
        labels[encoder] = str((run.config.get("model") or {}).get("name") or encoder[:8])
        cache = cache_directory(Config(cache_dir=run.config.get("cache_dir")))
        of_run = baselines_of_run(
            run.result,
            run.identity,
            cache,
            partial(_corpus, run),
        )
        for name, metrics in of_run.items():
            # All but the pretrained encoder are the same whatever the runs' encoder.
            by_name[name].setdefault(
                encoder if name == "pretrained" else "",
                metrics.get("test") or {},
            )

    listed = []
    for name, title in TITLES.items():
        for encoder, test_metrics in by_name[name].items():
            label = f"{title}, {labels[encoder]}" if len(by_name[name]) > 1 else title
            listed.append(Baseline(label, test_metrics))
    return tuple(listed)


def _corpus(run: Run) -> Corpus:
    """A run's corpus, from where its config says that it lies. Raises ValueError or OSError."""
    try:
        return load_corpus(DataConfig(**(run.config.get("data") or {})))
    except (TypeError, AssertionError) as error:
        raise ValueError(f"{run.path}: its config's data cannot be read ({error})") from error


def stage1(run: Run, protocol: Protocol, metric: Metric = Metric.TOP1) -> float | None:
    """A run's test metric before the head re-ranks; None where it is not known."""
    suffix = "_clean" if protocol is Protocol.CLEAN else ""
    return run.test.get(f"{metric}_stage1{suffix}")


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of the values that are there; None if none is."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    return float(np.mean(known)) if known else None


def inactive_head(cells: Sequence[Cell], primary: Protocol, metric: Metric) -> str:
    """Why a head cannot be credited with its score, or nothing: it is dead, changes nothing, or only makes it worse.

    The first two are said where they hold for most runs. Nothing is said of runs that do not re-rank.
    """
    runs = []
    for cell in cells:
        for run in cell.runs.values():
            if (run.identity.get("evaluation") or {}).get("rerank") != "none":
                runs.append(run)

    # Dead in most runs: the logits of nearly all scored pairs are zero.
    num_dead = 0
    for run in runs:
        selected = run.result.get("selected") or {}
        num_dead += (selected.get("dead_pairs") or 0.0) >= DEAD
    if 2 * num_dead > len(runs):
        return f"head dead in {num_dead} of {len(runs)} runs"

    if any(stage1(run, primary) is None for run in runs):  # they do not say what there was before the head
        return ""
    num_unchanged = sum(_is_unchanged(run.test) for run in runs)
    if 2 * num_unchanged > len(runs):
        return f"head changes nothing in {num_unchanged} of {len(runs)} runs"

    # It does something, but nothing that helps.
    before = mean(stage1(run, primary, metric) for run in runs)
    after = mean(run.test.get(primary.key(metric)) for run in runs)
    gains = before is None or after is None or after > before
    return "" if gains else "no gain over stage 1"


def _is_unchanged(test: Mapping[str, Any]) -> bool:
    """Whether stage 1's test metrics stand after the head as before, as far as runs have them."""
    for before, after in (("top1_stage1", "top1"), ("top1_stage1_clean", "top1_clean"), ("mrr_stage1", "mrr")):
        is_known = before in test or before == "top1_stage1_clean"
        if is_known and test.get(before) != test.get(after):
            return False
    return True


def below(figure: float | None, key: str, others: Sequence[Baseline]) -> list[Baseline]:
    """The baselines whose metric `key` is higher than a value; none where the value is not known."""
    by_place = {place: {"test": other.figures} for place, other in enumerate(others)}
    places = baselines_above(by_place, "test", key, figure, among=by_place)
    return [others[place] for place in places]


# --- other rules of picking the epoch ---


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
    """The arms' test metrics as each rule would have picked the epoch; None without several epochs or rules."""
    arms = analysis.main
    means: dict[str, dict[str, float]] = {}
    epochs: dict[str, list[int]] = {}
    rules = {(run.identity.get("evaluation") or {}).get("select", "top1") for run in analysis.study.runs}
    for rule in [*RULES, *sorted(rules - RULES.keys())]:
        picked = _means_by_rule(
            arms,
            rule,
            f"test/{analysis.key()}",
        )
        if picked is not None:
            means[rule], epochs[rule] = picked
    if len(set(map(tuple, epochs.values()))) < 2 or len(arms.names) < 2:
        return None

    # The effects are linear in the arms' means, so each rule's follow from its means.
    family = analysis.family(Kind.EFFECTS)
    if family and not set(family.arms.names) <= set(arms.names):  # of a star they are another question
        family = None
    effects: dict[str, dict[str, float]] = {rule: {} for rule in means}
    for result in family.primary if family else ():
        contrast = result.contrast
        for rule, by_arm in means.items():
            effects[rule][contrast.name] = sum(weight * by_arm[arm] for arm, weight in contrast.weights)

    return Selection(
        rules.pop() if len(rules) == 1 else None,
        means,
        {rule: float(np.mean(picked)) for rule, picked in epochs.items()},
        effects,
    )


def _means_by_rule(
    arms: Arms,
    rule: str,
    key: str,
) -> tuple[dict[str, float], list[int]] | None:
    """Each arm's mean of `key` at the epochs that a rule picks, and these epochs; None where runs lack the metrics."""
    means: dict[str, float] = {}
    epochs = []
    for name in arms.names:
        values = []
        for cell in arms.cells[name]:
            for seed in arms.seeds or cell.runs:
                record = _picked_record(
                    cell.runs[seed].metrics,
                    rule,
                    key,
                )
                if record is None:
                    return None
                values.append(record[key])
                epochs.append(record["epoch"])
        means[name] = float(np.mean(values))
    return means, epochs


def _picked_record(records: Sequence[Record], rule: str, key: str) -> Record | None:
    """The record of the epoch that evaluation.select picks, of those that have `key`: the first one on a tie."""
    usable = [record for record in records if record["epoch"] >= 0 and record.get(key) is not None]
    if rule != "last":
        usable = [record for record in usable if record.get(f"val/{rule}") is not None]
    epoch = select_epoch(usable, rule)
    return next((record for record in usable if record["epoch"] == epoch), None)


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
    """The order of the arms under both protocols, and how the differences of the same pairs shift between them.

    Over the seeds that all arms share. None where there are none, where the analysis has no verdict on pairs, or where
    only one of the two protocols is known.
    """
    # Pairs are the verdict only where no baseline stands in their place.
    verdicts = [family for family in analysis.families if family.kind in (Kind.PAIRS, Kind.PARTS)]
    family = verdicts[0] if verdicts else None
    if family is None or family.kind is not Kind.PAIRS or not family.beside or not family.arms.seeds:
        return None
    clean, official = family.primary, family.beside
    if analysis.primary is Protocol.OFFICIAL:
        clean, official = official, clean

    # The sign-flip test of what changes from one protocol to the other, pair by pair.
    p_values = []
    for before, after in zip(clean, official, strict=True):
        change = np.array([after.seed_estimates]) - np.array([before.seed_estimates])  # (1, S)
        p_values += sign_flip_p(np.round(change, 12), generator(0, "report", "leakage")).tolist()
    p_holm = holm(p_values).tolist()

    shifts, swapped, significant = [], [], []
    for before, after, p, adjusted in zip(clean, official, p_values, p_holm, strict=True):
        contrast = before.contrast
        shift = Shift(
            contrast.name,
            before.estimate,
            after.estimate,
            p,
            adjusted,
        )
        shifts.append(shift)
        if shift.swaps:
            pair = quoted(*(name for name, _ in contrast.weights))
            swapped.append(pair)
            if before.is_significant() or after.is_significant():
                significant.append(pair)
    return Leakage(
        tuple(shifts),
        _leakage_sentence(family.arms, len(shifts), swapped, significant),
    )


def _leakage_sentence(arms: Arms, num_pairs: int, swapped: Sequence[str], significant: Sequence[str]) -> str:
    """Whether the order of the arms is another under the other protocol, and how sure that is."""
    orders = {}
    for protocol in Protocol:
        means = arms.means(protocol)
        orders[protocol] = " > ".join(sorted(means, key=lambda name: -means[name]))
    if not swapped:
        return (
            "Texts shared between the splits do not change the order: under the official figure and the clean "
            f"one it is {orders[Protocol.CLEAN]}."
        )

    which = "; ".join(swapped)
    if len(swapped) > MOST_NAMED:
        all_of = f"All {num_pairs}" if len(swapped) == num_pairs else f"{len(swapped)} of the {num_pairs}"
        which = f"{all_of} pairs"
    if not significant:
        tail = "neither figure can tell any of them apart, so that this may be chance"
    elif len(significant) == len(swapped):
        tail = f"{'each can' if len(significant) > 1 else 'they can'} be told apart under at least one figure"
    else:
        tail = f"of these, {'; '.join(significant)} can be told apart under at least one figure"
    return (
        f"Texts shared between the splits change the order: it is {orders[Protocol.OFFICIAL]} by the official "
        f"figure and {orders[Protocol.CLEAN]} by the clean one. {which} change places; {tail}."
    )
