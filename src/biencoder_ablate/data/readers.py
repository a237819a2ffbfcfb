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
)
from biencoder_ablate.data.pair_columns import KEYS, check_column_keys, choose_columns
from biencoder_ablate.data.pair_table import Row, build_from_rows, parse_split, read_label
from biencoder_ablate.data.splitting import describe_folds, draw_splits
from biencoder_ablate.data.splitting import split_debates as split_debates  # for other packages' readers
from biencoder_ablate.data.tabular import SUFFIXES, cell_text, check_unread, list_columns, parse_grade, read_table
from biencoder_ablate.utils.console import excerpt, format_error, printable
from biencoder_ablate.utils.files import read_regular

Check = Callable[[DataConfig], None]
Reader = Callable[[DataConfig], Corpus]

_READERS_OF = {
    "subset": "data=hub",
    **dict.fromkeys(KEYS, "data=pairs and data=hub"),
}
"""By optional key, the built-in readers that take it."""
SAMPLE_DEBATES = Path(__file__).parent / "sample_debates"


def load_corpus(settings: DataConfig) -> Corpus:
    """Read, then make disjoint, then shorten, as asked. Raises ConfigError, or DataError for what the files hold."""
    check_corpus(settings)
    corpus = registry.find("corpora", settings.name, "data.name")(settings)
    _check_names(corpus)
    corpus = replace(corpus, folds=describe_folds(corpus, settings))
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


def check_path(settings: DataConfig, what: str, takes: Sequence[str] = ()) -> Path:
    """The path that a built-in reader needs; `takes` are the optional keys that it has a use for.

    Raises ConfigError.
    """
    check_keys(settings, takes)
    if settings.path is None:
        raise ConfigError(f"data.path is missing: data={settings.name} needs data.path=…, {what}")
    path = Path(settings.path).expanduser()
    if not path.exists():
        raise ConfigError(f"data.path={settings.path}: no such file or directory; must be {what}")
    if not (path.is_file() or path.is_dir()):  # a pipe or a device might never end
        raise ConfigError(f"data.path={settings.path}: neither a regular file nor a directory; must be {what}")
    return path


def check_keys(settings: DataConfig, takes: Sequence[str] = ()) -> None:
    """Refuse the options of other packages' readers, and keys that only other built-in readers take.

    Raises ConfigError.
    """
    if settings.options:
        raise ConfigError(
            f"data.options={settings.options}: data={settings.name} takes none; they are for another package's reader"
        )
    for key, readers in _READERS_OF.items():
        value = getattr(settings, key)
        if value is not None and key not in takes:
            raise ConfigError(f"data.{key}={value}: is for {readers}; data={settings.name} has no use of it")


# --- the sample ---


def _check_sample(settings: DataConfig) -> None:
    check_keys(settings)
    if settings.path is not None:
        raise ConfigError(
            f"data.path={settings.path}: data=sample ships with the package and takes no path; "
            "choose data=arguana or data=pairs to read your own"
        )


@checked_by(_check_sample)
def read_sample(settings: DataConfig) -> Corpus:
    """The debates that ship with the package (CC0), one TOML file each; whole debates go to train, val and test."""
    debates = {file.stem: tomllib.loads(file.read_text("utf-8")) for file in sorted(SAMPLE_DEBATES.glob("*.toml"))}
    splits = draw_splits([(debate["theme"], name) for name, debate in debates.items()], settings)
    pairs = []
    for name, debate in debates.items():
        theme = debate["theme"]
        for stance in ("con", "pro"):
            for number, argument in enumerate(debate[stance], start=1):
                point, counter = argument["point"], argument["counter"]
                pairs.append(Pair(splits[theme, name], theme, name, stance, number, point, counter))
    return build_corpus("sample", pairs)


# --- the ArguAna Counterargs corpus ---

_ARGUANA_SPLITS = {"training": "train", "validation": "val", "test": "test"}
_ARGUMENT = re.compile(
    r"(?P<root>(?:[^/]+/)*?)(?P<split>training|validation|test)/(?P<theme>[^/]+)/(?P<debate>[^/]+)/"
    r"(?P<stance>pro|con)/(?P=stance)(?P<number>\d+)(?P<kind>a-point|b-counter)\.txt"
)
_MAX_ROOT_DEPTH = 3
_MOST_ARGUMENT_BYTES = 1_000_000
"""The published arguments have some thousands."""
MOST_ZIP_RATIO = 100
SMALL_ZIP_BYTES = 10_000_000
"""How many times its size in a zip a file may be, and how large it may be at any rate."""


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
        return _parse_arguana(path, _list_arguana(path), lambda name: _read_argument(path, name))
    try:
        with zipfile.ZipFile(path) as archive:
            check_zip(path, archive)
            return _parse_arguana(path, archive.namelist(), archive.read)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError) as error:
        reason = format_error(error, brief=True)
        raise DataError(
            f"data.path={path}: cannot be read as a zip ({reason}); must be the corpus's directory "
            "or its zip as published; download it again if it is damaged"
        ) from error


def _read_argument(path: Path, name: str) -> bytes:
    try:
        return read_regular(path / name)
    except OSError as error:
        raise DataError(f"data.path={path}: {name} cannot be read ({error.strerror})") from error


def check_zip(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuse a zip that comes to what no texts come to, before anything is unpacked. Raises DataError.

    Texts are some 3 times as large as in their zip, and 20 times where they repeat themselves; zeros are 1000 times.
    """
    for member in archive.infolist():
        if member.file_size > MOST_ZIP_RATIO * max(member.compress_size, SMALL_ZIP_BYTES / MOST_ZIP_RATIO):
            raise DataError(
                f"data.path={path}: {printable(member.filename)} is {member.file_size / 1e6:.0f} MB, over "
                f"{MOST_ZIP_RATIO} times its size in the zip; texts are not, give its directory if these are"
            )


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
        content = read(name)
        if len(content) > _MOST_ARGUMENT_BYTES:
            size = f"{len(content) / 1e6:.1f} MB"
            raise DataError(f"data.path={path}: {name} has {size}; an argument has at most 1 MB")
        text = content.decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise DataError(f"{where} is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    if not text:
        raise DataError(f"{where} is empty; an argument needs a text")
    return text


# --- the user's own pairs ---

_USES = ("split", "group", "theme", "stance", "grade")


def _check_pairs(settings: DataConfig) -> None:
    what = "a csv, tsv or jsonl table of pairs"
    if check_path(settings, what, takes=KEYS).suffix.lower() not in SUFFIXES:
        raise ConfigError(f"data.path={settings.path}: must be {what}")
    check_column_keys(settings)


@checked_by(_check_pairs)
def read_pairs(settings: DataConfig) -> Corpus:
    """The user's own pairs: a csv, tsv or jsonl with a row for each right answer of a point.

    Which columns hold what is told by keys (data.point, data.counter, …) or by their usual names, see pair_columns;
    optional are split (train, val, test; also training, validation and dev), theme, debate, stance (pro, con) and grade
    (how well the counter answers; 0: a candidate that is no right answer). Splits that are missing are cut from train,
    see pair_table. Raises DataError naming the line that is damaged, or another column that seems to grade the rows.
    """
    path = Path(str(settings.path)).expanduser()
    where = f"data.path={path}"
    table = read_table(where, path.suffix.lower(), path.read_bytes())
    if not table.rows and not table.columns:
        raise DataError(f"{where}: no rows; expected columns point and counter")
    columns = choose_columns(where, settings, list(table.columns.values()), _USES)
    if not table.rows:
        raise DataError(f"{where}: no rows")
    notes = list(table.notes)
    if [columns.point.casefold(), columns.counter.casefold(), columns.negative] != ["point", "counter", None]:
        notes.insert(0, columns.note)

    # What a group or a name is taken from may judge the rows as well; it is read, and so in no note.
    cells = {
        spelling: [row.get(column) for _, row in table.rows]
        for column, spelling in table.columns.items()
        if spelling not in columns.read or spelling in (columns.group, columns.id)
    }
    notes += check_unread(where, cells, graded=columns.grade is not None, noted=set(cells) - set(columns.read))

    spelt = {spelling: column for column, spelling in table.columns.items()}
    places = {use: None if name is None else spelt[name] for use, name in vars(columns).items()}
    has_splits = places["split"] is not None and any(
        read_label(f"{where}, line {line}", str(columns.split), row.get(places["split"])) for line, row in table.rows
    )
    rows = [_pair_row(f"{where}, line {line}", line, row, places, has_splits) for line, row in table.rows]
    return build_from_rows("pairs", settings, columns, rows, notes)


def _pair_row(
    where: str, line: int, cells: Mapping[str, Any], places: Mapping[str, str | None], has_splits: bool
) -> Row:
    """A line of the table; `places` are the keys of `cells` by use. Raises DataError naming the line."""

    def cell(use: str) -> Any:
        return cells.get(str(places[use])) if places[use] is not None else None

    texts = {use: _clean_text(where, places[use], cell(use)) for use in ("point", "counter", "negative")}
    if not texts["point"]:
        raise DataError(f"{where}: no {places['point']}; every row needs a text that asks")
    stance = cell_text(where, "stance", cell("stance")).lower()
    if stance not in ("", "pro", "con"):
        raise DataError(f"{where}: stance={printable(stance)}; must be pro, con or empty")
    labels = {use: read_label(where, str(places[use]), cell(use)) for use in ("group", "id", "theme")}
    return Row(
        where,
        line,
        texts["point"],
        [texts["counter"]] if texts["counter"] else [],
        [texts["negative"]] if texts["negative"] else [],
        parse_grade(where, cell("grade")),
        parse_split(where, str(places["split"]), cell("split")) if has_splits else None,
        stance=stance,
        **labels,
    )


def _clean_text(where: str, column: str | None, value: object) -> str:
    text = cell_text(where, str(column), value)
    if text.casefold() == "nan":
        raise DataError(f"{where}: {column} is {text}; leave an empty cell empty")
    return text
