"""data=hub: pairs from any data set of the `datasets` library, as sentence-transformers' users have them.

A row has a text that asks, a right answer (or a list of them) and perhaps texts that are no answer to it.
"""

from __future__ import annotations

import importlib.util
import itertools
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from biencoder_ablate.config.schema import ConfigError, DataConfig, looks_like_path
from biencoder_ablate.data.corpus import SPLITS, Corpus, DataError, Pair, build_corpus, text_key
from biencoder_ablate.data.readers import SPLIT_WORDS, checked_by, split_debates
from biencoder_ablate.data.tabular import cell_text, check_unread, list_columns, parse_grade, read_table
from biencoder_ablate.utils.console import excerpt, format_error

_FILES = {".parquet": "parquet", ".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "json"}
"""By suffix, what `datasets` calls a kind of file; csv and tsv are read by tabular.py."""
_ASKS = ("point", "anchor", "query", "question", "sentence1")
_ANSWERS = ("counter", "positive", "answer", "document", "passage", "response", "sentence2")
_WHAT = "a data set's name on the hub, a directory, or a parquet, csv, tsv or jsonl file"


def _check_hub(settings: DataConfig) -> None:
    if settings.options:
        raise ConfigError(
            f"data.options={settings.options}: data=hub takes none; they are for another package's reader"
        )
    if settings.path is None:
        raise ConfigError(f"data.path is missing: data=hub needs data.path=…, {_WHAT}")
    path = Path(settings.path).expanduser()
    if not path.exists() and (looks_like_path(settings.path) or path.suffix.lower() in _FILES):
        raise ConfigError(f"data.path={settings.path}: no such file or directory; must be {_WHAT}")
    if path.is_file() and path.suffix.lower() not in _FILES:
        raise ConfigError(f"data.path={settings.path}: must be {_WHAT}")
    if importlib.util.find_spec("datasets") is None:
        raise ConfigError("data=hub needs the library datasets: pip install 'biencoder-ablate[datasets]'")


@checked_by(_check_hub)
def read_hub(settings: DataConfig) -> Corpus:
    """Pairs of the columns data.point and data.counter; null finds them by their usual names, or takes the only two.

    data.split names a column that says train, val or test; without one, a data set's own splits count. What is missing
    of val and test is cut from train by data.split_seed, a point with all its rows in one. Rows of one point may be
    many. Raises DataError.
    """
    loaded, left_out = _load(settings)
    tables = {name: table for name, table in loaded.items() if settings.split or name.lower() in SPLIT_WORDS}
    if not tables:
        raise DataError(f"data.path={settings.path}: splits {list_columns(list(loaded))}; must be train, val and test")
    columns = _choose_columns(settings, tables)
    negative = "".join(f", {name} does not" for name in columns[2:])
    notes = [f"{columns[0]} asks, {columns[1]} answers{negative}", *left_out]
    for name in loaded:
        if name not in tables:
            notes.append(f"the data set's split {excerpt(name)} is left out: its name is not train, val or test")
    notes += _check_others(settings, tables, columns)

    rows = []
    for name, table in tables.items():
        split_name = SPLIT_WORDS.get(name.lower())
        splits = [split_name] * len(table) if settings.split is None else _split_column(settings, table)
        graded = _grade_column(settings, table, columns)
        grades = [None] * len(table) if graded is None else table[graded]
        cells = zip(*(table[column] for column in columns), strict=True)
        for number, (split, grade, values) in enumerate(zip(splits, grades, cells, strict=True)):
            where = f"data.path={settings.path}, {name}, row {number}"
            points, *others = (_texts(where, column, value) for column, value in zip(columns, values, strict=True))
            if len(points) != 1:
                raise DataError(f"{where}: {columns[0]} must be one text; it has {len(points)}")
            rows.append((split, points[0], parse_grade(where, grade), *others))
    pairs, incomplete = _as_pairs(rows, settings, notes)
    return replace(build_corpus("hub", pairs, incomplete), notes=tuple(notes))


def _grade_column(settings: DataConfig, table: Any, columns: Sequence[str]) -> str | None:
    """The column grade, however its name is written: how well a row's answers answer, 0 for not at all."""
    taken = {*columns, settings.split}
    return next((name for name in table.column_names if name.strip().casefold() == "grade" and name not in taken), None)


def _check_others(settings: DataConfig, tables: Mapping[str, Any], columns: Sequence[str]) -> list[str]:
    """A note of the columns that are not read. Raises DataError for one that seems to grade the rows."""
    unread: dict[str, list[Any]] = {}
    num_graded = 0
    for table in tables.values():
        graded = _grade_column(settings, table, columns)
        num_graded += graded is not None
        for name in table.column_names:
            if name not in (*columns, settings.split, graded):
                unread.setdefault(name, []).append(table[name])
    cells = {name: itertools.chain.from_iterable(parts) for name, parts in unread.items()}
    return check_unread(f"data.path={settings.path}", cells, graded=num_graded == len(tables))


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


def _choose_columns(settings: DataConfig, tables: Mapping[str, Any]) -> list[str]:
    """The columns of texts that ask, of answers, and data.negative where it is given.

    Raises DataError where they are missing, or where it is not plain which they are.
    """
    names = list(next(iter(tables.values())).column_names)
    where = f"data.path={settings.path}"
    for key in ("point", "counter", "negative", "split"):
        column = getattr(settings, key)
        if column is not None and any(column not in table.column_names for table in tables.values()):
            raise DataError(f"{where}: no column {column} (data.{key}); found {list_columns(names)}")
    negative = [settings.negative] if settings.negative is not None else []
    if settings.point is not None and settings.counter is not None:
        return [settings.point, settings.counter, *negative]

    # By their usual names first; a column without one is found by its place, if no other is left.
    taken = {settings.point, settings.counter, settings.split, settings.negative}
    named_otherwise = ("negative", "grade")
    free = [name for name in names if name not in taken and not name.strip().casefold().startswith(named_otherwise)]
    point = settings.point or next((name for name in free if name in _ASKS), None)
    counter = settings.counter or next((name for name in free if name in _ANSWERS), None)
    rest = [name for name in free if name not in (point, counter)]
    if len(rest) == (point is None) + (counter is None):
        point = point or rest.pop(0)
        counter = counter or rest.pop(0)
    if point is None or counter is None:
        raise DataError(
            f"{where}: which columns ask and answer? data.point=… data.counter=…; found {list_columns(names)}"
        )
    for name, table in tables.items():
        for column in (point, counter):
            if column not in table.column_names:
                raise DataError(
                    f"{where}: no column {excerpt(column)} in {excerpt(name)}; found {list_columns(table.column_names)}"
                )
    return [point, counter, *negative]


def _texts(where: str, column: str, value: Any) -> list[str]:
    """The texts of a cell, which holds one, a list of them, or none."""
    values = value if isinstance(value, list) else [value]
    for text in values:
        if text is not None and not isinstance(text, str):
            raise DataError(f"{where}: {column} is {text!r:.60}; must be text, or a list of texts")
    texts = [cell_text(where, column, text) for text in values]
    return [text for text in texts if text]


def _split_column(settings: DataConfig, table: Any) -> list[str]:
    splits = []
    for number, word in enumerate(table[settings.split]):
        split = SPLIT_WORDS.get(str(word).strip().lower())
        if split is None:
            raise DataError(
                f"data.path={settings.path}, row {number}: {settings.split}={excerpt(str(word))}; must be train, val "
                "or test"
            )
        splits.append(split)
    return splits


def _as_pairs(
    rows: list[tuple[Any, ...]], settings: DataConfig, notes: list[str]
) -> tuple[list[Pair], Counter[tuple[str, str]]]:
    """Rows (split, point, grade, counters[, negatives]) as pairs, and how many points of a split have no right answer.

    Val and test are cut from train where there are none. A debate is a distinct point, called after its first row.
    Pairs are numbered through all rows: a row may be several pairs, of which each needs a name.
    """
    first_row: dict[str, int] = {}
    debates = []
    for number, (_, point, *_) in enumerate(rows):
        first = first_row.setdefault(text_key(point), number)
        debates.append(f"row{first:06d}")

    present = {row[0] for row in rows}
    missing = [split for split in SPLITS if split not in present]
    if "train" in missing:
        raise DataError(f"data.path={settings.path}: no split train, or no row in it")
    drawn: dict[tuple[str, str], str] = {}
    if missing:
        in_train = [("", debate) for debate, row in zip(debates, rows, strict=True) if row[0] == "train"]
        drawn = split_debates(in_train, settings.split_seed)
        notes.append(f"{' and '.join(missing)} cut from train by data.split_seed, a fifth of its points each")

    pairs: list[Pair] = []
    points: dict[tuple[str, str], None] = {}  # (split, debate), as an ordered set
    answered: set[tuple[str, str]] = set()
    number = 0
    for (split, point, grade, counters, *negatives), debate in zip(rows, debates, strict=True):
        if split == "train" and drawn.get(("", debate)) in missing:
            split = drawn["", debate]
        points[split, debate] = None
        if counters and grade > 0:
            answered.add((split, debate))
        graded = [(grade, text) for text in counters]
        graded += [(0, text) for texts in negatives for text in texts]
        for place, (answer_grade, text) in enumerate(graded):
            pairs.append(Pair(split, "", debate, "", number + place, point, text, answer_grade))
        number += max(1, len(graded))
    incomplete = Counter((split, "") for split, debate in points if (split, debate) not in answered)
    return pairs, incomplete
