"""The design of a study: a star, which is a centre and single changes of it, or a grid; and declared baselines.

Which of the two it is depends on the settings of its runs alone, never on what they score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from biencoder_ablate.report.read import Run
from biencoder_ablate.report.study import Axis, Cell, Level, Study, head_label, show
from biencoder_ablate.utils.files import flatten

MOST_NAMED = 4  # configurations in a message


@dataclass(frozen=True, eq=False)
class Star:
    """A centre and what each other configuration changes of it: `changes` are in words, by configuration."""

    centre: Cell
    changes: Mapping[str, str]


def star_of(study: Study) -> Star | None:
    """The star that a study was declared to be, or that it can only be; None for a grid."""
    centre = study.centre or _only_centre(study.cells)
    if centre is None:
        return None
    changes = {}
    for cell in study.cells:
        if cell is not centre:
            changes[cell.name] = change_in_words(study.axes, centre, cell)
    return Star(centre, changes)


def change_in_words(axes: Sequence[Axis], centre: Cell, cell: Cell) -> str:
    """What a configuration has that the centre has not: "neg 1, 5 a pair"."""
    levels = zip(axes, centre.levels, cell.levels, strict=True)
    return ", ".join(axis.in_words(level) for axis, usual, level in levels if level != usual)


def _only_centre(cells: Sequence[Cell]) -> Cell | None:
    """The one cell that all others are single changes of, if exactly one is.

    A single change is of one axis or of several that always move together. There must be changes of at least two kinds:
    on one axis alone every level could be the centre.
    """
    if len(cells) < 3:
        return None
    centres = [cell for cell in cells if _is_centre(cell, cells)]
    return centres[0] if len(centres) == 1 else None


def _is_centre(centre: Cell, cells: Sequence[Cell]) -> bool:
    moved = {_differing(centre, cell) for cell in cells if cell is not centre}
    # Sets that are all disjoint have as many members together as one by one.
    num_axes = len(frozenset().union(*moved))
    return len(moved) > 1 and sum(map(len, moved)) == num_axes


def _differing(one: Cell, other: Cell) -> frozenset[int]:
    """The axes on which two configurations differ, by number."""
    pairs = enumerate(zip(one.levels, other.levels, strict=True))
    return frozenset(k for k, (level, other_level) in pairs if level != other_level)


# --- declared ---


def declare(study: Study, overrides: Sequence[str]) -> Study:
    """The study with the configuration that has these settings as its centre, or their level as an axis's baseline.

    Settings that several configurations have name the centre of a star if it is one of them; else they must be a level
    of one axis, whose other levels are compared with it. Raises ValueError where they name nothing, or no one thing.
    """
    if not overrides:
        return study
    matching = list(study.cells)
    for override in overrides:
        kept = _having(study, override)
        matching = [cell for cell in matching if cell in kept]
    given = " ".join(f"--baseline {override}" for override in overrides)
    if not matching:
        raise ValueError(f"{given}: no configuration has all of these; there are {_named(study.cells)}")
    if len(matching) == len(study.cells):
        raise ValueError(f"{given}: all {len(study.cells)} configurations have it; must tell one from the others")

    star = _only_centre(study.cells)
    if star in matching:
        return replace(study, centre=star)
    if len(matching) == 1 and len(study.axes) > 1:
        return replace(study, centre=matching[0])

    # A level is what all of these have and no other has.
    for k, axis in enumerate(study.axes):
        levels = {cell.levels[k] for cell in matching}
        with_level = [cell for cell in study.cells if cell.levels[k] in levels]
        if len(levels) == 1 and len(with_level) == len(matching):
            return _baseline_first(study, axis, levels.pop())
    raise ValueError(
        f"{given}: {len(matching)} configurations have it ({_named(matching)}); give --baseline again for what tells "
        "the one from the others"
    )


def _baseline_first(study: Study, axis: Axis, baseline: Level) -> Study:
    """The study with an axis in front of the others, and one of its levels as the baseline."""
    k = study.axes.index(axis)
    others = [other for other in study.axes if other is not axis]
    cells = []
    for cell in study.cells:
        levels = list(cell.levels)
        first = levels.pop(k)
        cells.append(replace(cell, levels=(first, *levels)))
    axes = (replace(axis, baseline=baseline), *others)
    return replace(study, axes=axes, cells=tuple(cells), centre=None)


def _named(cells: Sequence[Cell]) -> str:
    names = "; ".join(cell.name for cell in cells[:MOST_NAMED])
    num_more = len(cells) - MOST_NAMED
    return f"{names}; and {num_more} more" if num_more > 0 else names


def _having(study: Study, override: str) -> list[Cell]:
    """The configurations that have a setting, given as typed: head=none, neg_ratio=1, without=nothing.

    A level named so by the report comes first, then what determined the runs, then their config.
    """
    key, equals, value = override.partition("=")
    key = key.lstrip("+")
    if not (key and equals):
        raise ValueError(f"--baseline {override}: must be a setting and its value, such as head=none")
    for k, axis in enumerate(study.axes):
        named = [
            cell for cell in study.cells if axis.name == key and value in (cell.levels[k].label, cell.levels[k].text)
        ]
        if named:
            return named
    found = {}
    for cell in study.cells:
        found[cell.name] = {_value(run, key) for run in cell.runs.values()}
    values = set().union(*found.values()) - {None}
    if not values:
        axes = ", ".join(axis.name for axis in study.axes) or "nothing"
        raise ValueError(f"--baseline {override}: no run has a setting {key}; what differs between them is {axes}")
    cells = [cell for cell in study.cells if found[cell.name] == {_plain(value)}]
    if not cells:
        listed = ", ".join(sorted(map(str, values)))
        raise ValueError(f"--baseline {override}: no run has that; {key} is {listed}")
    return cells


def _value(run: Run, key: str) -> str | None:
    """A run's value of a setting, or its choice of a group; None where it has no such setting."""
    if key == "head" and isinstance(run.identity.get("head"), Mapping):
        return head_label(run.identity["head"])
    if key == "without":
        return run.without
    determined, config = flatten(run.identity), flatten(run.config)
    group = {"negatives": "negatives.schedule"}.get(key, f"{key}.name")
    for settings in (determined, config):
        for name in (key, group):
            if name in settings:
                return show(settings[name])
    return None


def _plain(text: str) -> str:
    """A value as show() writes it: 1.0 as 1, False as false."""
    try:
        return show(float(text))
    except ValueError:
        words = {"True": "true", "False": "false", "None": "null"}
        return words.get(text, text)
