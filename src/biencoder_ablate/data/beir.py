"""data=beir: a data set in the format of BEIR (Thakur et al. 2021): documents, queries, and judgements of both."""

from __future__ import annotations

import itertools
import re
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from biencoder_ablate.config.schema import DataConfig
from biencoder_ablate.data.corpus import Corpus, DataError, Document, Pair, build_corpus
from biencoder_ablate.data.readers import check_path, check_zip, checked_by
from biencoder_ablate.data.tabular import cell_text, list_columns, parse_json
from biencoder_ablate.utils.console import excerpt, format_error
from biencoder_ablate.utils.seeding import generator

_QRELS = {"train": "train", "dev": "val", "test": "test"}
"""By the name of a file of judgements, our split."""
Qrels = dict[str, dict[str, int]]
"""query id → document id → grade, of the judgements above 0."""


def _check_beir(settings: DataConfig) -> None:
    check_path(settings, "a directory or zip with corpus.jsonl, queries.jsonl and qrels/test.tsv")


@checked_by(_check_beir)
def read_beir(settings: DataConfig) -> Corpus:
    """corpus.jsonl, queries.jsonl and qrels/{train,dev,test}.tsv, in a directory or zip, at its top or one folder down.

    Documents are the candidates of every split; title and text are joined by a space. Each has a text, which may be
    empty. A query is asked where a judgement of it, its grade, is above 0. The document with its own id is no candidate
    (ignore_identical_ids), and a judged document that is missing counts as never found, as with BEIR's own tools; but
    some of a split's must be there. Without qrels/train.tsv there is nothing to train on; with it but without dev.tsv,
    a fifth of the training queries, by data.split_seed, are val.
    Raises DataError naming the file and line that is damaged.
    """
    path = Path(str(settings.path)).expanduser()
    try:
        top: Any = path
        if not path.is_dir():
            archive = zipfile.ZipFile(path)
            check_zip(path, archive)
            top = zipfile.Path(archive)
        folders = [place for place in top.iterdir() if place.is_dir()]
        folders.sort(key=lambda place: place.name)
        homes = (place for place in (top, *folders) if (place / "corpus.jsonl").is_file())
        home = next(homes, None)
        if home is None:
            raise DataError(
                f"data.path={path}: no corpus.jsonl at its top or one folder down; must be in BEIR's format"
            )
        return _parse(path, home, settings.split_seed)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError) as error:
        reason = format_error(error, brief=True)
        raise DataError(f"data.path={path}: cannot be read ({reason}); download it again if it is damaged") from error


def _parse(path: Path, home: Any, split_seed: int) -> Corpus:
    """The corpus in `home`, a directory or a place in a zip."""
    documents = []
    for _, name, title, text in _read_rows(path, home, "corpus.jsonl"):
        documents.append(Document(name, f"{title} {text}".strip()))
    text_of = {document.id: document.text for document in documents}
    num_empty = sum(not text for text in text_of.values())
    if num_empty == len(text_of):
        raise DataError(f"data.path={path}, corpus.jsonl: no document has a text")

    queries = {}
    for where, name, _, text in _read_rows(path, home, "queries.jsonl"):
        if not text.strip():
            raise DataError(f"{where}: text is empty; a query needs one")
        queries[name] = text

    notes = [f"{num_empty} documents have neither title nor text"] if num_empty else []
    qrels = {}
    for file, split in _QRELS.items():
        qrels[split], num_repeated = _read_qrels(path, home / "qrels" / f"{file}.tsv", queries)
        if num_repeated:
            notes.append(f"qrels/{file}.tsv: {num_repeated} judged again with another score; the last one stands")
    notes += _unread_qrels(home / "qrels")
    if not qrels["test"]:
        raise DataError(f"data.path={path}: no judgement above 0 in qrels/test.tsv; figures need one")
    if not qrels["train"]:
        notes.append("no qrels/train.tsv: nothing to train on, only evaluating (training.epochs=0)")
    elif not qrels["val"]:
        qrels["val"] = _cut_val(qrels["train"], split_seed)
        notes.append(f"no qrels/dev.tsv: {len(qrels['val'])} training queries, by data.split_seed, are val")

    pairs: list[Pair] = []
    num_missing = 0
    for split, grades_of in qrels.items():
        _check_any_found(path, split, grades_of, text_of)
        num_missing += _add_pairs(pairs, split, grades_of, queries, text_of)
    if num_missing:
        notes.append(f"{num_missing} right answers are no documents, or the query's own; they count as never found")
    asked = {pair.query for pair in pairs}
    num_documents = sum(name in text_of for name in asked)
    if num_documents:
        notes.append(
            f"{num_documents} queries are documents too; each is left out of its own candidates (ignore_identical_ids)"
        )
    corpus = build_corpus("beir", pairs, documents=documents, may_lack=("train", "val"), candidates="answers")
    return replace(corpus, notes=tuple(notes))


def _cut_val(train: Qrels, split_seed: int) -> Qrels:
    """Take a fifth of the training queries out of `train`, one at least, for val."""
    names = list(train)
    num_val = max(1, len(names) // 5)
    drawn = generator(split_seed, "split").permutation(len(names))[:num_val]
    val = {}
    for place in sorted(drawn.tolist()):
        name = names[place]
        val[name] = train.pop(name)
    return val


def _add_pairs(
    pairs: list[Pair], split: str, grades_of: Qrels, queries: Mapping[str, str], text_of: Mapping[str, str]
) -> int:
    """Add a pair for each right answer of a split's queries; returns how many of these cannot be found."""
    num_missing = 0
    for query, grades in grades_of.items():
        text = queries[query]
        for number, (document, grade) in enumerate(grades.items(), start=1):
            is_candidate = document in text_of and document != query
            if is_candidate:
                answer, name = text_of[document], document
            else:
                # A right answer that can never be found: its query's own text, under no name. Training needs none.
                answer, name = text, ""
                num_missing += 1
            if is_candidate or split != "train":
                pairs.append(Pair(split, "", query, "", number, text, answer, grade, query, name))
    return num_missing


def _check_any_found(path: Path, split: str, grades_of: Qrels, documents: Mapping[str, str]) -> None:
    """Refuse a split none of whose right answers is a document: then the two files spell the ids differently."""
    answers = list(itertools.chain.from_iterable(grades_of.values()))
    if not answers or not documents.keys().isdisjoint(answers):
        return
    judged = list_columns(answers[:3])
    known = list_columns(list(documents)[:3])
    raise DataError(
        f"data.path={path}: none of the right answers of {split} in qrels/ is in corpus.jsonl; ids must be spelled "
        f"alike: {judged} in qrels/, {known} in corpus.jsonl"
    )


def _unread_qrels(folder: Any) -> list[str]:
    """A note of the judgements under other names than BEIR's, such as validation.tsv."""
    if not folder.is_dir():
        return []
    read = [f"{file}.tsv" for file in _QRELS]
    names = [file.name for file in folder.iterdir()]
    others = [name for name in names if name.endswith(".tsv") and name not in read]
    if not others:
        return []
    others.sort()
    return [f"files of qrels/ that are not read: {list_columns(others)}; must be called {', '.join(read)}"]


def _read_rows(path: Path, home: Any, file: str) -> Iterator[tuple[str, str, str, str]]:
    """(where, _id, title, text) of a file of JSON lines, each _id once, without blanks at its ends.

    A title may be missing or null. Raises DataError for a row without _id or text, and for a text that is none.
    """
    seen: set[str] = set()
    for number, line in _read_lines(path, home / file):
        where = f"data.path={path}, {file}, line {number}"
        row = parse_json(where, line)
        if not isinstance(row, dict):
            raise DataError(f"{where}: must be a JSON object with _id and text")
        keys = list_columns(list(row))
        identity = row.get("_id")
        is_id = isinstance(identity, str | int) and not isinstance(identity, bool)
        name = str(identity).strip()
        if not is_id or not name:
            raise DataError(f"{where}: must be a JSON object with _id and text; found {keys}")
        if "text" not in row:
            raise DataError(f"{where}: no text; must be a JSON object with _id and text; found {keys}")
        text = row["text"]
        title = row.get("title")
        if text is None:
            raise DataError(f"{where}: text is null; must be text; found {keys}")
        # They are taken as they are, blanks at their ends included; what is no text is refused.
        cell_text(where, "text", text)
        cell_text(where, "title", title)
        cell_text(where, "_id", name)
        if name in seen:
            raise DataError(f"{where}: _id {excerpt(name)} is there twice; ids must differ")
        seen.add(name)
        yield where, name, title or "", text


def _read_qrels(path: Path, file: Any, queries: Mapping[str, str]) -> tuple[Qrels, int]:
    """The judgements in a file; nothing where there is no such file.

    And how many judgements are replaced by a later one with another grade, as BEIR's own loader does.
    """
    judged: Qrels = {}
    num_replaced = 0
    if not file.is_file():
        return judged, num_replaced
    for number, line in _read_lines(path, file):
        cells = [cell.strip() for cell in line.rstrip("\r\n").split("\t")]
        is_header = number == 1 and not any(letter.isdigit() for letter in cells[-1])
        if is_header:
            continue
        where = f"data.path={path}, qrels/{file.name}, line {number}"
        if len(cells) != 3 or not re.fullmatch(r"-?\d{1,9}", cells[2], re.ASCII):
            raise DataError(f"{where}: must be query-id, corpus-id and an integer score, separated by tabs")
        query, document, score = cells
        grade = int(score)
        if query not in queries:
            raise DataError(f"{where}: query {excerpt(query)} is not in queries.jsonl")
        grades = judged.setdefault(query, {})
        num_replaced += grades.get(document, grade) != grade
        grades[document] = grade

    positive = {}
    for query, grades in judged.items():
        above_zero = {document: grade for document, grade in grades.items() if grade > 0}
        if above_zero:
            positive[query] = above_zero
    return positive, num_replaced


def _read_lines(path: Path, file: Any) -> Iterator[tuple[int, str]]:
    """(number, line) of a text file's lines that are not blank. Raises DataError where it is missing or not UTF-8."""
    if not file.is_file():
        raise DataError(f"data.path={path}: no {file.name} beside corpus.jsonl; must be in BEIR's format")
    number = 0
    try:
        with file.open("r", encoding="utf-8-sig") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield number, line
    except UnicodeDecodeError as error:
        raise DataError(f"data.path={path}, {file.name}, line {number + 1}: not UTF-8; save it as UTF-8") from error
