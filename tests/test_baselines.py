"""TF-IDF and BM25 against three documents worked by hand and a slow, plain reference."""

import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biencoder_ablate.evaluation.baselines import bm25_similarities, count_words, tfidf_similarities

THREE = ["Cats purr.", "cats and DOGS", "dogs bark, dogs bite"]


def plain_words(text):
    return re.findall(r"\w+", text.lower())


def plain_tfidf(texts, point, candidate, statistics):
    def vector(text):
        words = plain_words(text)
        weights = {}
        for word in set(words):
            df = sum(word in plain_words(texts[i]) for i in statistics)
            weights[word] = words.count(word) * (math.log((1 + len(statistics)) / (1 + df)) + 1)
        return weights

    a, b = vector(texts[point]), vector(texts[candidate])
    norms = math.hypot(*a.values()) * math.hypot(*b.values())
    return sum(a[word] * b.get(word, 0) for word in a) / norms if norms else 0.0


def plain_bm25(texts, point, candidate, statistics, k1=1.2, b=0.75):
    words = plain_words(texts[candidate])
    average = sum(len(plain_words(texts[i])) for i in statistics) / len(statistics)
    relative_length = len(words) / average if average else 1.0
    score = 0.0
    for word in plain_words(texts[point]):  # a word said twice counts twice
        df = sum(word in plain_words(texts[i]) for i in statistics)
        idf = math.log(1 + (len(statistics) - df + 0.5) / (df + 0.5))
        tf = words.count(word)
        if tf:
            score += idf * tf / (tf + k1 * (1 - b + b * relative_length))
    return score


def test_words_are_counted():
    counts = count_words([*THREE, "", "!?"])
    assert counts.toarray().tolist() == [  # cats purr and dogs bark bite
        [1, 1, 0, 0, 0, 0],
        [1, 0, 1, 1, 0, 0],
        [0, 0, 0, 2, 1, 1],
        [0] * 6,
        [0] * 6,
    ]


def test_tfidf_of_three_documents():
    similarities = tfidf_similarities(count_words(THREE), [0, 1], [0, 1, 2], [0, 1, 2])
    # df: cats 2, dogs 2, the others 1, so ln(4/3) + 1 and ln(4/2) + 1.
    common, rare = math.log(4 / 3) + 1, math.log(2) + 1
    cats_purr, cats_and_dogs = math.hypot(common, rare), math.hypot(common, rare, common)
    dogs_bark_dogs_bite = math.hypot(2 * common, rare, rare)
    want = [
        [1, common**2 / (cats_purr * cats_and_dogs), 0],
        [
            common**2 / (cats_purr * cats_and_dogs),
            1,
            2 * common**2 / (cats_and_dogs * dogs_bark_dogs_bite),
        ],
    ]
    assert similarities.dtype == np.float32
    np.testing.assert_allclose(similarities, want, rtol=1e-6)


def test_bm25_of_three_documents():
    similarities = bm25_similarities(count_words(THREE), [1, 2], [0, 2], [0, 1, 2])
    # Average length 3. idf of a word in two of three: ln(1 + 1.5 / 2.5); in one of three: ln(1 + 2.5 / 1.5).
    common, rare = math.log(1.6), math.log(8 / 3)
    short, long = 1.2 * (0.25 + 0.75 * 2 / 3), 1.2 * (0.25 + 0.75 * 4 / 3)
    dogs, bark = common * 2 / (2 + long), rare / (1 + long)
    want = [[common / (1 + short), dogs], [0, 2 * dogs + 2 * bark]]  # "bite" is as rare as "bark"
    assert similarities.dtype == np.float32
    np.testing.assert_allclose(similarities, want, rtol=1e-6)


TEXTS = st.lists(
    st.lists(st.sampled_from(["a", "B", "b", "über", "x1", "don't", "--"]), max_size=6).map(" ".join),
    min_size=1,
    max_size=7,
)


@settings(deadline=None, max_examples=80)
@given(data=st.data(), texts=TEXTS, k1=st.sampled_from([0.0, 1.2, 2.0]), b=st.sampled_from([0.0, 0.75, 1.0]))
def test_equal_to_the_plain_reference(data, texts, k1, b):
    indices = st.lists(st.integers(0, len(texts) - 1), max_size=5)
    points, candidates = data.draw(indices), data.draw(indices)
    statistics = data.draw(st.lists(st.integers(0, len(texts) - 1), min_size=1, unique=True))
    counts = count_words(texts)
    tfidf = tfidf_similarities(counts, points, candidates, statistics)
    bm25 = bm25_similarities(counts, points, candidates, statistics, k1, b)
    assert tfidf.shape == bm25.shape == (len(points), len(candidates))
    for row, point in enumerate(points):
        for column, candidate in enumerate(candidates):
            plain = plain_tfidf(texts, point, candidate, statistics)
            assert tfidf[row, column] == pytest.approx(plain, rel=1e-6, abs=1e-7)
            plain = plain_bm25(texts, point, candidate, statistics, k1, b)
            assert bm25[row, column] == pytest.approx(plain, rel=1e-6, abs=1e-7)


def test_candidates_with_the_same_words_tie_exactly():
    texts = ["the cat saw a dog, or three", "A dog saw the CAT", "padding " * 50, "a dog; saw the cat!"]
    counts = count_words(texts)
    for measure in (tfidf_similarities, bm25_similarities):
        similarities = measure(counts, [0], [1, 2, 3], [1, 2, 3])
        assert similarities[0, 0] == similarities[0, 2] > similarities[0, 1]


def test_statistics_need_not_be_of_the_candidates():
    counts = count_words(["cat dog", "cat", "dog", "bird"])
    rare_cat = tfidf_similarities(counts, [0], [1, 2], [2, 3])
    rare_dog = tfidf_similarities(counts, [0], [1, 2], [1, 3])
    assert rare_cat[0, 0] > rare_cat[0, 1] and rare_dog[0, 0] < rare_dog[0, 1]


def test_texts_without_words():
    counts = count_words(["", "cat", "..."])
    for measure in (tfidf_similarities, bm25_similarities):
        assert not measure(counts, [0, 2], [0, 1, 2], [0, 1, 2]).any()
        assert np.isfinite(measure(counts, [1], [1], [0, 2])).all()
        assert measure(count_words([""]), [0], [0], [0]).tolist() == [[0.0]]
