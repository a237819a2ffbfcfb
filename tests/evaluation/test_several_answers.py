"""Points with several right answers, graded or not: candidates, ranks, figures, records, what is trained on."""

import itertools
import json
import math
from collections import Counter
from dataclasses import replace

import ir_measures
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ir_measures import AP, RR, Qrel, R, ScoredDoc, Success, nDCG
from support.helpers import read
from support.reference import PLACES, TASKS, ToyModel, fold, in_both_roles, in_candidate_order, same

from biencoder_ablate.audit import candidate_totals
from biencoder_ablate.config.schema import Config, TrainingConfig
from biencoder_ablate.data.corpus import SPLITS, Pair, build_corpus, make_disjoint, text_key
from biencoder_ablate.data.text_table import build_table
from biencoder_ablate.evaluation import distances, metrics
from biencoder_ablate.evaluation.baselines import chance_metrics
from biencoder_ablate.evaluation.candidates import build_task
from biencoder_ablate.evaluation.protocols import final_rankings, leave_out_seen, point_records, split_metrics
from biencoder_ablate.runs.identity import identity
from biencoder_ablate.training.loop import epoch_rows
from biencoder_ablate.training.negatives import build_pool

MEASURES = {
    "top1": Success @ 1,
    "mrr": RR,
    "ndcg@10": nDCG @ 10,
    "map": AP,
    "recall@1": R @ 1,
    "recall@10": R @ 10,
    "recall@100": R @ 100,
}
GRADED = [
    ("p", "a", 1),
    ("p", "b", 3),
    ("p", "x", 0),  # judged, and no answer
    ("q", "c", 1),
    ("P!", "d", 2),  # the same point, spelled otherwise
    ("q", "a", 2),  # an answer to p too
]

NUM_CANDIDATES = 130


def corpus_of(rows, *others):
    pairs = [Pair("test", "t", "d", "pro", i, *row) for i, row in enumerate(rows)]
    pairs += [Pair(name, "t", "d", "pro", 1, f"{name} point", f"{name} answer") for name in ("train", "val")]
    return build_corpus("made", [*pairs, *others])


# --- worked by hand ---


@pytest.fixture(scope="module")
def hand():
    """Space is a line: p at 0, P! at 9. Candidates a 2, b 6, x 1, c 11, d 5, and the points; q lies at 10.

    p asks without itself: x 1, a 2, d 5, b 6, P! 9, q 10, c 11: its right answers a, b, d come 2nd, 4th, 3rd.
    q asks without itself: c 1, P! 1, b 4, d 5, a 8, x 9, p 10: its right answers c and a come 1st (counters before
    points) and 5th.
    """
    table = build_table(corpus_of(GRADED))
    at = {"p": 0, "P!": 9, "q": 10, "a": 2, "b": 6, "x": 1, "c": 11, "d": 5}
    line = torch.tensor([[float(at.get(text, 50))] for text in table.texts])
    return build_task(table.splits["test"]), in_both_roles(line)


def test_each_point_is_asked_once_for_all_its_answers(hand):
    prepared, embeddings = hand
    found = final_rankings(prepared, embeddings, None, "none")
    assert found.official.final_rank.tolist() == [1, 3, 2, 4, 0]
    p, q = point_records(found)
    name = "test/t/d/pro0{}#counter".format
    assert p["answers"] == [[name(0), 1, 2, 2], [name(1), 3, 4, 4], [name(4), 2, 3, 3]]
    assert q["answers"] == [[name(0), 2, 5, 5], [name(3), 1, 1, 1]]
    assert (p["id"], p["rank"], p["stage1_rank"], p["first"]) == ("test/t/d/pro00", 2, 2, name(2))
    assert (q["id"], q["rank"], q["tied"]) == ("test/t/d/pro03", 1, True)
    assert p["clean_rank"] == 2, "P! comes after it in any case"


def test_figures_worked_by_hand(hand):
    prepared, embeddings = hand
    values = split_metrics(final_rankings(prepared, embeddings, None, "none"))
    assert (values["num_points"], values["top1"], values["mrr"]) == (2, 0.5, 0.75)
    assert values["map"] == pytest.approx(((1 / 2 + 2 / 3 + 3 / 4) / 3 + (1 + 2 / 5) / 2) / 2)
    log = math.log2
    best = 3 + 2 / log(3) + 1 / log(4)
    of_p = (1 / log(3) + 2 / log(4) + 3 / log(5)) / best
    of_q = (1 + 2 / log(6)) / (2 + 1 / log(3))
    assert values["ndcg@10"] == pytest.approx((of_p + of_q) / 2)
    assert (values["recall@1"], values["recall@10"]) == (0.25, 1.0)


# --- any corpus, beside a plain reference and trec_eval's arithmetic ---

WORDS = ("Tax", "zoo", "tax!", "War", "law.", "«Law»", "War of words")


@st.composite
def graded_splits(draw):
    """Pairs of one split over few texts: repeated points, repeated and graded answers, in several debates."""
    text = st.sampled_from(WORDS)
    places = draw(st.lists(st.sampled_from(PLACES), min_size=1, max_size=10, unique=True))
    pairs = [Pair("test", *place, draw(text), draw(text), draw(st.integers(0, 3))) for place in places]
    return [replace(pairs[0], grade=1), *pairs[1:]]


class AttentionInputs:
    """From the definitions alone: the queries of pairs, their graded right answers, and their candidates."""

    def __init__(self, pairs):
        self.pairs = in_candidate_order(pairs)
        self.candidates = list(dict.fromkeys([*(p.counter for p in self.pairs), *(p.point for p in self.pairs)]))
        self.grades, self.point = {}, {}
        for pair in self.pairs:
            if pair.grade > 0:
                grades = self.grades.setdefault(fold(pair.point), {})
                grades[pair.counter] = max(grades.get(pair.counter, 0), pair.grade)
                self.point.setdefault(fold(pair.point), pair.point)

    def allowed(self, query, clean=False, task="epa"):
        point, right = self.point[query], self.grades[query]
        kept = [text for text in self.candidates if text in right or text != point]
        if clean:
            kept = [t for t in kept if t in right or not (same(t, point) or any(same(t, other) for other in right))]
        return [text for text in kept if task == "epa" or self._admitted(query, text, task)]

    def _admitted(self, query, text, task):
        for asked in (pair for pair in self.pairs if fold(pair.point) == query):
            for other in self.pairs:
                for is_counter, its in ((True, other.counter), (False, other.point)):
                    theme = asked.theme == other.theme
                    debate = theme and asked.debate == other.debate
                    opposing = (asked.stance == other.stance) == is_counter
                    reach = {"sd": debate, "st": theme, "ep": True}[task[:2]]
                    side = {"oc": opposing and is_counter, "c": is_counter, "oa": opposing, "a": True}[task[2:]]
                    if its == text and reach and side:
                        return True
        return False

    def ranked(self, query, candidates, toy, k):
        point = self.point[query]
        stage1 = sorted(candidates, key=lambda t: math.dist(toy.embeddings.point[point], toy.embeddings.candidate[t]))

        def head(text):
            zero, one = toy.score(point, text)
            return one - zero

        scored = len(stage1) if k == "all" else 0 if k == "none" else k
        return stage1, sorted(stage1[:scored], key=head, reverse=True) + stage1[scored:]


def by_trec_eval(lists, grades):
    qrels = [Qrel(query, text, grade) for query, of in grades.items() for text, grade in of.items()]
    run = [ScoredDoc(q, text, float(-place)) for q, order in lists.items() for place, text in enumerate(order)]
    found = ir_measures.calc_aggregate(list(MEASURES.values()), qrels, run)
    return {name: found[measure] for name, measure in MEASURES.items()}


@pytest.mark.parametrize("k", ["none", 2, "all"])
@settings(max_examples=25, deadline=None)
@given(graded_splits(), st.integers(0, 2**32 - 1), st.integers(1, 4))
def test_ranks_and_figures_of_any_corpus(k, pairs, seed, block):
    asked = AttentionInputs(pairs)
    others = [Pair(name, "t", "d", "pro", 1, f"{name} point", name) for name in ("train", "val")]
    table = build_table(build_corpus("made", [*pairs, *others]))
    toy = ToyModel(table.texts, seed)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(distances, "BLOCK", block)
        prepared = build_task(table.splits["test"])
        found = final_rankings(prepared, toy.embedded(len(asked.candidates)), toy.head, k)
    query_of = {pair.id: fold(pair.point) for pair in asked.pairs}
    records = {query_of[record["id"]]: record for record in point_records(found)}
    assert records.keys() == asked.grades.keys()
    for clean in (False, True):
        lists = {q: asked.ranked(q, asked.allowed(q, clean), toy, k) for q in asked.grades}
        values = by_trec_eval({q: final for q, (_, final) in lists.items()}, asked.grades)
        of_stage1 = by_trec_eval({q: stage1 for q, (stage1, _) in lists.items()}, asked.grades)
        values |= {name: of_stage1[name] for name in values if name.startswith("recall")}
        suffix = "_clean" if clean else ""
        measured = split_metrics(found)
        for name in values if not clean else ("top1", "mrr", "ndcg@10", "map"):
            assert measured[name + suffix] == pytest.approx(values[name], abs=1e-9), name
        for query, (stage1, final) in lists.items():
            first = min(map(final.index, asked.grades[query])) + 1
            assert records[query]["clean_rank" if clean else "rank"] == first
            if not clean:
                assert sorted(entry[1:] for entry in records[query]["answers"]) == sorted(
                    [grade, stage1.index(text) + 1, final.index(text) + 1]
                    for text, grade in asked.grades[query].items()
                )
    for task in TASKS:
        lists = {q: asked.ranked(q, asked.allowed(q, task=task), toy, k)[1] for q in asked.grades}
        firsts = [min(map(order.index, asked.grades[query])) + 1 for query, order in lists.items()]
        assert [records[query]["ranks"][task] for query in lists] == firsts
    totals = candidate_totals(table.splits["test"])
    assert sum(totals.values()) == sum(len(asked.allowed(query)) for query in asked.grades)
    assert totals["true"] == sum(map(len, asked.grades.values()))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.dictionaries(st.integers(0, NUM_CANDIDATES - 1), st.integers(1, 3), min_size=1), min_size=1, max_size=6)
)
def test_metrics_equal_to_trec_eval(points):
    """Each point's right answers as rank → grade."""
    grades = {str(row): {str(rank): grade for rank, grade in of.items()} for row, of in enumerate(points)}
    lists = {query: map(str, range(NUM_CANDIDATES)) for query in grades}
    expected = by_trec_eval(lists, grades)
    rows, ranks, gains = map(
        np.array, zip(*((i, r, g) for i, of in enumerate(points) for r, g in of.items()), strict=True)
    )
    first = metrics.first_ranks(ranks, rows)
    found = {
        "top1": metrics.top1(first),
        "mrr": metrics.mrr(first),
        "ndcg@10": metrics.ndcg(ranks, 10, rows, gains),
        "map": metrics.average_precision(ranks, rows),
        **{f"recall@{k}": metrics.recall(ranks, k, rows) for k in (1, 10, 100)},
    }
    assert found == pytest.approx(expected, abs=1e-9)


# --- clean, disjoint ---


def test_a_point_is_clean_where_it_and_all_its_answers_are_new():
    rows = [("p", "a"), ("p", "TRAIN answer"), ("q", "a"), ("val point", "b"), ("r", "b")]
    prepared = build_task(build_table(corpus_of(rows)).splits["test"])
    assert prepared.counts.tolist() == [False, True, False, True]


def test_a_point_is_not_clean_where_a_model_has_seen_one_of_its_answers():
    """Trained elsewhere, on b: of p's two pairs one is new, and p is asked for both answers."""
    split = build_table(corpus_of([("p", "a"), ("p", "b"), ("q", "c")])).splits["test"]
    seen = leave_out_seen(split, frozenset({text_key("B!")}))
    assert [build_task(of).counts.tolist() for of in (split, seen)] == [[True, True], [False, True]]
    assert seen.clean.tolist() == [True, False, True]


def test_disjoint_drops_a_point_with_all_its_answers():
    """p's other answer would be a candidate and count as wrong."""
    others = [
        Pair("train", "t", "d", "pro", i, *row) for i, row in enumerate([("p", "new"), ("p", "b"), ("r", "new")], 2)
    ]
    kept = make_disjoint(corpus_of([("q", "b")], *others))
    assert [pair.point for pair in kept.train] == ["train point", "r"]


# --- training ---


def test_negatives_may_be_judged_wrong_and_are_never_right():
    train = build_table(
        corpus_of([("y", "z")], *(Pair("train", "t", "d", "pro", i, *row) for i, row in enumerate(GRADED, 2)))
    )
    split = train.splits["train"]
    pool = build_pool(split)
    texts = [train.texts[text] for text in pool.text]
    for row, pair in enumerate(split.pairs):
        forbidden = {texts[place] for place in pool.answers[row] if place >= 0}
        expected = {"p": {"p", "a", "b", "d"}, "q": {"q", "c", "a"}}.get(fold(pair.point))
        assert expected is None or forbidden == expected


def test_all_pairs_are_trained_on_or_one_drawn_of_each_point():
    train = [Pair("train", "t", "d", "pro", i, *row) for i, row in enumerate(GRADED, 2)]
    split = build_table(corpus_of([("y", "z")], *train)).splits["train"]
    shown = lambda rows: [(split.pairs[row].point, split.pairs[row].counter) for row in rows.tolist()]  # noqa: E731
    everything = shown(epoch_rows(split, TrainingConfig(), 0, 0))
    assert everything == [("train point", "train answer"), *((p, c) for p, c, grade in GRADED if grade)]
    drawn = Counter()
    for epoch in range(60):
        pairs = shown(epoch_rows(split, TrainingConfig(positives="one"), 0, epoch))
        assert sorted(fold(point) for point, _ in pairs) == ["p", "q", "train point"]
        drawn.update(pairs)
    assert set(drawn) == set(everything) and min(drawn.values()) > 8


def test_the_key_of_positives_names_a_run_only_where_it_is_changed():
    before = identity(Config(), "data", "model", "fp32")
    assert "positives" not in before["training"]
    changed = identity(Config(training=TrainingConfig(positives="one")), "data", "model", "fp32")
    assert changed["training"] == before["training"] | {"positives": "one"}


# --- tables of one's own ---


def test_a_table_with_grades_and_with_points_that_come_again(tmp_path):
    lines = [
        "point,counter,grade",
        "p,a,1",
        "p,b,3",
        "P!,c,",
        "p,x,0",
        "s,,",
        "r,y,0",
        *(f"q{i},d{i}," for i in range(9)),
    ]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    (tmp_path / "a.jsonl").write_text(
        "\n"
        + "\n".join(
            json.dumps({"point": p, "counter": c} | ({"grade": int(g)} if g else {}))
            for p, c, g in (line.split(",") for line in lines[1:])
        )
    )
    corpus = read("pairs", tmp_path / "a.csv")
    of_p = [(name, pair) for name in SPLITS for pair in corpus.split(name) if fold(pair.point) == "p"]
    assert len({name for name, _ in of_p}) == 1, "a point's answers stay together, with no debate given"
    assert [(pair.counter, pair.grade) for _, pair in of_p] == [("a", 1), ("b", 3), ("c", 1), ("x", 0)]
    assert sum(corpus.incomplete.values()) == 2, "s has no counter, r no right one"

    def content(corpus):
        return [(p.split, p.point, p.counter, p.grade) for name in SPLITS for p in corpus.split(name)]

    assert Counter(grade for *_, grade in content(corpus)) == {1: 11, 3: 1, 0: 2}
    assert content(read("pairs", tmp_path / "a.jsonl")) == content(corpus)


@pytest.mark.parametrize("grade", ["-1", "1.5", "good"])
def test_a_grade_that_is_none_is_refused(tmp_path, grade):
    (tmp_path / "a.csv").write_text(f"point,counter,grade\na,b,{grade}\n")
    with pytest.raises(ValueError, match=f"line 2: grade={grade}; must be an integer of 0 or more"):
        read("pairs", tmp_path / "a.csv")


@settings(max_examples=15, deadline=None)
@given(graded_splits())
def test_chance_is_the_mean_over_every_order(pairs):
    """Each point's right answers at every place among its candidates, all equally likely."""
    asked = AttentionInputs(pairs)
    others = [Pair(name, "t", "d", "pro", 1, f"{name} point", name) for name in ("train", "val")]
    found = chance_metrics(build_task(build_table(build_corpus("made", [*pairs, *others])).splits["test"]))
    for suffix, clean in (("", False), ("_clean", True)):
        first, top = [], []
        for query, grades in asked.grades.items():
            num = len(asked.allowed(query, clean))
            places = [min(chosen) for chosen in itertools.combinations(range(num), len(grades))]
            first.append(np.mean([1 / (place + 1) for place in places]))
            top.append(np.mean([place == 0 for place in places]))
        assert found[f"mrr{suffix}"] == pytest.approx(np.mean(first))
        assert found[f"top1{suffix}"] == pytest.approx(np.mean(top))
