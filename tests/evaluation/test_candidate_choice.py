"""What is ranked: the answers of a split, or its answers and points; worked by hand, and against the task epc."""

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.helpers import only_error, run_here, train
from support.reference import ToyModel, corpora

from biencoder_ablate.config.schema import Config, ConfigError, EvaluationConfig, NegativesConfig
from biencoder_ablate.data.candidate_choice import measured_candidates, resolve_candidates
from biencoder_ablate.data.corpus import SPLITS, DataError, Document, Pair, build_corpus
from biencoder_ablate.data.text_table import build_table
from biencoder_ablate.evaluation.baselines import chance_metrics, corpus_baselines, known_baselines
from biencoder_ablate.evaluation.candidates import COUNTER_TASKS, TASKS, build_task
from biencoder_ablate.evaluation.protocols import final_rankings, split_metrics
from biencoder_ablate.model.biencoder import Embeddings
from biencoder_ablate.runs.identity import identity

TINY = ("model=tiny", "training.epochs=0", "head=none")
# Five distinct texts after folding: p, q, a, b, c. The answer a also asks, and is spelled A! once.
#    row  point → counter
ROWS = [
    ("p", "a"),
    ("q", "b"),
    ("a", "c"),
    ("p", "A!"),
]


def hand_made(asks_pairs, candidates="answers", rows=ROWS):
    pairs = [Pair("test", "t", "d", "pro", number, *row) for number, row in enumerate(rows)]
    pairs += [Pair(split, "t", "d", "pro", 1, f"{split} asks", f"{split} answers") for split in ("train", "val")]
    return build_corpus("made", pairs, asks_pairs=asks_pairs, candidates=candidates)


def task_of(corpus, among=None):
    table = build_table(corpus)
    task = build_task(table.splits["test"], among)
    return task, [table.texts[number] for number in task.candidates.text]


def by_row(task, entries):
    rows, candidates = entries
    listed = [[] for _ in range(len(task))]
    for row, candidate in zip(rows.tolist(), candidates.tolist(), strict=True):
        listed[row].append(candidate)
    return [sorted(candidates) for candidates in listed]


# --- worked by hand ---


def test_answers_are_the_distinct_counters_and_a_point_is_none_of_them():
    task, texts = task_of(hand_made(asks_pairs=False))
    assert texts == ["a", "b", "c", "A!"]
    # The queries p (right: a and A!), q and a. Only the point a is a candidate that could answer itself.
    assert by_row(task, task.reachable) == [[0, 3], [1], [2]]
    assert by_row(task, task.official) == [[], [], [0]]
    # Clean also leaves out A!, which is the point a after folding.
    assert by_row(task, task.clean) == [[], [], [0, 3]]
    assert [task.name_of(number) for number in range(4)] == [f"test/t/d/pro0{row}#counter" for row in range(4)]
    assert task.tasks == ()


def test_all_are_the_points_too():
    task, texts = task_of(hand_made(asks_pairs=False), "all")
    assert texts == ["a", "b", "c", "A!", "p", "q"]
    assert by_row(task, task.official) == [[4], [5], [0]]
    assert by_row(task, task.clean) == [[4], [5], [0, 3]]
    assert task.tasks == TASKS


def test_answers_of_the_arguana_protocols_are_the_counters_pair_by_pair():
    rows = [*ROWS, ("r", "a")]
    task, texts = task_of(hand_made(asks_pairs=True, rows=rows))
    assert texts == ["a", "b", "c", "A!", "a"]
    # The same string as the true counter's is left out, whoever's it is; the point itself is none of the candidates.
    assert by_row(task, task.official) == [[4], [], [], [], [0]]
    # Clean: a and A! are one text, as answers and as the point of row 2.
    assert by_row(task, task.clean) == [[3, 4], [], [0, 3, 4], [0, 4], [0, 3]]
    assert task.tasks == COUNTER_TASKS == ("sdoc", "sdc", "stc", "epc")


def test_a_declared_wrong_answer_is_ranked():
    pairs = [Pair("test", "t", "d", "pro", 0, "p", "a"), Pair("test", "t", "d", "pro", 1, "p", "x", grade=0)]
    pairs += [Pair(split, "t", "d", "pro", 1, f"{split} asks", f"{split} answers") for split in ("train", "val")]
    task, texts = task_of(build_corpus("made", pairs, candidates="answers"))
    assert texts == ["a", "x"]
    assert by_row(task, task.reachable) == [[0]]


def test_chance_is_among_the_answers():
    """p has two right answers of four, q one of four, the point a one of the three that are not itself."""
    task, _ = task_of(hand_made(asks_pairs=False))
    assert chance_metrics(task)["top1"] == pytest.approx((2 / 4 + 1 / 4 + 1 / 3) / 3)
    everything, _ = task_of(hand_made(asks_pairs=False), "all")
    assert chance_metrics(everything)["top1"] == pytest.approx((2 / 5 + 1 / 5 + 1 / 5) / 3)


def test_the_nearest_answer_counts_and_not_a_nearer_point():
    """q lies where p is: among answers and points it comes first, among answers the right one does."""
    corpus = hand_made(asks_pairs=False, rows=[("p", "a"), ("q", "b")])
    table = build_table(corpus)
    places = {"p": 0.0, "q": 0.1, "a": 1.0, "b": 2.0}
    r = torch.tensor([[places.get(text, 9.0), 0.0] for text in table.texts])
    top1 = {}
    for among in ("answers", "all"):
        task = build_task(table.splits["test"], among)
        top1[among] = split_metrics(final_rankings(task, Embeddings(r, r, r), None, "none"))["top1"]
    assert top1 == {"answers": 0.5, "all": 0.0}  # q's nearest answer is a


# --- the task epc ---


@pytest.mark.parametrize("asks_pairs", [True, False])
@given(corpora(), st.integers(0, 2**32 - 1), st.sampled_from(["none", 1, 3, 10, "all"]))
@settings(max_examples=15, deadline=None)
def test_among_answers_every_rank_is_that_of_the_task_epc(asks_pairs, corpus, seed, depth):
    table = build_table(replace(corpus, asks_pairs=asks_pairs))
    toy = ToyModel(table.texts, seed)
    for split in table.splits.values():
        everything, answers = build_task(split, "all"), build_task(split, "answers")
        # Whole numbers, for the mean of either set of candidates (see ToyModel).
        scale = len(everything.candidates.distinct) * len(answers.candidates.distinct)
        embeddings = toy.embedded(scale)
        expected = final_rankings(everything, embeddings, toy.head, depth).tasks["epc"]
        found = final_rankings(answers, embeddings, toy.head, depth).official
        assert found.stage1_rank.tolist() == expected.stage1_rank.tolist()
        assert found.final_rank.tolist() == expected.final_rank.tolist()
        names = [
            [task.name_of(first) for first in ranking.first.tolist() if first >= 0]
            for task, ranking in ((answers, found), (everything, expected))
        ]
        assert names[0] == names[1]


# --- what the settings come to ---


def config_of(candidates=None, pool=None, source=False):
    return Config(
        evaluation=EvaluationConfig(candidates=candidates, source=source), negatives=NegativesConfig(pool=pool)
    )


@pytest.mark.parametrize(
    ("own", "candidates", "pool", "expected"),
    [
        ("answers", None, None, ("answers", "answers")),
        ("all", None, None, ("all", "all")),
        ("answers", "all", None, ("all", "all")),
        ("all", "answers", None, ("answers", "answers")),
        ("answers", None, "all", ("answers", "all")),
        ("all", "all", "answers", ("all", "answers")),
    ],
)
def test_null_is_what_the_corpus_says_and_negatives_follow(own, candidates, pool, expected):
    found = resolve_candidates(config_of(candidates, pool), hand_made(False, own))
    assert (found.evaluation.candidates, found.negatives.pool) == expected


def test_null_and_its_default_name_the_same_run_and_the_other_another():
    corpus = hand_made(False, "answers")
    names = [
        identity(resolve_candidates(config_of(*asked), corpus), "d", "m", "fp32")
        for asked in ((None, None), ("answers", None), ("answers", "answers"), ("all", None), (None, "all"))
    ]
    assert names[0] == names[1] == names[2]
    assert names[0] not in names[3:] and names[3] != names[4]
    assert names[0]["evaluation"]["candidates"] == names[0]["negatives"]["pool"] == "answers"


def of_documents():
    pairs = [Pair(split, "", "q", "", 1, f"{split} asks", "d", query=split, document="d") for split in SPLITS]
    return build_corpus("beir", pairs, documents=[Document("d", "d"), Document("e", "e")], candidates="answers")


def test_documents_leave_no_choice():
    assert resolve_candidates(config_of("answers"), of_documents()) == resolve_candidates(config_of(), of_documents())
    with pytest.raises(ConfigError, match=r"evaluation\.candidates=all: the documents of data=beir"):
        resolve_candidates(config_of("all"), of_documents())


def test_the_source_studys_figure_needs_its_candidates():
    with pytest.raises(ConfigError, match=r"evaluation\.source=true"):
        resolve_candidates(config_of("answers", source=True), hand_made(True))


def test_a_reader_with_another_word_is_refused():
    with pytest.raises(DataError, match="candidates=some; must be answers or all"):
        hand_made(False, "some")


@pytest.mark.parametrize(
    ("evaluation", "tasks", "expected"),
    [
        ({"candidates": "answers"}, {}, "answers"),
        ({"candidates": "all"}, {"epa": {}}, "all"),
        ({"rerank": 10}, {"epa": {}}, "all"),  # from before the setting, on pairs
        ({"rerank": 10}, {}, "answers"),  # and on documents
    ],
)
def test_a_finished_run_says_what_it_ranked(evaluation, tasks, expected):
    assert measured_candidates({"evaluation": evaluation}, {"test": {"tasks": tasks}}) == expected


def test_baselines_among_answers_are_kept_apart(tmp_path):
    corpus = hand_made(asks_pairs=False)
    table = build_table(corpus)
    for among in ("all", "answers"):
        tasks = {name: build_task(table.splits[name], among) for name in ("val", "test")}
        corpus_baselines(tmp_path, corpus.fingerprint, table.texts, tasks)
    chance = {}
    for among in ("all", "answers", None):
        determined_by = {"data": corpus.fingerprint, "model": {}, "training": {"precision": "fp32"}}
        determined_by["evaluation"] = {"candidates": among} if among else {}
        chance[among] = known_baselines(tmp_path, determined_by)["chance"]["test"]["top1"]
    assert chance["answers"] == pytest.approx((2 / 4 + 1 / 4 + 1 / 3) / 3)
    assert chance["all"] == chance[None] == pytest.approx(0.8 / 3)


# --- through the program ---


@pytest.fixture(scope="module")
def sample_runs(tmp_path_factory):
    """The sample ranked both ways by one model that is only evaluated."""
    folder = tmp_path_factory.mktemp("both")
    command = ("data=sample", "model=tiny", "head=none", "training.epochs=0", f"cache_dir={folder / 'cache'}")
    return {among: train(folder, *command, f"evaluation.candidates={among}") for among in ("all", "answers")}


def records_of(run):
    lines = (run / "rankings.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def test_on_the_sample_official_among_answers_is_the_task_epc(sample_runs):
    everything, answers = records_of(sample_runs["all"]), records_of(sample_runs["answers"])
    assert [record["rank"] for record in answers] == [record["ranks"]["epc"] for record in everything]
    assert [record["stage1_rank"] for record in answers] == [record["stage1_ranks"]["epc"] for record in everything]
    assert any(record["rank"] != record["ranks"]["epc"] for record in everything)
    assert all(record["first"].endswith("#counter") for record in answers)
    assert json.loads((sample_runs["answers"] / "result.json").read_text())["test"]["tasks"] == {}


def test_null_on_the_sample_is_all_and_the_run_is_there_already(sample_runs):
    folder = sample_runs["all"].parents[2]
    command = ("data=sample", "model=tiny", "head=none", "training.epochs=0", f"cache_dir={folder / 'cache'}")
    assert "already" in run_here(command, folder).stdout
    manifest = json.loads((sample_runs["all"] / "manifest.json").read_text())
    assert manifest["determined_by"]["evaluation"]["candidates"] == "all"
    log = (sample_runs["answers"] / "train.log").read_text()
    assert "ranked     among the answers: val 48 queries, 48 candidates; test 48 queries, 48 candidates" in log


def test_beir_with_all_is_refused_in_one_line(tmp_path):
    folder = tmp_path / "set"
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text('{"_id": "d", "text": "answer"}\n{"_id": "e", "text": "other"}\n')
    (folder / "queries.jsonl").write_text('{"_id": "q", "text": "asks"}\n')
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\td\t1\n")
    here = tmp_path / "here"
    here.mkdir()
    command = (*TINY, "data=beir", f"data.path={folder}", "evaluation.candidates=all")
    assert "evaluation.candidates=all" in only_error(run_here(command, here), here)
