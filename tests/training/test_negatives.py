"""Negatives: never a right answer, hard ones the nearest, the others uniform, all of it by seed and epoch."""

from collections import Counter
from dataclasses import asdict, dataclass

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats
from support.reference import ToyModel, allowed_negatives, corpora, fold

from biencoder_ablate.data.corpus import DataError, Document, Pair, build_corpus
from biencoder_ablate.data.text_table import build_table
from biencoder_ablate.model.biencoder import Embeddings
from biencoder_ablate.training.negatives import build_pool, draw_negatives, hard_ratio, mine_nearest


@dataclass(frozen=True)
class Mining:
    """What draw_negatives is asked for, by keyword."""

    per_pair: int = 1
    skip: int = 0
    depth: int | None = None
    relative_margin: float | None = None


def make_table(train, other=("something else", "a different thing")):
    """A table whose training pairs are these (point, counter) texts, in this order."""
    pairs = [Pair("train", "t", "d", "pro", number, *both) for number, both in enumerate(train, start=1)]
    pairs += [Pair(split, "t", "d", "pro", 1, *other) for split in ("val", "test")]
    return build_table(build_corpus("hand", pairs))


def draw_several(table, share, mining, seed=0, epoch=0, retrieval=None, points=None):
    """Negatives (N, P) and which are hard; texts that ask are embedded by `points` where they differ."""
    train = table.splits["train"]
    retrieval = torch.zeros(len(table.texts), 2) if retrieval is None else retrieval
    embeddings = Embeddings(retrieval, retrieval if points is None else points, retrieval)
    return draw_negatives(build_pool(train), share, seed, epoch, embeddings, train, **asdict(mining))


def draw(table, share, seed=0, epoch=0, retrieval=None, points=None):
    """One negative a pair: (N,), and which are hard."""
    negative, hard = draw_several(table, share, Mining(), seed, epoch, retrieval, points)
    assert negative.shape == hard.shape == (len(table.splits["train"]), 1)
    return negative[:, 0], hard[:, 0]


def first_spellings(pairs):
    """The distinct texts of the pairs, each as first written, in order of first use."""
    spelling = {}
    for pair in pairs:
        for text in (pair.point, pair.counter):
            spelling.setdefault(fold(text), text)
    return list(spelling.values())


@settings(max_examples=80, deadline=None)
@given(corpora(), st.integers(0, 2**32 - 1), st.sampled_from([0.0, 0.5, 1.0]))
def test_never_a_right_answer_and_hard_means_nearest(corpus, seed, share):
    table, pairs = build_table(corpus), corpus.train
    allowed = [allowed_negatives(pairs, row) for row in range(len(pairs))]
    assume(all(allowed))
    pool, toy = first_spellings(pairs), ToyModel(table.texts, seed)
    for epoch in range(3):
        placed = toy.embedded(scale=len(pool))
        negative, hard = draw(table, share, seed, epoch, placed.candidate, placed.point)
        assert negative.shape == hard.shape == (len(pairs),)
        assert share == 0.5 or hard.tolist() == [bool(share)] * len(pairs)
        for row, pair in enumerate(pairs):
            text = table.texts[negative[row]]
            assert fold(text) in allowed[row]
            assert text in pool, "one spelling stands for all of a text"
            if hard[row]:
                here = np.array(toy.embeddings.point[pair.point])
                nearest = min(
                    (t for t in pool if fold(t) in allowed[row]),
                    key=lambda t: ((np.array(toy.embeddings.candidate[t]) - here) ** 2).sum(),
                )
                assert text == nearest, "min takes the first of equals, the lower index"


@settings(max_examples=80, deadline=None)
@given(corpora())
def test_an_impossible_point_is_refused_by_name(corpus):
    table, pairs = build_table(corpus), corpus.train
    impossible = [row for row in range(len(pairs)) if not allowed_negatives(pairs, row)]
    if impossible:
        with pytest.raises(DataError, match=rf"{pairs[impossible[0]].id}.*no possible negative"):
            build_pool(table.splits["train"])
    else:
        assert build_pool(table.splits["train"]).size == len(first_spellings(pairs))


def test_one_pair_alone_is_impossible():
    with pytest.raises(DataError, match=r"train/t/d/pro01"):
        build_pool(make_table([("a", "b")]).splits["train"])


def test_hand_worked_hard_negatives():
    """Points a and A! are one text with two counters, so neither b nor c may be drawn for either.

    On a line: a and A! at 0, b at 1, c at 2, d at −3, e at 3. The pool is a b c d e; of d and e, equally far
    from 0, d has the lower index; from d the nearest left, a, beats the farther b and c.
    """
    table = make_table([("a", "b"), ("A!", "c"), ("d", "e")])
    assert table.texts[:6] == ("a", "b", "A!", "c", "d", "e")
    line = torch.tensor([0.0, 1.0, 0.0, 2.0, -3.0, 3.0, 50.0, 50.0])[:, None]
    negative, hard = draw(table, 1.0, retrieval=line)
    assert [table.texts[index] for index in negative] == ["d", "d", "a"]
    assert hard.all()


def test_only_training_texts_are_drawn():
    table = make_table([("a", "b"), ("c", "d")])
    close = torch.tensor([[0.0], [0.0], [9.0], [9.0], [0.0], [0.0]])
    for share in (0.0, 1.0):
        for epoch in range(20):
            negative, _ = draw(table, share, epoch=epoch, retrieval=close)
            assert {table.texts[index] for index in negative} <= {"a", "b", "c", "d"}


LETTERS = [(f"point {letter}", f"counter {letter}") for letter in "abcdef"]


def test_uniform_is_uniform():
    """Point a has two counters: ten of the 13 distinct texts are left to it, eleven to every other, all as likely."""
    table = make_table([*LETTERS, ("POINT A", "counter g")])
    draws = np.stack([draw(table, 0.0, seed=1, epoch=epoch)[0] for epoch in range(2000)])
    pool = first_spellings(table.splits["train"].pairs)
    for row, pair in enumerate(table.splits["train"].pairs):
        counts = Counter(table.texts[index] for index in draws[:, row].tolist())
        possible = [t for t in pool if fold(t) in allowed_negatives(table.splits["train"].pairs, row)]
        assert len(possible) == (10 if fold(pair.point) == "point a" else 11)
        assert set(counts) == set(possible)
        assert stats.chisquare([counts[t] for t in possible]).pvalue > 1e-3
    # Two pairs' draws are independent: their joint table shows no more than chance.
    joint = np.zeros((len(table.texts), len(table.texts)))
    np.add.at(joint, (draws[:, 1], draws[:, 2]), 1)
    joint = joint[joint.sum(1) > 0][:, joint.sum(0) > 0]
    assert stats.chi2_contingency(joint).pvalue > 1e-3


@pytest.mark.parametrize("share", [0.01, 0.3, 0.9])
def test_the_share_is_respected(share):
    table = make_table(LETTERS)
    retrieval = torch.zeros(len(table.texts), 1)
    for per_pair in (1, 3):
        mining = Mining(per_pair)
        hard = [draw_several(table, share, mining, 0, epoch, retrieval)[1].sum() for epoch in range(1000)]
        assert stats.binomtest(int(sum(hard)), 6000 * per_pair, share).pvalue > 1e-3


def test_draws_are_fixed_by_seed_and_epoch_and_shared_by_every_share():
    """Raising the share turns some random negatives into hard ones and leaves the others as they were."""
    table = make_table(LETTERS)
    retrieval = torch.arange(len(table.texts), dtype=torch.float32)[:, None]
    seen = {(seed, epoch): draw(table, 0.0, seed, epoch)[0].tolist() for seed in range(3) for epoch in range(3)}
    assert len({tuple(values) for values in seen.values()}) == 9
    for (seed, epoch), values in seen.items():
        assert draw(table, 0.0, seed, epoch)[0].tolist() == values
        some, some_hard = draw(table, 0.4, seed, epoch, retrieval)
        more, more_hard = draw(table, 0.8, seed, epoch, retrieval)
        assert some[~some_hard].tolist() == np.array(values)[~some_hard].tolist()
        assert more_hard[some_hard].all()
        assert more[some_hard].tolist() == some[some_hard].tolist()


def test_mining_in_blocks_of_many_points():
    """More points than one block holds, on a line of whole numbers: the nearest is a neighbour or its counter."""
    count = 700
    table = make_table([(f"point {i}", f"counter {i}") for i in range(count)])
    train = table.splits["train"]
    place = {f"point {i}": 4 * i for i in range(count)} | {f"counter {i}": 4 * i + 1 for i in range(count)}
    line = torch.tensor([place.get(text, -9999) for text in table.texts], dtype=torch.float64)[:, None]
    negative, _ = draw(table, 1.0, retrieval=line)
    for row, pair in enumerate(train.pairs):
        i = int(pair.point.split()[1])
        # point i lies at 4i, counter i−1 at 4i − 3, point i+1 at 4i + 4
        assert table.texts[negative[row]] == (f"counter {i - 1}" if i else "point 1")


@pytest.mark.parametrize("k", [1, 4, 30])
@pytest.mark.parametrize("num_pairs", [3, 13, 700])
def test_of_equally_near_texts_the_lower_positions_come_first(num_pairs, k):
    """A stable sort promises it. A pool of 1400 texts is searched in groups, smaller ones at once."""
    table = make_table([(f"point {i}", f"counter {i}") for i in range(num_pairs)])
    train = table.splits["train"]
    pool, rows = build_pool(train), np.arange(0, num_pairs, 3)
    # Counters lie opposite their points, around a whole number: distances are exact, and many are equal.
    places = torch.from_numpy(np.random.default_rng(0).integers(0, 5, (len(table.texts), 2))).float()
    places[train.counter] = 4 - places[train.point]
    found = mine_nearest(pool, rows, Embeddings(places, places, places), train, k)
    distances = torch.cdist(places[train.point[rows]].double(), places[pool.text].double()).square().round().numpy()
    for row, place in enumerate(rows):
        distances[row, pool.answers[place]] = np.inf
    expected = distances.argsort(axis=1, kind="stable")[:, : min(k, pool.size)]
    expected[np.take_along_axis(distances, expected, axis=1) == np.inf] = -1
    assert np.array_equal(found, expected)


def test_on_the_real_corpus_a_copy_of_the_answer_is_never_mined(arguana):
    """Embeddings that know only the folded text: a naive nearest neighbour would be a copy under another theme."""
    table = build_table(arguana)
    train, keys = table.splits["train"], table.keys
    by_key = torch.randn(int(keys.max()) + 1, 8, generator=torch.Generator().manual_seed(0))
    # Each answer lies close to the point of its pair, so that it and its copies are what the search finds first.
    by_key[torch.from_numpy(train.counter_key)] = by_key[torch.from_numpy(train.point_key)] + 0.01
    negative, hard = draw(table, 1.0, retrieval=by_key[torch.from_numpy(keys)])
    answers = {}
    for point, counter in zip(train.point_key.tolist(), train.counter_key.tolist(), strict=True):
        answers.setdefault(point, {point}).add(counter)
    assert hard.all()
    assert not any(
        int(keys[text]) in answers[point] for text, point in zip(negative, train.point_key.tolist(), strict=True)
    )


# What one negative a pair was before there could be several, recorded from that code: (seed, epoch, share) → texts.
GOLDEN = {
    (0, 0, 0.0): ([5, 7, 6, 2, 0, 7, 15, 9, 12, 7, 14], []),
    (0, 1, 0.0): ([14, 9, 9, 15, 0, 9, 8, 1, 13, 13, 9], []),
    (0, 0, 0.4): ([3, 7, 6, 10, 0, 7, 15, 2, 3, 7, 14], [0, 3, 7, 8]),
    (3, 2, 0.4): ([15, 14, 11, 13, 1, 3, 17, 9, 3, 7, 9], [1, 8, 9, 10]),
    (7, 5, 1.0): ([3, 14, 12, 10, 2, 6, 4, 2, 3, 7, 9], list(range(11))),
}


@pytest.mark.parametrize(("asked", "recorded"), GOLDEN.items())
def test_one_negative_a_pair_is_drawn_as_it_always_was(asked, recorded):
    pairs = [(f"point {letter}", f"counter {letter}") for letter in "abcdefgh"]
    table = make_table([*pairs, ("POINT A", "counter z"), ("point b!", "Counter C"), ("counter d", "point e")])
    line = torch.tensor([(7 * i * i + 3 * i) % 23 for i in range(len(table.texts))], dtype=torch.float32)[:, None]
    seed, epoch, share = asked
    negative, hard = draw(table, share, seed, epoch, line)
    assert (negative.tolist(), np.flatnonzero(hard).tolist()) == recorded


@settings(max_examples=150, deadline=None)
@given(
    corpora(),
    st.integers(0, 2**32 - 1),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.builds(Mining, st.integers(1, 6), st.integers(0, 4), st.one_of(st.none(), st.integers(6, 9))),
)
def test_several_are_right_for_nobody_and_differ_where_the_pool_allows(corpus, seed, share, mining):
    """Pools of few texts: where they cannot all differ, or nothing is left to mine, the drawing still ends."""
    table, pairs = build_table(corpus), corpus.train
    allowed = [allowed_negatives(pairs, row) for row in range(len(pairs))]
    assume(all(allowed))
    toy = ToyModel(table.texts, seed)
    placed = toy.embedded(scale=len(first_spellings(pairs)))
    negative, hard = draw_several(table, share, mining, seed, 0, placed.candidate, placed.point)
    assert negative.shape == hard.shape == (len(pairs), mining.per_pair)
    for row, pair in enumerate(pairs):
        texts = [fold(table.texts[index]) for index in negative[row]]
        assert set(texts) <= allowed[row]
        if len(allowed[row]) >= mining.per_pair:
            assert len(set(texts)) == mining.per_pair
        here = np.array(toy.embeddings.point[pair.point])
        by_distance = sorted(
            (text for text in first_spellings(pairs) if fold(text) in allowed[row]),
            key=lambda text: ((np.array(toy.embeddings.candidate[text]) - here) ** 2).sum(),
        )
        window = [fold(text) for text in by_distance[mining.skip :]]
        mined = [text for text, is_hard in zip(texts, hard[row], strict=True) if is_hard]
        if mining.depth is None:
            assert mined == window[: len(mined)], "the nearest after those skipped, nearest first"
        else:
            assert set(mined) <= set(window[: mining.depth])
        if share == 1:
            assert len(mined) == min(mining.per_pair, len(window)), "a uniform one stands in where none is left"


# Point a at 0, its counter at 1000; the other texts at 1, 2, 3, … in order of their numbers.
LINE = [("point a", "counter a"), *((f"text {2 * i}", f"text {2 * i + 1}") for i in range(6))]


def on_the_line(table):
    places = [0.0, 1000.0, *range(1, 13), 5000.0, 5000.0]
    assert len(places) == len(table.texts)
    return torch.tensor(places, dtype=torch.float32)[:, None]


@pytest.mark.parametrize(
    ("mining", "ranks"),
    [
        (Mining(3), [0, 1, 2]),
        (Mining(3, skip=2), [2, 3, 4]),
        (Mining(3, skip=10), [10, 11]),  # two are left; the third is uniform
        (Mining(2, skip=12), []),
    ],
)
def test_hard_ones_are_the_nearest_after_those_skipped(mining, ranks):
    table = make_table(LINE)
    negative, hard = draw_several(table, 1.0, mining, retrieval=on_the_line(table))
    assert [table.texts[index] for index in negative[0][hard[0]]] == [f"text {rank}" for rank in ranks]
    assert hard[0].tolist() == [place < len(ranks) for place in range(mining.per_pair)]
    assert len(set(negative[0].tolist())) == mining.per_pair


def test_with_a_depth_each_rank_from_skip_on_is_as_likely():
    table = make_table(LINE)
    retrieval, counts, together = on_the_line(table), Counter(), Counter()
    for epoch in range(1500):
        negative, hard = draw_several(table, 1.0, Mining(2, skip=3, depth=4), 0, epoch, retrieval)
        assert hard.all()
        counts.update(table.texts[index] for index in negative[0])
        together[tuple(sorted(negative[0].tolist()))] += 1
    assert set(counts) == {f"text {rank}" for rank in (3, 4, 5, 6)}
    assert stats.chisquare(list(counts.values())).pvalue > 1e-3
    assert len(together) == 6 and stats.chisquare(list(together.values())).pvalue > 1e-3


@pytest.mark.parametrize("margin", [0.0, 0.05, 0.5, 1.0])
@pytest.mark.parametrize("skip", [0, 2])
def test_the_relative_margin_against_a_plain_reference(margin, skip):
    """Of unit vectors, two towers; a counter on the point's far side has a negative cosine, which a margin lowers."""
    table = make_table([(f"point {i}", f"counter {i}") for i in range(30)])
    train, random = table.splits["train"], torch.Generator().manual_seed(1)
    points, candidates = of_unit_length(torch.randn(2, len(table.texts), 3, generator=random))
    negative, hard = draw_several(table, 1.0, Mining(4, skip), 0, 0, candidates, points)
    assert hard.all()
    negative, hard = draw_several(table, 1.0, Mining(4, skip, relative_margin=margin), 0, 0, candidates, points)
    some_negative = False
    for row in range(len(train)):
        cosine = (candidates.double() @ points[train.point[row]].double()).numpy()
        counter = cosine[train.counter[row]]
        some_negative |= counter < -0.1
        limit = counter - margin * abs(counter)
        kept = [t for t in range(60) if t not in (train.point[row], train.counter[row]) and cosine[t] <= limit]
        kept = sorted(kept, key=lambda text: -cosine[text])[skip:][:4]
        assert negative[row][hard[row]].tolist() == kept
    assert some_negative and 0 < hard.sum() < hard.size


def of_unit_length(x):
    return x / x.norm(dim=-1, keepdim=True)


def test_points_are_measured_by_their_own_tower():
    """As a point, a lies beside text 11; as a candidate, beside text 0."""
    table = make_table(LINE)
    as_candidates, as_points = on_the_line(table), on_the_line(table) + 12.4
    negative, _ = draw_several(table, 1.0, Mining(2), retrieval=as_candidates, points=as_points)
    assert [table.texts[index] for index in negative[0]] == ["text 11", "text 10"]


@pytest.mark.parametrize(("schedule", "start"), [("constant", None), ("curriculum", 0.0)])
@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_none_or_all_are_hard_under_both_schedules(schedule, start, ratio):
    table = make_table(LETTERS)
    retrieval = torch.arange(len(table.texts), dtype=torch.float32)[:, None]
    for epoch in (1, 5):
        share = hard_ratio(schedule, epoch, ratio, start)
        for mining in (Mining(), Mining(3, 1, 5)):
            negative, hard = draw_several(table, share, mining, 0, epoch, retrieval)
            assert hard.all() if ratio else not hard.any()
            assert all(len(set(row)) == mining.per_pair for row in negative.tolist())


def test_which_of_a_batch_a_pair_must_not_get():
    """As in the hand-worked example: a and A! are one text with counters b and c; d has e."""
    table = make_table([("a", "b"), ("A!", "c"), ("d", "e")])
    pool = build_pool(table.splits["train"])
    assert [table.texts[index] for index in pool.text] == ["a", "b", "c", "d", "e"]
    assert (pool.point.tolist(), pool.counter.tolist()) == ([0, 0, 3], [1, 2, 4])
    mask = pool.are_excluded(np.array([1, 2]), np.arange(5))
    assert mask.astype(int).tolist() == [[1, 1, 1, 0, 0], [0, 0, 0, 1, 1]]
    texts = pool.text[[4, 0, 2]]
    assert pool.positions_of(texts.reshape(3, 1)).tolist() == [[4], [0], [2]]


def test_constant_schedule_is_the_ratio_at_every_epoch():
    assert [hard_ratio("constant", epoch, 0.01, None) for epoch in (0, 1, 100)] == [0.01] * 3
    assert hard_ratio("constant", 5, 0.0, None) == 0.0 and hard_ratio("constant", 5, 1.0, None) == 1.0


def test_curriculum_rises_from_its_start_to_one():
    """What "hard_negatives_0.01" means in the source study's log names: 0.2 + 0.01·e, and never above 1."""
    shares = [hard_ratio("curriculum", epoch, 0.01, 0.2) for epoch in (0, 1, 14, 79, 80, 81, 1000)]
    assert shares == pytest.approx([0.2, 0.21, 0.34, 0.99, 1.0, 1.0, 1.0])
    assert max(shares) == 1.0
    assert hard_ratio("curriculum", 3, 0.0, 0.2) == 0.2
    # random-negative rate 1.0 − 0.05·i of the source study
    assert hard_ratio("curriculum", 3, 0.05, 0.0) == pytest.approx(0.15)


@given(st.integers(0, 10_000), st.floats(0, 1), st.floats(0, 1))
def test_every_share_is_a_probability_and_never_falls(epoch, ratio, start):
    for schedule, first in (("constant", None), ("curriculum", start)):
        share = hard_ratio(schedule, epoch, ratio, first)
        assert 0 <= share <= hard_ratio(schedule, epoch + 1, ratio, first) <= 1


@pytest.mark.parametrize(
    ("among", "pool_texts", "allowed"),
    [
        # p asks a, q asks b, a asks c; c is also declared no answer to q.
        ("answers", ["a", "b", "c"], {"p": {"b", "c"}, "q": {"a", "c"}, "a": {"b"}}),
        ("all", ["p", "a", "q", "b", "c"], {"p": {"q", "b", "c"}, "q": {"p", "a", "c"}, "a": {"p", "q", "b"}}),
    ],
)
def test_negatives_are_answers_only_or_all_texts(among, pool_texts, allowed):
    pairs = [Pair("train", "t", "d", "pro", n, *texts) for n, texts in enumerate([("p", "a"), ("q", "b"), ("a", "c")])]
    pairs.append(Pair("train", "t", "d", "pro", 4, "q", "c", grade=0))
    pairs += [Pair(split, "t", "d", "pro", 1, "other", "else") for split in ("val", "test")]
    table = build_table(build_corpus("hand", pairs))
    train = table.splits["train"]
    pool = build_pool(train, among)
    assert [table.texts[number] for number in pool.text] == pool_texts

    retrieval = torch.arange(float(len(table.texts)))[:, None]
    embeddings = Embeddings(retrieval, retrieval, retrieval)
    drawn = {point: set() for point in allowed}
    for seed in range(30):
        for share in (0.0, 1.0):
            negative, _ = draw_negatives(pool, share, seed, 0, embeddings, train)
            for pair, number in zip(train.pairs, negative[:, 0].tolist(), strict=True):
                assert table.texts[number] in allowed[pair.point]
                drawn[pair.point].add(table.texts[number])
    assert drawn == allowed


def test_a_pool_of_answers_says_that_there_is_no_negative():
    table = make_table([("p", "a"), ("q", "a")])
    with pytest.raises(DataError, match=r"no possible negative: .*negatives\.pool=answers"):
        build_pool(table.splits["train"], "answers")
    assert build_pool(table.splits["train"], "all").size == 3


def test_with_documents_the_pool_holds_what_asks_only_on_demand():
    """The query d1 is a document too; q is none, and stands behind the end of the pool."""
    documents = [Document("d1", "one"), Document("d2", "two"), Document("d3", "three")]
    asked = [("q", "q text", "d2", "two"), ("d1", "one", "d3", "three")]
    pairs = [
        Pair("train", "", query, "", n, point, counter, query=query, document=document)
        for n, (query, point, document, counter) in enumerate(asked)
    ]
    corpus = build_corpus("beir", pairs, documents=documents, may_lack=("val", "test"))
    train = build_table(corpus).splits["train"]
    answers, everything = build_pool(train), build_pool(train, "all")
    by_query = {pair.query: row for row, pair in enumerate(train.pairs)}
    rows = np.array([by_query["q"], by_query["d1"]])
    assert (answers.size, everything.size) == (3, 4)
    # In the batch d1 competes for q, as a document; q competes for d1 only where what asks may be a negative.
    assert answers.are_excluded(rows, answers.point[rows]).tolist() == [[True, False], [True, True]]
    assert everything.are_excluded(rows, everything.point[rows]).tolist() == [[True, False], [False, True]]
