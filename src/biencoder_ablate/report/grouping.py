"""What differs between runs: studies (one corpus each), the axes along which configs differ, and their cells.

Read from what determines each run's results (the manifest's `determined_by`), not from its config: settings
without effect do not set runs apart there.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from biencoder_ablate.config import HeadConfig, head_name
from biencoder_ablate.report.collect import FINISHED, Run
from biencoder_ablate.report.statistics import HEADS

BEFORE = " before linear2"
_NOT_AXES = ("data", "results_version", "seed")
_TOGETHER = ("head.", "negatives.")  # keys that make one axis each
_COMMAND_KEYS = {"model.fingerprint": "encoder"}


@dataclass(frozen=True)
class Axis:
    """Something that differs: its levels in reading order, and what else changes exactly where it does."""

    name: str
    levels: tuple[str, ...]
    with_it: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Cell:
    """One configuration: its level on each axis, and its finished runs by seed."""

    name: str
    levels: tuple[str, ...]
    runs: Mapping[int, Run]


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
    _check_points(runs)
    axes, constants, labels = _axes(runs)
    cells: dict[tuple[str, ...], dict[int, Run]] = defaultdict(dict)
    for run in runs:
        assert run.seed is not None
        cells[labels[run.name]][run.seed] = run
    ranks = [{level: k for k, level in enumerate(axis.levels)} for axis in axes]
    ordered = sorted(cells, key=lambda levels: [rank[level] for rank, level in zip(ranks, levels, strict=True)])
    return Study(
        _study_name(runs[0], several),
        runs[0].identity["data"],
        tuple(axes),
        tuple(Cell(cell_name(axes, levels), levels, dict(sorted(cells[levels].items()))) for levels in ordered),
        tuple(constants),
    )


def cell_name(axes: Sequence[Axis], levels: Sequence[str]) -> str:
    """A configuration in words, from its levels on some axes: "relu, neg 0.2, fusion=pooled"."""
    names = [in_words(axis, level) for axis, level in zip(axes, levels, strict=True)]
    return ", ".join(names) or "the only configuration"


def in_words(axis: Axis, level: str) -> str:
    """A level as it reads outside its column."""
    return level if axis.name in ("head", "negatives", "encoder") else f"{axis.name}={level}"


def _study_name(run: Run, several: bool) -> str:
    data = run.config.get("data") or {}
    name = str(data.get("name", "corpus"))
    if data.get("name") == "pairs" and data.get("path"):
        name = PurePath(str(data["path"])).name
    if data.get("limit"):
        name += f", first {data['limit']} debates of each split"
    if data.get("disjoint"):
        name += ", disjoint"
    return f"{name} ({run.identity['data'][:8]})" if several else name


def _check_points(runs: Sequence[Run]) -> None:
    first = runs[0]
    for run in runs[1:]:
        assert first.outcomes is not None and run.outcomes is not None
        if run.outcomes.ids != first.outcomes.ids:
            raise ValueError(
                f"{run.path} and {first.path} are of one corpus by their manifests, but their rankings.jsonl "
                "hold different test points; run the damaged one again with rerun=true"
            )


# --- axes ---


def _axes(runs: Sequence[Run]) -> tuple[list[Axis], list[tuple[str, str]], dict[str, tuple[str, ...]]]:
    """The axes, the constants, and each run's levels on the axes, by the run's name."""
    values = _labels(runs)
    kept: dict[str, list[str]] = {}  # axis → label of each run
    with_it: dict[str, list[str]] = defaultdict(list)
    constants = []
    for name, labels in values.items():
        if len(set(labels)) == 1:
            constants.append((name, labels[0]))
            continue
        twin = next((other for other in kept if _same_partition(kept[other], labels)), None)
        if twin is None:
            kept[name] = labels
        else:
            pairs = dict(zip(kept[twin], labels, strict=True))
            with_it[twin].append(f"{name} ({', '.join(f'{a}: {b}' for a, b in pairs.items())})")
    axes = [Axis(name, _ordered(name, labels), tuple(with_it[name])) for name, labels in kept.items()]
    levels = {run.name: tuple(kept[axis.name][k] for axis in axes) for k, run in enumerate(runs)}
    return axes, constants, levels


def _same_partition(a: Sequence[str], b: Sequence[str]) -> bool:
    return len(set(a)) == len(set(b)) == len(set(zip(a, b, strict=True)))


def _labels(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Label of each run by setting: head, negatives, fusion, encoder, then every other key."""
    keys = dict.fromkeys(key for run in runs for key in run.identity)
    rest = [key for key in keys if key not in _NOT_AXES and not key.startswith(_TOGETHER)]
    rest.sort(key=lambda key: {"fusion": 0, "model.fingerprint": 1}.get(key, 2))
    labels = {"head": _apply(runs, _head_labels), "negatives": _apply(runs, _negatives_labels)}
    for key in rest:
        name = _COMMAND_KEYS.get(key, key)
        if key == "model.fingerprint":
            labels[name] = _encoder_labels(runs)
        else:
            labels[name] = [show(run.identity.get(key)) for run in runs]
    return labels


def _apply(runs: Sequence[Run], label: Callable[[Sequence[Mapping[str, Any]]], list[str]]) -> list[str]:
    return label([run.identity for run in runs])


def _head_labels(identities: Sequence[Mapping[str, Any]]) -> list[str]:
    names = [head_name(HeadConfig(norm=i["head.norm"], activation=i["head.activation"])) for i in identities]
    positions = [i.get("head.activation_position") for i in identities]
    if len(set(positions) - {None}) < 2:
        return names
    return [name + BEFORE * (position == "before_linear2") for name, position in zip(names, positions, strict=True)]


def _negatives_labels(identities: Sequence[Mapping[str, Any]]) -> list[str]:
    starts = {i.get("negatives.start") for i in identities} - {None}
    labels = []
    for i in identities:
        ratio, start = f"{i['negatives.ratio']:g}", i.get("negatives.start")
        if i["negatives.schedule"] == "constant":
            labels.append(f"neg {ratio}")
        else:
            labels.append(f"curr {ratio}" if len(starts) == 1 else f"curr {start:g}+{ratio}")
    return labels


def _encoder_labels(runs: Sequence[Run]) -> list[str]:
    labels = []
    for run in runs:
        name = (run.config.get("model") or {}).get("name_or_path")
        tiny = run.identity["model.fingerprint"].startswith("tiny")
        labels.append("tiny" if tiny else PurePath(str(name or "unnamed")).name)
    prints = [run.identity["model.fingerprint"] for run in runs]
    if len(set(labels)) < len(set(prints)):
        labels = [f"{label} {found[:8]}" for label, found in zip(labels, prints, strict=True)]
    return labels


def show(value: Any) -> str:
    """A setting's value as one types it."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _ordered(axis: str, labels: Sequence[str]) -> tuple[str, ...]:
    """Distinct levels in reading order: heads as in the design, numbers by size, the rest by the alphabet."""
    distinct = sorted(set(labels))
    if axis == "head":
        places = [*HEADS, *(head + BEFORE for head in HEADS)]
        return tuple(sorted(distinct, key=places.index))
    if axis == "negatives":
        return tuple(sorted(distinct, key=_negatives_place))
    try:
        return tuple(sorted(distinct, key=lambda label: float("inf") if label == "null" else float(label)))
    except ValueError:
        return tuple(distinct)


def _negatives_place(label: str) -> tuple[bool, list[float]]:
    schedule, _, numbers = label.partition(" ")
    return schedule != "neg", [float(number) for number in numbers.split("+")]
