"""data=hub: pairs from any data set of the `datasets` library, as sentence-transformers' users have them.

A row has a text that asks, a right answer (or a list of them) and perhaps texts that are no answer to it.
"""

from __future__ import annotations

import contextlib
import importlib.util
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from biencoder_ablate.config.schema import ConfigError, DataConfig, looks_like_path
from biencoder_ablate.data.corpus import SPLITS, Corpus, DataError, Pair, build_corpus, text_key
from biencoder_ablate.data.readers import SPLIT_WORDS, checked_by, split_debates
from biencoder_ablate.utils.console import format_error

_FILES: dict[str, tuple[str, dict[str, Any]]] = {
    ".parquet": ("parquet", {}),
    ".csv": ("csv", {"keep_default_na": False}),
    ".tsv": ("csv", {"keep_default_na": False, "sep": "\t"}),
    ".json": ("json", {}),
    ".jsonl": ("json", {}),
}
"""By suffix, how `datasets` reads a file. In a csv, "NA" and "null" are texts like others."""
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
    tables = _load(settings)
    notes, rows = [], []
    roles = _choose_columns(settings, tables)
    for name, table in tables.items():
        own = SPLIT_WORDS.get(name.lower())
        if own is None and settings.split is None:
            notes.append(f"the data set's split {name} is left out: its name is not train, val or test")
            continue
        splits = [own] * len(table) if settings.split is None else _split_column(settings, table)
        columns = [table[column] for column in roles]
        for number, (split, *texts) in enumerate(zip(splits, *columns, strict=True)):
            where = f"data.path={settings.path}, {name}, row {number}"
            points, *others = (_texts(where, column, text) for column, text in zip(roles, texts, strict=True))
            if len(points) != 1:
                raise DataError(f"{where}: {roles[0]} must be one text; it has {len(points)}")
            rows.append((split, points[0], *others))
    notes.insert(0, f"{roles[0]} asks, {roles[1]} answers{''.join(f', {name} does not' for name in roles[2:])}")
    pairs, incomplete = _as_pairs(rows, settings, notes)
    return replace(build_corpus("hub", pairs, incomplete), notes=tuple(notes))


def _load(settings: DataConfig) -> dict[str, Any]:
    """The tables of a data set by the names of its splits; train where it has none."""
    import datasets

    path = Path(str(settings.path)).expanduser()
    try:
        with _quiet_datasets():
            if (path / "dataset_dict.json").exists() or (path / "state.json").exists():
                found: Any = datasets.load_from_disk(str(path))
            elif path.is_file():
                kind, options = _FILES[path.suffix.lower()]
                found = datasets.load_dataset(kind, data_files=str(path), **options)
            else:
                found = datasets.load_dataset(str(path) if path.is_dir() else settings.path, settings.subset)
    except Exception as error:  # the library, its readers and the hub each raise their own
        raise DataError(
            f"data.path={settings.path}: datasets cannot load it ({format_error(error, brief=True)}); must be {_WHAT}"
        ) from error
    return dict(found) if isinstance(found, Mapping) else {"train": found}


@contextlib.contextmanager
def _quiet_datasets() -> Iterator[None]:
    """Without the library's progress bars: what matters is raised."""
    import datasets

    watched = not datasets.utils.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if watched:
            datasets.enable_progress_bars()


def _choose_columns(settings: DataConfig, tables: Mapping[str, Any]) -> list[str]:
    """The columns of texts that ask, of answers, and of data.negative where it is given. Raises DataError where they
    are not there or not plain."""
    names = list(next(iter(tables.values())).column_names)
    where = f"data.path={settings.path}"
    for key in ("point", "counter", "negative", "split"):
        asked = getattr(settings, key)
        if asked is not None and any(asked not in table.column_names for table in tables.values()):
            raise DataError(f"{where}: no column {asked} (data.{key}); found {', '.join(names)}")
    negative = [settings.negative] if settings.negative is not None else []
    if settings.point is not None and settings.counter is not None:
        return [settings.point, settings.counter, *negative]
    scored = [name for name in names if name in ("label", "labels", "score")]
    if scored:
        raise DataError(
            f"{where}: a column {scored[0]}, so not every row need be a right answer; keep the rows that are, and name "
            "the columns: data.point=… data.counter=…"
        )
    taken = {settings.point, settings.counter, settings.split, settings.negative}
    free = [name for name in names if name not in taken and not name.startswith("negative")]
    point = settings.point or next((name for name in free if name in _ASKS), None)
    counter = settings.counter or next((name for name in free if name in _ANSWERS), None)
    rest = [name for name in free if name not in (point, counter)]
    if len(rest) == (point is None) + (counter is None):  # what has no usual name is told by its place
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
        if text is not None and any("\ud800" <= letter <= "\udfff" for letter in text):
            raise DataError(f"{where}: {column} holds half a surrogate pair; must be UTF-8 text")
    return [text.strip() for text in values if text is not None and text.strip()]


def _split_column(settings: DataConfig, table: Any) -> list[str]:
    splits = []
    for number, word in enumerate(table[settings.split]):
        split = SPLIT_WORDS.get(str(word).strip().lower())
        if split is None:
            raise DataError(
                f"data.path={settings.path}, row {number}: {settings.split}={word}; must be train, val or test"
            )
        splits.append(split)
    return splits


def _as_pairs(
    rows: list[tuple[Any, ...]], settings: DataConfig, notes: list[str]
) -> tuple[list[Pair], Counter[tuple[str, str]]]:
    """Rows (split, point, counters[, negatives]) as pairs, with val and test cut from train where there are none."""
    first: dict[str, int] = {}
    places = [("", f"row{first.setdefault(text_key(point), number):06d}") for number, (_, point, *_) in enumerate(rows)]
    missing = [split for split in SPLITS if all(row[0] != split for row in rows)]
    if "train" in missing:
        raise DataError(f"data.path={settings.path}: no split train, or no row in it")
    chosen: dict[tuple[str, str], str] = {}
    if missing:
        chosen = split_debates(
            [place for place, row in zip(places, rows, strict=True) if row[0] == "train"], settings.split_seed
        )
        notes.append(f"{' and '.join(missing)} cut from train by data.split_seed, a fifth of its points each")
    pairs, incomplete = [], Counter[tuple[str, str]]()
    for number, ((split, point, counters, *negatives), (theme, debate)) in enumerate(zip(rows, places, strict=True)):
        if split == "train" and chosen.get((theme, debate)) in missing:
            split = chosen[theme, debate]
        if not counters:
            incomplete[split, theme] += 1
        for grade, texts in ((1, counters), *((0, texts) for texts in negatives)):
            pairs += [Pair(split, theme, debate, "", number, point, text, grade) for text in texts]
    return pairs, incomplete
