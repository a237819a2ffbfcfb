"""A tuned sweep in a report: its runs at each variant's own settings, what was chosen by val, and what tuning changes.

K trials of a variant, N of them in a budget.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import comb
from typing import Any

from biencoder_ablate.report.read import Collection, Metric, Run, Sweep, read_run
from biencoder_ablate.report.study import Study
from biencoder_ablate.report.tables import METRIC, MINUS, Column, Table, Value
from biencoder_ablate.report.verdicts import Decision, in_words
from biencoder_ablate.runs.records import metric_in_words
from biencoder_ablate.runs.tuning import TUNING, Tuning, Variant, load_tuning
from biencoder_ablate.utils.files import Damaged

OWN = "each variant's own"
"""What stands for the value of a tuned setting, which differs between variants and is no axis."""
COVERAGE = 0.95


def with_tuned(collection: Collection, metric: Metric) -> Collection:
    """The collection with the runs that its sweeps' variants have at settings of their own, after all others.

    A sweep whose tuning cannot be read is said in the notes, and has its runs at common settings alone.
    """
    runs, tunings, notes = [*collection.runs], [*collection.tunings], [*collection.notes]
    for sweep in collection.sweeps:
        try:
            tuning = load_tuning(sweep.path)
        except (OSError, Damaged) as error:
            notes.append(f"{error}; what was tuned is left out: the same command tunes anew")
            continue
        if tuning is None:
            continue
        tunings.append(tuning)
        runs += _tuned_runs(sweep, tuning, metric)
    return replace(collection, runs=tuple(runs), tunings=tuple(tunings), notes=tuple(notes))


def note_left_out(collection: Collection) -> Collection:
    """The collection with a note for each of its sweeps whose runs at settings of their own are not in it."""
    notes = [*collection.notes]
    for sweep in collection.sweeps:
        if (sweep.path / TUNING).exists():
            tuned = f"{sweep.path.name}_tuned"
            notes.append(f"{sweep.path.name}: evaluations at common settings alone; for the tuned runs give {tuned}")
    return replace(collection, notes=tuple(notes))


def _tuned_runs(sweep: Sweep, tuning: Tuning, metric: Metric) -> list[Run]:
    """The runs at each variant's own settings, which no longer tell variants apart."""
    place = sweep.path.parent.parent / "runs"
    names = dict.fromkeys(name for variant in tuning.variants for name in variant.runs)
    runs = []
    for name in names:
        run = read_run(place / name, metric=metric)
        identity = with_own_settings(run.identity, tuning.keys)
        runs.append(replace(run, identity=identity, tuned=True))
    return runs


def with_own_settings(identity: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    """An identity in which the tuned settings that it has are the same for every variant, however deep they lie."""
    made = dict(identity)
    for key in keys:
        name, _, inner = key.partition(".")
        if name not in made:
            continue
        if not inner:
            made[name] = OWN
        elif isinstance(made[name], Mapping):
            made[name] = with_own_settings(made[name], [inner])
    return made


def tuning_of(study: Study, tunings: Sequence[Tuning]) -> Tuning | None:
    """The tuning that a study's runs come from; None for runs at common settings."""
    if not study.tuned:
        return None
    names = {run.name for run in study.runs}
    for tuning in tunings:
        if any(names.intersection(variant.runs) for variant in tuning.variants):
            return tuning
    return None


# --- what n trials find ---


@dataclass(frozen=True)
class Budget:
    """The best val metric that `num_trials` of the K trials find: its mean over all choices of so many, and the range
    that holds 95% of them."""

    num_trials: int
    mean: float
    low: float
    high: float


def best_of(values: Sequence[float], num_trials: int) -> Budget:
    """The best of n of K trials, drawn without replacement: the unbiased estimator of the expected best of n trials.

    With the values ascending v_1 ≤ … ≤ v_K, P(best = v_i) = C(i − 1, n − 1) / C(K, n): Tang et al. (2020), "Showing
    Your Work Doesn't Always Work", in place of the biased one of Dodge et al. (2019), which draws with
    replacement. `low` and `high` are the 2.5% and 97.5% quantiles of that distribution: what other choices of n of
    these trials would have found. They say nothing of trials that nobody made.
    """
    ordered = sorted(values)
    num_values = len(ordered)
    assert 1 <= num_trials <= num_values
    choices = comb(num_values, num_trials)
    shares = [comb(i - 1, num_trials - 1) / choices for i in range(1, num_values + 1)]
    mean = sum(value * share for value, share in zip(ordered, shares, strict=True))
    tail = (1 - COVERAGE) / 2
    return Budget(num_trials, mean, _quantile(ordered, shares, tail), _quantile(ordered, shares, 1 - tail))


def _quantile(ordered: Sequence[float], shares: Sequence[float], level: float) -> float:
    """The lowest value up to which the shares come to `level`."""
    total = 0.0
    for value, share in zip(ordered, shares, strict=True):
        total += share
        if total >= level - 1e-12:
            return value
    return ordered[-1]


def budgets_of(variant: Variant) -> list[Budget]:
    """The best of 1, 2, 4, … and of all trials of a variant that did not fail."""
    values = [trial.value for trial in variant.trials if trial.value is not None]
    sizes = [2**k for k in range(len(values).bit_length()) if 2**k < len(values)]
    return [best_of(values, size) for size in (*sizes, len(values))]


# --- tables and sentences ---


def variant_names(study: Study, tuning: Tuning) -> dict[str, Variant]:
    """The study's configurations, by name, with the variant that each is."""
    named = {}
    for cell in study.cells:
        names = {run.name for run in cell.runs.values()}
        for variant in tuning.variants:
            if names.intersection(variant.runs):
                named[cell.name] = variant
    return named


def choices_table(study: Study, tuning: Tuning) -> Table:
    """A row a variant: what val has chosen for it."""
    metric = metric_in_words(tuning.metric)
    rows: list[tuple[Value, ...]] = []
    for name, variant in variant_names(study, tuning).items():
        point = tuning.points[variant.chosen]
        failed = sum(trial.value is None for trial in variant.trials)
        edge = ", ".join(key.rpartition(".")[2] for key in variant.at_edge)
        settings = [f"{point[key]:g}" if isinstance(point[key], float) else str(point[key]) for key in tuning.keys]
        value = variant.trials[variant.chosen].value
        rows.append((name, *settings, value, len(variant.trials), failed or "", edge))
    columns = [
        Column("variant"),
        *(Column(key.rpartition(".")[2]) for key in tuning.keys),
        Column(f"val {metric}", METRIC.digits),
        Column("trials", 0),
        Column("failed"),
        Column("at the edge of what was tried", warning=True),
    ]
    kept = [place for place, column in enumerate(columns) if column.name != "failed" or any(row[place] for row in rows)]
    seeds = ", ".join(map(str, tuning.seeds))
    caption = (
        f"What each variant has chosen for itself by its mean val {metric} over seeds {seeds}, which no run of the "
        "comparison has. Every variant was tried with the same settings; test was not looked at."
    )
    return Table(
        "tuning", caption, [columns[k] for k in kept], [tuple(row[k] for k in kept) for row in rows]
    )  # fmt: skip


def choices_json(study: Study, tunings: Sequence[Tuning]) -> list[dict[str, Any]]:
    """The same for programs; empty for runs at common settings."""
    tuning = tuning_of(study, tunings)
    if tuning is None:
        return []
    return [
        {
            "name": name,
            "settings": dict(tuning.points[variant.chosen]),
            "val": variant.trials[variant.chosen].value,
            "trials": len(variant.trials),
            "failed": sum(trial.value is None for trial in variant.trials),
            "at_edge": list(variant.at_edge),
        }
        for name, variant in variant_names(study, tuning).items()
    ]


def budgets_table(study: Study, tuning: Tuning) -> Table:
    """A row a variant and budget: the best val metric that so many trials are expected to find."""
    metric = metric_in_words(tuning.metric)
    rows: list[tuple[Value, ...]] = []
    for name, variant in variant_names(study, tuning).items():
        for budget in budgets_of(variant):
            rows.append((name, budget.num_trials, budget.mean, budget.low, budget.high))
    caption = (
        f"The best val {metric} that n trials find: the mean over all choices of n of the trials (Tang et al. 2020), "
        "and the range of 95% of these choices."
    )
    columns = [Column("variant"), Column("trials", 0), Column("expected best", METRIC.digits)]
    columns += [Column("from", METRIC.digits), Column("to", METRIC.digits)]
    return Table("budgets", caption, columns, rows, data=False)


def order_by_budget(study: Study, tuning: Tuning) -> str:
    """Whether the variant with the best val metric is another one at smaller budgets, in a sentence."""
    firsts: dict[int, str] = {}
    expected: dict[int, dict[str, float]] = {}
    for name, variant in variant_names(study, tuning).items():
        for budget in budgets_of(variant):
            expected.setdefault(budget.num_trials, {})[name] = budget.mean
    complete = {size: means for size, means in expected.items() if len(means) == len(study.cells)}
    for size, means in sorted(complete.items()):
        firsts[size] = max(means, key=lambda name: means[name])
    if not firsts:
        return ""
    most = max(firsts)
    others = {size: name for size, name in firsts.items() if name != firsts[most]}
    if not others:
        return f"By val {firsts[most]} is first with any number of trials up to {most}."
    said = ", ".join(f"{name} with {size}" for size, name in others.items())
    return f"Which variant is first on val depends on the number of trials: {said}, {firsts[most]} with {most}."


def turned(common: Sequence[Decision], tuned: Sequence[Decision]) -> list[str]:
    """A sentence for each comparison that decides and has another outcome where each variant is tuned."""
    of_common = {decision.name: decision for decision in common if decision.decides}
    said = []
    for after in tuned:
        before = of_common.get(after.name)
        if before is None or not after.decides or before.outcome is after.outcome:
            continue
        said.append(
            f"{after.name}: {in_words(before)} at common settings ({_signed(before.estimate)}), and {in_words(after)} "
            f"({_signed(after.estimate)}) where each variant has settings of its own."
        )
    return said


def _signed(value: float) -> str:
    return f"{value:+.3f}".replace("-", MINUS)
