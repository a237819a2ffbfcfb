"""What an earlier split has of a later one: pairs with their answers, single texts, and what copies allow at most."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from support.reference import corpora, fold

from biencoder_ablate.data.corpus import Corpus, Document, Pair, build_corpus
from biencoder_ablate.data.text_table import build_table
from biencoder_ablate.evaluation.candidates import build_task
from biencoder_ablate.evaluation.overlap import count_copies, count_seen, seen_in, text_ceilings


def corpus_of(train: list[tuple[str, str]], test: list[tuple[str, str]], **options: bool) -> Corpus:
    pairs = [Pair("val", "t", "v", "con", 1, "val point", "val counter")]
    for split, rows in (("train", train), ("test", test)):
        for number, (point, counter) in enumerate(rows, start=1):
            pairs.append(Pair(split, "t", "d", "con", number, point, counter))
    return build_corpus("made", pairs, **options)


TRAIN = [("cats purr", "dogs bark"), ("rain falls", "sun shines"), ("roads are long", "lakes are deep")]
TEST = [
    ("cats purr", "dogs bark"),  # the same strings
    ("Rain falls!", "Sun shines."),  # the same texts
    ("lakes are deep", "roads are long"),  # the other way round
    ("cats purr", "new answer"),  # a point that has another counter there
    ("new point", "sun shines"),  # a counter that answers something else there
    ("nothing", "shared"),
]


def test_pairs_and_texts_that_an_earlier_split_has() -> None:
    splits = build_table(corpus_of(TRAIN, TEST)).splits
    counts = count_seen(splits["test"], seen_in([splits["train"]]))
    assert counts == {
        "num_pairs": 6,
        "exact": 1,
        "folded": 2,
        "reversed": 1,
        "near": 0,
        "point": 4,  # rows 1 to 4
        "counter": 4,  # rows 1 to 3, and 5
        "either": 5,
        "both": 3,
    }


def test_a_near_duplicate_of_each_text_makes_a_near_pair() -> None:
    table = build_table(corpus_of([("a long point", "a long counter")], [("a longer point", "a longer counter")]))
    splits = table.splits
    train, test = splits["train"], splits["test"]
    points = sorted([int(train.point_key[0]), int(test.point_key[0])])
    counters = sorted([int(train.counter_key[0]), int(test.counter_key[0])])
    seen = seen_in([train])
    assert count_seen(test, seen, np.array([points, counters]))["near"] == 1
    assert count_seen(test, seen, np.array([points]))["near"] == 0


def test_what_is_graded_0_is_no_pair() -> None:
    pairs = [Pair("train", "t", "d", "con", 1, "point", "counter", grade=0)]
    pairs += [Pair("train", "t", "d", "con", 2, "point", "other")]
    pairs += [Pair(split, "t", "d", "con", 1, "point", "counter") for split in ("val", "test")]
    splits = build_table(build_corpus("made", pairs)).splits
    counts = count_seen(splits["test"], seen_in([splits["train"]]))
    assert counts["folded"] == 0
    assert counts["both"] == 1


@given(corpora())
@settings(max_examples=30, deadline=None)
def test_against_plain_loops(corpus: Corpus) -> None:
    splits = build_table(corpus).splits
    earlier = [*corpus.train, *corpus.val]
    right = [pair for pair in earlier if pair.grade > 0]
    asked = [pair for pair in corpus.test if pair.grade > 0]

    def has(text: str) -> bool:
        return any(fold(text) in (fold(pair.point), fold(pair.counter)) for pair in earlier)

    def is_pair(a: str, b: str) -> bool:
        return any((fold(a), fold(b)) == (fold(pair.point), fold(pair.counter)) for pair in right)

    counts = count_seen(splits["test"], seen_in([splits["train"], splits["val"]]))
    assert counts["num_pairs"] == len(asked)
    assert counts["folded"] == sum(is_pair(pair.point, pair.counter) for pair in asked)
    assert counts["point"] == sum(has(pair.point) for pair in asked)
    assert counts["either"] == sum(has(pair.point) or has(pair.counter) for pair in asked)


def test_queries_of_one_text_with_answers_of_their_own_bound_top_1() -> None:
    # Three rows ask "q": two are answered by "a", one by "b". A fourth asks something else.
    test = [("q", "a"), ("q", "a"), ("q", "b"), ("other", "c")]
    task = build_task(build_table(corpus_of([("x", "y")], test, asks_pairs=True)).splits["test"])
    ceilings = text_ceilings(task)
    assert ceilings["top1"] == 3 / 4  # the copy of "a" is left out where the other is asked for
    assert ceilings["recall@10"] == 1


def test_of_documents_that_are_copies_only_one_comes_first() -> None:
    documents = [Document("d1", "same"), Document("d2", "same"), Document("d3", "else")]
    pairs = [Pair("train", "", "q0", "", 1, "train query", "else", query="q0", document="d3")]
    pairs += [Pair("val", "", "q9", "", 1, "val query", "else", query="q9", document="d3")]
    # Two queries of one text, each with its copy of one answer; a third whose answer is no document.
    pairs += [Pair("test", "", "q1", "", 1, "query", "same", query="q1", document="d1")]
    pairs += [Pair("test", "", "q2", "", 2, "query", "same", query="q2", document="d2")]
    pairs += [Pair("test", "", "q3", "", 3, "third", "gone", query="q3", document="d4")]
    task = build_task(build_table(build_corpus("made", pairs, documents=documents)).splits["test"])
    assert text_ceilings(task) == {"top1": 1 / 3, "recall@10": 2 / 3}
    assert count_copies(task) == {"num_queries": 3, "copied": 0, "equal": 0, "answers_missing": 1}


def test_copies_of_a_query_among_its_candidates() -> None:
    # Row 1's point stands as row 2's counter; row 3's is a folded copy of row 1's.
    test = [("one", "a"), ("two", "one"), ("One.", "b")]
    task = build_task(build_table(corpus_of([("x", "y")], test, asks_pairs=True)).splits["test"])
    counts = count_copies(task)
    assert counts["num_queries"] == 3
    assert counts["copied"] == 1
    assert counts["equal"] == 2


def test_without_queries_nothing_can_be_said() -> None:
    pairs = [Pair("train", "t", "d", "con", 1, "point", "counter")]
    task = build_task(build_table(build_corpus("made", pairs, may_lack=("val", "test"))).splits["test"])
    assert all(math.isnan(value) for value in text_ceilings(task).values())


@pytest.mark.usefixtures("real_corpus")
def test_the_published_test_split_has_616_pairs_of_the_training_split(arguana: Corpus) -> None:
    splits = build_table(arguana).splits
    assert count_seen(splits["test"], seen_in([splits["train"]]))["folded"] == 616
    assert count_seen(splits["test"], seen_in([splits["train"], splits["val"]]))["folded"] == 793
    assert count_copies(build_task(splits["test"]))["copied"] == 214
