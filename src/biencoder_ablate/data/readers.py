"""Where debates come from: one reader to a source, each a function from the group `data` to a Corpus.

The registry (kind "corpora") names them by `data.name`: sample (ships with the package), arguana (the ArguAna
Counterargs corpus), pairs (the user's own csv, tsv or jsonl), beir (beir.py), hub (hub.py), and what other installed
packages register.
"""

from __future__ import annotations

import os
import re
import tomllib
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from biencoder_ablate.config import ConfigError, DataConfig, registry
from biencoder_ablate.config.registry import check_corpus
from biencoder_ablate.data.corpus import (
    SPLITS,
    Corpus,
    DataError,
    Pair,
    build_corpus,
    limit_debates,
    make_disjoint,
    text_key,
)
from biencoder_ablate.data.tabular import SUFFIXES, cell_text, check_unread, list_columns, parse_grade, read_table
from biencoder_ablate.utils.console import excerpt, format_error, printable
from biencoder_ablate.utils.seeding import generator

Check = Callable[[DataConfig], None]
Reader = Callable[[DataConfig], Corpus]

SAMPLE_DEBATES = Path(__file__).parent / "sample_debates"


def load_corpus(settings: DataConfig) -> Corpus:
    """Read, then make disjoint, then shorten, as asked. Raises ConfigError, or DataError for what the files hold."""
    check_corpus(settings)
    corpus = registry.find("corpora", settings.name, "data.name")(settings)
    _check_names(corpus)
    if settings.disjoint:
        corpus = make_disjoint(corpus)
    if settings.limit is not None:
        corpus = limit_debates(corpus, settings.limit)
    return corpus


def _check_names(corpus: Corpus) -> None:
    """Refuse a name that several candidates would have in rankings.jsonl and in TREC's files, where it must be one."""
    names = [document.id for document in corpus.documents]
    if not corpus.documents:
        names = [pair.id for split in SPLITS for pair in corpus.split(split)]
    repeated = [name for name, times in Counter(names).items() if times > 1]
    if repeated:
        kind = "documents" if corpus.documents else "pairs"
        raise DataError(f"data={corpus.name}: two {kind} are called {excerpt(repeated[0])}; names must differ")


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
    pairs = []
    for name, debate in debates.items():
        theme = debate["theme"]
        for stance in ("con", "pro"):
            for number, argument in enumerate(debate[stance], start=1):
                point, counter = argument["point"], argument["counter"]
                pairs.append(Pair(splits[theme, name], theme, name, stance, number, point, counter))
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
        reason = format_error(error, brief=True)
        raise DataError(
            f"data.path={path}: cannot be read as a zip ({reason}); must be the corpus's directory "
            "or its zip as published; download it again if it is damaged"
        ) from error


def _list_arguana(path: Path) -> Iterable[str]:
    """Relative file names under the corpus's root, which lies at most a few directories down."""
    for folder, folders, _ in os.walk(path):
        splits = [split for split in _ARGUANA_SPLITS if split in folders]
        if len(splits) > 1:
            for split in splits:
                for inner, inner_folders, files in os.walk(Path(folder) / split):
                    inner_folders.sort()
                    for file in files:
                        yield (Path(inner) / file).relative_to(path).as_posix()
            folders.clear()  # a root holds no other root
        elif len(Path(folder).relative_to(path).parts) >= _MAX_ROOT_DEPTH:
            folders.clear()


def _parse_arguana(path: Path, names: Iterable[str], read: Callable[[str], bytes]) -> Corpus:
    # The files of an argument, by split, theme, debate, stance and number.
    files: dict[tuple[str, str, str, str, int], dict[str, str]] = {}
    spelling: dict[tuple[str, str, str, str, int], str] = {}  # of the number
    roots = set()
    for name in names:
        match = _ARGUMENT.fullmatch(name)
        if match is None:
            continue
        roots.add(match["root"])
        split = _ARGUANA_SPLITS[match["split"]]
        place = (split, match["theme"], match["debate"], match["stance"], int(match["number"]))
        kinds = files.setdefault(place, {})
        # One number spelt in two ways, as in pro1 and pro01, is of two arguments.
        if match["kind"] in kinds or spelling.setdefault(place, match["number"]) != match["number"]:
            other = next(iter(kinds.values()))
            raise DataError(
                f"data.path={path}: {printable(name)} and {printable(other)} have the same number; give each argument "
                "a number of its own"
            )
        kinds[match["kind"]] = name

    present = {split for split, *_ in files}
    missing = [split for split in _ARGUANA_SPLITS.values() if split not in present]
    if missing:
        raise DataError(
            f"data.path={path}: no arguments found for {', '.join(missing)}; expected "
            "training/, validation/ and test/, each THEME/DEBATE/{pro,con}/…NNa-point.txt, at its top "
            "or under 02-extracted-arguments/"
        )
    if len(roots) > 1:
        raise DataError(
            f"data.path={path}: holds several corpora ({list_columns(sorted(roots))}); point at one of them"
        )

    pairs, incomplete = [], Counter[tuple[str, str]]()
    num_without_point = 0
    for place, kinds in files.items():
        if "a-point" not in kinds:
            num_without_point += 1
            continue
        if "b-counter" not in kinds:
            incomplete[place[:2]] += 1
            continue
        point = _argument_text(path, kinds["a-point"], read)
        counter = _argument_text(path, kinds["b-counter"], read)
        pairs.append(Pair(*place, point, counter))
    notes = [f"counters without a point beside them, left out: {num_without_point}"] if num_without_point else []
    return replace(build_corpus("arguana", pairs, incomplete, asks_pairs=True), notes=tuple(notes))


def _argument_text(path: Path, name: str, read: Callable[[str], bytes]) -> str:
    where = f"data.path={path}: {printable(name)}"
    try:
        text = read(name).decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise DataError(f"{where} is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    if not text:
        raise DataError(f"{where} is empty; an argument needs a text")
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
    if check_path(settings, what).suffix.lower() not in SUFFIXES:
        raise ConfigError(f"data.path={settings.path}: must be {what}")


@checked_by(_check_pairs)
def read_pairs(settings: DataConfig) -> Corpus:
    """The user's own pairs: a csv, tsv or jsonl with columns point and counter, and a row for each counter of a point.

    Optional columns: split (train, val, test; also training, validation and dev), theme, debate, stance (pro, con),
    grade (how well the counter answers; 0: a candidate that is no right answer). Without split, whole debates, or
    points where there is no debate, are split by data.split_seed. Raises DataError naming the line that is damaged, or
    another column that seems to grade the rows.
    """
    path = Path(str(settings.path)).expanduser()
    where = f"data.path={path}"
    table = read_table(where, path.suffix.lower(), path.read_bytes(), required=("point", "counter"))
    if not table.rows:
        raise DataError(f"{where}: no rows; expected columns point and counter")
    unread = {
        spelling: [row.get(column) for _, row in table.rows]
        for column, spelling in table.columns.items()
        if column not in _COLUMNS
    }
    notes = check_unread(where, unread, graded="grade" in table.columns)
    rows = {line: _clean_row(f"{where}, line {line}", row) for line, row in table.rows}

    grades = {line: parse_grade(f"{where}, line {line}", row.get("grade")) for line, row in table.rows}

    # Rows without a debate are one debate for each distinct point, called after the line of the first.
    keys = {line: text_key(row["point"]) for line, row in rows.items()}
    first_line: dict[str, int] = {}
    places = {}
    for line, row in rows.items():
        first = first_line.setdefault(keys[line], line)
        places[line] = (row.get("theme", ""), row.get("debate", f"row{first:06d}"))

    without_split = [line for line, row in rows.items() if "split" not in row]
    drawn: dict[tuple[str, str], str] = {}
    if len(without_split) == len(rows):
        drawn = split_debates(list(places.values()), settings.split_seed)
    elif without_split:
        raise DataError(f"{where}, line {without_split[0]}: no split, though other rows have one; give all or none")

    pairs: list[Pair] = []
    theme_of: dict[tuple[str, str], str] = {}  # by split and point
    answered: set[tuple[str, str]] = set()
    for line, row in rows.items():
        theme, debate = places[line]
        split = drawn[theme, debate] if drawn else SPLIT_WORDS.get(row["split"].lower())
        if split is None:
            raise DataError(f"{where}, line {line}: split={excerpt(row['split'])}; must be train, val or test")
        stance = row.get("stance", "").lower()
        if stance not in ("", "pro", "con"):
            raise DataError(f"{where}, line {line}: stance={excerpt(stance)}; must be pro, con or empty")

        point = (split, keys[line])
        theme_of.setdefault(point, theme)
        if "counter" in row:
            pairs.append(Pair(split, theme, debate, stance, line, row["point"], row["counter"], grades[line]))
            if grades[line] > 0:
                answered.add(point)
    incomplete = Counter((split, theme) for (split, key), theme in theme_of.items() if (split, key) not in answered)
    corpus = build_corpus("pairs", pairs, incomplete)
    return replace(corpus, notes=(*table.notes, *notes))


def _clean_row(where: str, row: Mapping[str, Any]) -> dict[str, str]:
    """The columns of text that hold something; a row needs a point at least."""
    kept: dict[str, str] = {}
    for column in _COLUMNS:
        if column == "grade":
            continue  # the only one that may be no text
        text = cell_text(where, column, row.get(column))
        if text.casefold() == "nan" and column in ("point", "counter"):
            raise DataError(f"{where}: {column} is {text}; leave an empty cell empty")
        if text:
            kept[column] = text
    if "point" not in kept:
        raise DataError(f"{where}: no point; every row needs columns point and counter")
    return kept
