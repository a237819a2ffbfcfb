"""data=hub: data sets written by the real `datasets` library, and by hand as its users have them, read back."""

import json
import os

import pytest
from support.helpers import train

from biencoder_ablate.audit import main as audit
from biencoder_ablate.config.registry import check_corpus
from biencoder_ablate.config.schema import ConfigError, DataConfig
from biencoder_ablate.data.corpus import SPLITS, DataError
from biencoder_ablate.data.readers import load_corpus
from biencoder_ablate.evaluate import main as evaluate

datasets = pytest.importorskip("datasets")

ROWS = [{"query": f"Question {i}?", "answer": f"Answer {i}."} for i in range(20)]


def hub(path, **keys):
    return load_corpus(DataConfig("hub", str(path), **keys))


def read(path, **keys):
    """{split: [(point, counter), …]}"""
    corpus = hub(path, **keys)
    return {name: [(pair.point, pair.counter) for pair in corpus.split(name)] for name in SPLITS}


def table(rows=ROWS):
    return datasets.Dataset.from_list(rows)


def as_parquet(folder):
    table().to_parquet(folder / "data.parquet")
    return folder / "data.parquet"


def as_csv(folder):
    table().to_csv(folder / "data.csv")
    return folder / "data.csv"


def as_tsv(folder):
    table().to_csv(folder / "data.tsv", sep="\t")
    return folder / "data.tsv"


def as_jsonl(folder):
    table().to_json(folder / "data.jsonl")
    return folder / "data.jsonl"


def as_saved(folder):
    table().save_to_disk(folder / "saved")
    return folder / "saved"


@pytest.mark.parametrize("write", [as_parquet, as_csv, as_tsv, as_jsonl, as_saved])
def test_every_format_gives_the_same_corpus(write, tmp_path, capfd):
    path, other = write(tmp_path), as_jsonl(tmp_path)
    capfd.readouterr()
    corpus = hub(path)
    assert capfd.readouterr() == ("", ""), "none of the library's own progress"
    assert [len(corpus.split(name)) for name in SPLITS] == [12, 4, 4]
    pairs = {(pair.point, pair.counter) for name in SPLITS for pair in corpus.split(name)}
    assert pairs == {(row["query"], row["answer"]) for row in ROWS}
    assert corpus.notes[0] == "query asks, answer answers" and "val and test cut from train" in corpus.notes[1]
    assert corpus.fingerprint == hub(other).fingerprint


@pytest.mark.parametrize("how", ["saved", "files"])
def test_a_data_set_s_own_splits_count(how, tmp_path):
    parts = {"train": ROWS[:10], "validation": ROWS[10:14], "test": ROWS[14:]}
    if how == "saved":
        datasets.DatasetDict({name: table(rows) for name, rows in parts.items()}).save_to_disk(tmp_path / "saved")
    else:
        (tmp_path / "saved").mkdir()
        for name, rows in parts.items():
            table(rows).to_parquet(tmp_path / "saved" / f"{name}-00000-of-00001.parquet")
    found = read(tmp_path / "saved")
    for name, split in (("train", "train"), ("validation", "val"), ("test", "test")):
        assert found[split] == [(row["query"], row["answer"]) for row in parts[name]]


def test_a_split_that_is_missing_is_cut_from_train_and_one_of_another_name_left_out(tmp_path):
    parts = {"train": ROWS[:10], "test": ROWS[10:15], "extra": ROWS[15:]}
    datasets.DatasetDict({name: table(rows) for name, rows in parts.items()}).save_to_disk(tmp_path / "saved")
    corpus = hub(tmp_path / "saved")
    assert [len(corpus.split(name)) for name in SPLITS] == [8, 2, 5]
    assert {pair.point for pair in corpus.val} < {row["query"] for row in ROWS[:10]}
    assert any("extra is left out" in note for note in corpus.notes)
    assert hub(tmp_path / "saved", split_seed=1).val != corpus.val


def test_columns_by_key(tmp_path):
    words = ["train", "dev", "test"]
    rows = [
        {"id": f"{i}", "Titel": f"t {i}", "frage": f"f {i}", "antwort": f"a {i}", "teil": words[i % 3]}
        for i in range(9)
    ]
    table(rows).to_parquet(tmp_path / "d.parquet")
    found = read(tmp_path / "d.parquet", point="frage", counter="antwort", split="teil")
    assert found["val"] == [("f 1", "a 1"), ("f 4", "a 4"), ("f 7", "a 7")]
    with pytest.raises(DataError, match=r"which columns ask and answer\? .*found id, Titel, frage, antwort, teil"):
        hub(tmp_path / "d.parquet", split="teil")
    with pytest.raises(DataError, match=r"no column Fragen \(data.point\); found id, Titel"):
        hub(tmp_path / "d.parquet", point="Fragen")


@pytest.mark.parametrize("names", [("anchor", "positive"), ("sentence1", "sentence2"), ("ask", "say"), ("x", "answer")])
def test_usual_names_and_the_only_two_columns_are_found(names, tmp_path):
    table([dict(zip(names, row.values(), strict=True)) for row in ROWS]).to_parquet(tmp_path / "d.parquet")
    assert hub(tmp_path / "d.parquet").notes[0] == f"{names[0]} asks, {names[1]} answers"


def test_several_answers_and_none(tmp_path):
    rows = [{"query": f"q {i}", "answers": [f"a {i}", " ", f"b {i}"]} for i in range(5)]
    rows += [{"query": "q 0", "answers": ["c 0"]}, {"query": "q 9", "answers": []}]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    corpus = hub(tmp_path / "d.jsonl", counter="answers")
    of_first = [(name, pair.counter) for name in SPLITS for pair in corpus.split(name) if pair.point == "q 0"]
    assert [counter for _, counter in of_first] == ["a 0", "b 0", "c 0"]
    assert len({name for name, _ in of_first}) == 1, "a point with all its rows is in one split"
    assert sum(corpus.incomplete.values()) == 1


def test_negatives_are_candidates_that_are_no_answers_where_their_column_is_named(tmp_path):
    rows = [{"anchor": f"q {i}", "positive": f"a {i}", "negative": [f"n {i}", f"m {i}"]} for i in range(5)]
    table(rows).to_parquet(tmp_path / "d.parquet")
    corpus = hub(tmp_path / "d.parquet", negative="negative")
    grades = [(pair.counter, pair.grade) for name in SPLITS for pair in corpus.split(name) if pair.point == "q 0"]
    assert grades == [("a 0", 1), ("n 0", 0), ("m 0", 0)]
    assert corpus.notes[0] == "anchor asks, positive answers, negative does not"
    without = hub(tmp_path / "d.parquet")
    assert {pair.grade for name in SPLITS for pair in without.split(name)} == {1}


NEGATIVES = [{"anchor": f"q {i}", "positive": [f"a {i}", f"b {i}"], "negative": [f"n {i}", f"m {i}"]} for i in range(9)]


@pytest.mark.parametrize("keys", [{}, {"negative": "negative"}])
def test_each_text_of_a_row_has_a_name_of_its_own(keys, tmp_path):
    table(NEGATIVES).to_parquet(tmp_path / "d.parquet")
    corpus = hub(tmp_path / "d.parquet", **keys)
    names = [pair.id for name in SPLITS for pair in corpus.split(name)]
    assert len(set(names)) == len(names) == (36 if keys else 18)
    texts = [pair.counter for name in SPLITS for pair in corpus.split(name) if pair.point == "q 4"]
    assert texts == ["a 4", "b 4", "n 4", "m 4"][: len(texts)], "in the order of the row"


def test_ir_measures_finds_a_run_s_own_metrics_in_its_trec_files(tmp_path):
    ir_measures = pytest.importorskip("ir_measures")
    table(NEGATIVES).to_parquet(tmp_path / "d.parquet")
    arguments = ["data=hub", f"data.path={tmp_path / 'd.parquet'}", "data.negative=negative", "model=tiny"]
    run = train(tmp_path, *arguments, "training.epochs=0", "evaluation.rerank=none")
    assert evaluate([str(run), "--trec", str(tmp_path / "trec")]) == 0
    qrels = list(ir_measures.read_trec_qrels(str(tmp_path / "trec" / "test.qrels")))
    ranking = list(ir_measures.read_trec_run(str(tmp_path / "trec" / "test.run")))
    assert len({(row.query_id, row.doc_id) for row in qrels}) == len(qrels) == 4
    assert len({(row.query_id, row.doc_id) for row in ranking}) == len(ranking)
    metrics = {"top1": "Success@1", "mrr": "RR", "ndcg@10": "nDCG@10", "map": "AP"}
    measures = {name: ir_measures.parse_measure(word) for name, word in metrics.items()}
    values = ir_measures.calc_aggregate(list(measures.values()), qrels, ranking)
    own = json.loads((run / "result.json").read_text())["test"]
    for name, measure in measures.items():
        assert values[measure] == pytest.approx(own[name], abs=1e-6), name
    for line in (run / "rankings.jsonl").read_text().splitlines():
        answers = [name for name, *_ in json.loads(line)["answers"]]
        assert len(set(answers)) == len(answers) == 2


# --- columns that say which rows are right ---


def judged(right, wrong, column):
    return [row | {column: right} for row in ROWS] + [
        {"query": row["query"], "answer": f"Not {row['answer']}", column: wrong} for row in ROWS
    ]


@pytest.mark.parametrize("keys", [{}, {"point": "query", "counter": "answer"}])
@pytest.mark.parametrize(
    "column", ["label", "Label", "score", "similarity_score", "is_duplicate", "relevance", "rating"]
)
@pytest.mark.parametrize("values", [(1, 0), (True, False), (1.0, 0.0), ([1], [0])])
def test_a_column_that_may_judge_rows_is_never_ignored(column, values, keys, tmp_path):
    table(judged(*values, column)).to_parquet(tmp_path / "d.parquet")
    with pytest.raises(
        DataError, match=f"a column {column}, so not every row need be a right answer; rename it to gra"
    ):
        hub(tmp_path / "d.parquet", **keys)


@pytest.mark.parametrize("column", ["grade", "Grade"])
@pytest.mark.parametrize("values", [(1, 0), (True, False), (1.0, 0.0)])
@pytest.mark.parametrize("kind", ["parquet", "csv", "json"])
def test_called_grade_it_counts(kind, values, column, tmp_path):
    getattr(table(judged(*values, column)), f"to_{kind}")(tmp_path / f"d.{kind}")
    corpus = hub(tmp_path / f"d.{kind}")
    found = [
        (pair.counter, pair.grade) for name in SPLITS for pair in corpus.split(name) if pair.point == "Question 3?"
    ]
    assert found == [("Answer 3.", 1), ("Not Answer 3.", 0)]
    assert not corpus.incomplete


def test_a_grade_that_is_none_is_named_and_a_point_without_a_right_answer_counted(tmp_path):
    table(judged(0.5, 0.0, "grade")).to_parquet(tmp_path / "d.parquet")
    with pytest.raises(DataError, match=r"train, row 0: grade=0.5; must be an integer of 0 or more, or empty"):
        hub(tmp_path / "d.parquet")
    rows = [row | {"grade": 0 if number == 0 else 2} for number, row in enumerate(ROWS)]
    table(rows).to_parquet(tmp_path / "e.parquet")
    assert sum(hub(tmp_path / "e.parquet").incomplete.values()) == 1


def test_columns_that_are_not_read_are_said(tmp_path):
    table([row | {"id": 1, "source": "x"} for row in ROWS]).to_parquet(tmp_path / "d.parquet")
    assert "columns that are not read: id, source" in hub(tmp_path / "d.parquet").notes


# --- files, read anew ---


@pytest.mark.parametrize("write", [as_parquet, as_csv, as_jsonl])
@pytest.mark.parametrize("as_directory", [False, True])
def test_a_file_that_kept_its_size_and_time_is_read_for_what_it_holds(write, as_directory, tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    path = write(folder)
    stamp = path.stat()
    first = hub(folder if as_directory else path)
    rows = [row | {"answer": row["answer"].replace("Answer", "Orange")} for row in ROWS]
    changed = table(rows)
    {".parquet": changed.to_parquet, ".csv": changed.to_csv, ".jsonl": changed.to_json}[path.suffix](path)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (stamp.st_size, stamp.st_mtime_ns)
    again = hub(folder if as_directory else path)
    assert {pair.counter for pair in again.train} <= {row["answer"] for row in rows}
    assert again.fingerprint != first.fingerprint


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_a_directory_of_tables_is_read_as_its_files_are(suffix, tmp_path):
    (tmp_path / "d").mkdir()
    rows = [*ROWS, {"query": "NA", "answer": '"null'}]
    separator = "," if suffix == ".csv" else "\t"
    table(rows).to_csv(tmp_path / "d" / f"train{suffix}", sep=separator)
    table([{"query": "x", "answer": "NaN1"}]).to_csv(tmp_path / "d" / f"test{suffix}", sep=separator)
    found = read(tmp_path / "d")
    assert ("NA", '"null') in found["train"] + found["val"]
    assert found["test"] == [("x", "NaN1")]


def test_words_that_a_csv_reader_takes_for_nothing_are_texts(tmp_path):
    rows = [*ROWS, {"query": "NA", "answer": "null"}]
    table(rows).to_csv(tmp_path / "d.csv")
    assert ("NA", "null") in [pair for pairs in read(tmp_path / "d.csv").values() for pair in pairs]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (DataConfig("hub"), "data.path is missing"),
        (DataConfig("hub", "no/such/place"), "no such file or directory"),
        (DataConfig("hub", "no/such.csv"), "no such file or directory"),
        (DataConfig("hub", __file__), "must be a data set's name on the hub"),
        (DataConfig("pairs", __file__, subset="a"), "data.subset=a: is for data=hub; data=pairs has no use of it"),
        (DataConfig("arguana", __file__, group="a"), "data.group=a: is for data=pairs and data=hub; data=arguana"),
        (DataConfig("hub", ".", point="a", counter="a"), "data.counter=a: is data.point as well"),
    ],
)
def test_settings_that_cannot_be_are_refused_before_anything_is_read(settings, said):
    with pytest.raises(ConfigError, match=said):
        check_corpus(settings)


def test_what_cannot_be_loaded_is_said_in_one_line(tmp_path):
    (tmp_path / "d.parquet").write_bytes(b"PAR1 not really")
    for path in (tmp_path / "d.parquet", "nobody/no-such-data-set"):
        with pytest.raises(DataError, match=r"datasets cannot load it \([^\n]+\); must be") as refused:
            hub(path)
        assert "\n" not in str(refused.value)


def test_a_run_and_the_audit_take_it(tmp_path, capsys):
    path = as_parquet(tmp_path)
    run = train(tmp_path, "data=hub", f"data.path={path}", "model=tiny", "model.max_tokens=16", "training.epochs=1")
    assert json.loads((run / "result.json").read_text())["test"]["num_points"] == 4
    assert "query asks, answer answers" in (run / "train.log").read_text()
    capsys.readouterr()
    assert audit(["data=hub", f"data.path={path}", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["splits"]["train"]["num_pairs"] == 12
