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
        names = vars(self).values()
        return tuple(name for name in names if name is not None)

    @property
    def note(self) -> str:
        """What is taken for what, for the first lines of a run."""
        note = f"{printable(self.point)} asks, {printable(self.counter)} answers"
        if self.negative:
            note += f", {printable(self.negative)} does not"
        return note


def check_column_keys(settings: DataConfig) -> None:
    """Refuse keys that name one column for two kinds of texts. Raises ConfigError."""
    for first, second in itertools.combinations(("point", "counter", "negative"), 2):
        column = getattr(settings, first)
        other = getattr(settings, second)
        if column is not None and column == other:
            raise ConfigError(f"data.{second}={column}: is data.{first} as well; must be another column")


def choose_columns(where: str, settings: DataConfig, names: Sequence[str], usual: Iterable[str]) -> Columns:
    """The columns among `names`, which are in the table's order; `where` names the table.

    `usual` are the uses (split, group, theme, stance, grade) for which a column is taken by its usual name. Raises
    DataError where a column that a key names is missing, and where it is not plain which columns ask and answer.
    """
    given = {key: _find_named(where, settings, key, names) for key in KEYS}
    for key in ("split", "group", "id"):
        column = given[key]
        if column is not None and _fold(column) == "grade":
            raise DataError(f"{where}: data.{key}={column}: a column grade grades the rows; give it another name")

    # Whatever a key names is not taken for anything else.
    unnamed = _without(names, given.values())
    by_use = {}
    for use in usual:
        column = given.get(use)
        if not column:
            column = _only(_known_as(unnamed, [_USUAL_NAMES[use]]))
        by_use[use] = column
    free = _without(unnamed, by_use.values())
    point, counter = _choose_texts(where, given["point"], given["counter"], free, names)
    others = {key: given[key] for key in ("negative", "split", "group", "id")}
    return Columns(point, counter, **(others | by_use))


def _choose_texts(
    where: str, point: str | None, counter: str | None, free: Sequence[str], names: Sequence[str]
) -> tuple[str, str]:
    """The columns that ask and answer: by key, by their usual names, or the only ones that are left."""
    free = [name for name in free if not _fold(name).startswith(("negative", "grade"))]
    asks: Sequence[str] = ASKS
    answers: Sequence[str] = ANSWERS
    # These two are the program's own names; beside them others mean something else.
    folded = {_fold(name) for name in free}
    if {"point", "counter"} <= folded:
        asks = ["point"]
        answers = ["counter"]
    if point is None:
        point = _only(_known_as(free, asks))
    if counter is None:
        counter = _only(_known_as(free, answers))

    # A column without a usual name is found by its place, if no other is left.
    rest = _without(free, (point, counter))
    num_missing = (point is None) + (counter is None)
    holds_text = any(map(_looks_like_text, rest))
    if len(rest) == num_missing and not holds_text:
        if point is None:
            point = rest.pop(0)
        if counter is None:
            counter = rest.pop(0)
    if point is None or counter is None:
        raise DataError(_unclear(where, point, counter, names))
    return point, counter


def _unclear(where: str, point: str | None, counter: str | None, names: Sequence[str]) -> str:
    """The message where it is not plain which columns ask and answer."""
    if point is None and counter is None:
        what = "columns ask and answer? data.point=… data.counter=…"
    elif point is None:
        what = "column asks? data.point=…"
    else:
        what = "column answers? data.counter=…"
    hint = ""
    if len(names) == 1 and ";" in names[0]:
        hint = " (is the separator ;? save with commas)"
    elif any(map(_looks_like_text, names)):
        hint = " (is this a row of texts? the first row must name the columns)"
    return f"{where}: which {what}; found {list_columns(names)}{hint}"


def _find_named(where: str, settings: DataConfig, key: str, names: Sequence[str]) -> str | None:
    """The column that a key names: the very name, or else the only one that differs in case and outer blanks alone."""
    wanted = getattr(settings, key)
    if wanted is None or wanted in names:
        return wanted
    column = _only(_known_as(names, [_fold(wanted)]))
    if column is None:
        raise DataError(f"{where}: no column {wanted} (data.{key}); found {list_columns(names)}")
    return column


def _known_as(names: Iterable[str], known: Sequence[str]) -> list[str]:
    """The names that are among the `known` ones, whatever their case."""
    return [name for name in names if _fold(name) in known]


def _without(names: Iterable[str], taken: Iterable[str | None]) -> list[str]:
    """The names that are not taken, in their order."""
    not_free = set(taken)
    return [name for name in names if name not in not_free]


def _only(names: Sequence[str]) -> str | None:
    """The name, where there is one and no other."""
    return names[0] if len(names) == 1 else None


def _fold(name: str) -> str:
    return name.strip().casefold()


def _looks_like_text(name: str) -> bool:
    """Whether a column's name is rather a text: of many words, or ending like a sentence."""
    has_many_words = len(name.split()) > _MOST_WORDS
    return has_many_words or name.rstrip().endswith((".", "?", "!"))
