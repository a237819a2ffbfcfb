"""Reads the user's own pairs: a csv, tsv or jsonl table with columns point and counter.

Optional columns: split (train, val, test; training, validation and dev are understood), theme, debate,
stance (pro, con). Without split, whole debates, or rows where there is no debate, are split by a seed.
"""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from biencoder_ablate.data.corpus import Corpus, DataError, Pair, build_corpus
from biencoder_ablate.data.splitting import split_debates

_COLUMNS = ("point", "counter", "split", "theme", "debate", "stance")
_SPLITS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "validation": "val",
    "valid": "val",
    "dev": "val",
    "test": "test",
}


def load_table(path: str | Path, split_seed: int = 0) -> Corpus:
    """Read the table at `path`. Raises DataError naming the line that is damaged."""
    path = Path(path).expanduser()
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"data.path={path}: not UTF-8 (byte {error.start}); save it as UTF-8") from error
    reader = _read_jsonl if path.suffix.lower() == ".jsonl" else _read_delimited
    rows = list(reader(path, text))
    if not rows:
        raise DataError(f"data.path={path}: no rows; expected columns point and counter")
    if len({"split" in row for _, row in rows}) > 1:
        line = next(line for line, row in rows if "split" not in row)
        raise DataError(f"data.path={path}, line {line}: no split, though other rows have one; give all or none")
    places = [(row.get("theme", ""), row.get("debate", f"row{line:06d}")) for line, row in rows]
    chosen = {} if "split" in rows[0][1] else split_debates(places, split_seed)
    pairs, incomplete = [], Counter[tuple[str, str]]()
    for (line, row), (theme, debate) in zip(rows, places, strict=True):
        split = chosen[theme, debate] if chosen else _SPLITS.get(row["split"].lower())
        if split is None:
            raise DataError(f"data.path={path}, line {line}: split={row['split']}; must be train, val or test")
        stance = row.get("stance", "").lower()
        if stance not in ("", "pro", "con"):
            raise DataError(f"data.path={path}, line {line}: stance={stance}; must be pro, con or empty")
        if "counter" not in row:
            incomplete[split, theme] += 1
            continue
        pairs.append(Pair(split, theme, debate, stance, line, row["point"], row["counter"]))
    return build_corpus("pairs", pairs, incomplete)


def _clean(path: Path, line: int, row: dict[str, object]) -> dict[str, str]:
    """Keep the known columns that hold something; a row needs a point at least."""
    kept: dict[str, str] = {}
    for column in _COLUMNS:
        value = row.get(column)
        if value is None or value == "":
            continue
        if not isinstance(value, str):
            raise DataError(f"data.path={path}, line {line}: {column} is {value!r}; must be text")
        if any("\ud800" <= letter <= "\udfff" for letter in value):
            raise DataError(f"data.path={path}, line {line}: {column} holds half a surrogate pair; must be UTF-8 text")
        if value.strip():
            kept[column] = value.strip()
    if "point" not in kept:
        raise DataError(f"data.path={path}, line {line}: no point; every row needs columns point and counter")
    return kept


def _read_delimited(path: Path, text: str) -> Iterator[tuple[int, dict[str, str]]]:
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    columns: list[str] | None = None
    while True:
        line = reader.line_num + 1  # where the row begins: a quoted text may go on over several lines
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise DataError(f"data.path={path}, line {line}: {error}") from error
        if fields is None:
            break
        if columns is None:
            columns = _checked_columns(path, fields)
        elif len(fields) > len(columns):
            raise DataError(
                f"data.path={path}, line {line}: more fields than columns; quote texts that hold "
                f"{'tabs' if delimiter != ',' else 'commas'}"
            )
        elif fields:
            yield line, _clean(path, line, dict(zip(columns, fields, strict=False)))
    if columns is None:
        _checked_columns(path, [])


def _checked_columns(path: Path, columns: list[str]) -> list[str]:
    for column in ("point", "counter"):
        if column not in columns:
            raise DataError(f"data.path={path}: no column {column}; found {', '.join(columns) or 'none'}")
    return columns


def _read_jsonl(path: Path, text: str) -> Iterator[tuple[int, dict[str, str]]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            raise DataError(f"data.path={path}, line {number}: not JSON ({error})") from error
        if not isinstance(row, dict):
            raise DataError(f"data.path={path}, line {number}: must be a JSON object with point and counter")
        yield number, _clean(path, number, row)
