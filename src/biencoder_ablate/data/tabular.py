"""Tables as people save them, csv, tsv and jsonl: one reader for all commands, which refuses what is damaged.

Texts are UTF-8, with or without a byte order mark. Every row has a cell for each column; a row of empty cells is left
out and counted. Whatever cannot be read so is refused with a DataError of one line that names the line of the file.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from biencoder_ablate.data.corpus import DataError
from biencoder_ablate.utils.console import excerpt, printable

SUFFIXES = (".csv", ".tsv", ".jsonl")
MAX_CELL_CHARACTERS = 2**24
"""Longer cells are refused: a quotation mark that nothing closes would otherwise swallow the rest of the file."""

_JUDGES = re.compile(
    r"(?i:label|score|relevan|grade|rating|similar|duplicate|correct|judg|gold|truth|paraphrase)"
    r"|(?i:^(?:is|has)[\W_]|^(?:rel|class|target|match|y)$)|^(?:is|has)[A-Z]"
)
"""In a column's name: it may say of each row whether, or how well, its second text answers the first."""
_NAMES_CLASSES = re.compile(r"(?i:(?:label|relevance|judge?ment)s?$)")
"""The same by words, such as entailment or not relevant."""
_TRUE = ("true", "yes", "t", "y")
_FALSE = ("false", "no", "f", "n")
_LONGEST_CLASS = 40
"""Characters; a longer cell is a text and no class."""

Cells = list[tuple[int, list[str]]]
"""For each row the line of the file on which it begins, and its cells."""
Rows = list[tuple[int, dict[str, Any]]]
"""The same with each cell under its column."""


@dataclass(frozen=True)
class Table:
    """The rows of a file that hold something, each with the line on which it begins.

    `columns` are the columns in order: trimmed and in lower case, as rows have them, to how the file spells them. A
    value is a text in a csv or tsv; in a jsonl it is whatever JSON holds (see `cell_text`). `notes` say what was left
    out, and what looks as if more were missing.
    """

    columns: dict[str, str]
    rows: Rows
    notes: tuple[str, ...]


def read_table(where: str, suffix: str, content: bytes, required: Sequence[str] = ()) -> Table:
    """The table in a file's `content`, by its suffix; `where` names the file in messages.

    Raises DataError for a csv or tsv without one of the `required` columns, for a column named twice, for a row with
    more or fewer cells than columns, and for damaged quotation marks, JSON or UTF-8.
    """
    text = decode_text(where, content)
    if suffix == ".jsonl":
        columns, rows, num_blank = _parse_json_lines(where, text, required)
    else:
        columns, rows, num_blank = _parse_delimited(where, suffix, text, required)

    notes = []
    if num_blank:
        verb = "row is" if num_blank == 1 else "rows are"
        notes.append(f"{where}: {num_blank} blank {verb} left out")
    if columns.pop("", None) is not None:
        notes.append(f"{where}: a column without a name is left out")
    # A text that was cut short looks like any other; only the missing line end gives it away.
    if rows and not text.endswith(("\n", "\r")):
        notes.append(f"{where}: the last line has no line end; if the file was cut short, its last text is as well")
    return Table(columns, rows, tuple(notes))


def decode_text(where: str, content: bytes) -> str:
    """UTF-8 as text, without a byte order mark. Raises DataError naming the first byte that is none."""
    try:
        return content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8 (byte {error.start}); save it as UTF-8") from error


def cell_text(where: str, column: str, value: object) -> str:
    """What a cell says, without blanks at its ends; `where` names its line. Raises DataError where it is no text."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise DataError(f"{where}: {column} is {value!r:.60}; must be text")
    # JSON can write them, alone they are no character.
    if re.search("[\ud800-\udfff]", value):
        raise DataError(f"{where}: {column} holds half a surrogate pair; must be UTF-8 text")
    return value.strip()


def parse_grade(where: str, value: object) -> int:
    """How well a row's text answers, a whole number of 0 or more; an empty cell is 1. True and 1.0 are 1, False is 0.

    Raises DataError for anything else; `where` names the line.
    """
    # pandas and the library datasets write NaN where a cell is empty.
    is_nan = isinstance(value, float) and math.isnan(value)
    if value is None or is_nan:
        return 1
    text = str(value).strip()
    if not text:
        return 1

    word = text.casefold()
    if word == "true":
        return 1
    if word == "false":
        return 0
    number = re.fullmatch(r"(\d{1,9})(?:\.0*)?", text, re.ASCII)
    if number is None:
        raise DataError(f"{where}: grade={excerpt(text)}; must be an integer of 0 or more, or empty")
    return int(number[1])


def check_unread(
    where: str, columns: Mapping[str, Iterable[object]], graded: bool, noted: Container[str] | None = None
) -> list[str]:
    """A note of the columns that nobody reads, from their names to their cells; nothing where there are none.

    `noted` are those of the columns that the note names, if not all.
    Raises DataError for one that seems to judge the rows, since those that it marks as wrong would count as right
    answers, unless the table is `graded` by a column of its own.
    """
    for spelling, cells in columns.items():
        name = spelling.strip()
        may_judge = not graded and _JUDGES.search(name)
        if may_judge and _are_judgements(name, cells):
            raise DataError(
                f"{where}: a column {list_columns([spelling])}, so not every row need be a right answer; rename it to "
                "grade if it holds integers and 0 marks what is no right answer, or keep the rows that are and drop it"
            )
    unread = [name for name in columns if noted is None or name in noted]
    if not unread:
        return []
    return [f"columns that are not read: {list_columns(unread)}"]


def _are_judgements(name: str, cells: Iterable[object]) -> bool:
    """Whether half of the cells that hold something, or more, hold numbers, booleans, or names of classes."""
    has_classes = _NAMES_CLASSES.search(name) is not None
    num_filled = 0
    num_judgements = 0
    for cell in cells:
        values = cell if isinstance(cell, list) else [cell]
        for value in values:
            text = "" if value is None else str(value).strip()
            if not text:
                continue
            num_filled += 1
            is_class = has_classes and len(text) <= _LONGEST_CLASS
            num_judgements += is_class or _is_boolean(text) or _is_number(text)
    return num_filled > 0 and 2 * num_judgements >= num_filled


def _is_boolean(text: str) -> bool:
    word = text.casefold()
    return word in _TRUE or word in _FALSE


def _is_number(text: str) -> bool:
    try:
        float(text.removesuffix("%"))
    except ValueError:
        return False
    return True


def list_columns(columns: Sequence[str]) -> str:
    """Columns' names for a message, which a file without a header could make long."""
    if not columns:
        return "none"
    names = []
    for name in columns[:20]:
        short = name if len(name) <= 40 else f"{name[:39]}…"
        names.append(printable(short))
    num_more = len(columns) - 20
    if num_more > 0:
        names.append(f"{num_more} more")
    return ", ".join(names)


def _parse_delimited(where: str, suffix: str, text: str, required: Sequence[str]) -> tuple[dict[str, str], Rows, int]:
    """Columns, rows and the number of blank rows of a csv or tsv."""
    if suffix == ".csv":
        separators = "commas"
        rows = _split_quoted(where, text, ",")
    else:
        separators = "tabs"
        rows = _split_tabs(where, text)
    filled = [(line, cells) for line, cells in rows if "".join(cells).strip()]
    num_blank = len(rows) - len(filled)

    header = filled[0][1] if filled else []
    names = [name.strip().casefold() for name in header]
    _check_header(where, names, header, required)
    columns = {}
    for name, spelling in zip(names, header, strict=True):
        columns[name] = spelling.strip()

    values = []
    for line, cells in filled[1:]:
        here = f"{where}, line {line}"
        if len(cells) > len(names):
            raise DataError(f"{here}: more fields than columns; quote texts that hold {separators}")
        if len(cells) < len(names):
            raise DataError(
                f"{here}: {len(cells)} fields for {len(names)} columns; keep the {separators} around "
                "empty ones; is the file cut short?"
            )
        row = dict(zip(names, cells, strict=True))
        row.pop("", None)
        values.append((line, row))
    return columns, values, num_blank


def _check_header(where: str, names: Sequence[str], header: Sequence[str], required: Sequence[str]) -> None:
    """Refuse a header without a required column, with a name twice, or of a file that is not UTF-8."""
    found = list_columns(header)
    for column in required:
        if column not in names:
            looks_separated = len(header) == 1 and ";" in header[0]
            hint = " (is the separator ;? save with commas)" if looks_separated else ""
            raise DataError(f"{where}: no column {column}; found {found}{hint}")
    # Texts of two bytes a letter, which happen to be UTF-8 as well.
    if "\x00" in "".join(names):
        raise DataError(f"{where}: NUL in the name of a column, found {found}; save the file as UTF-8")
    _check_names(where, names, "columns")


def _split_quoted(where: str, text: str, separator: str) -> Cells:
    """Rows whose cells may be quoted, to hold separators and line ends. Raises DataError for quotes that do not fit."""
    # The strict reader refuses what follows a closing quotation mark, and a quotation mark that nothing closes.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows: Cells = []
    line = 1
    usual_limit = csv.field_size_limit(MAX_CELL_CHARACTERS)
    try:
        for cells in reader:
            rows.append((line, cells))
            # A quoted cell may hold line ends: the reader knows on which line the row has ended.
            line = reader.line_num + 1
    except csv.Error as error:
        remedy = "double the quotation marks inside a quoted text, and close it; is the file cut short?"
        reason = printable(str(error))
        raise DataError(f"{where}, line {line}: {reason}; {remedy}") from error
    finally:
        csv.field_size_limit(usual_limit)
    return rows


def _split_tabs(where: str, text: str) -> Cells:
    """Rows of a tsv, which most programs write without quoting, and some with.

    Where each line by itself has all its cells, a quoted text of several lines is in truth several rows, of which one
    begins with a quotation mark and another ends with one: then quotation marks are letters like others.
    """
    unix_text = text.replace("\r\n", "\n").replace("\r", "\n")
    lines = unix_text.removesuffix("\n").split("\n")
    plain = [(number, line.split("\t")) for number, line in enumerate(lines, start=1)]
    try:
        quoted = _split_quoted(where, text, "\t")
    except DataError:
        # Not the quoting of a csv. Only a file that quotes whole cells and ends inside its last one was cut short.
        _, last_cells = plain[-1]
        is_open = last_cells[-1].startswith('"') and not text.endswith(("\n", "\r"))
        if is_open and _quotes_cells(plain):
            raise
        return plain

    widths = {len(cells) for _, cells in plain if any(cells)}
    rows_run_together = len(widths) == 1 and len(quoted) < len(plain)
    return plain if rows_run_together else quoted


def _quotes_cells(rows: Cells) -> bool:
    """Whether any cell begins and ends with a quotation mark."""
    for _, cells in rows:
        for cell in cells:
            if len(cell) > 1 and cell.startswith('"') and cell.endswith('"'):
                return True
    return False


def _parse_json_lines(where: str, text: str, required: Sequence[str]) -> tuple[dict[str, str], Rows, int]:
    """Columns in order of first appearance, rows and the number of blank lines of a file of JSON objects."""
    lines = text.removesuffix("\n").split("\n") if text else []
    columns: dict[str, str] = {}
    rows = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        here = f"{where}, line {number}"
        content = parse_json(here, line)
        if not isinstance(content, dict):
            wanted = " and ".join(required) or "named texts"
            raise DataError(f"{here}: must be a JSON object with {wanted}")
        names = [key.strip().casefold() for key in content]
        _check_names(here, names, "keys")
        for name, key in zip(names, content, strict=True):
            columns.setdefault(name, key.strip())
        row = dict(zip(names, content.values(), strict=True))
        rows.append((number, row))
    num_blank = len(lines) - len(rows)
    return columns, rows, num_blank


def parse_json(where: str, line: str) -> Any:
    """The JSON in a line. Raises DataError, also where an object has a key twice: JSON would take the last."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        _check_names(where, names, "keys")
        return dict(pairs)

    try:
        return json.loads(line, object_pairs_hook=unique)
    except DataError:
        raise
    except (ValueError, RecursionError) as error:
        reason = printable(str(error))
        raise DataError(f"{where}: not JSON ({reason})") from error


def _check_names(where: str, names: Sequence[str], kind: str) -> None:
    """Refuse names that are there twice, of which the last would win; columns without a name are left out anyway."""
    for name in names:
        if name and names.count(name) > 1:
            raise DataError(f"{where}: two {kind} are called {excerpt(name)}; keep one of them")
