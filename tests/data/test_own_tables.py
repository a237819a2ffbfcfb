"""Anyone's table: columns, groups, names and splits, by the same words for data=pairs and data=hub."""

import csv
import json
from collections import Counter

import pytest
from support.helpers import train

from biencoder_ablate.config.schema import DataConfig
from biencoder_ablate.data.corpus import SPLITS, DataError
from biencoder_ablate.data.pair_columns import ANSWERS, ASKS
from biencoder_ablate.data.readers import load_corpus
from biencoder_ablate.data.splitting import split_debates, split_folds
from biencoder_ablate.evaluate import main as evaluate

FAQ = [
    {"nr": f"q{i}", "product": f"p{i // 3}", "question": f"Question {i}?", "answer": f"Answer {i}."} for i in range(15)
]
"""Five products with three questions each."""
FAQ_KEYS = {"group": "product", "id": "nr"}


@pytest.fixture(params=["pairs", "hub"])
def reader(request):
    if request.param == "hub":
        pytest.importorskip("datasets")
    return request.param


def write(path, rows):
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def read(reader, path, rows, **keys):
    return load_corpus(DataConfig(reader, str(write(path, rows)), **keys))


def pairs_of(corpus):
    return [pair for split in SPLITS for pair in corpus.split(split)]


@pytest.fixture
def table(tmp_path):
    return tmp_path / "table.csv"


# --- which columns ask and answer ---


def test_usual_names_are_understood_and_said(reader, table):
    for asks, answers in [
        *zip(ASKS, ["Answer", *ANSWERS], strict=False),
        ("anchor", "positive"),
        ("query", "positive"),
    ]:
        rows = [{"nr": i, asks: f"q {i}", "x": i, answers: f"a {i}"} for i in range(5)]
        corpus = read(reader, table, rows)
        assert {(pair.point, pair.counter) for pair in pairs_of(corpus)} == {(f"q {i}", f"a {i}") for i in range(5)}
        assert corpus.notes[0] == f"{asks} asks, {answers} answers"


def test_keys_name_any_two_columns_whatever_their_case(reader, table):
    rows = [{"Frage": f"q {i}", "Antwort": f"a {i}", "Falsch": f"n {i}", "query": "x"} for i in range(5)]
    corpus = read(reader, table, rows, point="frage", counter="Antwort", negative="FALSCH")
    found = [(pair.point, pair.counter, pair.grade) for pair in pairs_of(corpus) if pair.point == "q 3"]
    assert found == [("q 3", "a 3", 1), ("q 3", "n 3", 0)]
    assert corpus.notes[0] == "Frage asks, Antwort answers, Falsch does not"


@pytest.mark.parametrize(
    ("names", "keys", "said"),
    [
        (("a", "b", "c"), {}, r"which columns ask and answer\? data.point=… data.counter=…; found a, b, c$"),
        (("query", "question", "answer"), {}, r"which column asks\? data.point=…; found query, question, answer$"),
        (("question", "answer", "passage"), {}, r"which column answers\? data.counter=…; found question, answer, pass"),
        (("a", "b", "c"), {"point": "b"}, r"which column answers\? data.counter=…; found a, b, c$"),
        (("a", "b", "c"), {"point": "b", "counter": "d"}, r"no column d \(data.counter\); found a, b, c$"),
        (("question", "answer"), {"group": "product"}, r"no column product \(data.group\); found question, answer$"),
        (("question", "answer"), {"id": "nr"}, r"no column nr \(data.id\); found question, answer$"),
        (("I ask this.", "And I answer."), {}, r"which columns .*the first row must name the columns"),
    ],
)
def test_where_it_is_not_plain_the_columns_found_and_the_keys_are_said(reader, table, names, keys, said):
    with pytest.raises(DataError, match=said):
        read(reader, table, [{name: f"{name} {i}" for name in names} for i in range(5)], **keys)


def test_the_program_s_own_names_go_before_others(reader, table):
    rows = [{"question": "x", "point": f"q {i}", "counter": f"a {i}", "answer": "y"} for i in range(5)]
    assert {pair.counter for pair in pairs_of(read(reader, table, rows))} == {f"a {i}" for i in range(5)}


# --- groups, names and splits ---


def test_a_group_is_in_one_split_and_the_debate_of_its_pairs(reader, table):
    corpus = read(reader, table, FAQ, **FAQ_KEYS)
    chosen = split_debates([("", f"p{i}") for i in range(5)], 0)
    assert {(pair.debate, pair.split) for pair in pairs_of(corpus)} == {(name, chosen["", name]) for _, name in chosen}
    assert "grouped by product: 5 groups" in corpus.notes
    assert corpus.notes[-1] == (
        "val and test cut from train by data.split_seed=0, whole groups by product: train 3, val 1, test 1"
    )


def test_a_key_goes_before_a_column_debate_which_goes_before_the_point(reader, table):
    rows = [row | {"debate": f"d{i % 4}"} for i, row in enumerate(FAQ)]
    assert {pair.debate for pair in pairs_of(read(reader, table, rows))} == {f"d{i}" for i in range(4)}
    by_key = read(reader, table, rows, group="product")
    assert {pair.debate for pair in pairs_of(by_key)} == {f"p{i}" for i in range(5)}
    assert "columns that are not read: nr, debate" in by_key.notes
    assert len({pair.debate for pair in pairs_of(read(reader, table, FAQ))}) == len(FAQ)


def test_groups_of_one_name_are_one_whatever_their_theme(table):
    rows = [row | {"theme": f"t{i % 3}"} for i, row in enumerate(FAQ)]
    corpus = read("pairs", table, rows, group="product")
    assert len({(pair.debate, pair.split) for pair in pairs_of(corpus)}) == 5


def test_rows_without_a_group_are_grouped_by_their_point_and_counted(reader, table):
    rows = [row | {"product": "" if i < 2 else row["product"]} for i, row in enumerate(FAQ)]
    corpus = read(reader, table, rows, group="product")
    assert "grouped by product: 5 groups; 2 rows without one are grouped by their point" in corpus.notes
    assert len({pair.debate for pair in pairs_of(corpus)}) == 7


def test_names_are_the_rows_own(reader, table):
    answers = [*FAQ, FAQ[4] | {"answer": "Another answer 4."}, FAQ[7] | {"nr": "q7b", "answer": "Another answer 7."}]
    corpus = read(reader, table, answers, **FAQ_KEYS)
    names = {pair.counter: pair.id.split("/", 1)[1] for pair in pairs_of(corpus)}
    assert names["Answer 3."] == "q3"
    assert (names["Answer 4."], names["Another answer 4."]) == ("q4", "q4/2"), "one id for a question's rows"
    assert (names["Answer 7."], names["Another answer 7."]) == ("q7", "q7b")
    assert corpus.fingerprint != read(reader, table, answers, group="product").fingerprint


def test_a_wrong_answer_never_takes_its_question_s_name(reader, table):
    graded = [row | {"grade": 1} for row in FAQ]
    rows = [FAQ[0] | {"answer": "Wrong.", "grade": 0}, *graded]
    names = {pair.counter: pair.name for pair in pairs_of(read(reader, table, rows, id="nr"))}
    assert (names["Answer 0."], names["Wrong."]) == ("q0", "q0/2")


@pytest.mark.parametrize(
    ("change", "said"),
    [({"nr": "q0"}, r"nr=q0 \(data.id\) names the point of .*(line 2|row 0) as well"), ({"nr": ""}, "no nr .data.id.")],
)
def test_a_name_that_is_missing_or_another_point_s_is_refused_by_row(reader, table, change, said):
    with pytest.raises(DataError, match=f"(line 4|row 2): {said}"):
        read(reader, table, [row | (change if i == 2 else {}) for i, row in enumerate(FAQ)], id="nr")


@pytest.mark.parametrize(("given", "drawn"), [(("train", "test"), "val"), (("train", "dev"), "test")])
def test_a_split_that_a_column_lacks_is_cut_from_train_and_said(reader, table, given, drawn):
    rows = [row | {"Teil": given[i >= 12]} for i, row in enumerate(FAQ)]
    corpus = read(reader, table, rows, split="teil", group="product")
    sizes = {split: len({pair.debate for pair in corpus.split(split)}) for split in SPLITS}
    assert sizes == {"train": 3, "val": 1, "test": 1}
    later = "test" if drawn == "val" else "val"
    assert {pair.debate for pair in corpus.split(later)} == {"p4"}, "what the column says stays"
    assert corpus.notes[-1].startswith(f"{drawn} cut from train by data.split_seed=0, whole groups by product")


@pytest.mark.parametrize("split_seed", range(4))
def test_val_is_a_fifth_of_train_alone(reader, table, split_seed):
    """Not of train and test together, whose groups the column has placed."""
    rows = [
        {"question": f"question {i}", "answer": f"answer {i}", "split": ("train", "test")[i % 2]} for i in range(20)
    ]
    corpus = read(reader, table, rows, split_seed=split_seed)
    assert [len(corpus.split(split)) for split in SPLITS] == [8, 2, 10]


def test_a_column_split_is_known_by_its_name(reader, table):
    rows = [row | {"split": ("train", "val", "test")[i % 3]} for i, row in enumerate(FAQ)]
    corpus = read(reader, table, rows)
    assert [len(corpus.split(split)) for split in SPLITS] == [5, 5, 5]
    assert not any("cut from train" in note for note in corpus.notes)


def test_both_readers_split_a_table_alike(tmp_path):
    pytest.importorskip("datasets")
    for keys in ({}, FAQ_KEYS, {"folds": 3, "fold": 1, "group": "product"}):
        found = []
        for name in ("pairs", "hub"):
            corpus = read(name, tmp_path / "t.csv", FAQ, **keys)
            found.append({(pair.split, pair.point, pair.counter) for pair in pairs_of(corpus)})
        # Without groups a row's debate is called by its line in one, by its place in the other, in the same order.
        assert found[0] == found[1]


# --- columns that may judge the rows ---


@pytest.mark.parametrize("key", ["group", "id"])
@pytest.mark.parametrize("column", ["label", "score", "is_answer"])
def test_a_column_that_may_judge_the_rows_is_not_a_group_or_a_name_instead(reader, table, key, column):
    rows = [row | {column: i % 2} for i, row in enumerate(FAQ)]
    with pytest.raises(DataError, match=f"a column {column}, so not every row need be a right answer"):
        read(reader, table, rows, **{key: column})
    graded = [row | {"grade": 1} for row in rows]
    if key == "group":
        assert {pair.debate for pair in pairs_of(load_graded(reader, table, graded, column))} == {"0", "1", "2"}


def load_graded(reader, table, rows, group):
    rows = [row | {group: i % 3} for i, row in enumerate(rows)]
    return read(reader, table, rows, group=group)


@pytest.mark.parametrize("keys", [FAQ_KEYS, {"point": "question", "counter": "answer"}])
def test_beside_the_keys_a_judging_column_is_refused_and_grades_count(reader, table, keys):
    with pytest.raises(DataError, match="a column relevance, so not every row"):
        read(reader, table, [row | {"relevance": 1} for row in FAQ], **keys)
    corpus = read(reader, table, [row | {"Grade": i % 3 + 1} for i, row in enumerate(FAQ)], **keys)
    assert Counter(pair.grade for pair in pairs_of(corpus)) == {1: 5, 2: 5, 3: 5}


@pytest.mark.parametrize("key", ["group", "id", "split"])
def test_a_column_grade_is_nothing_else(reader, table, key):
    with pytest.raises(DataError, match=rf"data.{key}=grade: a column grade grades the rows"):
        read(reader, table, [row | {"grade": 1} for row in FAQ], **{key: "grade"})


# --- what a run writes ---


def test_a_run_s_files_have_the_names(table, tmp_path):
    write(table, FAQ)
    arguments = ["data=pairs", f"data.path={table}", "data.group=product", "data.id=nr", "model=tiny"]
    run = train(tmp_path, *arguments, "model.max_tokens=16", "training.epochs=0", "evaluation.rerank=none")
    records = [json.loads(line) for line in (run / "rankings.jsonl").read_text().splitlines()]
    tested = [record for record in records if record["split"] == "test"]
    (product,) = {record["debate"] for record in tested}
    mine = [row["nr"] for row in FAQ if row["product"] == product]
    assert [record["id"] for record in tested] == [f"test/{name}" for name in mine]
    assert [record["answers"][0][0] for record in tested] == [f"test/{name}#counter" for name in mine]
    assert evaluate([str(run), "--trec", str(tmp_path / "trec")]) == 0
    qrels = (tmp_path / "trec" / "test.qrels").read_text().splitlines()
    assert [line.split()[0] for line in qrels] == mine


# --- folds ---


@pytest.mark.parametrize("num_groups", [3, 7, 10])
def test_each_group_is_tested_in_one_fold_and_selects_in_another(num_groups):
    groups = [("", f"g{i}") for i in range(num_groups)]
    folds = [split_folds(groups, 5, 3, fold) for fold in range(3)]
    for group in groups:
        assert sorted(fold[group] for fold in folds) == ["test", "train", "val"]
    sizes = [Counter(fold.values())["test"] for fold in folds]
    assert max(sizes) - min(sizes) <= 1
    for fold in range(3):
        assert {group for group in groups if folds[fold][group] == "val"} == {
            group for group in groups if folds[(fold + 1) % 3][group] == "test"
        }
    assert split_folds(groups, 6, 3, 0) != folds[0] or num_groups == 3


def test_folds_are_of_whole_groups_and_said(reader, table):
    folds = [read(reader, table, FAQ, **FAQ_KEYS, folds=4, fold=fold) for fold in range(4)]
    assert sorted(pair.point for corpus in folds for pair in corpus.test) == sorted(row["question"] for row in FAQ)
    for corpus in folds:
        assert len({(pair.debate, pair.split) for pair in pairs_of(corpus)}) == 5
        assert corpus.folds | {"fold": 0} == folds[0].folds
    assert folds[1].notes[-1].startswith("fold 1 of data.folds=4 is test, the next is val; dealt by data.split_seed=0")
    changed = [row | {"answer": f"{row['answer']} More."} for row in FAQ]
    other = read(reader, table, changed, **FAQ_KEYS, folds=4, fold=0)
    assert other.folds != folds[0].folds, "folds of other texts are not pooled with these"


def test_the_sample_has_folds_of_whole_debates():
    folds = [load_corpus(DataConfig(folds=5, fold=fold)) for fold in range(5)]
    tested = [pair.point for corpus in folds for pair in corpus.test]
    assert len(set(tested)) == len(tested) == len(pairs_of(folds[0]))
    assert {len({pair.debate for pair in corpus.test}) for corpus in folds} == {6}


def test_folds_of_a_table_that_says_its_splits_and_more_folds_than_groups_are_refused(reader, table):
    rows = [row | {"split": ("train", "val", "test")[i % 3]} for i, row in enumerate(FAQ)]
    with pytest.raises(DataError, match=r"data\.folds=3: .* says itself what is train, val and test"):
        read(reader, table, rows, folds=3, fold=0)
    with pytest.raises(DataError, match=r"data\.folds=6: only 5 groups of pairs"):
        read(reader, table, FAQ, group="product", folds=6, fold=0)
