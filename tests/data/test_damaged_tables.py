"""Damaged tables of every reader: each is refused in one line that names the file, and where in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from support.damage import keeps_the_law
from support.helpers import read

from biencoder_ablate.config.schema import DataConfig
from biencoder_ablate.data.readers import load_corpus
from biencoder_ablate.data.tabular import read_table
from biencoder_ablate.report.external import read_csv
from biencoder_ablate.retrieve import read_texts

Content = str | bytes


def check_refused(read: Any, named: list[str], said: str | list[str], content: object) -> None:
    """The law of the damaged, and these words in the line."""
    lines: list[str] = []

    def refuse() -> None:
        try:
            read()
        except ValueError as error:
            lines.append(str(error))
            raise

    keeps_the_law(refuse, named, lambda: content)
    assert lines, f"{content!r} is read"
    for words in [said] if isinstance(said, str) else said:
        assert words in lines[0]


def write(path: Path, content: Content) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# --- any csv, tsv or jsonl ---


@pytest.mark.parametrize(
    ("content", "suffix", "message"),
    [
        ("a,b\n1,2\n1,2,3\n", ".csv", "T, line 3: more fields than columns; quote texts that hold commas"),
        ("a,b\n1,2\n1\n", ".csv", "T, line 3: 1 fields for 2 columns"),
        ("a\tb\n1\n", ".tsv", "T, line 2: 1 fields for 2 columns; keep the tabs around empty ones"),
        ("a,x,X\n1,2,3\n", ".csv", "T: two columns are called x; keep one of them"),
        ('{"a": "1", "a": "2"}\n', ".jsonl", "T, line 1: two keys are called a; keep one of them"),
        ('{"a": "1", "A ": "2"}\n', ".jsonl", "T, line 1: two keys are called a; keep one of them"),
        ('a,b\n1,"x\n2,y\n', ".csv", "T, line 2: unexpected end of data; double the quotation marks"),
        ('a,b\n1,x\n2,"co', ".csv", "T, line 3: unexpected end of data"),
        ('a\tb\n"1"\t"x"\n"2"\t"co', ".tsv", "T, line 3: unexpected end of data"),
        ('a,b\n1,"x" y\n', ".csv", "T, line 2: ',' expected after '\"'"),
        ('{"a": "1"}\n{"a": "co', ".jsonl", "T, line 2: not JSON (Unterminated string"),
        ("[1]\n", ".jsonl", "T, line 1: must be a JSON object"),
        ("x\x1b[31m,b\n1,2\n", ".csv", "T: no column a; found x\\x1b[31m, b"),
        (b"a,b\n1,\xff\n", ".csv", "T: not UTF-8 (byte 6); save it as UTF-8"),
        (b"\xef\xbb\xbfa,b\n1,\xff\n", ".csv", "T: not UTF-8 (byte 9)"),
        ("a,b\n1,2\n".encode("utf-16"), ".csv", "T: not UTF-8 (byte 0)"),
        ("a,b\n1,2\n".encode("utf-16-le"), ".csv", "T: no column a; found a\\x00"),
        ("a,b\x00\n1,2\n", ".csv", "T: NUL in the name of a column, found a, b\\x00; save the file as UTF-8"),
    ],
)
def test_a_damaged_table(content, suffix, message):
    given = content if isinstance(content, bytes) else content.encode()
    check_refused(lambda: read_table("T", suffix, given, ["a"]), ["T"], message, content)


# --- data=pairs ---


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.csv", "", ["no rows"]),
        ("a.csv", "point,counter\n", ["no rows"]),
        ("a.csv", "claim,counter,c\na,b,c\n", ["which column asks? data.point=…; found claim, counter, c"]),
        ("a.csv", "point,reply,c\na,b,c\n", ["which column answers? data.counter=…; found point, reply, c"]),
        ("a.csv", "point;counter\na;b\n", ["data.counter=…; found point;counter", "separator ;? save with commas"]),
        ("a.csv", "Cars are loud.,They are not.\na,b\n", ["which columns ask", "the first row must name the columns"]),
        ("a.csv", "query,question,answer\na,b,c\n", ["which column asks? data.point=…; found query, question, answer"]),
        ("a.csv", "Point,counter,point\na,b,c\n", ["two columns are called point"]),
        ("a.csv", "point,counter\na,b\nnan,c\n", ["line 3", "point is nan"]),
        ("a.csv", "point,counter\na, NaN\nc,d\n", ["line 2", "counter is NaN"]),
        ("a.jsonl", '{"point": "nan", "counter": "b"}\n', ["line 1", "point is nan"]),
        ("a.csv", "point,counter\na,b\nc,d,e\n", ["line 3", "more fields"]),
        ("a.csv", 'point,counter\na,b\nc,"d" e\nf,g\n', ["line 3"]),
        ("a.csv", 'point,counter\na,b\nc,"d\ne,f\n', ["line 3"]),
        ("a.csv", '"point,counter\na,b\n', ["line 1"]),
        ("a.csv", "point,counter\na,b\n,c\n", ["line 3", "no point"]),
        ("a.csv", "point,counter,split\na,b,train\nc,d,trian\n", ["line 3", "split=trian", "train, val or test"]),
        ("a.csv", "point,counter,split\na,b,train\nc,d,\n", ["line 3", "no split"]),
        ("a.csv", "point,counter,stance\na,b,pro\nc,d,against\ne,f,con\n", ["line 3", "stance=against", "pro, con"]),
        ("a.csv", "point,counter,split\na,b,val\nc,d,test\n", ["no split train"]),
        ("a.csv", "point,counter\na,b\nc,d\n", ["at least 3"]),
        ("a.csv", b"point,counter\na,\xff\n", ["not UTF-8", "byte 16"]),
        ("a.tsv", "point,counter\na,b\n", ["which columns ask and answer"]),
        ("a.jsonl", "", ["no rows"]),
        ("a.jsonl", '{"point": "a", "counter": "b"}\n\n{"point": "c"\n', ["line 3", "not JSON"]),
        ("a.jsonl", '["a", "b"]\n', ["line 1", "object"]),
        ("a.jsonl", '{"point": "a", "counter": "b"}\n{"point": 3, "counter": "b"}\n', ["line 2", "point is 3"]),
        ("a.jsonl", '{"counter": "b", "point": "c"}\n{"counter": "b"}\n', ["line 2", "no point"]),
        (
            "a.jsonl",
            '{"point": "a", "counter": "b", "split": "train"}\n{"point": "c", "counter": "d"}\n',
            ["line 2", "no split"],
        ),
        ("a.jsonl", '{"point": "lone \\ud800 half", "counter": "b"}\n', ["line 1", "point"]),
        ("a.jsonl", "[" * 100_000, ["line 1", "not JSON"]),
    ],
)
def test_a_damaged_table_of_pairs(name, content, said, tmp_path):
    path = write(tmp_path / name, content)
    is_of_all = said == ["at least 3"]  # the corpus lacks something, and no line is to blame
    check_refused(lambda: read("pairs", path), ["data=pairs", "debates:"] if is_of_all else [str(path)], said, content)


# --- data=hub ---

PAIRS = [{"query": f"question {i // 2}", "answer": f"answer {i}"} for i in range(20)]


@pytest.mark.parametrize(
    ("rows", "keys", "said"),
    [
        ([row | {"label": 0} for row in PAIRS], {}, "a column label, so not every row need be a right answer"),
        ([row | {"query": 3} for row in PAIRS], {}, "row 0: query is 3; must be text"),
        ([*PAIRS, {"query": None, "answer": "a"}], {}, "row 20: query must be one text; it has 0"),
        (PAIRS[:2], {}, "debates: 1; to be split"),
        ([row | {"split": "later"} for row in PAIRS], {"split": "split"}, "row 0: split=later; must be train, val or"),
    ],
)
def test_a_damaged_table_of_the_datasets_library(rows, keys, said, tmp_path):
    import datasets

    path = tmp_path / "d.parquet"
    datasets.Dataset.from_list(rows).to_parquet(path)
    settings = DataConfig("hub", str(path), **keys)
    check_refused(lambda: load_corpus(settings), [str(path), "debates:"], said, rows)


# --- data=beir ---

JSON_OBJECT = "must be a JSON object with _id and text"
ROWS: dict[str, list[Mapping[str, object]]] = {
    "corpus": [{"_id": "d0", "text": "a text"}, {"_id": "d1", "text": "another"}],
    "queries": [{"_id": "q0", "text": "a question"}],
}


def write_beir(directory: Path, rows: Mapping[str, list[Mapping[str, object]]]) -> Path:
    (directory / "qrels").mkdir(parents=True)
    for name, objects in rows.items():
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in objects))
    (directory / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq0\td1\t1\n")
    return directory


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("corpus.jsonl", '{"_id": "d0", "text": "a"}\nno\n', "corpus.jsonl, line 2: not JSON"),
        ("corpus.jsonl", '{"text": "a"}\n', "corpus.jsonl, line 1: must be a JSON object with _id"),
        ("queries.jsonl", '{"_id": "q0", "text": "a"}\n' * 2, "queries.jsonl, line 2: _id q0 is there twice"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\nq0\td1\n", "qrels/test.tsv, line 2: must be query-id"),
        ("qrels/test.tsv", "q0\td1\t1.5\n" * 2, "qrels/test.tsv, line 1: must be query-id"),
        ("qrels/test.tsv", "q0\td1\t1\nq99\td1\t1\n", "line 2: query q99 is not in queries.jsonl"),
        ("qrels/test.tsv", "q0\td1\t0\n", "no judgement above 0 in qrels/test.tsv"),
        ("queries.jsonl", None, "no queries.jsonl"),
        ("corpus.jsonl", None, "no corpus.jsonl"),
    ],
)
def test_a_damaged_file_of_a_data_set_of_beir(file, text, said, tmp_path):
    directory = write_beir(tmp_path / "set", ROWS)
    (directory / file).unlink() if text is None else (directory / file).write_text(text)
    check_refused(lambda: read("beir", directory), [str(directory)], said, text)


@pytest.mark.parametrize("file", ["corpus", "queries"])
@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"contents": "a"}, [f"line 2: no text; {JSON_OBJECT}; found _id, contents"]),
        ({"title": "Of debates", "passage": "a"}, ["line 2: no text; ", "found _id, title, passage"]),
        ({"query": "a"}, ["line 2: no text; ", "found _id, query"]),
        ({"Text": "a"}, ["line 2: no text; ", "found _id, Text"]),
        ({"text": None}, ["line 2: text is null; must be text"]),
        ({"text": ["a"]}, ["line 2: text is ['a']; must be text"]),
        ({"text": 3}, ["line 2: text is 3; must be text"]),
        ({"text": {"en": "a"}}, ["line 2: text is {'en': 'a'}; must be text"]),
        ({"text": "\ud800"}, ["line 2: text holds half a surrogate pair"]),
        ({"text": "a", "title": ["b"]}, ["line 2: title is ['b']; must be text"]),
        ({"text": "a", "title": 0}, ["line 2: title is 0; must be text"]),
    ],
)
def test_a_row_of_beir_whose_text_is_none_is_refused_with_the_keys_it_has(file, fields, said, tmp_path):
    rows = [{"_id": "d1", "text": "a text"}, {"_id": "d2"} | fields]
    directory = write_beir(tmp_path / "set", ROWS | {file: rows})
    check_refused(lambda: read("beir", directory), [f"{directory}, {file}.jsonl"], said, fields)


# --- another program's scores ---


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("system,seed,query\na,0,q\n", "no column value"),
        ("seed,query,value\n0,q,1\n", "no column system"),
        ("a,0,q,1\na,0,r,0\n", "seed, query, value; its first line must name the columns; found a, 0, q, 1"),
        ("system,seed,query,value\na,0,q,x\n", "line 2: value=x; must be a number"),
        ("system,seed,query,value\na,one,q,1\n", "line 2: seed=one"),
        ("system,seed,query,value\na,0,q,1\na,0,q,1\n", "line 3: query q again"),
        ("system,seed,query,value\na,0,q,1\nb,0,r,1\n", "has no value of 1 queries, r"),
        ("system,seed,query,value,baseline\na,0,q,1,yes\nb,0,q,1,yes\n", "baseline is yes for a, b"),
        (
            "system,seed,query,value,baseline\na,0,q,1,\nb,0,q,1,bm25\n",
            "line 3: baseline=bm25; must be 1, true, yes or",
        ),
        ("system,seed,query,value\na,7,q,1\na,07,q,0\n", "line 3: query q again for system a, seed 7"),
        ("system,seed,query,value\na,0,q,1\na,0.0,q,0\n", "line 3: query q again for system a, seed 0"),
        ("system,seed,query,value\na,²,q,1\n", "line 2: seed=²; must be a whole number"),
        ("system,seed,query,value\na,0,q,1\na,,q,0\n", "system a has runs with and without seeds ("),
        ("system,seed,query,value\na,0,q,1e308\n", "line 2: value=1e308; must be a number"),
        ("system,seed,query,value,size\na,0,q,1,2\na,1,q,1,3\n", "line 3: system a has other factors than above, size"),
    ],
)
def test_a_damaged_table_of_scores(text, message, tmp_path):
    path = write(tmp_path / "r.csv", text)
    check_refused(lambda: read_csv([path]), ["r.csv"], message, text)


# --- the candidates of a search ---


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("cut.csv", "text,note\nZoos are cruel, but old.\n1,2,3\n", "cut.csv, line 3: more fields than columns"),
        ("twice.csv", "text,text\na,b\n", "twice.csv: two columns are called text"),
        ("number.jsonl", '{"text": "a"}\n{"text": 3}\n', "number.jsonl, line 2: text is 3; must be text"),
    ],
)
def test_a_damaged_table_of_candidates(name, content, said):
    check_refused(
        lambda: read_texts("--candidates", Path(name), content.encode(), ("text",)),
        [f"--candidates {name}"],
        said,
        content,
    )
