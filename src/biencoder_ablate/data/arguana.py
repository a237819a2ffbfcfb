"""Reads the ArguAna Counterargs corpus as published, from its directory or straight from the zip.

Layout: [… /02-extracted-arguments/]{training,validation,test}/THEME/DEBATE/{pro,con}/{pro,con}NNa-point.txt
with the counter beside it as …NNb-counter.txt. Whatever else lies about is left alone.
"""

from __future__ import annotations

import os
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from biencoder_ablate.data.corpus import Corpus, DataError, Pair, build_corpus

_SPLIT_NAMES = {"training": "train", "validation": "val", "test": "test"}
_ARGUMENT = re.compile(
    r"(?P<root>(?:[^/]+/)*?)(?P<split>training|validation|test)/(?P<theme>[^/]+)/(?P<debate>[^/]+)/"
    r"(?P<stance>pro|con)/(?P=stance)(?P<number>\d+)(?P<kind>a-point|b-counter)\.txt"
)
_MAX_ROOT_DEPTH = 3


def load_arguana(path: str | Path) -> Corpus:
    """Read the corpus at `path`. Raises DataError naming the file that is missing, damaged or not UTF-8."""
    path = Path(path).expanduser()
    if path.is_dir():
        return _parse(path, _list_directory(path), lambda name: (path / name).read_bytes())
    try:
        with zipfile.ZipFile(path) as archive:
            return _parse(path, archive.namelist(), archive.read)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError) as error:
        raise DataError(
            f"data.path={path}: cannot be read as a zip ({error}); must be the corpus's directory "
            "or its zip as published; download it again if it is damaged"
        ) from error


def _list_directory(path: Path) -> Iterable[str]:
    """Relative file names under the corpus's root, which lies at most a few directories down."""
    for folder, folders, _ in os.walk(path):
        depth = len(Path(folder).relative_to(path).parts)
        found = [split for split in _SPLIT_NAMES if split in folders]
        if len(found) > 1:
            for split in found:
                for inner, inner_folders, files in os.walk(Path(folder) / split):
                    inner_folders.sort()
                    for file in files:
                        yield (Path(inner) / file).relative_to(path).as_posix()
            folders.clear()
        elif depth >= _MAX_ROOT_DEPTH:
            folders.clear()


def _parse(path: Path, names: Iterable[str], read: Callable[[str], bytes]) -> Corpus:
    files: dict[tuple[str, str, str, str, int], dict[str, str]] = {}
    roots = set()
    for name in names:
        match = _ARGUMENT.fullmatch(name)
        if match is None:
            continue
        roots.add(match["root"])
        where = (_SPLIT_NAMES[match["split"]], match["theme"], match["debate"], match["stance"], int(match["number"]))
        files.setdefault(where, {})[match["kind"]] = name
    missing = [split for split in _SPLIT_NAMES.values() if not any(where[0] == split for where in files)]
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
        pairs.append(Pair(*where, *(_text(path, kinds[kind], read) for kind in ("a-point", "b-counter"))))
    return build_corpus("arguana", pairs, incomplete)


def _text(path: Path, name: str, read: Callable[[str], bytes]) -> str:
    try:
        text = read(name).decode("utf-8-sig").strip()
    except UnicodeDecodeError as error:
        raise DataError(f"data.path={path}: {name} is not UTF-8 (byte {error.start}); save it as UTF-8") from error
    if not text:
        raise DataError(f"data.path={path}: {name} is empty; an argument needs a text")
    return text
