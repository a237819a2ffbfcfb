"""What differs between runs: studies (one corpus each), their axes, levels and cells, and fair averages over settings.

Read from what determines each run's results (the manifest's `determined_by`), not from its config: settings without
effect do not set runs apart there. Any setting in which runs differ is an axis, whatever its name.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import numpy as np

from biencoder_ablate.report.comparisons import HEADS, Group, pool
from biencoder_ablate.report.read import FINISHED, NOTHING, WITHOUT, Protocol, Run
from biencoder_ablate.report.statistics import FloatArray
from biencoder_ablate.utils.files import flatten

# What is no axis of its own: the first name corpora, versions and seeds; the others make one axis each.
_NOT_AXES = (
    *("results_version", "data", "seed", "neg_ratio", "negatives.schedule", "negatives.start", "negatives.ratio"),
    "finetuned.weights",  # which differ from seed to seed
)
_NAMES = {
    "fusion.name": "fusion",
    "loss.name": "loss",
    "model.fingerprint": "encoder",
    "finetuned.run": "finetuned",
}


@dataclass(frozen=True)
class Level:
    """A value on an axis: `label` shows it and `sort_key` gives its place.

    `key` is what it is a variant of: "relu" for the head labelled "relu before linear2"; the label itself otherwise.
    """

    key: str
    label: str
    sort_key: tuple[Any, ...] = field(compare=False)


@dataclass(frozen=True)
class Axis:
    """Something that differs: its levels in reading order, and what else changes exactly where it does.

    The others are compared with `baseline`, if there is one, rather than each with each.
    """

    name: str
    levels: tuple[Level, ...]
    with_it: tuple[str, ...] = ()
    baseline: Level | None = None

    def in_words(self, level: Level) -> str:
        """A level as it reads outside its column."""
        return level.label if self.name in ("head", "negatives", "encoder", "system") else f"{self.name}={level.label}"


@dataclass(frozen=True, eq=False)
class Cell:
    """One configuration: its level on each axis, and its finished runs by seed."""

    name: str
    levels: tuple[Level, ...]
    runs: Mapping[int, Run]

    def outcomes(self, protocol: Protocol) -> Group:
        """Who got which test point right, of those that count."""
        rows = [run.outcomes.correct[protocol] for run in self.runs.values()]
        return Group(self.name, tuple(self.runs), np.array([row[~np.isnan(row)] for row in rows]))


@dataclass(frozen=True, eq=False)
class Study:
    """Runs on one corpus that may be compared. `axes` are the differing settings, the main one first.

    `constants` are the settings that all runs share, by key.
    """

    name: str
    fingerprint: str
    axes: tuple[Axis, ...]
    cells: tuple[Cell, ...]
    constants: tuple[tuple[str, str], ...]

    @property
    def runs(self) -> list[Run]:
        """All finished runs, cell by cell, seeds ascending."""
        return [run for cell in self.cells for run in cell.runs.values()]

    @property
    def trained_here(self) -> bool:
        """Whether these are this program's runs, with curves, manifests and settings, rather than outside figures."""
        return all(run.result for run in self.runs)

    @property
    def has_tasks(self) -> bool:
        """Whether the runs were measured on the eight candidate sets: of corpora that ask pairs."""
        return all(run.test.get("tasks") for run in self.runs)

    @property
    def size(self) -> str:
        """How much there is, in words: 40 finished runs, 4 configurations, 10 seeds."""
        counts = {"finished run": len(self.runs), "configuration": len(self.cells), "seed": len(self.seeds)}
        return ", ".join(f"{num} {name}{'' if num == 1 else 's'}" for name, num in counts.items())

    @property
    def seeds(self) -> list[int]:
        """Every seed that some cell has."""
        return sorted({seed for cell in self.cells for seed in cell.runs})


def make_studies(runs: Sequence[Run]) -> list[Study]:
    """The finished runs, apart by corpus (and by results version), largest study first.

    Raises ValueError where runs of one corpus were asked different test points: one of them is damaged.
    """
    parts: dict[tuple[Any, Any], list[Run]] = defaultdict(list)
    for run in runs:
        if run.status == FINISHED:
            parts[run.identity["data"], run.identity["results_version"]].append(run)
    studies = [_make_study(members, len(parts) > 1) for members in parts.values()]
    return sorted(studies, key=lambda study: -len(study.runs))


def _make_study(runs: Sequence[Run], several: bool) -> Study:
    first = runs[0]
    for run in runs:
        if run.outcomes.ids != first.outcomes.ids:
            raise ValueError(
                f"{run.path} and {first.path} are of one corpus by their manifests, but their rankings.jsonl "
                "hold different test points; run the damaged one again with rerun=true"
            )
    differing: dict[str, list[Level]] = {}  # axis → level of each run
    with_it: dict[str, list[str]] = defaultdict(list)
    constants = []
    for name, levels in _settings(runs).items():
        twin = next((other for other in differing if _same_partition(differing[other], levels)), None)
        if twin is None and WITHOUT in differing and _decides(differing[WITHOUT], levels):
            twin = WITHOUT
        if len(set(levels)) == 1:
            constants.append((name, levels[0].label))
        elif twin is not None:
            pairs = sorted(set(zip(differing[twin], levels, strict=True)), key=lambda pair: pair[0].sort_key)
            usual = pairs[0][1] if twin == WITHOUT else None  # that of the whole, which comes first
            told = ", ".join(f"{a.label}: {b.label}" for a, b in pairs if b != usual)
            with_it[twin].append(f"{name} ({told})")
        else:
            differing[name] = levels
    axes = tuple(
        Axis(
            name,
            tuple(sorted(set(levels), key=lambda level: level.sort_key)),
            tuple(with_it[name]),
            _baseline(runs, levels),
        )
        for name, levels in differing.items()
    )
    cells: dict[tuple[Level, ...], dict[int, Run]] = defaultdict(dict)
    for k, run in enumerate(runs):
        cells[tuple(levels[k] for levels in differing.values())][run.identity["seed"]] = run
    data = first.config.get("data") or {}
    corpus = str(data.get("name", "corpus"))
    if corpus == "pairs" and data.get("path"):
        corpus = PurePath(str(data["path"])).name
    corpus += f", first {data['limit']} debates of each split" if data.get("limit") else ""
    corpus += ", disjoint" if data.get("disjoint") else ""
    return Study(
        f"{corpus} ({first.identity['data'][:8]})" if several else corpus,
        first.identity["data"],
        axes,
        tuple(
            Cell(cell_name(axes, levels), levels, dict(sorted(cells[levels].items())))
            for levels in sorted(cells, key=lambda levels: [level.sort_key for level in levels])
        ),
        tuple(constants),
    )


def _same_partition(a: Sequence[Level], b: Sequence[Level]) -> bool:
    return len(set(a)) == len(set(b)) == len(set(zip(a, b, strict=True)))


def _decides(a: Sequence[Level], b: Sequence[Level]) -> bool:
    return len(set(zip(a, b, strict=True))) == len(set(a))


def _baseline(runs: Sequence[Run], levels: Sequence[Level]) -> Level | None:
    """The level that all baseline runs have and no other, if any."""
    of_baseline, of_others = (
        {level for run, level in zip(runs, levels, strict=True) if run.baseline is wanted} for wanted in (True, False)
    )
    return next(iter(of_baseline)) if len(of_baseline) == 1 and of_others and not of_baseline & of_others else None


def cell_name(axes: Sequence[Axis], levels: Sequence[Level]) -> str:
    """A configuration in words, from its levels on some axes: "relu, neg 0.2, fusion=pooled"."""
    names = [axis.in_words(level) for axis, level in zip(axes, levels, strict=True)]
    return ", ".join(names) or "the only configuration"


def _settings(runs: Sequence[Run]) -> dict[str, list[Level]]:
    """Level of each run by setting: head, negatives, fusion, encoder, then every other key, dotted."""
    settings: dict[str, list[Level]] = {}
    parts = [run.without for run in runs]
    if all(parts):
        settings[WITHOUT] = [Level(str(part), str(part), (part != NOTHING, part)) for part in parts]
    if all("head" in run.identity for run in runs):  # not those of another program
        settings["head"] = _head_levels([run.identity["head"] for run in runs])
        settings["negatives"] = _negatives_levels([run.identity for run in runs])
    by_run = [flatten(run.identity) for run in runs]
    keys = [key for key in dict.fromkeys(key for values in by_run for key in values) if key not in _NOT_AXES]
    first = ["fusion", "fusion.name", "model.fingerprint"]
    for key in sorted(keys, key=lambda key: first.index(key) if key in first else len(first)):
        if key == "model.fingerprint":
            settings["encoder"] = _encoder_levels(runs)
        elif not key.startswith("head."):
            settings[_NAMES.get(key, key)] = [_value_level(values.get(key)) for values in by_run]
    return settings


def _value_level(value: Any) -> Level:
    """Numbers by size, then words by the alphabet, then null."""
    label = show(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Level(label, label, (0, value, label))
    return Level(label, label, (2 if value is None else 1, 0, label))


def _head_levels(heads: Sequence[Mapping[str, Any]]) -> list[Level]:
    """The four heads as in the design, then the same with the ReLU before linear2 if both places occur, then others."""
    positions = {head.get("activation_position") for head in heads if _activation(head) is not None}
    by_name: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for head in heads:
        by_name[head_label(head)].append(head)
    levels = []
    for head in heads:
        name = head_label(head)
        others = by_name[name]
        told = ["hidden", *(() if head.get("name", "linear") == "linear" else ("norm", "activation"))]
        details = [
            f"{key}={show(head.get(key))}" for key in told if len({show(other.get(key)) for other in others}) > 1
        ]
        before = len(positions) > 1 and _activation(head) is not None
        before = before and head.get("activation_position") == "before_linear2"
        key = " ".join([name, *details])
        label = f"{key} before linear2" if before else key
        place = HEADS.index(name) if name in HEADS else len(HEADS)
        levels.append(Level(key, label, (name not in HEADS, before, place, label)))
    return levels


def head_label(head: Mapping[str, Any]) -> str:
    """A head's name from its settings in the manifest: none, layernorm_relu, rmsnorm_gelu, mlp, mine width=8."""
    name = str(head.get("name", "linear"))
    if name == "linear":
        parts = [str(part) for part in (head.get("norm"), _activation(head)) if part not in (None, "none")]
        name = "_".join(parts) or "none"
    return " ".join([name, *(f"{key}={show(value)}" for key, value in (head.get("options") or {}).items())])


def _activation(head: Mapping[str, Any]) -> str | None:
    return None if head.get("activation") == "none" else head.get("activation")


def _negatives_levels(identities: Sequence[Mapping[str, Any]]) -> list[Level]:
    """The schedule and the ratio, and a curriculum's start where starts differ."""
    starts = {identity["negatives"].get("start") for identity in identities} - {None}
    levels = []
    for identity in identities:
        schedule, start = identity["negatives"]["schedule"], identity["negatives"].get("start")
        ratio = identity.get("neg_ratio", identity["negatives"].get("ratio"))
        short = {"constant": "neg", "curriculum": "curr"}.get(schedule, schedule)
        with_start = start is not None and len(starts) > 1
        label = f"{short} {show(start)}+{show(ratio)}" if with_start else f"{short} {show(ratio)}"
        levels.append(Level(label, label, (schedule != "constant", schedule, start or 0.0, ratio)))
    return levels


def _encoder_levels(runs: Sequence[Run]) -> list[Level]:
    """The last part of the weights' name, with the fingerprint where that is not enough."""
    prints = [run.identity["model"]["fingerprint"] for run in runs]
    labels = []
    for model in (run.config.get("model") or {} for run in runs):
        labels.append(PurePath(str(model.get("name_or_path") or model.get("name") or "unnamed")).name)
    if len(set(labels)) < len(set(prints)):
        labels = [f"{label} {fingerprint[:8]}" for label, fingerprint in zip(labels, prints, strict=True)]
    return [Level(label, label, (label,)) for label in labels]


def show(value: Any) -> str:
    """A setting's value as one types it."""
    if isinstance(value, float) and float(f"{value:g}") == value:
        return f"{value:g}"
    if value is None or isinstance(value, bool | list | dict):
        return json.dumps(value)
    return str(value)


@dataclass(frozen=True, eq=False)
class Arms:
    """What is compared: `cells[arm]` are an arm's configurations, one in each of the same `settings`.

    `seeds` are those that every one of these cells has. `left_out` names settings that could not be used, with why.
    """

    names: tuple[str, ...]
    settings: tuple[str, ...]
    cells: Mapping[str, tuple[Cell, ...]]
    seeds: tuple[int, ...]
    left_out: tuple[str, ...] = ()

    def groups(self, protocol: Protocol) -> list[Group]:
        """The arms as groups: each the average over its cells, on the seeds that these share."""
        return [pool(name, [cell.outcomes(protocol) for cell in self.cells[name]]) for name in self.names]

    def means(self, protocol: Protocol) -> dict[str, float]:
        """Each arm's mean, over the seeds that all share; over its own where there are none."""
        return {group.name: float(group.at(self.seeds or group.seeds).mean()) for group in self.groups(protocol)}


def arms_of(study: Study, arms: Sequence[tuple[str, dict[int, Level]]]) -> Arms | None:
    """Arms given by name and by their level on some axes (the same axes for all), e.g. {0: relu}.

    The other axes make the settings. Settings where an arm has no finished run cannot be used; nor can those that would
    leave fewer than half of the seeds that the best-covered setting has. So the choice depends on which runs there are,
    never on their figures. None if no setting has all arms.
    """
    by_levels = {cell.levels: cell for cell in study.cells}
    free = [k for k in range(len(study.axes)) if k not in arms[0][1]]
    complete: dict[str, list[Cell]] = {}  # setting → a cell for each arm
    left_out = []
    for setting_levels in dict.fromkeys(tuple(cell.levels[k] for k in free) for cell in study.cells):
        cells = []
        for _, chosen in arms:
            levels = dict(zip(free, setting_levels, strict=True)) | chosen
            cells.append(by_levels.get(tuple(levels[k] for k in range(len(study.axes)))))
        lacking = [name for (name, _), cell in zip(arms, cells, strict=True) if cell is None]
        setting = cell_name([study.axes[k] for k in free], setting_levels)
        if not lacking:
            complete[setting] = [cell for cell in cells if cell is not None]
        elif len(lacking) < len(arms):
            left_out.append(f"{setting} (no finished run of {', '.join(lacking)})")
    if not complete:
        return None
    used, seeds = _on_common_seeds(complete)
    too_few = [setting for setting in complete if setting not in used]
    left_out += [f"{setting} (too few seeds in common with the other settings)" for setting in too_few]
    return Arms(
        tuple(name for name, _ in arms),
        tuple(used) if free else (),
        {name: tuple(complete[setting][k] for setting in used) for k, (name, _) in enumerate(arms)},
        seeds,
        tuple(left_out),
    )


def _on_common_seeds(complete: dict[str, list[Cell]]) -> tuple[list[str], tuple[int, ...]]:
    """The settings to average over, best covered first as long as half of its seeds remain; and the seeds."""
    covered = {setting: set.intersection(*(set(cell.runs) for cell in cells)) for setting, cells in complete.items()}
    first, *others = sorted(covered, key=lambda setting: -len(covered[setting]))  # stable: equal ones in reading order
    used, seeds = {first}, covered[first]
    for setting in others:
        shared = seeds & covered[setting]
        if 2 * len(shared) >= len(covered[first]) and shared:
            used.add(setting)
            seeds = shared
    return [setting for setting in complete if setting in used], tuple(sorted(seeds))


def task_values(cells: Sequence[Cell], task: str) -> FloatArray:
    """Test top-1 of a task for each seed (S,), averaged over cells."""
    seeds = sorted(set.intersection(*(set(cell.runs) for cell in cells)))
    return np.array(
        [np.mean([cell.runs[seed].test["tasks"].get(task, {}).get("top1", np.nan) for cell in cells]) for seed in seeds]
    )
