# ruff: noqa: B023 - what is defined in a loop is called in it
"""BEIR's and ArguAna's files and TREC's, whole and damaged: right, or refused in one good line that names the file."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import zipfile
from collections import Counter
from pathlib import Path
from random import Random

import pytest
from support.damage import WORDS, cases, damage_one, damaged, keeps_the_law
from support.helpers import argument_files, make_pairs, read

from biencoder_ablate.data.corpus import SPLITS
from biencoder_ablate.report.external import read_trec
from biencoder_ablate.report.read import Metric, Protocol

NAMED = ["data.path=", "data=beir", "data=arguana"]


def zipped(some: Random, files: dict[str, bytes]) -> bytes:
    """The files in a zip, stored or packed, in any order."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", some.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for name in some.sample(list(files), len(files)):
            archive.writestr(name, files[name])
    return content.getvalue()


def write(directory: Path, files: dict[str, bytes]) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    for name, content in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)


# --- BEIR ---


def beir(some: Random) -> tuple[dict[str, bytes], Counter]:
    """A small data set, and its pairs: (split, query, document, grade), of all judgements above 0 with a document."""
    documents = {f"d{i}": f"text {i} of {some.choice(['é', '日本', 'x'])}" for i in range(6)}
    queries = {f"q{i}": f"what of {i}?" for i in range(6)}
    pairs: Counter = Counter()
    files = {}
    for name, texts in (("corpus", documents), ("queries", queries)):
        rows = [{"_id": key, "title": "", "text": text} for key, text in texts.items()]
        files[f"{name}.jsonl"] = "".join(json.dumps(row) + "\n" for row in rows).encode()
    for place, (file, split) in enumerate((("train", "train"), ("dev", "val"), ("test", "test"))):
        lines = ["query-id\tcorpus-id\tscore"] * some.randrange(2)
        for query in (f"q{2 * place}", f"q{2 * place + 1}"):
            for document in some.sample(list(documents), 3):
                grade = some.choice((0, 1, 1, 2)) if lines[-1:] != [] and query in lines[-1] else 1
                lines.append(f"{query}\t{document}\t{grade}")
                pairs[split, query, document, grade] += grade > 0
        files[f"qrels/{file}.tsv"] = "".join(line + "\n" for line in lines).encode()
    return files, +pairs


def test_a_data_set_of_beir_is_read_or_refused(tmp_path):
    for some in cases("beir", 120):
        files, wanted = beir(some)
        directory = tmp_path / "set"
        write(directory, files)
        corpus = read("beir", directory)
        pairs = [pair for split in SPLITS for pair in corpus.split(split)]
        assert Counter((pair.split, pair.query, pair.document, pair.grade) for pair in pairs) == wanted
        texts = {json.loads(line)["_id"]: json.loads(line)["text"] for line in files["corpus.jsonl"].splitlines()}
        assert {pair.document: pair.counter for pair in pairs}.items() <= texts.items()

        damage = damage_one(some, directory, list(files))
        keeps_the_law(lambda: read("beir", directory), NAMED, lambda: damage)


def test_a_zip_of_beir_is_read_or_refused(tmp_path):
    path = tmp_path / "set.zip"
    for some in cases("beir.zip", 120):
        files, wanted = beir(some)
        whole = zipped(some, files)
        path.write_bytes(whole)
        corpus = read("beir", path)
        found = Counter((p.split, p.query, p.document, p.grade) for split in SPLITS for p in corpus.split(split))
        assert found == wanted
        content = damaged(some, whole)
        path.write_bytes(content)
        keeps_the_law(lambda: read("beir", path), NAMED, lambda: content)


# --- ArguAna ---


def arguana(some: Random) -> tuple[dict[str, bytes], Counter]:
    """A small corpus below one of its usual roots, and its pairs of texts."""
    root = some.choice(("", "02-extracted-arguments/", "arguana/02-extracted-arguments/"))
    pairs = make_pairs(num_debates=1, num_points=2)
    files = {}
    for pair in pairs:
        for file, text in zip(argument_files(pair), (pair.point, pair.counter), strict=True):
            files[f"{root}{file.as_posix()}"] = some.choice((b"", b"\xef\xbb\xbf")) + text.encode() + b"\r\n"
    return files, Counter((pair.split, pair.point, pair.counter) for pair in pairs)


def texts_of(corpus) -> Counter:
    return Counter((pair.split, pair.point, pair.counter) for split in SPLITS for pair in corpus.split(split))


def renamed(some: Random, files: dict[str, bytes]) -> dict[str, bytes]:
    """With one file under another name, or another content."""
    files = dict(files)
    name = some.choice(list(files))
    content = files.pop(name)
    if some.random() < 0.5:
        return files | {name: damaged(some, content, b" ")}
    words = [word for word in WORDS if word.isascii() and "\x00" not in word and len(word) < 100]
    parts = name.split("/")
    place = some.randrange(len(parts))
    parts[place] = some.choice(
        (*words, "a" + some.choice(words), "pro", "01", "test", parts[place] + "x", "pro1a-point.txt")
    )
    return files | {"/".join(parts): content}


def test_a_zip_of_arguana_is_read_or_refused(tmp_path):
    path = tmp_path / "a.zip"
    for some in cases("arguana.zip", 200):
        files, wanted = arguana(some)
        path.write_bytes(zipped(some, files))
        assert texts_of(read("arguana", path)) == wanted
        whole = zipped(some, renamed(some, files)) if some.random() < 0.5 else damaged(some, path.read_bytes())
        path.write_bytes(whole)
        keeps_the_law(lambda: read("arguana", path), NAMED, lambda: whole)


def test_a_directory_of_arguana_is_read_or_refused(tmp_path):
    directory = tmp_path / "corpus"
    for some in cases("arguana", 100):
        files, wanted = arguana(some)
        write(directory, files)
        assert texts_of(read("arguana", directory)) == wanted
        if some.random() < 0.5:
            changed = {name: content for name, content in renamed(some, files).items() if _is_a_path(name)}
            write(directory, changed)
            damage: object = sorted(changed)
        else:
            damage = damage_one(some, directory, list(files))
        keeps_the_law(lambda: read("arguana", directory), NAMED, lambda: damage)


def _is_a_path(name: str) -> bool:
    """Whether it stays below the directory, and no part of it is empty or longer than file systems take."""
    parts = name.split("/")
    return all(part not in ("", ".", "..") and len(os.fsencode(part)) < 200 for part in parts)


# --- TREC's files ---


def trec(some: Random) -> tuple[dict[str, bytes], dict[tuple[str, int], list[float]]]:
    """Judgements, groups and runs, and for each system and seed what its queries score in reciprocal rank."""
    queries = [f"q{i}" for i in range(1, 4)]
    relevant = {query: some.sample(range(6), some.randrange(1, 3)) for query in queries}
    qrels = "".join(f"{query} 0 d{i} {int(i in relevant[query])}\n" for query in queries for i in range(6))
    files = {"qrels.txt": qrels.encode(), "groups.txt": "".join(f"{q} g{q[1:]}\n" for q in queries).encode()}
    wanted = {}
    for system in ("one", "two.b"):
        for seed in (0, 3):
            lines, scores = [], []
            for query in queries:
                order = some.sample(range(6), 6)
                lines += [f"{query}\tQ0 d{i} {k} {1 / k:.6f} tag" for k, i in enumerate(order, start=1)]
                scores.append(1 / min(order.index(i) + 1 for i in relevant[query]))
            some.shuffle(lines)
            files[f"runs/{system}.seed{seed}.run"] = "".join(line + "\n" for line in lines).encode()
            wanted[system, seed] = scores
    return files, wanted


def test_run_files_are_read_or_refused(tmp_path):
    directory = tmp_path / "trec"
    for some in cases("trec", 150):
        files, wanted = trec(some)
        write(directory, files)

        def collection():
            return read_trec(directory / "runs", directory / "qrels.txt", Metric.MRR, directory / "groups.txt")

        found = {(run.identity["system"], run.identity["seed"]): run.outcomes for run in collection().runs}
        assert found.keys() == wanted.keys()
        for key, scores in wanted.items():
            measured = found[key].correct[Protocol.OFFICIAL].tolist()
            assert all(math.isclose(a, b) for a, b in zip(measured, scores, strict=True))

        damage = damage_one(some, directory, list(files))
        named = ["one", "two.b", "qrels", "groups"]
        # A file that is gone, or a directory in its place, is an OSError, whose line names it as well.
        keeps_the_law(collection, named, lambda: damage, also=(FileNotFoundError, IsADirectoryError))


@pytest.mark.parametrize(
    "name", ["a.run", "a\x1b[2J.run", "a\nb.run", "\ud8ff.run", ".run", "seed1.run", "x" * 200 + ".run"]
)
def test_any_name_of_a_run_file_is_read_or_refused(name, tmp_path):
    (tmp_path / "runs").mkdir()
    path = (os.fsencode(tmp_path / "runs") + b"/\xff.run") if "\ud8ff" in name else tmp_path / "runs" / name
    with open(path, "w") as file:
        file.write("q 0 d 1 x y\n")
    (tmp_path / "qrels.txt").write_text("q 0 d 1\n")
    keeps_the_law(lambda: read_trec(tmp_path / "runs", tmp_path / "qrels.txt", Metric.TOP1), ["runs"], lambda: name)
