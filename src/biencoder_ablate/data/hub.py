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
_WHAT = "a data set's name on the hub, a directory, or a parquet, csv, tsv or jsonl file"


def _check_hub(settings: DataConfig) -> None:
    check_keys(settings, takes=("subset", *KEYS))
    check_column_keys(settings)
    if settings.path is None:
        raise ConfigError(f"data.path is missing: data=hub needs data.path=…, {_WHAT}")
    path = Path(settings.path).expanduser()
    if not path.exists() and (looks_like_path(settings.path) or path.suffix.lower() in _FILES):
        raise ConfigError(f"data.path={settings.path}: no such file or directory; must be {_WHAT}")
    if path.exists() and not (path.is_file() or path.is_dir()):  # a pipe or a device might never end
        raise ConfigError(f"data.path={settings.path}: neither a regular file nor a directory; must be {_WHAT}")
    if path.is_file() and path.suffix.lower() not in _FILES:
        raise ConfigError(f"data.path={settings.path}: must be {_WHAT}")
    if importlib.util.find_spec("datasets") is None:
        raise ConfigError("data=hub needs the library datasets: pip install 'biencoder-ablate[datasets]'")


@checked_by(_check_hub)
def read_hub(settings: DataConfig) -> Corpus:
    """Pairs of the columns data.point and data.counter; null finds them by their usual names, or takes the only two.

    A data set's own splits count, or those of a column (data.split). What is missing of val and test is cut from train,
    see pair_table. Rows of one point may be many. Raises DataError.
    """
    loaded, left_out = _load(settings)
    tables = {name: table for name, table in loaded.items() if settings.split or name.lower() in SPLIT_WORDS}
    if not tables:
        raise DataError(f"data.path={settings.path}: splits {list_columns(list(loaded))}; must be train, val and test")
    columns = _choose_columns(settings, tables)
    notes = [columns.note, *left_out]
    for name in loaded:
        if name not in tables:
            notes.append(f"the data set's split {excerpt(name)} is left out: its name is not train, val or test")
    notes += _check_others(settings, tables, columns)

    rows: list[Row] = []
    for name, table in tables.items():
        # One table called train is what the library makes of a file without splits.
        own_split = SPLIT_WORDS.get(name.lower()) if len(tables) > 1 or name.lower() != "train" else None
        rows += _table_rows(settings, name, table, columns, own_split, first_number=len(rows))
    return build_from_rows("hub", settings, columns, rows, notes)


def _table_rows(
    settings: DataConfig, name: str, table: Any, columns: Columns, own_split: str | None, first_number: int
) -> list[Row]:
    """The rows of the table `name`, numbered from `first_number`."""
    nothing = [None] * len(table)
    uses = vars(columns) | {"grade": _grade_column(table, columns)}
    cells = {use: nothing if column is None else table[column] for use, column in uses.items()}
    rows = []
    for number in range(len(table)):
        where = f"data.path={settings.path}, {name}, row {number}"
        cell = {use: values[number] for use, values in cells.items()}
        points = _texts(where, columns.point, cell["point"])
        if len(points) != 1:
            raise DataError(f"{where}: {columns.point} must be one text; it has {len(points)}")
        split = own_split if columns.split is None else parse_split(where, columns.split, cell["split"])
        row = Row(
            where,
            first_number + number,
            points[0],
            _texts(where, columns.counter, cell["counter"]),
            _texts(where, str(columns.negative), cell["negative"]),
            parse_grade(where, cell["grade"]),
            split,
            group=read_label(where, str(columns.group), cell["group"]),
            id=read_label(where, str(columns.id), cell["id"]),
        )
        rows.append(row)
    return rows


def _grade_column(table: Any, columns: Columns) -> str | None:
    """The column grade, however its name is written: how well a row's answers answer, 0 for not at all."""
    taken = set(columns.read) - {columns.grade}
    return next((name for name in table.column_names if name.strip().casefold() == "grade" and name not in taken), None)


def _check_others(settings: DataConfig, tables: Mapping[str, Any], columns: Columns) -> list[str]:
    """A note of the columns that are not read. Raises DataError for one that seems to grade the rows."""
    checked: dict[str, list[Any]] = {}
    num_graded = 0
    also_checked = (columns.group, columns.id)  # what groups or names the rows may judge them as well
    for table in tables.values():
        graded = _grade_column(table, columns)
        num_graded += graded is not None
        for name in table.column_names:
            if name in also_checked or name not in (*columns.read, graded):
                checked.setdefault(name, []).append(table[name])
    cells = {name: itertools.chain.from_iterable(parts) for name, parts in checked.items()}
    noted = set(cells) - set(columns.read)
    return check_unread(f"data.path={settings.path}", cells, graded=num_graded == len(tables), noted=noted)


def _load(settings: DataConfig) -> tuple[dict[str, Any], Sequence[str]]:
    """The tables of a data set by the names of its splits, train where it has none, and notes of a csv or tsv."""
    import datasets

    path = Path(str(settings.path)).expanduser()
    suffix = path.suffix.lower()
    where = f"data.path={settings.path}"
    if path.is_file() and suffix in (".csv", ".tsv"):
        table, notes = _read_texts(where, [path])
        return {"train": table}, notes

    shows_progress = not datasets.utils.are_progress_bars_disabled()
    datasets.disable_progress_bars()  # what matters is raised
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
    return dict(loaded) if isinstance(loaded, Mapping) else {"train": loaded}, ()


def _load_files(where: str, path: Path, subset: str | None) -> tuple[dict[str, Any], Sequence[str]]:
    """The tables of a file or of a directory's files, always read anew.

    The library's own cache goes by a file's time, and would answer with what a file held before: it is given an empty
    one. Its csv reader takes words such as NA for nothing.
    """
    import datasets

    with tempfile.TemporaryDirectory() as cache:
        kind, files = (_FILES[path.suffix.lower()], str(path)) if path.is_file() else (str(path), None)
        builder = datasets.load_dataset_builder(kind, subset, data_files=files, cache_dir=cache)
        sources = {str(split): [Path(file) for file in named] for split, named in builder.config.data_files.items()}
        if all(file.suffix.lower() in (".csv", ".tsv") for named in sources.values() for file in named):
            read = {split: _read_texts(where, named) for split, named in sources.items()}
            notes = [note for _, notes in read.values() for note in notes]
            return {split: table for split, (table, _) in read.items()}, notes
        builder.download_and_prepare()
        # In memory, since the files of the cache go.
        return dict(builder.as_dataset(in_memory=True)), ()


def _read_texts(where: str, files: Sequence[Path]) -> tuple[Any, Sequence[str]]:
    """A table of csv or tsv files, as data=pairs reads them: quotation marks and all, and every cell a text."""
    import datasets

    parts: list[dict[str, list[str]]] = []
    notes: list[str] = []
    for file in files:
        place = where if len(files) == 1 and where.endswith(file.name) else f"{where}, {file.name}"
        table = read_table(place, file.suffix.lower(), file.read_bytes())
        parts.append({name: [row[key] for _, row in table.rows] for key, name in table.columns.items()})
        notes += table.notes
        if parts[0].keys() != parts[-1].keys():
            raise DataError(
                f"{place}: columns {list_columns(list(parts[-1]))}; must be those of {files[0].name}, "
                f"{list_columns(list(parts[0]))}"
            )
    columns = {name: [cell for part in parts for cell in part[name]] for name in parts[0]}
    return datasets.Dataset.from_dict(columns), notes


def _choose_columns(settings: DataConfig, tables: Mapping[str, Any]) -> Columns:
    """The columns by the names of the first table. Raises DataError where another table lacks one of them."""
    where = f"data.path={settings.path}"
    first = next(iter(tables.values()))
    columns = choose_columns(where, settings, list(first.column_names), ("split", "group", "grade"))
    # A column split counts where the data set has no splits of its own, and where it holds nothing but their names.
    if settings.split is None and columns.split is not None:
        words = {str(word).strip().lower() for word in first[columns.split]}
        if len(tables) > 1 or not words <= SPLIT_WORDS.keys():
            columns = replace(columns, split=None)
    if settings.group is None and any(columns.group not in table.column_names for table in tables.values()):
        columns = replace(columns, group=None)
    for name, table in tables.items():
        for column in columns.read:
            if column not in table.column_names and column != columns.grade:
                raise DataError(
                    f"{where}: no column {excerpt(column)} in {excerpt(name)}; found {list_columns(table.column_names)}"
                )
    return columns


def _texts(where: str, column: str, value: Any) -> list[str]:
    """The texts of a cell, which holds one, a list of them, or none."""
    values = value if isinstance(value, list) else [value]
    for text in values:
        if text is not None and not isinstance(text, str):
            raise DataError(f"{where}: {column} is {text!r:.60}; must be text, or a list of texts")
    texts = [cell_text(where, column, text) for text in values]
    return [text for text in texts if text]
