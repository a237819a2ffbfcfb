"""Baselines that need no training: TF-IDF cosine and BM25 between points and candidates.

Words are the matches of \\w+ in the lower-cased text; nothing is stemmed and no stop words are left out.

Both scores are sums over words of (the point's weight) x (the candidate's weight), computed from an
inverted index: for each word the candidates that have it. Every candidate's sum runs over its words in the
same order, so that candidates with the same words tie exactly.

Shapes: T texts, P points, C candidates, V distinct words, E entries (one per text and distinct word in it).
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class WordCounts:
    """How often each word occurs in each of T texts, as a sparse matrix by rows.

    Attributes:
        starts: (T + 1,); the entries of text t are starts[t] to starts[t + 1].
        words: (E,) word numbers, ascending within a text.
        counts: (E,) occurrences of the word in the text.
        lengths: (T,) words in each text, repetitions included.
        num_words: V, distinct words of all texts.
    """

    starts: Ints
    words: Ints
    counts: Ints
    lengths: Ints
    num_words: int


def count_words(texts: Sequence[str]) -> WordCounts:
    """Split texts into words and count them. Count once, then measure as many ways as needed."""
    if isinstance(texts, str):
        raise ValueError("count_words wants a list of texts, not one text")
    numbers: dict[str, int] = {}
    words: list[int] = []
    counts: list[int] = []
    starts = [0]
    lengths = []
    for text in texts:
        occurrences = Counter(numbers.setdefault(word, len(numbers)) for word in _WORD.findall(text.lower()))
        for word in sorted(occurrences):
            words.append(word)
            counts.append(occurrences[word])
        starts.append(len(words))
        lengths.append(occurrences.total())
    return WordCounts(
        starts=np.array(starts, dtype=np.int64),
        words=np.array(words, dtype=np.int64),
        counts=np.array(counts, dtype=np.int64),
        lengths=np.array(lengths, dtype=np.int64),
        num_words=len(numbers),
    )


def tfidf_similarities(
    counts: WordCounts, points: Sequence[int], candidates: Sequence[int], statistics: Sequence[int]
) -> NDArray[np.float32]:
    """Cosine between TF-IDF vectors of points and candidates.

    A word weighs tf * (ln((1 + N) / (1 + df)) + 1): tf its occurrences in the text, df how many of the N
    texts of `statistics` have it. That is scikit-learn's default TfidfTransformer (smooth_idf, no sublinear
    tf, l2 norm), after which a word that no text of `statistics` has is still worth something. A text
    without words has cosine 0 to every text.

    Args:
        counts: the words of T texts.
        points: indices of P of them.
        candidates: indices of C of them.
        statistics: indices, without repetition, of the texts that document frequencies are of: a split's
            candidates.

    Returns:
        (P, C) float32, in [0, 1].

    Raises:
        ValueError: an index outside the texts, or no text in `statistics`.
    """
    frequencies_V, num_texts = _document_frequencies(counts, statistics)
    idf_V: Floats = np.log((1 + num_texts) / (1 + frequencies_V)) + 1
    weights_E = counts.counts * idf_V[counts.words]
    text_of_E = np.repeat(np.arange(len(counts.lengths)), np.diff(counts.starts))
    squares_T = np.bincount(text_of_E, weights=weights_E**2, minlength=len(counts.lengths))
    weights_E = weights_E / np.sqrt(squares_T[text_of_E])  # a text without words has no entry to divide
    return _sum_over_words(counts, points, weights_E, candidates, weights_E)


def bm25_similarities(
    counts: WordCounts,
    points: Sequence[int],
    candidates: Sequence[int],
    statistics: Sequence[int],
    k1: float = 1.2,
    b: float = 0.75,
) -> NDArray[np.float32]:
    """BM25 of candidates, the point's words being the query.

    Lucene's variant (BM25Similarity, since 8.0 without the constant factor k1 + 1; "Lucene (accurate)" in
    Kamphuis et al. 2020, "Which BM25 do you mean?": document lengths are exact, not rounded to a byte):

        sum over words of  qtf ln(1 + (N - df + 0.5) / (df + 0.5)) tf / (tf + k1 (1 - b + b length / average))

    with qtf and tf the word's occurrences in point and candidate (a word said twice in the query counts
    twice, as in Lucene), df how many of the N texts of `statistics` have it, length the candidate's in words,
    and average that of the texts of `statistics`.

    Args:
        counts, points, candidates, statistics: as for `tfidf_similarities`.
        k1: how soon repetitions of a word stop counting; not negative.
        b: how far long texts are discounted, 0 to 1.

    Returns:
        (P, C) float32, not negative; not symmetric.

    Raises:
        ValueError: an index outside the texts, no text in `statistics`, or k1 or b out of range.
    """
    if k1 < 0 or not 0 <= b <= 1:
        raise ValueError(f"BM25 wants k1 >= 0 and b from 0 to 1, not k1={k1}, b={b}")
    frequencies_V, num_texts = _document_frequencies(counts, statistics)
    idf_V: Floats = np.log1p((num_texts - frequencies_V + 0.5) / (frequencies_V + 0.5))
    # Texts of statistics may all be without words, and candidates elsewhere have some: any length is average.
    average = counts.lengths[np.asarray(statistics, dtype=np.int64)].mean()
    relative_T = counts.lengths / average if average > 0 else np.ones(len(counts.lengths))
    relative_E = np.repeat(relative_T, np.diff(counts.starts))
    saturated_E = counts.counts / (counts.counts + k1 * (1 - b + b * relative_E))
    return _sum_over_words(counts, points, counts.counts * idf_V[counts.words], candidates, saturated_E)


def _document_frequencies(counts: WordCounts, statistics: Sequence[int]) -> tuple[Ints, int]:
    """How many of the texts have each word, (V,), and how many texts they are."""
    texts = _indices(counts, statistics, "statistics")
    if not len(texts):
        raise ValueError("statistics is empty: document frequencies need at least one text")
    words = counts.words[_ranges(counts.starts[texts], counts.starts[texts + 1])]
    return np.bincount(words, minlength=counts.num_words), len(texts)


def _sum_over_words(
    counts: WordCounts,
    points: Sequence[int],
    point_weights_E: Floats,
    candidates: Sequence[int],
    candidate_weights_E: Floats,
) -> NDArray[np.float32]:
    """Sums over words of a point's weight times a candidate's, (P, C). Summed in float64."""
    points_P = _indices(counts, points, "points")
    candidates_C = _indices(counts, candidates, "candidates")
    # The inverted index: entries of the candidates, ordered by word.
    starts_C, ends_C = counts.starts[candidates_C], counts.starts[candidates_C + 1]
    entries = _ranges(starts_C, ends_C)
    by_word = np.argsort(counts.words[entries], kind="stable")
    rows = np.repeat(np.arange(len(candidates_C)), ends_C - starts_C)[by_word]
    weights = candidate_weights_E[entries[by_word]]
    first_of_word = np.concatenate([[0], np.cumsum(np.bincount(counts.words[entries], minlength=counts.num_words))])
    sums_PC = np.empty((len(points_P), len(candidates_C)), dtype=np.float32)
    for place, point in enumerate(points_P):
        own = slice(counts.starts[point], counts.starts[point + 1])
        words = counts.words[own]
        starts, ends = first_of_word[words], first_of_word[words + 1]
        found = _ranges(starts, ends)
        products = np.repeat(point_weights_E[own], ends - starts) * weights[found]
        sums_PC[place] = np.bincount(rows[found], weights=products, minlength=len(candidates_C))
    return sums_PC


def _ranges(starts: Ints, ends: Ints) -> Ints:
    """All of starts[0] .. ends[0] - 1, then of starts[1] .. ends[1] - 1, and so on, in one array."""
    lengths = ends - starts
    before = np.cumsum(lengths) - lengths
    return np.repeat(starts - before, lengths) + np.arange(lengths.sum())


def _indices(counts: WordCounts, indices: Sequence[int], name: str) -> Ints:
    array = np.asarray(indices, dtype=np.int64).reshape(-1)
    num_texts = len(counts.lengths)
    if len(array) and not 0 <= array.min() <= array.max() < num_texts:
        raise ValueError(f"{name} has an index outside the {num_texts} texts: {array.min()} to {array.max()}")
    return array
