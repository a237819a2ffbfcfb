"""What a tuned sweep keeps in its directory: which settings were tried of each variant, what val said, what was chosen.

V variants, K trials of each, T seeds of a trial.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from biencoder_ablate.utils.files import NUMBER, Damaged, load_json, require, write_json

TUNING = "tuning.json"
SCHEMA = 1


@dataclass(frozen=True)
class Trial:
    """One of the K settings tried of a variant: the names of its T runs, and their mean val metric.

    `value` is None where a run has failed, as one whose loss is no number: the trial counts, and is never chosen.
    """

    runs: tuple[str, ...]
    value: float | None


@dataclass(frozen=True)
class Variant:
    """A combination of what the sweep varies beside its seeds, by its overrides.

    `chosen` is the place of its best trial. `at_edge` are the keys whose chosen value is the lowest or the highest of
    those tried, so that the best may lie outside; `runs` are the names of the sweep's runs at the chosen settings.
    """

    overrides: tuple[str, ...]
    trials: tuple[Trial, ...]
    chosen: int
    at_edge: tuple[str, ...]
    runs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Tuning:
    """The tuning of a sweep. `points` are the K settings, the same for every variant; `metric` is the val metric by
    which one was chosen."""

    seeds: tuple[int, ...]
    space: Mapping[str, str]
    metric: str
    points: tuple[Mapping[str, float | str], ...]
    variants: tuple[Variant, ...]

    @property
    def keys(self) -> list[str]:
        """The keys that were tuned."""
        return list(self.space)


def choose(values: Sequence[float | None]) -> int | None:
    """The place of the highest of the K trials' values, the first on a tie; None where every trial has failed."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return list(values).index(max(known))


def edges(points: Sequence[Mapping[str, float | str]], chosen: int) -> tuple[str, ...]:
    """The keys of which the chosen trial has the lowest or the highest number tried; none of choices between words."""
    found = []
    for key, value in points[chosen].items():
        tried = [point[key] for point in points]
        numbers = [number for number in tried if isinstance(number, int | float)]
        if len(numbers) < len(tried) or len(set(numbers)) < 2:
            continue
        if value in (min(numbers), max(numbers)):
            found.append(key)
    return tuple(found)


def write_tuning(sweep: Path, tuning: Tuning) -> None:
    """Keep it in a sweep's directory."""
    write_json(sweep / TUNING, {"schema": SCHEMA} | asdict(tuning))


def load_tuning(sweep: Path) -> Tuning | None:
    """What a sweep's directory keeps of its tuning; None where it was not tuned. Raises OSError, or Damaged."""
    path = sweep / TUNING
    if not path.exists():
        return None
    content = load_json(path, schema=int, seeds=list, space=dict, metric=str, points=list, variants=list)
    if content["schema"] > SCHEMA:
        raise Damaged(path, f"is of a later version (schema {content['schema']})")
    variants = tuple(_read_variant(path, variant, number) for number, variant in enumerate(content["variants"], 1))
    for variant in variants:
        if len(variant.trials) != len(content["points"]) or not 0 <= variant.chosen < len(variant.trials):
            raise Damaged(path, "has a variant whose trials are not those that were declared")
    return Tuning(
        tuple(content["seeds"]), content["space"], content["metric"], tuple(content["points"]), variants
    )  # fmt: skip


def _read_variant(path: Path, content: Any, number: int) -> Variant:
    where = f"variant {number} "
    require(path, content, where, overrides=list, trials=list, chosen=int, at_edge=list, runs=list)
    trials = []
    for trial in content["trials"]:
        require(path, trial, f"{where}trial ", runs=list)
        value = trial.get("value")
        if value is not None:
            require(path, trial, f"{where}trial ", value=NUMBER)
        trials.append(Trial(tuple(trial["runs"]), value))
    return Variant(
        tuple(content["overrides"]),
        tuple(trials),
        content["chosen"],
        tuple(content["at_edge"]),
        tuple(content["runs"]),
    )
