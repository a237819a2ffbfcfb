"""data=hub: pairs from any data set of the `datasets` library, as sentence-transformers' users have them.

A row has a text that asks, a right answer (or a list of them) and perhaps texts that are no answer to it.
"""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from biencoder_ablate.config.schema import ConfigError, DataConfig, looks_like_path
from biencoder_ablate.data.corpus import SPLITS, Corpus, DataError, Pair, build_corpus, text_key
from biencoder_ablate.data.readers import SPLIT_WORDS, checked_by, split_debates
from biencoder_ablate.data.tabular import cell_text, read_table
from biencoder_ablate.utils.console import format_error, printable

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
    tables, left_out = _load(settings)
    columns = _choose_columns(settings, tables)
    negative = "".join(f", {name} does not" for name in columns[2:])
    notes = [f"{columns[0]} asks, {columns[1]} answers{negative}", *left_out]
    rows = []
    for name, table in tables.items():
        split_name = SPLIT_WORDS.get(name.lower())
        if split_name is None and settings.split is None:
            notes.append(f"the data set's split {name} is left out: its name is not train, val or test")
            continue
        splits = [split_name] * len(table) if settings.split is None else _split_column(settings, table)
        cells = zip(*(table[column] for column in columns), strict=True)
        for number, (split, values) in enumerate(zip(splits, cells, strict=True)):
            where = f"data.path={settings.path}, {name}, row {number}"
            points, *others = (_texts(where, column, value) for column, value in zip(columns, values, strict=True))
            if len(points) != 1:
                raise DataError(f"{where}: {columns[0]} must be one text; it has {len(points)}")
            rows.append((split, points[0], *others))
    pairs, incomplete = _as_pairs(rows, settings, notes)
    return replace(build_corpus("hub", pairs, incomplete), notes=tuple(notes))


def _load(settings: DataConfig) -> tuple[dict[str, Any], Sequence[str]]:
    """The tables of a data set by the names of its splits, train where it has none, and notes of a csv or tsv."""
    import datasets

    path = Path(str(settings.path)).expanduser()
    suffix = path.suffix.lower()
    if path.is_file() and suffix in (".csv", ".tsv"):
        # As data=pairs reads them, quotation marks and all; every cell is a text.
        table = read_table(f"data.path={settings.path}", suffix, path.read_bytes())
        columns = {name: [row[key] for _, row in table.rows] for key, name in table.columns.items()}
        return {"train": datasets.Dataset.from_dict(columns)}, table.notes

    shows_progress = not datasets.utils.are_progress_bars_disabled()
    datasets.disable_progress_bars()  # what matters is raised
    try:
        loaded: Any
        if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
            loaded = datasets.load_from_disk(str(path))
        elif path.is_file():
            loaded = datasets.load_dataset(_FILES[suffix], data_files=str(path))
        else:
            loaded = datasets.load_dataset(str(path) if path.is_dir() else settings.path, settings.subset)
    except Exception as error:  # the library, its readers and the hub each raise their own
        reason = format_error(error, brief=True)
        raise DataError(f"data.path={settings.path}: datasets cannot load it ({reason}); must be {_WHAT}") from error
    finally:
        if shows_progress:
            datasets.enable_progress_bars()
    return dict(loaded) if isinstance(loaded, Mapping) else {"train": loaded}, ()


def _choose_columns(settings: DataConfig, tables: Mapping[str, Any]) -> list[str]:
    """The columns of texts that ask, of answers, and data.negative where it is given.

    Raises DataError where they are missing, or where it is not plain which they are.
    """
    names = list(next(iter(tables.values())).column_names)
    where = f"data.path={settings.path}"
    for key in ("point", "counter", "negative", "split"):
        column = getattr(settings, key)
        if column is not None and any(column not in table.column_names for table in tables.values()):
            raise DataError(f"{where}: no column {column} (data.{key}); found {', '.join(names)}")
    negative = [settings.negative] if settings.negative is not None else []
    if settings.point is not None and settings.counter is not None:
        return [settings.point, settings.counter, *negative]

    labels = [name for name in names if name in ("label", "labels", "score")]
    if labels:
        raise DataError(
            f"{where}: a column {labels[0]}, so not every row need be a right answer; keep the rows that are, and name "
            "the columns: data.point=… data.counter=…"
        )

    # By their usual names first; a column without one is found by its place, if no other is left.
    taken = {settings.point, settings.counter, settings.split, settings.negative}
    free = [name for name in names if name not in taken and not name.startswith("negative")]
    point = settings.point or next((name for name in free if name in _ASKS), None)
    counter = settings.counter or next((name for name in free if name in _ANSWERS), None)
    rest = [name for name in free if name not in (point, counter)]
    if len(rest) == (point is None) + (counter is None):
        point = point or rest.pop(0)
        counter = counter or rest.pop(0)
    if point is None or counter is None:
        raise DataError(f"{where}: which columns ask and answer? data.point=… data.counter=…; found {', '.join(names)}")
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
                f"data.path={settings.path}, row {number}: {settings.split}={printable(str(word))}; must be train, val "
                "or test"
            )
        splits.append(split)
    return splits


def _as_pairs(
    rows: list[tuple[Any, ...]], settings: DataConfig, notes: list[str]
) -> tuple[list[Pair], Counter[tuple[str, str]]]:
    """Rows (split, point, counters[, negatives]) as pairs, and how many points of a split have no counter.

    Val and test are cut from train where there are none. A debate is a distinct point, called after its first row.
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

    pairs, incomplete = [], Counter[tuple[str, str]]()
    for number, ((split, point, counters, *negatives), debate) in enumerate(zip(rows, debates, strict=True)):
        if split == "train" and drawn.get(("", debate)) in missing:
            split = drawn["", debate]
        if not counters:
            incomplete[split, ""] += 1
        for grade, texts in ((1, counters), *((0, texts) for texts in negatives)):
            pairs += [Pair(split, "", debate, "", number, point, text, grade) for text in texts]
    return pairs, incomplete
