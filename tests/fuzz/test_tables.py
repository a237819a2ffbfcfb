# ruff: noqa: B023 - what is defined in a loop is called in it
"""Tables of every reader, whole and damaged: right, or refused in one good line that names the file."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest
from support.damage import NUMBERS, WORDS, cases, damaged, damaged_json, damaged_value, keeps_the_law
from support.helpers import read

from biencoder_ablate.data.corpus import SPLITS, Corpus, text_key
from biencoder_ablate.report.external import read_csv
from biencoder_ablate.report.read import Protocol
from biencoder_ablate.retrieve import read_texts

LETTERS = "abc déß,;\t\"'\\\n日本é\u0301-.?!#=@C+%0123"
"""What texts are made of."""
ROWS = list[dict[str, str]]


def text(some: Random) -> str:
    """A text that is no number and has no blanks at its ends, nor any that a reader could trim."""
    return "T" + "".join(some.choices(LETTERS, k=some.randrange(12))) + "."


def pair_rows(some: Random, plain: bool = False) -> ROWS:
    """Rows of all splits, with some columns or with others; without tabs and line ends where `plain`."""
    rows = []
    for number in range(some.randrange(3, 10)):
        row = {"point": f"{number} {text(some)}", "counter": text(some), "split": SPLITS[number % 3]}
        row |= {"theme": some.choice("ab"), "debate": f"d{number % 3}", "stance": some.choice(("pro", "con", ""))}
        row["grade"] = some.choice("1123")
        rows.append(row)
    optional = [column for column in ("theme", "debate", "stance", "grade") if some.random() < 0.5]
    kept = ["point", "counter", "split", *optional]
    some.shuffle(kept)
    swap = str.maketrans("\t\n", "  ")
    rows = [{name: row[name].translate(swap) if plain else row[name] for name in kept} for row in rows]
    return [{name: value.strip() for name, value in row.items()} for row in rows]


def as_table(some: Random, rows: ROWS, suffix: str) -> bytes:
    """The rows in a file as some program might write it: all that is written here is the same table."""
    end = some.choice(("\n", "\r\n", "\r") if suffix != ".jsonl" else ("\n", "\r\n"))
    if suffix == ".jsonl":
        lines = [json.dumps(row, ensure_ascii=some.random() < 0.5) for row in rows]
        lines = [line for line in lines for line in (line, *[" "] * (some.random() < 0.1))]
        content = "".join(line + end for line in lines)
    else:
        file = io.StringIO()
        # The writer leaves \n unquoted in lines that end in \r.
        quoting = csv.QUOTE_ALL if end == "\r" else some.choice((csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
        delimiter = "," if suffix == ".csv" else "\t"
        writer = csv.writer(file, delimiter=delimiter, lineterminator=end, quoting=quoting)
        spell = some.choice((str.lower, str.upper, str.title))
        writer.writerow([spell(name) for name in rows[0]])
        for row in rows:
            writer.writerow(row.values())
            if some.random() < 0.1:
                file.write(end)
        content = file.getvalue()
    return some.choice((b"", b"\xef\xbb\xbf")) + content.encode()


def listed(corpus: Corpus) -> Counter[tuple[str, str, str, int]]:
    return Counter((pair.split, pair.point, pair.counter, pair.grade) for name in SPLITS for pair in corpus.split(name))


def wanted(rows: ROWS) -> Counter[tuple[str, str, str, int]]:
    return Counter((row["split"], row["point"], row["counter"], int(row.get("grade", 1))) for row in rows)


SUFFIXES = (".csv", ".tsv", ".jsonl")
SEPARATOR = {".csv": b",", ".tsv": b"\t", ".jsonl": b", "}


def spoiled(some: Random, content: bytes, suffix: str) -> bytes:
    return damaged_json(some, content) if suffix == ".jsonl" else damaged(some, content, SEPARATOR[suffix])


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_pairs_that_are_whole_are_what_was_written(suffix, tmp_path):
    for some in cases(f"pairs{suffix}"):
        rows = pair_rows(some, plain=suffix == ".tsv")
        path = tmp_path / f"a{suffix}"
        path.write_bytes(as_table(some, rows, suffix))
        assert listed(read("pairs", path)) == wanted(rows), path.read_bytes()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damaged_pairs_are_read_or_refused(suffix, tmp_path):
    num_read = 0
    for some in cases(f"pairs{suffix}", 400):
        path = tmp_path / f"a{suffix}"
        content = spoiled(some, as_table(some, pair_rows(some, plain=suffix == ".tsv"), suffix), suffix)
        path.write_bytes(content)
        corpus = keeps_the_law(lambda: read("pairs", path), [str(path), "data=pairs", "debates:"], lambda: content)
        num_read += corpus is not None
    assert num_read > 0


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_of_pairs_that_are_cut_short_no_text_is_another(suffix, tmp_path):
    """Whatever is still read was there; only the very last text may have lost its end, and then it is said."""
    for some in cases(f"cut pairs{suffix}"):
        rows = pair_rows(some, plain=suffix == ".tsv")
        whole = as_table(some, rows, suffix)
        content = whole[: some.randrange(len(whole))]
        path = tmp_path / f"a{suffix}"
        path.write_bytes(content)
        corpus = keeps_the_law(lambda: read("pairs", path), [str(path), "data=pairs", "debates:"], lambda: content)
        if corpus is None:
            continue
        other = listed(corpus) - wanted(rows)
        said = any("no line end" in note for note in corpus.notes)
        assert other.total() <= said, (content, other)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_tables_of_the_datasets_library_are_read_or_refused(suffix, tmp_path):
    pytest.importorskip("datasets")
    usual = 15 if suffix == ".jsonl" else 40
    for some in cases(f"hub{suffix}", usual):
        rows = [{name: row[name] for name in ("point", "counter")} for row in pair_rows(some, plain=True)]
        path = tmp_path / f"a{suffix}"
        whole = as_table(some, rows, suffix).replace(b" \n", b"")
        path.write_bytes(whole)
        corpus = read("hub", path)
        found = Counter((pair.point, pair.counter) for name in SPLITS for pair in corpus.split(name))
        assert found == Counter((row["point"], row["counter"]) for row in rows), whole

        content = spoiled(some, whole, suffix)
        path.write_bytes(content)
        keeps_the_law(lambda: read("hub", path), [str(path), "data=hub", "debates:"], lambda: content)


def test_parquet_files_are_read_or_refused(tmp_path):
    pytest.importorskip("datasets")
    import pyarrow as pa
    import pyarrow.parquet as pq

    for number, some in enumerate(cases("hub.parquet", 25)):
        path = tmp_path / f"a{number}.parquet"
        columns = {name: [row[name] for row in pair_rows(some)][:3] for name in ("point", "counter")}
        values = damaged_value(some, columns) if some.random() < 0.6 else columns
        try:
            pq.write_table(pa.table(values), path)
        except (pa.ArrowException, AttributeError, TypeError, ValueError, OverflowError, UnicodeError):
            continue  # no table at all
        content = path.read_bytes()
        if some.random() < 0.5:
            content = damaged(some, content)
            path.write_bytes(content)
        keeps_the_law(lambda: read("hub", path), [str(path), "data=hub", "debates:"], lambda: (values, content))


# --- another program's scores ---


def scores(some: Random) -> tuple[list[list[str]], dict[tuple[str, int, str], float]]:
    """A table for --from, and what each system scores with each seed at each query."""
    systems, queries = ["a", "b, c", 'd"'][: some.randrange(1, 4)], [f"q {i}" for i in range(some.randrange(1, 5))]
    values = {
        (system, seed, query): round(some.uniform(-3, 3), 3)
        for system in systems
        for seed in (0, 7)
        for query in queries
    }
    rows = [["system", "seed", "query", "value", "group", "baseline"]]
    for (system, seed, query), value in values.items():
        rows.append([system, str(seed), query, str(value), f"g{query[-1]}", "1" if system == "a" else ""])
    return rows, values


def test_tables_of_scores_are_read_or_refused(tmp_path):
    path = tmp_path / "r.csv"
    num_read = 0
    for some in cases("from.csv", 300):
        rows, values = scores(some)
        order = some.sample(range(6), 6)
        whole = as_table(some, [dict(zip([rows[0][i] for i in order], [row[i] for i in order], strict=True))
                                for row in rows[1:]], ".csv")  # fmt: skip
        path.write_bytes(whole)
        found = {
            (run.identity["system"], run.identity["seed"], query): value
            for run in read_csv([path]).runs
            for query, value in zip(run.outcomes.ids, run.outcomes.correct[Protocol.OFFICIAL].tolist(), strict=True)
        }
        assert found == values

        content = damaged(some, whole)
        path.write_bytes(content)
        num_read += keeps_the_law(lambda: read_csv([path]), ["r.csv"], lambda: content) is not None
    assert num_read > 0


# --- the candidates and points of a search ---


@pytest.mark.parametrize("option", ["--candidates", "--points"])
@pytest.mark.parametrize("suffix", [*SUFFIXES, ".txt"])
def test_texts_to_search_are_read_or_refused(option, suffix):
    columns = ("counter", "point") if option == "--candidates" else ("point",)
    for some in cases(f"{option}{suffix}", 150):
        rows = pair_rows(some, plain=suffix in (".tsv", ".txt"))
        path = Path(f"a{suffix}")
        if suffix == ".txt":
            texts = [row["point"] for row in rows]
            whole = "\n".join(texts).encode()
        else:
            texts = [row[column] for row in rows for column in columns]
            whole = as_table(some, rows, suffix)
        assert [found for _, found in read_texts(option, path, whole, columns)] == texts

        content = spoiled(some, whole, suffix) if suffix != ".txt" else damaged(some, whole, b" ")
        keeps_the_law(lambda: read_texts(option, path, content, columns), [f"{option} {path}"], lambda: content)


def test_any_word_in_a_cell_is_read_or_refused(tmp_path):
    """Each word by itself in each column, as damages by chance leave some out."""
    path = tmp_path / "a.jsonl"
    for column in ("point", "counter", "split", "debate", "grade"):
        for value in (*WORDS, *NUMBERS, None, True, 3, 1e308, [], {}, ["a"], float("nan")):
            rows: Sequence[dict] = [{"point": f"p{i}", "counter": f"c{i}", "split": SPLITS[i]} for i in range(3)]
            rows[1][column] = value
            content = "".join(json.dumps(row) + "\n" for row in rows)
            path.write_text(content)
            corpus = keeps_the_law(lambda: read("pairs", path), [str(path), "data=pairs"], lambda: content)
            if corpus is not None and column in ("point", "counter"):
                kept = [getattr(pair, column) for name in SPLITS for pair in corpus.split(name)]
                assert all(text_key(str(value)) in {text_key(found) for found in kept} for _ in kept)
