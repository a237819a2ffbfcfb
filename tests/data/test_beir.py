"""data=beir: what is read, what is refused, and figures equal to those of the tools that others use."""

import json
import random
import sys

import ir_measures
import pytest
import torch
from ir_measures import AP, RR, Qrel, R, ScoredDoc, Success, nDCG
from support.helpers import REPOSITORY, only_error, read, run_here, train, zip_directory

from biencoder_ablate.audit import audit
from biencoder_ablate.data.corpus import SPLITS, DataError
from biencoder_ablate.data.text_table import build_table
from biencoder_ablate.evaluate import evaluate
from biencoder_ablate.evaluation.candidates import build_task
from biencoder_ablate.evaluation.protocols import final_rankings, point_records, split_metrics
from biencoder_ablate.model.biencoder import Embeddings
from biencoder_ablate.training.negatives import build_pool

sys.path.append(str(REPOSITORY / "scripts"))
WORDS = [f"word{number}" for number in range(30)]
MEASURES = {"top1": Success @ 1, "mrr": RR, "ndcg@10": nDCG @ 10, "map": AP, "recall@1": R @ 1, "recall@10": R @ 10}


def write(directory, splits, documents=40, queries=12, seed=0):
    """A data set with random texts; `splits`: file → (query, document, grade) rows."""
    some = random.Random(seed)
    (directory / "qrels").mkdir(parents=True)
    rows = [
        {"_id": f"d{i}", "title": f"Title {i}." * (i % 2), "text": " ".join(some.choices(WORDS, k=6))}
        for i in range(documents)
    ]
    rows.append({"_id": "q1", "title": "", "text": "a document under a query's id"})
    asked = [{"_id": f"q{i}", "text": "what of " + " ".join(some.choices(WORDS, k=4))} for i in range(queries)]
    for name, objects in (("corpus", rows), ("queries", asked)):
        (directory / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in objects))
    for file, judged in splits.items():
        lines = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, row)) for row in judged)]
        (directory / "qrels" / f"{file}.tsv").write_text("\n".join(lines) + "\n")
    return directory


def random_qrels(queries, seed=0):
    some = random.Random(seed)
    return [(q, f"d{d}", some.choice([0, 1, 1, 2, 3])) for q in queries for d in some.sample(range(40), 5)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    names = [f"q{i}" for i in range(12)]
    splits = {
        "train": random_qrels(names[:6]),
        "dev": random_qrels(names[6:8]),
        "test": random_qrels([*names[8:], "q1"]),
    }
    return write(tmp_path_factory.mktemp("beir"), splits)


# --- what is read ---


def test_documents_queries_and_judgements(tmp_path):
    rows = [("q0", "d1", 2), ("q0", "d2", 0), ("q0", "d2", 1), ("q3", "d5", 0), ("q1", "d4", 1)]
    corpus = read("beir", write(tmp_path / "set", {"test": rows}))
    texts = {document.id: document.text for document in corpus.documents}
    assert len(texts) == 41 and texts["d1"].startswith("Title 1. word") and texts["d2"].startswith("word")
    found = [(pair.query, pair.document, pair.grade, pair.counter) for pair in corpus.test]
    assert found == [("q0", "d1", 2, texts["d1"]), ("q0", "d2", 1, texts["d2"]), ("q1", "d4", 1, texts["d4"])]
    assert [pair.number for pair in corpus.test] == [1, 2, 1], "which answer of its query"
    assert (corpus.train, corpus.val) == ((), ())
    assert any("only evaluating" in note for note in corpus.notes)
    assert any("1 queries are documents too" in note and "ignore_identical_ids" in note for note in corpus.notes)


def test_a_zip_with_a_folder_is_the_same(whole, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "name").symlink_to(whole)
    files = tmp_path / "copy" / "name"
    for path in (p for p in whole.rglob("*") if p.is_file()):
        (files / path.relative_to(whole)).parent.mkdir(parents=True, exist_ok=True)
        (files / path.relative_to(whole)).write_bytes(path.read_bytes())
    zipped = zip_directory(tmp_path / "copy", tmp_path / "set.zip")
    assert read("beir", zipped) == read("beir", whole) == read("beir", tmp_path / "copy")
    assert (
        read("beir", whole).fingerprint != read("beir", write(tmp_path / "b", {"test": [("q0", "d1", 1)]})).fingerprint
    )


def test_without_dev_a_fifth_of_the_training_queries_is_val(tmp_path):
    rows = random_qrels([f"q{i}" for i in range(10)])
    directory = write(tmp_path / "set", {"train": rows, "test": [("q11", "d0", 1)]})
    corpus, other = read("beir", directory), read("beir", directory, split_seed=1)
    queries = [{pair.query for pair in corpus.split(name)} for name in SPLITS]
    assert [len(of) for of in queries] == [8, 2, 1] and not queries[0] & queries[1]
    assert other.fingerprint != corpus.fingerprint
    assert any("2 training queries" in note for note in corpus.notes)


def test_a_document_of_a_title_only_is_one_and_empty_ones_are_counted(tmp_path):
    directory = write(tmp_path / "set", {"test": [("q0", "d1", 1)]})
    rows = [
        {"_id": "d1", "title": "A title", "text": ""},
        {"_id": "d2", "title": None, "text": "a text"},
        {"_id": "d3", "title": "", "text": " "},
    ]
    (directory / "corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = read("beir", directory)
    assert [document.text for document in corpus.documents] == ["A title", "a text", ""]
    assert "1 documents have neither title nor text" in corpus.notes
    (directory / "corpus.jsonl").write_text('{"_id": "d1", "title": "", "text": ""}\n')
    with pytest.raises(DataError, match=r"corpus\.jsonl: no document has a text"):
        read("beir", directory)
    (directory / "queries.jsonl").write_text('{"_id": "q0", "text": " "}\n')
    (directory / "corpus.jsonl").write_text('{"_id": "d1", "text": "a"}\n')
    with pytest.raises(DataError, match=r"queries\.jsonl, line 1: text is empty"):
        read("beir", directory)


def test_blanks_around_ids_are_no_part_of_them(tmp_path):
    rows = [("q0", "d1", 2), ("q3", "d5", 1)]
    plain = read("beir", write(tmp_path / "plain", {"test": rows}))
    padded = write(tmp_path / "padded", {"test": [(f" {query}", f"{name} ", grade) for query, name, grade in rows]})
    for file in ("corpus", "queries"):
        path = padded / f"{file}.jsonl"
        path.write_text(path.read_text().replace('"_id": "', '"_id": " '))
    assert read("beir", padded) == plain
    path.write_text('{"_id": "q0", "text": "a"}\n{"_id": "q0 ", "text": "b"}\n')
    with pytest.raises(DataError, match="line 2: _id q0 is there twice"):
        read("beir", padded)


@pytest.mark.parametrize("document", ["D1", "1.0", "d1.txt"])
@pytest.mark.parametrize("file", ["train", "dev", "test"])
def test_a_split_none_of_whose_answers_is_a_document_is_refused(tmp_path, document, file):
    splits = {"train": [("q0", "d1", 1)], "dev": [("q1", "d2", 1)], "test": [("q2", "d3", 1)]}
    splits[file] = [("q4", document, 1), ("q4", "d4", 0)]
    split = "val" if file == "dev" else file
    with pytest.raises(
        DataError, match=f"none of the right answers of {split} .*: {document} in qrels/, d0, d1, d2 in"
    ):
        read("beir", write(tmp_path / "set", splits))


def test_what_is_not_read_or_replaced_is_said(tmp_path):
    rows = [("q0", "d1", 1), ("q0", "d1", 1), ("q0", "d2", 1), ("q0", "d2", 0)]
    directory = write(tmp_path / "set", {"test": rows, "validation": [("q1", "d1", 1)]})
    corpus = read("beir", directory)
    assert [pair.document for pair in corpus.test] == ["d1"]
    assert "qrels/test.tsv: 1 judged again with another score; the last one stands" in corpus.notes
    assert any("not read: validation.tsv; must be called train.tsv, dev.tsv, test.tsv" in note for note in corpus.notes)


def test_a_first_line_that_is_no_header_is_a_judgement(tmp_path):
    directory = write(tmp_path / "set", {"test": []})
    (directory / "qrels" / "test.tsv").write_text("q0\td1\t-1\nq0\td2\t1\n")
    assert [pair.document for pair in read("beir", directory).test] == ["d2"]


# --- figures ---


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Sixty documents, fifteen queries with graded judgements; one query is a document, one judges what is missing, one
    judges itself. Returns the test split, its rankings by a random embedding, the embedding and the judgements."""
    names = [f"q{i}" for i in range(12)]
    rows = [*random_qrels(names), ("q2", "missing", 1), ("q1", "q1", 2), ("q3", "gone", 3)]
    rows = [row for row in rows if row[0] != "q3" or row[1] == "gone"]
    corpus = read("beir", write(tmp_path_factory.mktemp("measured") / "set", {"test": rows}))
    table = build_table(corpus)
    unit = torch.nn.functional.normalize(torch.randn(len(table.texts), 16, generator=torch.Generator().manual_seed(0)))
    prepared = build_task(table.splits["test"])
    found = final_rankings(prepared, Embeddings(unit, unit, unit), None, "none")
    return corpus, found, dict(zip(table.texts, unit, strict=True)), rows


def test_figures_equal_ir_measures(measured):
    corpus, found, embedding, rows = measured
    qrels = [Qrel(query, document, grade) for query, document, grade in rows]
    query_text = {pair.query: pair.point for pair in corpus.test}
    run = [
        ScoredDoc(query, document.id, float(embedding[text] @ embedding[document.text]))
        for query, text in query_text.items()
        for document in corpus.documents
        if document.id != query
    ]
    expected = ir_measures.calc_aggregate(list(MEASURES.values()), qrels, run)
    values = split_metrics(found)
    assert {name: values[name] for name in MEASURES} == pytest.approx(
        {name: expected[measure] for name, measure in MEASURES.items()}, abs=1e-6
    )
    assert values["tasks"] == {} and values["num_points"] == len(query_text)


def test_what_is_missing_is_never_found(measured):
    _, found, _, _ = measured
    records = {record["id"]: record for record in point_records(found)}
    assert records["test/q3"]["answers"] == [[None, 3, 10**9 + 1, 10**9 + 1]]
    assert [None, 2, 10**9 + 1, 10**9 + 1] in records["test/q1"]["answers"], "its own document is no candidate"
    assert records["test/q1"]["first"] != "q1"


def test_figures_equal_sentence_transformers(tmp_path):
    """Binary there, and a query's own document stays in: judged so here."""
    pytest.importorskip("sentence_transformers")
    import beir_equality

    rows = [(q, d, 1) for q, d, grade in random_qrels([f"q{i}" for i in range(12)]) if grade and q != "q1"]
    corpus = read("beir", write(tmp_path / "set", {"test": rows}))
    table = build_table(corpus)
    unit = torch.nn.functional.normalize(torch.randn(len(table.texts), 16, generator=torch.Generator().manual_seed(0)))
    values = split_metrics(final_rankings(build_task(table.splits["test"]), Embeddings(unit, unit, unit), None, "none"))
    qrels = {query: {d: 1 for q, d, _ in rows if q == query} for query, *_ in rows}
    expected = beir_equality.by_sentence_transformers(
        {pair.query: pair.point for pair in corpus.test},
        {document.text: document.id for document in corpus.documents},
        qrels,
        dict(zip(table.texts, unit, strict=True)),
    )
    assert {name: values[name] for name in expected} == pytest.approx(expected, abs=1e-6)


# --- the whole program ---


def test_negatives_come_from_all_documents(whole):
    corpus = read("beir", whole)
    table = build_table(corpus)
    pool = build_pool(table.splits["train"])
    assert [table.texts[text] for text in pool.text] == [document.text for document in corpus.documents]
    for row, pair in enumerate(corpus.train):
        forbidden = {corpus.documents[at].id for at in pool.excluded[1][pool.excluded[0] == row]}
        assert forbidden == {other.document for other in corpus.train if other.query == pair.query}


def test_a_run_its_audit_and_its_evaluation(whole, tmp_path):
    run = train(tmp_path, "data=beir", f"data.path={whole}", "model=tiny", "training.epochs=1", "neg_ratio=1")
    result = json.loads((run / "result.json").read_text())
    assert (result["val"]["num_points"], result["test"]["num_points"]) == (2, 5)
    report = audit(["data=beir", f"data.path={whole}", "model=tiny"])
    assert report["splits"]["test"]["num_documents"] == 41
    assert report["splits"]["test"]["candidates"]["true"] == len(read("beir", whole).test)
    other = write(tmp_path / "other", {"test": random_qrels(["q0", "q5"])}, seed=1)
    again = evaluate(run, ["data=beir", f"data.path={other}"], baselines=True, quiet=True)
    assert list(again["measured"]) == ["test"] and again["measured"]["test"]["num_points"] == 2


def test_without_training_judgements_it_only_evaluates(tmp_path):
    directory = write(tmp_path / "set", {"test": [("q0", "d1", 1), ("q2", "d3", 1)]})
    (tmp_path / "here").mkdir()
    asked = ["data=beir", f"data.path={directory}", "model=tiny"]
    said = only_error(run_here(asked, tmp_path / "here"), tmp_path / "here")
    assert said.startswith("training.epochs=") and "must be 0 (only evaluate)" in said
    run = train(tmp_path, *asked, "training.epochs=0", "evaluation.rerank=none")
    result = json.loads((run / "result.json").read_text())
    assert result["test"]["num_points"] == 2 and result["val"]["top1"] is None
    assert "only evaluating" in (run / "train.log").read_text()
    again = run_here([*asked, "training.epochs=0", "evaluation.rerank=none"], tmp_path)
    assert again.returncode == 0 and "finished" in again.stdout


@pytest.mark.slow
def test_the_real_corpus_in_this_format_has_the_figures_of_other_tools(real_corpus, tmp_path, monkeypatch):
    import beir_equality

    monkeypatch.setattr(sys, "argv", ["beir_equality.py", str(real_corpus), "-o", str(tmp_path)])
    assert beir_equality.main() == 0
