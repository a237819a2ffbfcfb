"""data=hub: pairs from any data set of the `datasets` library, as sentence-transformers' users have them.

A row has a text that asks, a right answer (or a list of them) and perhaps texts that are no answer to it.
"""

from __future__ import annotations

import importlib.util
import itertools
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from biencoder_ablate.config.schema import ConfigError, DataConfig, looks_like_path
from biencoder_ablate.data.corpus import Corpus, DataError
from biencoder_ablate.data.pair_columns import KEYS, Columns, check_column_keys, choose_columns
from biencoder_ablate.data.pair_table import Row, build_from_rows, parse_split, read_label
from biencoder_ablate.data.readers import check_keys, checked_by
from biencoder_ablate.data.splitting import SPLIT_WORDS
from biencoder_ablate.data.tabular import cell_text, check_unread, list_columns, parse_grade, read_table
from biencoder_ablate.utils.console import excerpt, format_error

_FILES = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json"}
"""By suffix, what `datasets` calls a kind of file; csv and tsv are read by tabular.py."""
_READ_HERE = (".csv", ".tsv")
_WHAT = "a data set's name on the hub, a directory, or a parquet, csv, tsv or jsonl file"

Tables = dict[str, Any]
"""The tables of a data set (`datasets.Dataset`) by the names of its splits."""


def _check_hub(settings: DataConfig) -> None:
    check_keys(settings, takes=("subset", *KEYS))
    check_column_keys(settings)
    if settings.path is None:
        raise ConfigError(f"data.path is missing: data=hub needs data.path=…, {_WHAT}")
    where = f"data.path={settings.path}"
    path = Path(settings.path).expanduser()
    has_suffix = _suffix(path) in _FILES
    means_file = has_suffix or looks_like_path(settings.path)
    if means_file and not path.exists():
        raise ConfigError(f"{where}: no such file or directory; must be {_WHAT}")
    # A pipe or a device might never end.
    is_special = path.exists() and not path.is_file() and not path.is_dir()
    if is_special:
        raise ConfigError(f"{where}: neither a regular file nor a directory; must be {_WHAT}")
    if path.is_file() and not has_suffix:
        raise ConfigError(f"{where}: must be {_WHAT}")
    if importlib.util.find_spec("datasets") is None:
        raise ConfigError("data=hub needs the library datasets: pip install 'biencoder-ablate[datasets]'")


@checked_by(_check_hub)
def read_hub(settings: DataConfig) -> Corpus:
    """Pairs of the columns data.point and data.counter; null finds them by their usual names, or takes the only two.

    A data set's own splits count, or those of a column (data.split). What is missing of val and test is cut from train,
    see pair_table. Rows of one point may be many. Raises DataError.
    """
    loaded, left_out = _load(settings)
    # Where a column names the splits, it does not matter what the data set calls its own.
    tables: Tables = {}
    ignored = []
    for name, table in loaded.items():
        if settings.split or name.lower() in SPLIT_WORDS:
            tables[name] = table
        else:
            ignored.append(f"the data set's split {excerpt(name)} is left out: its name is not train, val or test")
    if not tables:
        raise DataError(f"data.path={settings.path}: splits {list_columns(list(loaded))}; must be train, val and test")
    columns = _choose_columns(settings, tables)
    notes = [columns.note, *left_out, *ignored, *_check_others(settings, tables, columns)]

    rows: list[Row] = []
    for name, table in tables.items():
        # One table called train is what the library makes of a file without splits.
        has_no_splits = len(tables) == 1 and name.lower() == "train"
        own_split = None if has_no_splits else SPLIT_WORDS.get(name.lower())
        rows += _table_rows(settings, name, table, columns, own_split, first_number=len(rows))
    return build_from_rows("hub", settings, columns, rows, notes)


def _table_rows(
    settings: DataConfig, name: str, table: Any, columns: Columns, own_split: str | None, first_number: int
) -> list[Row]:
    """The rows of the table `name`, numbered from `first_number`."""
    uses = vars(columns) | {"grade": _grade_column(table, columns)}
    nothing = [None] * len(table)
    cells = {}
    for use, column in uses.items():
        cells[use] = nothing if column is None else table[column]

    rows = []
    for place in range(len(table)):
        where = f"data.path={settings.path}, {name}, row {place}"
        cell = {use: values[place] for use, values in cells.items()}
        points = _texts(where, columns.point, cell["point"])
        if len(points) != 1:
            raise DataError(f"{where}: {columns.point} must be one text; it has {len(points)}")
        split = own_split
        if columns.split is not None:
            split = parse_split(where, columns.split, cell["split"])
        counters = _texts(where, columns.counter, cell["counter"])
        negatives = _texts(where, str(columns.negative), cell["negative"])
        grade = parse_grade(where, cell["grade"])
        group = read_label(where, str(columns.group), cell["group"])
        id = read_label(where, str(columns.id), cell["id"])
        number = first_number + place
        row = Row(where, number, points[0], counters, negatives, grade, split, group=group, id=id)
        rows.append(row)
    return rows


def _grade_column(table: Any, columns: Columns) -> str | None:
    """The column grade, however its name is written: how well a row's answers answer, 0 for not at all."""
    taken = set(columns.read) - {columns.grade}
    for name in table.column_names:
        if name.strip().casefold() == "grade" and name not in taken:
            return name
    return None


def _check_others(settings: DataConfig, tables: Mapping[str, Any], columns: Columns) -> list[str]:
    """A note of the columns that are not read. Raises DataError for one that seems to grade the rows."""
    read = set(columns.read)
    also_checked = (columns.group, columns.id)  # what groups or names the rows may judge them as well
    parts: dict[str, list[Any]] = {}
    num_graded = 0
    for table in tables.values():
        grade = _grade_column(table, columns)
        num_graded += grade is not None
        for name in table.column_names:
            is_unread = name not in read and name != grade
            if is_unread or name in also_checked:
                parts.setdefault(name, []).append(table[name])

    cells = {name: itertools.chain.from_iterable(of_tables) for name, of_tables in parts.items()}
    noted = cells.keys() - read
    all_graded = num_graded == len(tables)
    return check_unread(f"data.path={settings.path}", cells, graded=all_graded, noted=noted)


def _load(settings: DataConfig) -> tuple[Tables, Sequence[str]]:
    """The tables of a data set, called train where it has no splits, and notes of a csv or tsv."""
    import datasets

    path = Path(str(settings.path)).expanduser()
    where = f"data.path={settings.path}"
    if path.is_file() and _suffix(path) in _READ_HERE:
        table, notes = _read_texts(where, [path])
        return {"train": table}, notes

    # What matters is raised; no bar is wanted.
    shows_progress = not datasets.utils.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        loaded: Any
        if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
            loaded = datasets.load_from_disk(str(path))
        elif path.exists():
            return _load_files(where, path, settings.subset)
        else:
            loaded = datasets.load_dataset(settings.path, settings.subset)
    except DataError:
        raise
    except Exception as error:  # the library, its readers and the hub each raise their own
        reason = format_error(error, brief=True)
        raise DataError(f"{where}: datasets cannot load it ({reason}); must be {_WHAT}") from error
    finally:
        if shows_progress:
            datasets.enable_progress_bars()
    has_splits = isinstance(loaded, Mapping)
    tables = dict(loaded) if has_splits else {"train": loaded}
    return tables, ()


def _load_files(where: str, path: Path, subset: str | None) -> tuple[Tables, Sequence[str]]:
    """The tables of a file or of a directory's files, always read anew.

    The library's own cache goes by a file's time, and would answer with what a file held before: it is given an empty
    one. Its csv reader takes words such as NA for nothing.
    """
    import datasets

    kind = str(path)
    files: str | None = None
    if path.is_file():
        kind = _FILES[_suffix(path)]
        files = str(path)
    with tempfile.TemporaryDirectory() as cache:
        builder = datasets.load_dataset_builder(kind, subset, data_files=files, cache_dir=cache)
        sources = {}
        suffixes = set()
        for split, names in builder.config.data_files.items():
            paths = [Path(name) for name in names]
            sources[str(split)] = paths
            suffixes |= {_suffix(path) for path in paths}
        if suffixes <= set(_READ_HERE):
            return _read_splits(where, sources)
        builder.download_and_prepare()
        # In memory, since the files of the cache go.
        return dict(builder.as_dataset(in_memory=True)), ()


def _read_splits(where: str, sources: Mapping[str, Sequence[Path]]) -> tuple[Tables, Sequence[str]]:
    """The tables of csv and tsv files by split, and notes of them."""
    tables: Tables = {}
    notes: list[str] = []
    for split, files in sources.items():
        tables[split], more = _read_texts(where, files)
        notes += more
    return tables, notes


def _read_texts(where: str, files: Sequence[Path]) -> tuple[Any, Sequence[str]]:
    """A table of csv or tsv files, as data=pairs reads them: quotation marks and all, and every cell a text."""
    import datasets

    columns: dict[str, list[str]] = {}
    notes: list[str] = []
    for file in files:
        is_named = len(files) == 1 and where.endswith(file.name)
        place = where if is_named else f"{where}, {file.name}"
        table = read_table(place, _suffix(file), file.read_bytes())
        notes += table.notes
        spellings = list(table.columns.values())
        if file is files[0]:
            columns = {name: [] for name in spellings}
        elif columns.keys() != set(spellings):
            found = list_columns(spellings)
            wanted = list_columns(list(columns))
            raise DataError(f"{place}: columns {found}; must be those of {files[0].name}, {wanted}")
        for key, name in table.columns.items():
            columns[name] += [row[key] for _, row in table.rows]
    return datasets.Dataset.from_dict(columns), notes


def _suffix(path: Path) -> str:
    return path.suffix.lower()


def _choose_columns(settings: DataConfig, tables: Mapping[str, Any]) -> Columns:
    """The columns by the names of the first table. Raises DataError where another table lacks one of them."""
    where = f"data.path={settings.path}"
    first = next(iter(tables.values()))
    columns = choose_columns(where, settings, list(first.column_names), ("split", "group", "grade"))
    # A column split counts where the data set has no splits of its own, and where it holds nothing but their names.
    if settings.split is None and columns.split is not None:
        words = {str(word).strip().lower() for word in first[columns.split]}
        are_splits = words <= SPLIT_WORDS.keys()
        if len(tables) > 1 or not are_splits:
            columns = replace(columns, split=None)
    # A group that no key asks for need not be in every table.
    if settings.group is None:
        in_all = all(columns.group in table.column_names for table in tables.values())
        if not in_all:
            columns = replace(columns, group=None)

    needed = [column for column in columns.read if column != columns.grade]
    for name, table in tables.items():
        found = table.column_names
        for column in needed:
            if column not in found:
                split = excerpt(name)
                raise DataError(f"{where}: no column {excerpt(column)} in {split}; found {list_columns(found)}")
    return columns


def _texts(where: str, column: str, value: Any) -> list[str]:
    """The texts of a cell, which holds one, a list of them, or none."""
    values = value if isinstance(value, list) else [value]
    for text in values:
        if text is not None and not isinstance(text, str):
            raise DataError(f"{where}: {column} is {text!r:.60}; must be text, or a list of texts")
    texts = [cell_text(where, column, text) for text in values]
    return list(filter(None, texts))
