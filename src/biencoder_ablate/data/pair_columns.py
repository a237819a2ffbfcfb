"""Which columns of a table of pairs hold what: named by key, or known by their usual names.

One rule for data=pairs and data=hub.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from biencoder_ablate.config.schema import ConfigError, DataConfig
from biencoder_ablate.data.corpus import DataError
from biencoder_ablate.data.tabular import list_columns
from biencoder_ablate.utils.console import printable

ASKS = ("point", "anchor", "query", "question", "sentence1")
"""What columns of texts that ask are called."""
ANSWERS = ("counter", "positive", "answer", "document", "passage", "response", "sentence2")
"""What columns of right answers are called."""
KEYS = ("point", "counter", "negative", "split", "group", "id")
"""The keys of the group `data` that name a column."""
_USUAL_NAMES = {"split": "split", "group": "debate", "theme": "theme", "stance": "stance", "grade": "grade"}
"""By use, the name under which a column is taken where no key names another."""
_MOST_WORDS = 3
"""Of a column's name; a longer one is rather the first row of a table without a header."""


@dataclass(frozen=True)
class Columns:
    """The columns that are read, as the table spells them; None for what it does not have."""

    point: str
    counter: str
    negative: str | None = None
    split: str | None = None
    group: str | None = None
    id: str | None = None
    theme: str | None = None
    stance: str | None = None
    grade: str | None = None

    @property
    def read(self) -> tuple[str, ...]:
        """The names of all of them."""
        return tuple(name for name in vars(self).values() if name is not None)

    @property
    def note(self) -> str:
        """What is taken for what, for the first lines of a run."""
        negative = f", {printable(self.negative)} does not" if self.negative else ""
        return f"{printable(self.point)} asks, {printable(self.counter)} answers{negative}"


def check_column_keys(settings: DataConfig) -> None:
    """Refuse keys that name one column for two kinds of texts. Raises ConfigError."""
    for first, second in itertools.combinations(("point", "counter", "negative"), 2):
        column = getattr(settings, first)
        if column is not None and column == getattr(settings, second):
            raise ConfigError(f"data.{second}={column}: is data.{first} as well; must be another column")


def choose_columns(where: str, settings: DataConfig, names: Sequence[str], usual: Iterable[str]) -> Columns:
    """The columns among `names`, which are in the table's order; `where` names the table.

    `usual` are the uses (split, group, theme, stance, grade) for which a column is taken by its usual name. Raises
    DataError where a column that a key names is missing, and where it is not plain which columns ask and answer.
    """
    given = {key: _find_named(where, settings, key, names) for key in KEYS}
    for key in ("split", "group", "id"):
        if given[key] is not None and _fold(str(given[key])) == "grade":
            raise DataError(f"{where}: data.{key}={given[key]}: a column grade grades the rows; give it another name")
    taken = set(given.values())

    # Whatever a key names is not taken for anything else.
    by_use = {}
    for use in usual:
        found = _known_as(names, [_USUAL_NAMES[use]], taken)
        by_use[use] = given.get(use) or (found[0] if len(found) == 1 else None)
    free = [name for name in names if name not in taken | set(by_use.values())]
    point, counter = _choose_texts(where, given["point"], given["counter"], free, names)
    others = {key: given[key] for key in ("negative", "split", "group", "id")}
    return Columns(point, counter, **(others | by_use))


def _choose_texts(
    where: str, point: str | None, counter: str | None, free: Sequence[str], names: Sequence[str]
) -> tuple[str, str]:
    """The columns that ask and answer: by key, by their usual names, or the only ones that are left."""
    free = [name for name in free if not _fold(name).startswith(("negative", "grade"))]
    asks, answers = _known_as(free, ASKS), _known_as(free, ANSWERS)
    # These two are the program's own names; beside them others mean something else.
    if {"point", "counter"} <= {_fold(name) for name in free}:
        asks, answers = _known_as(free, ["point"]), _known_as(free, ["counter"])
    if point is None and len(asks) == 1:
        point = asks[0]
    if counter is None and len(answers) == 1:
        counter = answers[0]

    # A column without a usual name is found by its place, if no other is left.
    rest = [name for name in free if name not in (point, counter)]
    if len(rest) == (point is None) + (counter is None) and not any(map(_looks_like_text, rest)):
        point = point or rest.pop(0)
        counter = counter or rest.pop(0)
    if point is None or counter is None:
        raise DataError(_unclear(where, point, counter, names))
    return point, counter


def _unclear(where: str, point: str | None, counter: str | None, names: Sequence[str]) -> str:
    """The message where it is not plain which columns ask and answer."""
    keys = {"data.point": point, "data.counter": counter}
    missing = [f"{key}=…" for key, column in keys.items() if column is None]
    verbs = {2: "columns ask and answer", 1: "column asks" if point is None else "column answers"}
    hint = ""
    if len(names) == 1 and ";" in names[0]:
        hint = " (is the separator ;? save with commas)"
    elif any(map(_looks_like_text, names)):
        hint = " (is this a row of texts? the first row must name the columns)"
    return f"{where}: which {verbs[len(missing)]}? {' '.join(missing)}; found {list_columns(names)}{hint}"


def _find_named(where: str, settings: DataConfig, key: str, names: Sequence[str]) -> str | None:
    """The column that a key names: the very name, or else the only one that differs in case and outer blanks alone."""
    wanted = getattr(settings, key)
    if wanted is None or wanted in names:
        return wanted
    alike = _known_as(names, [_fold(wanted)])
    if len(alike) != 1:
        raise DataError(f"{where}: no column {wanted} (data.{key}); found {list_columns(names)}")
    return alike[0]


def _known_as(names: Iterable[str], known: Sequence[str], taken: Iterable[str | None] = ()) -> list[str]:
    """The names that are among the `known` ones, whatever their case, and not taken."""
    return [name for name in names if _fold(name) in known and name not in taken]


def _fold(name: str) -> str:
    return name.strip().casefold()


def _looks_like_text(name: str) -> bool:
    """Whether a column's name is rather a text: of many words, or ending like a sentence."""
    return len(name.split()) > _MOST_WORDS or name.rstrip().endswith((".", "?", "!"))
