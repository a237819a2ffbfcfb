"""What runs say of the parts of their models: which are alive, what each is worth, and what it costs.

A part is one by its name and kind: the LayerNorm of `head.norm` is another than its RMSNorm. Runs of versions that did
not watch their parts have no record of them; nothing is said of these.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from biencoder_ablate.report.analysis import Analysis, Family
from biencoder_ablate.report.comparisons import ContrastResult
from biencoder_ablate.report.read import Run
from biencoder_ablate.report.study import Cell, Study
from biencoder_ablate.runs.parts import changes_no_ranking, is_untrained

_NUMBERS = ("weights", "operations", "gradient_share", "change", "acted_share")


class Key(NamedTuple):
    """A part by its name among the model's modules, and in words."""

    name: str
    words: str

    @property
    def label(self) -> str:
        """ "LayerNorm (head.norm)"; the name alone where the words are the same."""
        return self.name if self.name == self.words else f"{self.words} ({self.name})"


Records = Mapping[Key, Sequence[Mapping[str, Any]]]
"""What the runs of a configuration say of its parts, a record a run, or a fold."""


def records_of(cell: Cell) -> Records:
    """The records of a configuration's runs by part; those that result.json has in no usable form are left out."""
    found: dict[Key, list[Mapping[str, Any]]] = {}
    for run in cell.runs.values():
        for fold in run.parts or (run,):
            for name, part in _mapping(fold.result.get("parts")).items():
                words = _mapping(part).get("words")
                if isinstance(words, str):
                    of_part = found.setdefault(Key(name, words), [])
                    of_part.append(_usable(part))
    return found


def _mapping(value: object) -> Mapping[str, Any]:
    """The value, or nothing where it is no mapping."""
    return value if isinstance(value, Mapping) else {}


def _usable(part: Mapping[str, Any]) -> dict[str, Any]:
    """A part's record with what is no number as None, and its bypasses of those splits that have all figures."""
    record: dict[str, Any] = {}
    for name in _NUMBERS:
        record[name] = _number(part.get(name))
    record["bypassed"] = splits = {}
    for split, figures in _mapping(part.get("bypassed")).items():
        figures = _mapping(figures)
        num_changed = _number(figures.get("num_changed"))
        num_points = _number(figures.get("num_points"))
        if num_changed is None or num_points is None:
            continue
        lost = {}
        for name, value in _mapping(figures.get("lost")).items():
            lost[name] = _number(value)
        splits[split] = {"lost": lost, "num_changed": num_changed, "num_points": num_points}
    return record


def _number(value: object) -> float | None:
    """The value as a finite number, or None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None


def mean_of(values: Iterable[float | None]) -> float | None:
    """The mean of the values that are known; None where none is."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


# --- alive ---


def why_void(records: Sequence[Mapping[str, Any]]) -> str:
    """Why nothing can be said of a part that every one of these records is of, as a sentence goes on; else nothing."""
    if not records:
        return ""
    num_runs = len(records)
    runs = f"any of the {num_runs} runs that have it" if num_runs > 1 else "the one run that has it"
    if all(is_untrained(record) for record in records):
        how = {is_untrained(record) for record in records}
        problem = how.pop() if len(how) == 1 else "was not trained"
        if problem == "never got a gradient":
            return f"never got a gradient in {runs}"
        return f"{problem}, in {runs.replace('any of ', 'all of ')}"
    if all(changes_no_ranking(record) for record in records):
        return f"does nothing: bypassing it changes no ranking in {runs}"
    return ""


def void_parts(study: Study) -> dict[Key, str]:
    """The parts of which no comparison can say anything, with why: in every run that has them they are not alive."""
    by_part: dict[Key, list[Mapping[str, Any]]] = {}
    for cell in study.cells:
        for key, records in records_of(cell).items():
            by_part.setdefault(key, []).extend(records)
    reasons = {key: why_void(records) for key, records in by_part.items()}
    return {key: why for key, why in reasons.items() if why}


def void_sentences(analysis: Analysis) -> list[str]:
    """A sentence for each part that some configurations have and others do not, and that is not alive in any run."""
    study = analysis.study
    present = [set(records_of(cell)) for cell in study.cells]
    everywhere = set.intersection(*present)
    sentences = []
    for key, why in void_parts(study).items():
        if key not in everywhere and all(present):
            sentences.append(f"The {key.label} {why}, so that no comparison with and without it says what it is worth.")
    return sentences


@lru_cache(maxsize=8)
def void_comparisons(analysis: Analysis) -> Mapping[str, str]:
    """By the names of comparisons, why they say nothing of the parts that their two sides differ in; only those of
    which that is so: none of these parts is alive.

    A part is what differs if all configurations of one side have it and none of the other side.
    """
    void = void_parts(analysis.study)
    present = {id(cell): set(records_of(cell)) for cell in analysis.study.cells}
    found: dict[str, str] = {}
    for family in analysis.families if void else ():
        for result in family.primary:
            differing = _differing_parts(family, result, present)
            if differing and differing <= set(void):
                found[result.contrast.name] = "; ".join(f"the {key.label} {void[key]}" for key in sorted(differing))
    return found


def _differing_parts(family: Family, result: ContrastResult, present: Mapping[int, set[Key]]) -> set[Key]:
    """The parts that tell the two sides of a comparison apart; none where some of them do not say what they have."""
    higher: list[set[Key]] = []
    lower: list[set[Key]] = []
    for name, weight in result.contrast.weights:
        side = higher if weight > 0 else lower
        side += [present[id(cell)] for cell in family.arms.cells[name]]
    if not (higher and lower and all(higher) and all(lower)):
        return set()
    in_higher: set[Key] = set.intersection(*higher) - set().union(*lower)
    in_lower: set[Key] = set.intersection(*lower) - set().union(*higher)
    return in_higher | in_lower


# --- worth and cost ---


@dataclass(frozen=True)
class Costs:
    """What one configuration costs: weights that are trained, operations of stage 2 a pair, bytes of the index a text,
    milliseconds a training step and an answer (one query ranked, its texts encoded); None where runs do not say."""

    weights: float | None
    operations: float | None
    bytes_a_text: float | None
    step: float | None
    answer: float | None

    def less(self, other: Costs) -> Costs:
        """What this one costs more than another."""
        values: dict[str, float | None] = {}
        for name, one in vars(self).items():
            another = vars(other)[name]
            is_known = one is not None and another is not None
            values[name] = one - another if is_known else None
        return Costs(**values)


def costs_of(cell: Cell) -> Costs:
    """A configuration's costs, means over its runs."""
    return _mean_costs([_run_costs(run) for run in cell.runs.values()])


def _mean_costs(costs: Sequence[Costs]) -> Costs:
    values = {}
    for item in fields(Costs):
        values[item.name] = mean_of(getattr(each, item.name) for each in costs)
    return Costs(**values)


def _run_costs(run: Run) -> Costs:
    # Of a cross-validation all folds cost the same to use.
    first, *_ = run.parts or (run,)
    counted = _mapping(first.result.get("costs"))
    num_steps = num_queries = 0
    train_seconds = eval_seconds = 0.0
    for record in run.metrics:
        if not record.get("num_steps"):
            continue
        num_steps += record["num_steps"]
        train_seconds += record.get("train_seconds") or 0.0
        eval_seconds += record.get("eval_seconds") or 0.0
        for split in ("train", "val", "test"):
            num_queries += record.get(f"{split}/num_points") or 0
    return Costs(
        weights=_number(run.result.get("trained_weights")),
        operations=_number(counted.get("operations_a_pair")),
        bytes_a_text=_number(counted.get("bytes_a_text")),
        step=1000 * train_seconds / num_steps if num_steps else None,
        answer=1000 * eval_seconds / num_queries if num_queries else None,
    )


@dataclass(frozen=True)
class Worth:
    """What is known of one part over all runs that have it.

    `bypassed` is what the trained models lose in the deciding metric of test when it is bypassed, `changed` the share
    of val and test points whose ranking changes then. `without` is what configurations that differ in nothing else
    have more with it, over the seeds that they share, and `costs` what they cost more; None where there are none.
    """

    key: Key
    num_runs: int
    weights: float | None
    operations: float | None
    gradient_share: float | None
    change: float | None
    acted_share: float | None
    changed: float | None
    bypassed: float | None
    without: float | None
    costs: Costs | None
    void: str


def worths(analysis: Analysis) -> list[Worth]:
    """Every part of the study's models, in the order of the models; none where no run watched its parts."""
    study = analysis.study
    records = {cell.name: records_of(cell) for cell in study.cells}
    keys = dict.fromkeys(key for of_cell in records.values() for key in of_cell)
    return [_worth(analysis, records, key) for key in keys]


def _worth(analysis: Analysis, records: Mapping[str, Records], key: Key) -> Worth:
    having: list[Mapping[str, Any]] = []
    for of_cell in records.values():
        having += of_cell.get(key, ())
    lost = []
    for record in having:
        on_test = record["bypassed"].get("test")
        lost.append(on_test["lost"].get(analysis.key()) if on_test else None)

    # What is different about configurations that were trained without it.
    differences, costs = [], []
    for one, other in _with_and_without(analysis.study, records, key):
        differences.append(_difference(analysis, one, other))
        more = costs_of(one).less(costs_of(other))
        costs.append(more)
    means = {name: mean_of(record[name] for record in having) for name in _NUMBERS}
    return Worth(
        key,
        len(having),
        **means,
        changed=mean_of(map(_share_changed, having)),
        bypassed=mean_of(lost),
        without=mean_of(differences),
        costs=_mean_costs(costs) if costs else None,
        void=why_void(having),
    )


def _with_and_without(study: Study, records: Mapping[str, Records], key: Key) -> list[tuple[Cell, Cell]]:
    """Pairs of configurations on two levels of one axis, of which the first has the part and the second all but it."""
    pairs = []
    for one in study.cells:
        for other in study.cells:
            has, lacks = set(records[one.name]), set(records[other.name])
            num_moved = sum(a != b for a, b in zip(one.levels, other.levels, strict=True))
            if key in has and lacks and num_moved == 1 and has - {key} == lacks:
                pairs.append((one, other))
    return pairs


def _difference(analysis: Analysis, one: Cell, other: Cell) -> float | None:
    """By how much the first configuration scores higher, over the seeds that both have."""
    seeds = [seed for seed in one.runs if seed in other.runs]
    differences = []
    for seed in seeds:
        scores = [cell.runs[seed].outcomes.mean(analysis.primary) for cell in (one, other)]
        if scores[0] is not None and scores[1] is not None:
            differences.append(scores[0] - scores[1])
    return mean_of(differences)


def _share_changed(record: Mapping[str, Any]) -> float | None:
    """The share of points of a run's bypassed splits whose ranking is another."""
    splits = record["bypassed"].values()
    num_points = sum(split["num_points"] for split in splits)
    return sum(split["num_changed"] for split in splits) / num_points if num_points else None


def is_worth_its_price(study: Study, means: Mapping[str, float]) -> dict[str, bool | None]:
    """By configuration: whether none that costs as much or less, in weights, operations and bytes, has a mean as high.

    None where its costs are not known. Means alone: whether two can be told apart is another question.
    """
    prices: dict[str, tuple[float, ...]] = {}
    found: dict[str, bool | None] = {}
    for cell in study.cells:
        costs = costs_of(cell)
        price = (costs.weights, costs.operations, costs.bytes_a_text)
        found[cell.name] = None
        if None not in price:
            prices[cell.name] = tuple(map(float, price))  # type: ignore[arg-type]
    for name, own in prices.items():
        rivals = [rival for rival in prices if rival != name]
        found[name] = not any(_beats(prices[rival], means[rival], own, means[name]) for rival in rivals)
    return found


def _beats(price: tuple[float, ...], mean: float, other_price: tuple[float, ...], other_mean: float) -> bool:
    """Whether one costs no more than another and has a higher mean, or costs less and has as high a mean."""
    as_cheap = all(one <= another for one, another in zip(price, other_price, strict=True))
    if not as_cheap:
        return False
    return mean > other_mean or (mean == other_mean and price != other_price)
