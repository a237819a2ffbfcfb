"""What was declared of a sweep, and how often it was looked at: kept in the sweep's directory, beside its runs.json.

A margin that is chosen after the figures are seen can be chosen to fit them, and seeds that are added until something
is significant find something more often than they should. Both are remembered, so that a verdict can say so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from biencoder_ablate.report.read import Collection
from biencoder_ablate.report.verdicts import check_margin
from biencoder_ablate.utils.files import read_json, whole_file

LOOKS = "looks.json"
SOURCES = {
    "sweep": "by the sweep",
    "earlier_look": "at an earlier look",
    "command": "on the command line",
    "after_a_look": "on the command line, after a look at the figures",
}
"""Who declared the margin, for programs and in words; the last one is no declaration beforehand, and stays so."""


Verdicts = Mapping[str, Mapping[str, Mapping[str, str]]]


@dataclass(frozen=True)
class Ledger:
    """`margin` is the one that counts, None where none was declared; `source` is one of SOURCES, empty without one.

    `looks` are the declared ones, none without a declaration. `seen` are the numbers of seeds that earlier looks had,
    by study, and `verdicts` what the declared ones decided: study → look → comparison → outcome. `path` is None for
    runs that are no one sweep: nothing is remembered of them.
    """

    path: Path | None = None
    margin: float | None = None
    source: str = ""
    seen: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    looks: tuple[int, ...] = ()
    verdicts: Verdicts = field(default_factory=dict)

    def earlier(self, study: str) -> tuple[int, ...]:
        """The numbers of seeds that earlier looks at a study had, ascending."""
        return self.seen.get(study, ())

    def changed(self, verdicts: Verdicts) -> list[str]:
        """A sentence for each comparison of which a declared look decided something else than now."""
        said = []
        for study, by_look in verdicts.items():
            for look, decided in by_look.items():
                before = self.verdicts.get(study, {}).get(look, {})
                for name, outcome in decided.items():
                    if before.get(name, outcome) != outcome:
                        said.append(
                            f"The look at {look} seeds found {name}: {before[name]}, and its runs now say {outcome}: "
                            "they are others than then."
                        )
        return said

    def add(self, seeds: Mapping[str, int], verdicts: Verdicts | None = None) -> str:
        """Remember a look at studies with so many seeds each, and what declared looks decided, which stays as it was
        first found; returns why that cannot be, or nothing."""
        if self.path is None:
            return ""
        content: dict[str, Any] = {}
        if self.margin is not None:
            content["margin"] = self.margin
            content["declared"] = self.source
        if self.looks:
            content["looks"] = list(self.looks)
        found = merged(verdicts or {}, self.verdicts)
        if found:
            content["verdicts"] = found
        studies = {name: list(numbers) for name, numbers in self.seen.items()}
        for name, num_seeds in seeds.items():
            studies[name] = sorted({*studies.get(name, []), num_seeds})
        text = json.dumps(content | {"seeds": studies}, indent=1, ensure_ascii=False) + "\n"
        try:
            with whole_file(self.path, "wb") as file:
                file.write(text.encode())
        except OSError as error:
            return f"this look is not remembered: {self.path} cannot be written ({error.strerror})"
        return ""


def merged(now: Verdicts, before: Verdicts) -> dict[str, dict[str, dict[str, str]]]:
    """What looks have decided, by study, look and comparison; of what was decided `before`, as it was then."""
    found: dict[str, dict[str, dict[str, str]]] = {}
    for verdicts in (now, before):
        for study, by_look in verdicts.items():
            for look, decided in by_look.items():
                found.setdefault(study, {}).setdefault(look, {}).update(decided)
    return found


def open_ledger(collection: Collection, given: float | None = None, looks: Sequence[int] = ()) -> Ledger:
    """The ledger of the sweep that the runs are of, with the margin and the looks that count: declared, or else `given`
    and `looks` now.

    Raises ValueError for a margin that is no number above 0, for a margin or looks that contradict what the sweep or an
    earlier look declared, and for sweeps that declare several.
    """
    check_margin(given)
    path = collection.sweeps[0].path / LOOKS if len(collection.sweeps) == 1 else None
    content = (read_json(path) if path else None) or {}
    ledger = _with_margin(collection, given, path, content)
    return replace(ledger, looks=_looks(collection, looks, path, content), verdicts=_verdicts(content))


def _looks(
    collection: Collection, given: Sequence[int], path: Path | None, content: Mapping[str, Any]
) -> tuple[int, ...]:
    """The looks that count. Raises ValueError for a contradiction, and for what is no number of seeds."""
    wrong = [look for look in given if type(look) is not int or look < 2]
    if wrong:
        raise ValueError(f"looks={wrong[0]}: must be whole numbers of seeds from 2, such as 8, 12 and 20")
    by_sweep = {sweep.path.name: sweep.looks for sweep in collection.sweeps if sweep.looks}
    if len(set(by_sweep.values())) > 1:
        listed = ", ".join(f"{name} {_listed(looks)}" for name, looks in by_sweep.items())
        raise ValueError(f"these sweeps declare several looks ({listed}); take those of one at a time")
    declared = next(iter(by_sweep.values()), ())
    who = f"sweep {next(iter(by_sweep), '')} declared {_listed(declared)} before it ran"
    if not declared:
        earlier = content.get("looks")
        if isinstance(earlier, list) and all(type(look) is int for look in earlier):
            declared = tuple(sorted(earlier))
        who = f"an earlier look at this sweep had {_listed(declared)} ({path})"
    if declared and given and tuple(given) != declared:
        raise ValueError(f"--looks {_listed(given)}: {who}; looks are declared once: leave --looks out")
    return declared or tuple(given)


def _listed(looks: Sequence[int]) -> str:
    return ",".join(map(str, looks))


def _verdicts(content: Mapping[str, Any]) -> Verdicts:
    """What looks.json says that looks have decided; nothing of what is not as this program writes it."""
    studies = content.get("verdicts")
    found: dict[str, dict[str, dict[str, str]]] = {}
    for study, by_look in studies.items() if isinstance(studies, dict) else ():
        for look, decided in by_look.items() if isinstance(by_look, dict) else ():
            if isinstance(decided, dict) and all(isinstance(outcome, str) for outcome in decided.values()):
                found.setdefault(study, {})[look] = decided
    return found


def _with_margin(collection: Collection, given: float | None, path: Path | None, content: Mapping[str, Any]) -> Ledger:
    """The ledger with the margin that counts, and what was seen. Raises ValueError for a contradiction."""
    declared = {sweep.path.name: sweep.margin for sweep in collection.sweeps if sweep.margin is not None}
    if len(set(declared.values())) > 1:
        listed = ", ".join(f"{name} {margin:g}" for name, margin in declared.items())
        raise ValueError(f"these sweeps declare several margins ({listed}); take those of one margin at a time")
    margin = next(iter(declared.values()), None)
    if margin is not None:
        check_margin(margin)
        if given not in (None, margin):
            raise ValueError(
                f"margin={given:g}: sweep {next(iter(declared))} declared margin={margin:g} before it ran; leave "
                "--margin out"
            )
    seen = _seen(content)
    if margin is not None:
        return Ledger(path, margin, "sweep", seen)

    earlier = content.get("margin")
    if isinstance(earlier, int | float) and not isinstance(earlier, bool):
        if given not in (None, earlier):
            raise ValueError(
                f"margin={given:g}: an earlier look at this sweep had {earlier:g} ({path}); a margin is declared "
                "before the figures are seen: leave --margin out"
            )
        late = content.get("declared") == "after_a_look"
        return Ledger(path, float(earlier), "after_a_look" if late else "earlier_look", seen)
    if given is None:
        return Ledger(path, seen=seen)
    return Ledger(path, given, "after_a_look" if seen else "command", seen)


def _seen(content: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """What looks.json says of earlier looks, without whatever is no list of whole numbers."""
    studies = content.get("seeds")
    seen = {}
    for name, numbers in studies.items() if isinstance(studies, dict) else ():
        if isinstance(numbers, list) and all(type(number) is int for number in numbers):
            seen[name] = tuple(sorted(numbers))
    return seen
