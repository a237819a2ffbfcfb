"""What differs between runs: one study per corpus, with its axes, levels and cells, and fair averages over settings.

Axes are read from what determines each run's results (the manifest's `determined_by`) rather than from its config:
settings without effect do not tell runs apart there. Any setting in which runs differ is an axis, whatever its name.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePath
from typing import Any

import numpy as np

from biencoder_ablate.config.schema import HeadConfig, head_name
from biencoder_ablate.report.candidate_sets import candidates_of, ranked
from biencoder_ablate.report.comparisons import HEADS, Group, pool
from biencoder_ablate.report.read import FINISHED, NOTHING, WITHOUT, Protocol, Run
from biencoder_ablate.report.statistics import FloatArray
from biencoder_ablate.utils.files import flatten

# Keys that are no axis of their own. The first three tell corpora, versions and seeds apart, the next ones make the
# axis `negatives` together, and the weights that a fine-tuned run starts from differ from seed to seed.
_TELLING = {"results_version", "data", "seed"}
_NOT_AXES = {
    *_TELLING,
    "neg_ratio",
    "negatives.schedule",
    "negatives.start",
    "negatives.ratio",
    "finetuned.weights",
}
_NAMES = {
    "fusion.name": "fusion",
    "loss.name": "loss",
    "model.fingerprint": "encoder",
    "finetuned.run": "finetuned",
    "folds.num": "data.folds",
}
_PLACES = {"fusion": 0, "fusion.name": 1, "model.fingerprint": 2}  # of settings that are read before the others
BEFORE = " before linear2"  # how the label of a head ends whose activation is there
NUMBER = re.compile(r"-?\d+(\.\d+)?(e[-+]?\d+)?", re.ASCII)
_LONG_NUMBER = re.compile(r"\d+\.\d{7,}(?:e-?\d+)?", re.ASCII)
_UNPREFIXED_AXES = ("head", "negatives", "encoder", "system")  # whose levels speak for themselves

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class Level:
    """A value on an axis: `label` shows it, and `sort_key` orders it.

    `key` is what it is a variant of: "relu" for the head labelled "relu before linear2"; the label itself otherwise.
    `moved` are the settings that were given together with it, in words: "5 a pair" beside "neg 1".
    """

    key: str
    label: str
    sort_key: tuple[Any, ...] = field(compare=False)
    moved: str = field(default="", compare=False)

    @property
    def text(self) -> str:
        """The label with all that was set together with it."""
        return f"{self.label}, {self.moved}" if self.moved else self.label


@dataclass(frozen=True)
class Axis:
    """A setting that differs: its levels in reading order, and `with_it` what else changes exactly where it does.

    Where there is a `baseline`, the other levels are compared with it rather than with each other. `moved` are those of
    the settings that change with it which somebody typed, with the label that each level has of them.
    """

    name: str
    levels: tuple[Level, ...]
    with_it: tuple[str, ...] = ()
    baseline: Level | None = None
    moved: Mapping[str, Mapping[Level, str]] = field(default_factory=dict)

    def in_words(self, level: Level) -> str:
        """A level as it reads outside its column."""
        return _setting_in_words(self.name, level.text)


@dataclass(frozen=True, eq=False)
class Cell:
    """One configuration: its level on each axis, and its finished runs by seed."""

    name: str
    levels: tuple[Level, ...]
    runs: Mapping[int, Run]

    def outcomes(self, protocol: Protocol) -> Group:
        """What its runs score on the test points that count under a protocol."""
        scores = []
        for run in self.runs.values():
            row = run.outcomes.correct[protocol]
            scores.append(row[~np.isnan(row)])
        return Group(
            self.name,
            tuple(self.runs),
            np.array(scores),
        )  # (S, N)

    @property
    def missing_queries(self) -> str:
        """How many of the queries another program's runs lack, in words; nothing where they have all."""
        measured = [run.outcomes for run in self.runs.values()]
        counts = {outcomes.num_missing for outcomes in measured}
        if counts == {0}:
            return ""
        most = f"{'up to ' if len(counts) > 1 else ''}{max(counts)}"
        return f"{most} of {len(measured[0].ids)} queries missing, counted as 0"


@dataclass(frozen=True, eq=False)
class Study:
    """Runs on one corpus, which may be compared. `axes` are the settings that differ, the main one first.

    `constants` are the settings that all runs share, by key. Where a `centre` was declared, each other configuration is
    a change of it.
    """

    name: str
    fingerprint: str
    axes: tuple[Axis, ...]
    cells: tuple[Cell, ...]
    constants: tuple[tuple[str, str], ...]
    centre: Cell | None = None

    @property
    def runs(self) -> list[Run]:
        """All finished runs, cell by cell, seeds ascending."""
        return [run for cell in self.cells for run in cell.runs.values()]

    @property
    def trained_here(self) -> bool:
        """Whether these are this program's runs, with curves, manifests and settings, not another program's scores."""
        return all(run.result for run in self.runs)

    @property
    def tuned(self) -> bool:
        """Whether each configuration has settings of its own, which a tuned sweep has chosen for it."""
        return self.runs[0].tuned

    @property
    def size(self) -> str:
        """How much there is, in words: 40 finished runs, 4 configurations, 10 seeds."""
        counts = {
            "finished run": sum(len(run.parts) or 1 for run in self.runs),
            "configuration": len(self.cells),
            "seed": len(self.seeds),
        }
        if self.runs[0].parts:
            counts["fold"] = len(self.runs[0].parts)
        return ", ".join(f"{num} {name}{'' if num == 1 else 's'}" for name, num in counts.items())

    @property
    def seeds(self) -> list[int]:
        """Every seed that at least one cell has, ascending."""
        return sorted({seed for cell in self.cells for seed in cell.runs})


def make_studies(runs: Sequence[Run]) -> list[Study]:
    """Group the finished runs by corpus, results version, candidates, evaluation and whether they were tuned: one study
    each, the largest first, tuned ones last.

    Raises ValueError where runs on one corpus have different test points: one of them is damaged.
    """
    by_corpus: dict[tuple[Any, ...], list[Run]] = defaultdict(list)
    for run in runs:
        if run.status == FINISHED:
            key = (run.identity["data"], run.identity["results_version"], candidates_of(run), run.evaluated, run.tuned)
            by_corpus[key].append(run)

    are_several = len({key[:-1] for key in by_corpus}) > 1  # the tuned runs of a corpus say so in their name
    studies = [_make_study(members, are_several) for members in by_corpus.values()]
    return sorted(_told_apart(studies), key=lambda study: (study.tuned, -len(study.runs)))


def _told_apart(studies: Sequence[Study]) -> list[Study]:
    """The studies, with what was ranked in the names of those whose corpus was ranked in more than one way."""
    names = [study.name for study in studies]
    told = []
    for study in studies:
        words = ranked(study.runs)
        if words and names.count(study.name) > 1:
            study = replace(study, name=f"{study.name}, {words}")
        told.append(study)
    return told


def _make_study(runs: Sequence[Run], one_of_several: bool) -> Study:
    """The study of runs on one corpus; one of several has the corpus's fingerprint in its name."""
    first = runs[0]
    for run in runs:
        if run.outcomes.ids != first.outcomes.ids:
            raise ValueError(
                f"{run.path} and {first.path} are of one corpus by their manifests, but their rankings.jsonl "
                "hold different test points; run the damaged one again with rerun=true"
            )

    # A setting is the same in all runs, changes with an axis found before, or is an axis of its own.
    varying: dict[str, list[Level]] = {}  # axis → the level of each run
    with_it: dict[str, list[str]] = defaultdict(list)
    moved: dict[str, dict[str, Sequence[Level]]] = defaultdict(dict)  # axis → settings typed with it
    constants = []
    for name, levels in _settings(runs).items():
        if len(set(levels)) == 1:
            constants.append((name, levels[0].label))
            continue
        axis = _axis_that_decides(levels, varying)
        if axis is None:
            varying[name] = levels
        else:
            with_it[axis].append(f"{name} ({_changes_with(axis, varying[axis], levels)})")
            if axis != WITHOUT and _is_typed(name, runs):  # what a part taken out changes goes without saying
                moved[axis][name] = levels

    # A level that was typed together with other settings says so in its name.
    for axis, others in moved.items():
        varying[axis] = _with_moved(varying[axis], others)
    axes = []
    for name, levels in varying.items():
        in_order = sorted(set(levels), key=lambda level: level.sort_key)
        labels = {}
        for key, others_levels in moved[name].items():
            by_level = zip(levels, others_levels, strict=True)
            labels[key] = {level: other.label for level, other in by_level}
        axes.append(
            Axis(
                name,
                tuple(in_order),
                tuple(with_it[name]),
                _baseline(runs, levels),
                labels,
            )
        )

    # A configuration is the levels of a run on all axes; without an axis there is only one.
    configurations = list(zip(*varying.values(), strict=True)) or [()] * len(runs)
    by_levels: dict[tuple[Level, ...], dict[int, Run]] = defaultdict(dict)
    for levels_of_run, run in zip(configurations, runs, strict=True):
        by_levels[levels_of_run][run.identity["seed"]] = run
    cells = []
    for cell_levels in sorted(by_levels, key=lambda levels: [level.sort_key for level in levels]):
        by_seed = dict(sorted(by_levels[cell_levels].items()))
        cells.append(
            Cell(
                cell_name(axes, cell_levels),
                cell_levels,
                by_seed,
            )
        )

    fingerprint = first.identity["data"]
    corpus = _corpus_name(first)
    name = f"{corpus} ({fingerprint[:8]})" if one_of_several else corpus
    if first.evaluated:
        name = f"{name}, {first.evaluated}"
    if first.tuned:
        name = f"{name}, each variant tuned"
    return Study(
        name,
        fingerprint,
        tuple(axes),
        tuple(cells),
        tuple(constants),
        _marked_centre(axes, cells),
    )


def _is_typed(name: str, runs: Sequence[Run]) -> bool:
    """Whether a setting was given by somebody, rather than following from another; of other programs, always."""
    keys = {
        "encoder": {"model", "model.name_or_path"},
        "finetuned": {"model.finetuned"},
    }.get(name, {name})
    for run in runs:
        typed = {override.partition("=")[0].lstrip("+~") for override in run.overrides}
        if keys & typed or not run.result:
            return True
    return False


def _with_moved(levels: Sequence[Level], others: Mapping[str, Sequence[Level]]) -> list[Level]:
    """The level of each run, with the levels that it has of other settings in its name."""
    named = []
    for k, level in enumerate(levels):
        words = [_setting_in_words(name, of_runs[k].label) for name, of_runs in others.items()]
        named.append(replace(level, moved=", ".join(words)))
    return named


def _setting_in_words(name: str, value: str) -> str:
    if name == "negatives.per_pair":
        return f"{value} a pair"
    return value if name in _UNPREFIXED_AXES else f"{name}={value}"


def _marked_centre(axes: Sequence[Axis], cells: Sequence[Cell]) -> Cell | None:
    """The one configuration that is marked as the baseline, where it is not the baseline of an axis."""
    marked = [cell for cell in cells if any(run.baseline for run in cell.runs.values())]
    if len(marked) != 1 or len(axes) < 2 or any(axis.baseline for axis in axes):
        return None
    return marked[0]


def _axis_that_decides(
    levels: Sequence[Level],
    varying: Mapping[str, Sequence[Level]],
) -> str | None:
    """The axis found before that a setting changes with, if any, so that the setting is no axis of its own.

    The two must group the runs alike. But of a sweep that takes parts out of a recipe, every setting that follows from
    the part taken out belongs to that axis, also one that several parts have in common.
    """
    for axis, axis_levels in varying.items():
        num_pairs = len(set(zip(axis_levels, levels, strict=True)))
        follows = num_pairs == len(set(axis_levels))
        if follows and (axis == WITHOUT or num_pairs == len(set(levels))):
            return axis
    return None


def _changes_with(axis: str, axis_levels: Sequence[Level], levels: Sequence[Level]) -> str:
    """A setting that changes with an axis, level by level: "all-MiniLM-L6-v2: 256, tiny: 128"."""
    by_level = dict(zip(axis_levels, levels, strict=True))
    in_order = sorted(by_level, key=lambda level: level.sort_key)
    usual = by_level[in_order[0]] if axis == WITHOUT else None  # the whole recipe comes first and goes without saying
    changes = []
    for level in in_order:
        value = by_level[level]
        if value != usual:
            changes.append(f"{level.label}: {value.label}")
    return ", ".join(changes)


def _baseline(runs: Sequence[Run], levels: Sequence[Level]) -> Level | None:
    """The level that all baseline runs have and no other run has, if there is one."""
    roles = {(level, run.baseline) for run, level in zip(runs, levels, strict=True)}
    candidates = [level for level, is_baseline in roles if is_baseline]
    if len(candidates) != 1 or len(roles) == 1 or (candidates[0], False) in roles:
        return None
    return candidates[0]


def _corpus_name(run: Run) -> str:
    """The corpus in words, with what it was cut to: "pairs.csv, first 3 debates of each split"."""
    data = run.config.get("data") or {}
    name = str(data.get("name", "corpus"))
    if name == "pairs" and data.get("path"):
        name = PurePath(str(data["path"])).name
    if data.get("limit"):
        name += f", first {data['limit']} debates of each split"
    return f"{name}, disjoint" if data.get("disjoint") else name


def cell_name(axes: Sequence[Axis], levels: Sequence[Level]) -> str:
    """A configuration in words, from its levels on some axes: "relu, neg 0.2, fusion=pooled"."""
    names = [axis.in_words(level) for axis, level in zip(axes, levels, strict=True)]
    return ", ".join(names) or "the only configuration"


# --- the level of each run on each setting ---


def _settings(runs: Sequence[Run]) -> dict[str, list[Level]]:
    """The level of each run, by setting: head, negatives, fusion, encoder, then every other key, dotted."""
    settings: dict[str, list[Level]] = {}
    parts = [run.without or "" for run in runs]
    if all(parts):
        settings[WITHOUT] = [_part_level(part) for part in parts]
    own = all(isinstance(run.identity.get("head"), Mapping) for run in runs)
    if own:  # another program's runs have neither head nor negatives, or a level of them as points.csv names it
        settings["head"] = _head_levels([run.identity["head"] for run in runs])
        settings["negatives"] = _negatives_levels([run.identity for run in runs])
    else:
        settings |= _named_levels(runs)

    values_by_run = [flatten(run.identity) for run in runs]
    keys = dict.fromkeys(key for values in values_by_run for key in values)  # a set that keeps the order
    # The head's keys are in its levels already; all others keep their order, but for the first ones.
    for key in sorted(keys, key=lambda key: _PLACES.get(key, len(_PLACES))):
        if key in settings or key in (_NOT_AXES if own else _TELLING) or (own and key.startswith("head.")):
            continue
        if key == "model.fingerprint":
            levels = _encoder_levels(runs)
        else:
            levels = _value_levels([values.get(key) for values in values_by_run])
        settings[_NAMES.get(key, key)] = levels
    return {name: _shown_short(levels) for name, levels in settings.items()}


def _shown_short(levels: list[Level]) -> list[Level]:
    """The levels with six digits of longer numbers, such as a search draws; as they are where two would look alike."""
    labels = {level.label for level in levels}
    short = {label: _LONG_NUMBER.sub(lambda found: f"{float(found[0]):.6g}", label) for label in labels}
    if all(label == short_label for label, short_label in short.items()) or len(set(short.values())) < len(labels):
        return levels
    return [replace(level, label=short[level.label]) for level in levels]


def _named_levels(runs: Sequence[Run]) -> dict[str, list[Level]]:
    """The levels of the axes `without`, `head` and `negatives` from their labels, in the order that they have here."""
    settings: dict[str, list[Level]] = {}
    makers = {WITHOUT: _part_level, "head": _level_of_head_label, "negatives": _level_of_negatives_label}
    for name, make in makers.items():
        labels = [run.identity.get(name) for run in runs]
        if all(isinstance(label, str) for label in labels):
            settings[name] = [make(str(label)) for label in labels]
    return settings


def _part_level(part: str) -> Level:
    return Level(part, part, (part != NOTHING, part))


def _level_of_head_label(label: str) -> Level:
    key = label.removesuffix(BEFORE)
    place = HEADS.index(key) if key in HEADS else len(HEADS)
    return Level(key, label, (key not in HEADS, key != label, place, label))


def _level_of_negatives_label(label: str) -> Level:
    """ "neg 0.01" by its ratio, "curr 0.2+0.01" by its start and ratio; anything else by the alphabet."""
    schedule, _, numbers = label.rpartition(" ")
    start, _, ratio = numbers.rpartition("+")
    try:
        place = float(start or 0), float(ratio)
    except ValueError:
        place = 0.0, 0.0
    return Level(label, label, (schedule != "neg", schedule, *place, label))


def _value_levels(values: Sequence[Any]) -> list[Level]:
    """The level of each value. Runs share most of theirs, and each is looked at once."""
    by_value: dict[str, Level] = {}
    levels = []
    for value in values:
        known_as = repr(value)  # 1, 1.0, True and "1" are four values
        if known_as not in by_value:
            by_value[known_as] = _value_level(value)
        levels.append(by_value[known_as])
    return levels


def _value_level(value: Any) -> Level:
    """A plain value's level: numbers by size, then words by the alphabet, then null.

    A number in the table of another program is a text, and has its place by size as well.
    """
    label = show(value)
    kind, size = 1, 0.0
    if isinstance(value, str) and NUMBER.fullmatch(value):
        kind, size = 0, float(value)
    elif value in (None, "null"):
        kind = 2
    elif isinstance(value, int | float) and not isinstance(value, bool):
        kind, size = 0, value
    return Level(label, label, (kind, size, label))


def _head_levels(heads: Sequence[Settings]) -> list[Level]:
    """The four heads of the 2×2 design, then those of them with the ReLU before linear2, then all other heads.

    The activation's place is named only where heads differ in it.
    """
    positions = set()
    by_name: dict[str, list[Settings]] = defaultdict(list)
    for head in heads:
        by_name[head_label(head)].append(head)
        if _has_activation(head):
            positions.add(head.get("activation_position"))

    # Heads of one name are told apart by those of their settings that differ.
    differing: dict[str, list[str]] = {}
    for name, alike in by_name.items():
        values = {detail: {show(head.get(detail)) for head in alike} for detail in ("hidden", "norm", "activation")}
        differing[name] = [detail for detail, shown in values.items() if len(shown) > 1]

    levels = []
    for head in heads:
        name = head_label(head)
        is_linear = head.get("name", "linear") == "linear"
        words = [name]
        for detail in differing[name]:
            if detail == "hidden" or not is_linear:
                words.append(f"{detail}={show(head.get(detail))}")
        key = " ".join(words)

        is_before = head.get("activation_position") == "before_linear2"
        before = is_before and _has_activation(head) and len(positions) > 1
        label = f"{key}{BEFORE}" if before else key
        is_other = name not in HEADS
        place = len(HEADS) if is_other else HEADS.index(name)
        levels.append(
            Level(
                key,
                label,
                (is_other, before, place, label),
            )
        )
    return levels


def head_label(head: Settings) -> str:
    """A head's name from its settings in the manifest: none, layernorm_relu, rmsnorm_gelu, mlp, mine width=8."""
    config = HeadConfig(
        head.get("name", "linear"),
        norm=head.get("norm"),
        activation=head.get("activation"),
    )
    words = [head_name(config)]
    for key, value in (head.get("options") or {}).items():
        words.append(f"{key}={show(value)}")
    return " ".join(words)


def _has_activation(head: Settings) -> bool:
    return head.get("activation") not in (None, "none")


def _negatives_levels(identities: Sequence[Settings]) -> list[Level]:
    """The schedule and the ratio, and a curriculum's start where starts differ: "neg 0.01", "curr 0.2+0.01"."""
    starts = {identity["negatives"].get("start") for identity in identities} - {None}
    levels = []
    for identity in identities:
        negatives = identity["negatives"]
        schedule = negatives["schedule"]
        start = negatives.get("start")
        ratio = identity.get("neg_ratio", negatives.get("ratio"))

        label = {"constant": "neg", "curriculum": "curr"}.get(schedule, schedule)
        with_start = start is not None and len(starts) > 1
        label += f" {show(start)}+{show(ratio)}" if with_start else f" {show(ratio)}"
        levels.append(
            Level(
                label,
                label,
                (schedule != "constant", schedule, start or 0.0, ratio),
            )
        )
    return levels


def _encoder_levels(runs: Sequence[Run]) -> list[Level]:
    """The last part of the weights' name, with the fingerprint where names alone do not tell encoders apart."""
    fingerprints = [run.identity["model"]["fingerprint"] for run in runs]
    labels = []
    for run in runs:
        model = run.config.get("model") or {}
        labels.append(PurePath(str(model.get("name_or_path") or model.get("name") or "unnamed")).name)

    # Two encoders may have one name.
    if len(set(labels)) < len(set(fingerprints)):
        labels = [f"{label} {fingerprint[:8]}" for label, fingerprint in zip(labels, fingerprints, strict=True)]
    return [Level(label, label, (label,)) for label in labels]


def show(value: Any) -> str:
    """A setting's value as one types it."""
    # Short, where the short form is the same number.
    if isinstance(value, float) and float(f"{value:g}") == value:
        return f"{value:g}"
    if value is None or isinstance(value, bool | list | dict):
        return json.dumps(value)
    return str(value)


# --- averages over settings ---


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
        groups = []
        for name in self.names:
            cells = [cell.outcomes(protocol) for cell in self.cells[name]]
            groups.append(pool(name, cells))
        return groups

    def means(self, protocol: Protocol) -> dict[str, float]:
        """Each arm's mean over the seeds that all share, or over its own seeds where they share none."""
        means = {}
        for group in self.groups(protocol):
            scores = group.at(self.seeds or group.seeds)
            means[group.name] = float(scores.mean())
        return means


def arms_of(study: Study, arms: Sequence[tuple[str, dict[int, Level]]]) -> Arms | None:
    """Arms given by name and by their level on some axes (the same axes for all), e.g. {0: relu}.

    The other axes make the settings. A setting in which an arm has no finished run cannot be used, nor one that would
    leave fewer than half of the seeds that the best-covered setting has. So the choice depends on which runs there are,
    never on what they score. Returns None if no setting has all arms.
    """
    names = tuple(name for name, _ in arms)
    by_levels = {cell.levels: cell for cell in study.cells}
    free = [k for k in range(len(study.axes)) if k not in arms[0][1]]

    # A setting is complete where every arm has a cell.
    complete: dict[str, list[Cell]] = {}  # setting → the cell of each arm
    left_out = []
    for setting_levels in dict.fromkeys(tuple(cell.levels[k] for k in free) for cell in study.cells):
        setting = cell_name(
            [study.axes[k] for k in free],
            setting_levels,
        )
        cells, lacking = [], []
        for name, arm_levels in arms:
            levels = dict(zip(free, setting_levels, strict=True)) | arm_levels
            cell = by_levels.get(tuple(levels[k] for k in sorted(levels)))
            if cell is None:
                lacking.append(name)
            else:
                cells.append(cell)
        if not lacking:
            complete[setting] = cells
        elif cells:
            left_out.append(f"{setting} (no finished run of {', '.join(lacking)})")
    if not complete:
        return None

    # The best covered first, as long as half of its seeds remain; the sort keeps equal ones in reading order.
    covered = {setting: shared_seeds(cells) for setting, cells in complete.items()}
    first, *others = sorted(covered, key=lambda setting: -len(covered[setting]))
    chosen, seeds = {first}, covered[first]
    for setting in others:
        shared = seeds & covered[setting]
        if shared and 2 * len(shared) >= len(covered[first]):
            chosen.add(setting)
            seeds = shared

    settings = [setting for setting in complete if setting in chosen]
    for setting in complete:
        if setting not in chosen:
            left_out.append(f"{setting} (too few seeds in common with the other settings)")
    by_arm = zip(*(complete[setting] for setting in settings), strict=True)
    return Arms(
        names,
        tuple(settings) if free else (),
        dict(zip(names, by_arm, strict=True)),
        tuple(sorted(seeds)),
        tuple(left_out),
    )


def shared_seeds(cells: Sequence[Cell]) -> set[int]:
    """The seeds that every one of the cells has."""
    return set.intersection(*(set(cell.runs) for cell in cells))


def task_values(cells: Sequence[Cell], task: str) -> FloatArray:
    """Test top-1 of a task for each seed (S,), averaged over cells."""
    values = []
    for seed in sorted(shared_seeds(cells)):
        scores = [cell.runs[seed].test["tasks"].get(task, {}).get("top1", np.nan) for cell in cells]
        values.append(np.mean(scores))
    return np.array(values)
