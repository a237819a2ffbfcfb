"""Where debates come from: one reader to a source, each a function from the group `data` to a Corpus.

The registry (kind "corpora") names them by `data.name`: sample (ships with the package), arguana (the ArguAna
Counterargs corpus), pairs (the user's own csv, tsv or jsonl), beir (beir.py), hub (hub.py), and what other installed
packages register.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import tomllib
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from biencoder_ablate.config import ConfigError, DataConfig, registry
from biencoder_ablate.config.registry import check_corpus
from biencoder_ablate.data.corpus import Corpus, DataError, Pair, build_corpus, limit_debates, make_disjoint, text_key
from biencoder_ablate.utils.seeding import generator

Check = Callable[[DataConfig], None]
Reader = Callable[[DataConfig], Corpus]

SAMPLE_DEBATES = Path(__file__).parent / "sample_debates"


def load_corpus(settings: DataConfig) -> Corpus:
    """Read, then make disjoint, then shorten, as asked. Raises ConfigError, or DataError for what the files hold."""
    check_corpus(settings)
    corpus = registry.find("corpora", settings.name, "data.name")(settings)
    if settings.disjoint:
        corpus = make_disjoint(corpus)
    if settings.limit is not None:
        corpus = limit_debates(corpus, settings.limit)
    return corpus


def checked_by(check: Check) -> Callable[[Reader], Reader]:
    """Give a reader the check of its settings: a function that raises ConfigError, and reads no corpus."""

    def attach(reader: Any) -> Reader:
        reader.check = check
        return reader

    return attach


def check_path(settings: DataConfig, what: str) -> Path:
    """The path that a built-in reader needs. Raises ConfigError."""
    _check_no_options(settings)
    if settings.path is None:
        raise ConfigError(f"data.path is missing: data={settings.name} needs data.path=…, {what}")
    path = Path(settings.path).expanduser()
    if not path.exists():
        raise ConfigError(f"data.path={settings.path}: no such file or directory; must be {what}")
    return path


def _check_no_options(settings: DataConfig) -> None:
    if settings.options:
        raise ConfigError(
            f"data.options={settings.options}: data={settings.name} takes none; they are for another package's reader"
        )
    for key in ("subset", "point", "counter", "negative", "split"):
        if getattr(settings, key) is not None:
            raise ConfigError(
                f"data.{key}={getattr(settings, key)}: is for data=hub; data={settings.name} has no use of it"
            )


# --- the sample ---


def _check_sample(settings: DataConfig) -> None:
    _check_no_options(settings)
    if settings.path is not None:
        raise ConfigError(
            f"data.path={settings.path}: data=sample ships with the package and takes no path; "
            "choose data=arguana or data=pairs to read your own"
        )


@checked_by(_check_sample)
def read_sample(settings: DataConfig) -> Corpus:
    """The debates that ship with the package (CC0), one TOML file each; whole debates go to train, val and test."""
    debates = {file.stem: tomllib.loads(file.read_text("utf-8")) for file in sorted(SAMPLE_DEBATES.glob("*.toml"))}
    splits = split_debates([(debate["theme"], name) for name, debate in debates.items()], settings.split_seed)
    pairs = [
        Pair(splits[debate["theme"], name], debate["theme"], name, stance, number, entry["point"], entry["counter"])
        for name, debate in debates.items()
        for stance in ("con", "pro")
        for number, entry in enumerate(debate[stance], start=1)
    ]
    return build_corpus("sample", pairs)


def split_debates(debates: Sequence[tuple[str, str]], split_seed: int) -> dict[tuple[str, str], str]:
    """Assign whole debates, (theme, debate), to splits, 60/20/20, by a seed of their own.

    Raises DataError below three debates.
    """
    distinct = sorted(set(debates))
    if len(distinct) < 3:
        raise DataError(
            f"debates: {len(distinct)}; to be split into train, val and test at least 3 are needed, or a column split"
        )
    shuffled = [distinct[i] for i in generator(split_seed, "split").permutation(len(distinct))]
    held_out = max(1, round(len(distinct) / 5))
    names = ["val"] * held_out + ["test"] * held_out
    names += ["train"] * (len(distinct) - len(names))
    return dict(zip(shuffled, names, strict=True))


# --- the ArguAna Counterargs corpus ---

_ARGUANA_SPLITS = {"training": "train", "validation": "val", "test": "test"}
_ARGUMENT = re.compile(
    r"(?P<root>(?:[^/]+/)*?)(?P<split>training|validation|test)/(?P<theme>[^/]+)/(?P<debate>[^/]+)/"
    r"(?P<stance>pro|con)/(?P=stance)(?P<number>\d+)(?P<kind>a-point|b-counter)\.txt"
)
_MAX_ROOT_DEPTH = 3


def _check_arguana(settings: DataConfig) -> None:
    check_path(settings, "the ArguAna Counterargs corpus, a directory or the zip as published")
    if settings.split_seed != 0:
        raise ConfigError(f"data.split_seed={settings.split_seed}: data=arguana comes split; leave the key out")


@checked_by(_check_arguana)
def read_arguana(settings: DataConfig) -> Corpus:
    """The ArguAna Counterargs corpus as published, from its directory or straight from the zip.

    Layout: [… /02-extracted-arguments/]{training,validation,test}/THEME/DEBATE/{pro,con}/{pro,con}NNa-point.txt
    with the counter beside it as …NNb-counter.txt. Whatever else lies about is left alone.
    Raises DataError naming the file that is missing, damaged or not UTF-8.
    """
    path = Path(str(settings.path)).expanduser()
    if path.is_dir():
        return _parse_arguana(path, _list_arguana(path), lambda name: (path / name).read_bytes())
    try:
        with zipfile.ZipFile(path) as archive:
            return _parse_arguana(path, archive.namelist(), archive.read)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError) as error:
        raise DataError(
            f"data.path={path}: cannot be read as a zip ({error}); must be the corpus's directory "
            "or its zip as published; download it again if it is damaged"
        ) from error


def _list_arguana(path: Path) -> Iterable[str]:
    """Relative file names under the corpus's root, which lies at most a few directories down."""
    for folder, folders, _ in os.walk(path):
        depth = len(Path(folder).relative_to(path).parts)
        found = [split for split in _ARGUANA_SPLITS if split in folders]
        if len(found) > 1:
            for split in found:
                for inner, inner_folders, files in os.walk(Path(folder) / split):
                    inner_folders.sort()
                    for file in files:
                        yield (Path(inner) / file).relative_to(path).as_posix()
            folders.clear()
        elif depth >= _MAX_ROOT_DEPTH:
            folders.clear()


def _parse_arguana(path: Path, names: Iterable[str], read: Callable[[str], bytes]) -> Corpus:
    files: dict[tuple[str, str, str, str, int], dict[str, str]] = {}
    roots = set()
    for name in names:
        match = _ARGUMENT.fullmatch(name)
        if match is None:
            continue
        roots.add(match["root"])
        split = _ARGUANA_SPLITS[match["split"]]
        where = (split, match["theme"], match["debate"], match["stance"], int(match["number"]))
        files.setdefault(where, {})[match["kind"]] = name
    missing = [split for split in _ARGUANA_SPLITS.values() if not any(where[0] == split for where in files)]
    if missing:
        raise DataError(
            f"data.path={path}: no arguments found for {', '.join(missing)}; expected "
            "training/, validation/ and test/, each THEME/DEBATE/{pro,con}/…NNa-point.txt, at its top "
            "or under 02-extracted-arguments/"
        )
    if len(roots) > 1:
        raise DataError(f"data.path={path}: holds several corpora ({', '.join(sorted(roots))}); point at one of them")
    pairs, incomplete = [], Counter[tuple[str, str]]()
    for where, kinds in files.items():
        if "a-point" not in kinds:
            continue
        if "b-counter" not in kinds:
            incomplete[where[0], where[1]] += 1
            continue
        point, counter = (_argument_text(path, kinds[kind], read) for kind in ("a-point", "b-counter"))
        pairs.append(Pair(*where, point, counter))
    return build_corpus("arguana", pairs, incomplete, asks_pairs=True)


def _argument_text(path: Path, name: str, read: Callable[[str], bytes]) -> str:
    try:
        text = read(name).decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise DataError(f"data.path={path}: {name} is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    if not text:
        raise DataError(f"data.path={path}: {name} is empty; an argument needs a text")
    return text


# --- the user's own pairs ---

_COLUMNS = ("point", "counter", "split", "theme", "debate", "stance", "grade")
SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "validation": "val",
    "valid": "val",
    "dev": "val",
    "test": "test",
}
"""What data sets call the splits, in lower case."""


def _check_pairs(settings: DataConfig) -> None:
    what = "a csv, tsv or jsonl table with columns point and counter"
    if check_path(settings, what).suffix.lower() not in (".csv", ".tsv", ".jsonl"):
        raise ConfigError(f"data.path={settings.path}: must be {what}")


@checked_by(_check_pairs)
def read_pairs(settings: DataConfig) -> Corpus:
    """The user's own pairs: a csv, tsv or jsonl with columns point and counter, and a row for each counter of a point.

    Optional columns: split (train, val, test; training, validation and dev are understood), theme, debate, stance (pro,
    con), grade (how well the counter answers; 0: a candidate that is no right answer). Without split, whole debates, or
    points where there is no debate, are split by data.split_seed. Raises DataError naming the line that is damaged.
    """
    path = Path(str(settings.path)).expanduser()
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"data.path={path}: not UTF-8 (byte {error.start}); save it as UTF-8") from error
    rows = list((_read_jsonl if path.suffix.lower() == ".jsonl" else _read_delimited)(path, text))
    if not rows:
        raise DataError(f"data.path={path}: no rows; expected columns point and counter")
    if len({"split" in row for _, row in rows}) > 1:
        line = next(line for line, row in rows if "split" not in row)
        raise DataError(f"data.path={path}, line {line}: no split, though other rows have one; give all or none")
    first_line: dict[str, int] = {}
    keys = [text_key(row["point"]) for _, row in rows]
    for (line, _), key in zip(rows, keys, strict=True):
        first_line.setdefault(key, line)
    places = [
        (row.get("theme", ""), row.get("debate", f"row{first_line[key]:06d}"))
        for (_, row), key in zip(rows, keys, strict=True)
    ]
    chosen = {} if "split" in rows[0][1] else split_debates(places, settings.split_seed)
    pairs: list[Pair] = []
    themes: dict[tuple[str, str], str] = {}  # of each point of a split
    for (line, row), key, (theme, debate) in zip(rows, keys, places, strict=True):
        split = chosen[theme, debate] if chosen else SPLIT_WORDS.get(row["split"].lower())
        if split is None:
            raise DataError(f"data.path={path}, line {line}: split={row['split']}; must be train, val or test")
        stance = row.get("stance", "").lower()
        if stance not in ("", "pro", "con"):
            raise DataError(f"data.path={path}, line {line}: stance={stance}; must be pro, con or empty")
        themes.setdefault((split, key), theme)
        if "counter" in row:
            pairs.append(
                Pair(split, theme, debate, stance, line, row["point"], row["counter"], int(row.get("grade", 1)))
            )
    answered = {(pair.split, text_key(pair.point)) for pair in pairs if pair.grade > 0}
    incomplete = Counter((point[0], theme) for point, theme in themes.items() if point not in answered)
    return build_corpus("pairs", pairs, incomplete)


def _clean_row(path: Path, line: int, row: dict[str, object]) -> dict[str, str]:
    """Keep the known columns that hold something; a row needs a point at least."""
    kept: dict[str, str] = {}
    for column in _COLUMNS:
        value = row.get(column)
        if value is None or value == "":
            continue
        if column == "grade" and isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str):
            raise DataError(f"data.path={path}, line {line}: {column} is {value!r}; must be text")
        if any("\ud800" <= letter <= "\udfff" for letter in value):
            raise DataError(f"data.path={path}, line {line}: {column} holds half a surrogate pair; must be UTF-8 text")
        if value.strip().casefold() == "nan" and column in ("point", "counter"):
            raise DataError(f"data.path={path}, line {line}: {column} is {value.strip()}; leave an empty cell empty")
        if column == "grade" and not re.fullmatch(r"\s*\d{0,9}\s*", value, re.ASCII):
            raise DataError(f"data.path={path}, line {line}: grade={value}; must be an integer of 0 or more, or empty")
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
            yield line, _clean_row(path, line, dict(zip(columns, fields, strict=False)))
    if columns is None:
        _checked_columns(path, [])


def _checked_columns(path: Path, header: list[str]) -> list[str]:
    columns = [cell.strip().casefold() for cell in header]
    for column in ("point", "counter"):
        if column not in columns:
            hint = " (is the separator ;? save with commas)" if len(header) == 1 and ";" in header[0] else ""
            raise DataError(f"data.path={path}: no column {column}; found {', '.join(header) or 'none'}{hint}")
    twice = [column for column in _COLUMNS if columns.count(column) > 1]
    if twice:
        raise DataError(f"data.path={path}: two columns are called {twice[0]}; keep one of them")
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
        yield number, _clean_row(path, number, row)
