"""From two presets to the jobs of a sweep that takes their parts apart, one by one. Loads no torch.

The keys in which the two presets differ are the parts; the values of the whole one are what a part is, those of the
bare one what there is without it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from biencoder_ablate.config.compose import Command
from biencoder_ablate.config.overrides import list_choices
from biencoder_ablate.config.schema import Config, ConfigError, PartsConfig, check, schema_keys
from biencoder_ablate.utils.files import flatten

PRESETS = ("recipe", "experiment")
"""The groups whose choices a preset may be named by, in the order in which they are looked for."""
_NOT_PARTS = ("data.", "parts.", "tuning.", "tracker", "logs_dir", "cache_dir", "sweep_name", "margin", "seed")
_WHOLE_GROUPS = {"loss": "name", "negatives": "schedule", "head": "name", "fusion": "name"}
"""Groups of which all keys go with the choice, and the key that tells choices apart."""
_FILES = {"linear": "none"}
"""What a choice is called in conf/ where that is not its own name: any head of linear layers will do, keys follow."""
Job = list[str]


@dataclass(frozen=True)
class Part:
    """Keys that move together: the overrides that put a part in, and those that take it out."""

    keys: tuple[str, ...]
    put_in: tuple[str, ...]
    take_out: tuple[str, ...]

    @property
    def name(self) -> str:
        """The part in a few words: its keys without their groups."""
        return " and ".join(key.rpartition(".")[2] for key in self.keys)


@dataclass(frozen=True)
class Design:
    """What is swept: the presets as overrides, the parts in which they differ, what moves together, what is left out.

    `notes` are sentences on parts that had to move together or that no run can have.
    """

    whole: tuple[str, ...]
    bare: tuple[str, ...]
    parts: tuple[Part, ...]
    notes: tuple[str, ...] = ()


def expand(command: Command, config: PartsConfig, jobs: Sequence[Job]) -> tuple[list[Job], Design]:
    """The jobs with the parts of two presets taken apart: for each of the jobs given, all configurations that
    `parts=out`, `in`, `both` or `pairs` asks for, each once.

    Raises ConfigError for a preset that is none, for two that do not differ, and where a preset sets what the command
    line sets as well.
    """
    whole = _preset(command, "parts.whole", config.whole)
    bare = _preset(command, "parts.bare", config.bare)
    _refuse_twice(whole, bare, jobs)
    design = take_apart(command, whole, bare, jobs[0])
    # Of two presets with two parts between them, the one without the first is the other with the second.
    distinct = {frozenset(overrides): overrides for overrides in reversed([*_configurations(design, config.name)])}
    configurations = reversed(distinct.values())
    # Seeds change first, as in any sweep: a configuration's runs stand together.
    return [[*configuration, *job] for configuration in configurations for job in jobs], design


def _preset(command: Command, key: str, value: str) -> tuple[str, ...]:
    """A preset's overrides: a recipe's or experiment's name, or overrides with blanks between."""
    words = value.split()
    if words and all("=" in word for word in words):
        return tuple(words)
    choices = {group: list_choices(command.loader, group) for group in PRESETS}
    for group, names in choices.items():
        if len(words) == 1 and words[0] in names:
            return (f"{group}={words[0]}",)
    named = ", ".join(name for names in choices.values() for name in names if name != "none")
    raise ConfigError(f"{key}={value}: is no preset; must be {named}, or overrides such as 'recipe=study seed=0'")


def _refuse_twice(whole: Sequence[str], bare: Sequence[str], jobs: Sequence[Job]) -> None:
    given = {item.partition("=")[0] for job in jobs for item in job}
    for preset in (whole, bare):
        twice = given & {item.partition("=")[0] for item in preset}
        if twice:
            raise ConfigError(f"parts: {min(twice)} is given beside a preset that sets it; leave one of the two out")


def take_apart(command: Command, whole: Sequence[str], bare: Sequence[str], job: Job) -> Design:
    """The parts in which two presets differ, beside the settings of a job."""
    of_whole, of_bare = command.configs([[*whole, *job], [*bare, *job]])
    parts: list[Part] = []
    notes: list[str] = []
    remaining = _differences(of_whole, of_bare)
    if not remaining:
        raise ConfigError(f"parts: {' '.join(whole)} and {' '.join(bare)} do not differ in any key that names a run")

    # A part that contradicts the rest alone takes another one with it, which is then no part of its own.
    while remaining:
        part = remaining.pop(0)
        together, problem = _movable(of_whole, of_bare, part, [*remaining, *parts])
        if together is None:
            notes.append(f"{part.name} is left out: {problem}")
            continue
        if together is not part:
            notes.append(f"{together.name} move together, since alone {problem}")
        taken = set(together.keys)
        parts = [other for other in parts if not taken.intersection(other.keys)]
        remaining = [other for other in remaining if not taken.intersection(other.keys)]
        parts.append(together)
    return Design(tuple(whole), tuple(bare), tuple(parts), tuple(notes))


def _differences(whole: Config, bare: Config) -> list[Part]:
    """A part for each key in which two configs differ; one for a whole group where its choice differs."""
    of_whole = flatten(asdict(whole))
    of_bare = flatten(asdict(bare))
    parts = []
    for group, key in _WHOLE_GROUPS.items():
        choice = f"{group}.{key}"
        if of_whole.get(choice) != of_bare.get(choice):
            put_in = _group(group, key, of_whole)
            take_out = _group(group, key, of_bare)
            parts.append(Part((group,), put_in, take_out))

    # Keys of a group that is a part as a whole are in it already.
    covered = tuple(f"{part.keys[0]}." for part in parts)
    for key, _ in schema_keys():
        is_in = of_whole.get(key)
        is_out = of_bare.get(key)
        if is_in == is_out or key.startswith((*_NOT_PARTS, *covered)):
            continue
        put_in = (_override(key, is_in),)
        take_out = (_override(key, is_out),)
        parts.append(Part((key,), put_in, take_out))
    return parts


def _group(group: str, choice: str, settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The overrides that choose from a group, and set its keys as they are."""
    chosen = settings[f"{group}.{choice}"]
    overrides = [f"{group}={_FILES.get(chosen, chosen)}"]
    for key, value in settings.items():
        is_of_group = key.startswith(f"{group}.") and key != f"{group}.{choice}"
        if is_of_group and value not in (None, {}):
            overrides.append(_override(key, value))
    return tuple(overrides)


def _override(key: str, value: Any) -> str:
    """A key and its value as one types them."""
    words = {None: "null", True: "true", False: "false"}
    is_word = value is None or isinstance(value, bool)
    return f"{key}={words[value] if is_word else value}"


def _movable(whole: Config, bare: Config, part: Part, others: Sequence[Part]) -> tuple[Part | None, str]:
    """The part, or with the first other one that it has to move with, and why; None where no run can have either."""
    problem = _problem(whole, bare, part.keys)
    if not problem:
        return part, ""
    for other in others:
        keys = (*part.keys, *other.keys)
        put_in = (*part.put_in, *other.put_in)
        take_out = (*part.take_out, *other.take_out)
        if not _problem(whole, bare, keys):
            return Part(keys, put_in, take_out), problem
    return None, problem


def _problem(whole: Config, bare: Config, keys: Sequence[str]) -> str:
    """Why keys cannot be taken out of the whole or put into the bare preset; empty where they can."""
    for config, other in ((whole, bare), (bare, whole)):
        try:
            check(_with_values(config, other, keys))
        except ConfigError as error:
            return str(error)
    return ""


def _with_values(config: Config, other: Config, keys: Sequence[str]) -> Config:
    """A config with some keys, or whole groups, as another one has them."""
    for key in keys:
        group, _, name = key.partition(".")
        value = getattr(other, group)
        if name:
            value = replace(getattr(config, group), **{name: getattr(value, name)})
        config = replace(config, **{group: value})
    return config


def _configurations(design: Design, name: str) -> Iterator[tuple[str, ...]]:
    """The overrides of every configuration."""
    if name in ("out", "both", "pairs"):
        yield design.whole
        for part in design.parts:
            yield _changed(design.whole, part.take_out)
    if name == "pairs":
        for one, two in itertools.combinations(design.parts, 2):
            yield _changed(design.whole, (*one.take_out, *two.take_out))
    if name in ("in", "both"):
        yield design.bare
        for part in design.parts:
            yield _changed(design.bare, part.put_in)


def _changed(preset: Sequence[str], change: Sequence[str]) -> tuple[str, ...]:
    """A preset's overrides with others in the place of those of the same key, or of the same group."""
    merged = dict(item.partition("=")[::2] for item in preset)
    for key, value in (item.partition("=")[::2] for item in change):
        if "." not in key:  # a choice from a group brings keys of its own
            merged = {other: kept for other, kept in merged.items() if not other.startswith(f"{key}.")}
        merged[key] = value
    return tuple(f"{key}={value}" for key, value in merged.items())


def describe_parts(design: Design, name: str) -> list[str]:
    """The parts in words, for the first lines of a sweep and for plan=true."""
    lines = [f"parts={name}: {len(design.parts)} parts set {' '.join(design.whole)} apart from {' '.join(design.bare)}"]
    for part in design.parts:
        lines.append(f"  {part.name}: {' '.join(part.put_in)} with it, {' '.join(part.take_out)} without")
    return lines + [f"note: {note}" for note in design.notes]
