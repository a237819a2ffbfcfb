"""Negatives: never a right answer, hard ones the nearest, the others uniform, all of it by seed and epoch."""

from collections import Counter

import numpy as np
import pytest
import torch
from helpers import read
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from reference import ToyModel, allowed_negatives, corpora, fold
from scipy import stats

from biencoder_ablate.data.corpus import DataError, Pair, build_corpus
from biencoder_ablate.data.index import build_index
from biencoder_ablate.training.negatives import _first_minimum, build_pool, draw_negatives


def make_table(train, other=("something else", "a different thing")):
    """A table whose training pairs are these (point, counter) texts, in this order."""
    pairs = [Pair("train", "t", "d", "pro", number, *both) for number, both in enumerate(train, start=1)]
    pairs += [Pair(split, "t", "d", "pro", 1, *other) for split in ("val", "test")]
    return build_index(build_corpus("hand", pairs))


def draw(table, share, seed=0, epoch=0, retrieval=None):
    train = table.splits["train"]
    retrieval = torch.zeros(len(table.texts), 2) if retrieval is None else retrieval
    return draw_negatives(build_pool(train), share, seed, epoch, retrieval, train.point)


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
    table, pairs = build_index(corpus), corpus.train
    allowed = [allowed_negatives(pairs, row) for row in range(len(pairs))]
    assume(all(allowed))
    pool, toy = first_spellings(pairs), ToyModel(table.texts, seed)
    for epoch in range(3):
        negative, hard = draw(table, share, seed, epoch, toy.retrieval(scale=len(pool)))
        assert negative.shape == hard.shape == (len(pairs),)
        assert share == 0.5 or hard.tolist() == [bool(share)] * len(pairs)
        for row, pair in enumerate(pairs):
            text = table.texts[negative[row]]
            assert fold(text) in allowed[row]
            assert text in pool, "one spelling stands for all of a text"
            if hard[row]:
                here = np.array(toy.embeddings[pair.point])
                nearest = min(
                    (t for t in pool if fold(t) in allowed[row]),
                    key=lambda t: ((np.array(toy.embeddings[t]) - here) ** 2).sum(),
                )
                assert text == nearest, "min takes the first of equals, the lower index"


@settings(max_examples=80, deadline=None)
@given(corpora())
def test_an_impossible_point_is_refused_by_name(corpus):
    table, pairs = build_index(corpus), corpus.train
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
        assert len(possible) == (10 if fold(pair.point) == "pointa" else 11)
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
    pool, train = build_pool(table.splits["train"]), table.splits["train"]
    retrieval = torch.zeros(len(table.texts), 1)
    hard = [draw_negatives(pool, share, 0, epoch, retrieval, train.point)[1].sum() for epoch in range(1000)]
    assert stats.binomtest(int(sum(hard)), 6000, share).pvalue > 1e-3


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


@pytest.mark.parametrize("num_texts", [2, 13, 700])
def test_of_equally_near_texts_the_lowest_is_found(num_texts):
    """numpy's argmin promises the first. 700 columns are searched in groups, 13 at once."""
    distances = torch.from_numpy(np.random.default_rng(0).integers(0, 4, (200, num_texts)).astype(np.float32))
    assert np.array_equal(_first_minimum(distances).numpy(), distances.numpy().argmin(axis=1))


def test_on_the_real_corpus_a_copy_of_the_answer_is_never_mined(real_corpus):
    """Embeddings that know only the folded text: a naive nearest neighbour would be a copy under another theme."""
    table = build_index(read("arguana", real_corpus))
    train, keys = table.splits["train"], table.keys
    by_key = torch.randn(int(keys.max()) + 1, 8, generator=torch.Generator().manual_seed(0))
    # Each answer lies close to the point of its pair, so that it and its copies are what the search finds first.
    by_key[torch.from_numpy(train.counter_key)] = by_key[torch.from_numpy(train.point_key)] + 0.01
    negative, hard = draw_negatives(build_pool(train), 1.0, 0, 0, by_key[torch.from_numpy(keys)], train.point)
    answers = {}
    for point, counter in zip(train.point_key.tolist(), train.counter_key.tolist(), strict=True):
        answers.setdefault(point, {point}).add(counter)
    assert hard.all()
    assert not any(
        int(keys[text]) in answers[point] for text, point in zip(negative, train.point_key.tolist(), strict=True)
    )
