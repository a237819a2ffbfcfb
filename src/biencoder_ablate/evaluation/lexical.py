"""TF-IDF and BM25 similarities.

Words are those of `split_words` in the lower-cased text; nothing is stemmed and no stop words are left out.
Both scores are sums over words of (the point's weight) x (the candidate's weight), a product of sparse matrices
that adds up every candidate's words in the same order, so that candidates with the same words tie exactly.

Shapes: T texts, P points, C candidates, V distinct words, E entries (one per text and distinct word in it).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from biencoder_ablate.data.words import split_words

if TYPE_CHECKING:
    from scipy.sparse import csr_array


def count_words(texts: Sequence[str]) -> csr_array:
    """How often each word occurs in each text, (T, V). Count once, then measure as many ways as needed."""
    assert not isinstance(texts, str), "a list of texts, not one text"
    return count_terms(split_words(text.lower()) for text in texts)


def count_terms(terms_by_text: Iterable[Iterable[str]]) -> csr_array:
    """How often each of V distinct terms is listed for each of T texts, (T, V) float64."""
    from scipy.sparse import csr_array

    number_of: dict[str, int] = {}
    columns: list[int] = []
    starts = [0]
    for terms in terms_by_text:
        columns += [number_of.setdefault(term, len(number_of)) for term in terms]
        starts.append(len(columns))
    entries = (np.ones(len(columns)), np.array(columns, dtype=np.int64), np.array(starts))
    counts = csr_array(entries, shape=(len(starts) - 1, len(number_of)))
    counts.sum_duplicates()
    return counts


def tfidf_similarities(
    counts: csr_array,
    points: Sequence[int],
    candidates: Sequence[int],
    statistics: Sequence[int],
) -> np.ndarray:
    """Cosine between TF-IDF vectors of points and candidates, (P, C) float32 in [0, 1].

    A word weighs tf * (ln((1 + N) / (1 + df)) + 1): tf its occurrences in the text, df how many of the N
    texts of `statistics` have it. That is scikit-learn's default TfidfTransformer (smooth_idf, no sublinear
    tf, l2 norm), after which a word that no text of `statistics` has is still worth something. A text
    without words has cosine 0 to every text.

    points (P,), candidates (C,) and statistics index the T texts; the last are those that document frequencies are
    of, without repetition: a split's candidates.
    """
    # Smoothed, as if one more text had every word.
    df_V = _document_frequencies(counts, statistics)
    idf_V = np.log((1 + len(statistics)) / (1 + df_V)) + 1
    weights = _with_data(counts, counts.data * idf_V[counts.indices])
    length_T = np.sqrt(weights.power(2) @ np.ones(weights.shape[1]))
    length_E = np.repeat(length_T, np.diff(counts.indptr))
    weights.data /= length_E  # a text without words has no entry to divide
    return _sum_over_words(weights, points, weights, candidates)


def bm25_similarities(
    counts: csr_array,
    points: Sequence[int],
    candidates: Sequence[int],
    statistics: Sequence[int],
    k1: float = 1.2,
    b: float = 0.75,
) -> np.ndarray:
    """BM25 of candidates, the point's words being the query: (P, C) float32, not negative; not symmetric.

    Lucene's variant (BM25Similarity, since 8.0 without the constant factor k1 + 1; "Lucene (accurate)" in
    Kamphuis et al. 2020, "Which BM25 do you mean?": document lengths are exact, not rounded to a byte):

        sum over words of  qtf ln(1 + (N - df + 0.5) / (df + 0.5)) tf / (tf + k1 (1 - b + b length / average))

    with qtf and tf the word's occurrences in point and candidate (a word said twice in the query counts
    twice, as in Lucene), df how many of the N texts of `statistics` have it, length the candidate's in words,
    and average that of the texts of `statistics`. k1 (not negative) says how soon repetitions of a word stop
    counting, b (0 to 1) how far long texts are discounted; the rest is as for `tfidf_similarities`.
    """
    df_V = _document_frequencies(counts, statistics)
    idf_V = np.log1p((len(statistics) - df_V + 0.5) / (df_V + 0.5))
    length_T = counts.sum(axis=1)
    # Texts of statistics may all be without words, and candidates elsewhere have some: any length is average.
    average = length_T[statistics].mean()
    relative_T = np.ones(len(length_T))
    if average > 0:
        relative_T = length_T / average
    relative_E = np.repeat(relative_T, np.diff(counts.indptr))

    # The point's side has the weight of a word, the candidate's side how far its occurrences are saturated.
    query_weights = _with_data(counts, counts.data * idf_V[counts.indices])
    half_saturated_E = k1 * (1 - b + b * relative_E)
    saturated = _with_data(counts, counts.data / (counts.data + half_saturated_E))
    return _sum_over_words(query_weights, points, saturated, candidates)


def _document_frequencies(counts: csr_array, statistics: Sequence[int]) -> np.ndarray:
    """How many of the texts have each word, (V,)."""
    assert len(statistics) > 0, "document frequencies need at least one text"
    return np.bincount(counts[statistics].indices, minlength=counts.shape[1])


def _with_data(counts: csr_array, data_E: np.ndarray) -> csr_array:
    """The same entries with other values."""
    return type(counts)((data_E, counts.indices, counts.indptr), shape=counts.shape)


def _sum_over_words(
    point_weights: csr_array,
    points: Sequence[int],
    candidate_weights: csr_array,
    candidates: Sequence[int],
) -> np.ndarray:
    """Sums over words of a point's weight times a candidate's, (P, C) float32; summed in float64."""
    sums = point_weights[points] @ candidate_weights[candidates].T
    return sums.toarray().astype(np.float32)
