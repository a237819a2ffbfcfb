"""Baselines that need no training: TF-IDF cosine, BM25, the pretrained encoder, chance; worked out once a corpus.

Words are the matches of \\w+ in the lower-cased text; nothing is stemmed and no stop words are left out.
Both scores are sums over words of (the point's weight) x (the candidate's weight), a product of sparse matrices
that adds up every candidate's words in the same order, so that candidates with the same words tie exactly.

Shapes: T texts, P points, C candidates, V distinct words, E entries (one per text and distinct word in it).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock

from biencoder_ablate.data.corpus import Corpus
from biencoder_ablate.files import finite, read_json, write_json

if TYPE_CHECKING:
    import torch
    from scipy.sparse import csr_array

    from biencoder_ablate.evaluation.candidates import SplitCandidates

MEASURED = ("val", "test")
TITLES = {"pretrained": "pretrained encoder", "bm25": "BM25", "tfidf": "TF-IDF", "chance": "chance"}
FLOOR = ("pretrained", "bm25", "chance")
"""What a trained model must not be below."""
MOST_PAIRS = 200_000_000
"""Points times candidates of a split up to which a run works out TF-IDF and BM25 unasked: about a minute."""
_FOLDER = "baselines-1"
"""Where in the cache directory they are; counted up when a change to the code alters their figures."""
_NOT_THE_ENCODERS = ("towers", "similarity", "retrieval_dim", "projection_init", "head_init", "dropout")
"""Settings of the group `model` that name a run and say nothing of its encoder as downloaded."""

Baselines = dict[str, dict[str, dict[str, Any]]]
"""Figures as `protocols.split_figures` gives them (of chance only a few), by baseline, one of TITLES, and split."""

_WORD = re.compile(r"\w+")


def count_words(texts: Sequence[str]) -> csr_array:
    """How often each word occurs in each text, (T, V). Count once, then measure as many ways as needed."""
    from scipy.sparse import csr_array

    assert not isinstance(texts, str), "a list of texts, not one text"
    numbers: dict[str, int] = {}
    words: list[int] = []
    starts = [0]
    for text in texts:
        words += [numbers.setdefault(word, len(numbers)) for word in _WORD.findall(text.lower())]
        starts.append(len(words))
    every, ones = np.array(words, dtype=np.int64), np.ones(len(words))
    counts = csr_array((ones, every, np.array(starts)), shape=(len(texts), len(numbers)))
    counts.sum_duplicates()
    return counts


def tfidf_similarities(
    counts: csr_array, points: Sequence[int], candidates: Sequence[int], statistics: Sequence[int]
) -> np.ndarray:
    """Cosine between TF-IDF vectors of points and candidates, (P, C) float32 in [0, 1].

    A word weighs tf * (ln((1 + N) / (1 + df)) + 1): tf its occurrences in the text, df how many of the N
    texts of `statistics` have it. That is scikit-learn's default TfidfTransformer (smooth_idf, no sublinear
    tf, l2 norm), after which a word that no text of `statistics` has is still worth something. A text
    without words has cosine 0 to every text.

    points (P,), candidates (C,) and statistics index the T texts; the last are those that document frequencies are
    of, without repetition: a split's candidates.
    """
    df_V = _document_frequencies(counts, statistics)
    idf_V = np.log((1 + len(statistics)) / (1 + df_V)) + 1
    weights = _with_data(counts, counts.data * idf_V[counts.indices])
    length_T = np.sqrt(weights.power(2) @ np.ones(weights.shape[1]))
    weights.data /= np.repeat(length_T, np.diff(counts.indptr))  # a text without words has no entry to divide
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
    relative_T = length_T / average if average > 0 else np.ones(len(length_T))
    relative_E = np.repeat(relative_T, np.diff(counts.indptr))
    saturated = _with_data(counts, counts.data / (counts.data + k1 * (1 - b + b * relative_E)))
    return _sum_over_words(_with_data(counts, counts.data * idf_V[counts.indices]), points, saturated, candidates)


def _document_frequencies(counts: csr_array, statistics: Sequence[int]) -> np.ndarray:
    """How many of the texts have each word, (V,)."""
    assert len(statistics) > 0, "document frequencies need at least one text"
    return np.bincount(counts[statistics].indices, minlength=counts.shape[1])


def _with_data(counts: csr_array, data_E: np.ndarray) -> csr_array:
    """The same entries with other values."""
    return type(counts)((data_E, counts.indices, counts.indptr), shape=counts.shape)


def _sum_over_words(
    point_weights: csr_array, points: Sequence[int], candidate_weights: csr_array, candidates: Sequence[int]
) -> np.ndarray:
    """Sums over words of a point's weight times a candidate's, (P, C) float32; summed in float64."""
    return (point_weights[points] @ candidate_weights[candidates].T).toarray().astype(np.float32)


# --- once a corpus ---


def known_baselines(cache: Path, determined_by: Mapping[str, Any]) -> Baselines:
    """What the cache directory has of a run's baselines, by the identity in the run's manifest. Loads no torch."""
    files = (_corpus_file(cache, determined_by["data"]), _encoder_file(cache, determined_by))
    return in_order({name: figures for path in files for name, figures in (read_json(path) or {}).items()})


def in_order(baselines: Baselines) -> Baselines:
    """From the strongest, as a rule, to chance."""
    return {name: baselines[name] for name in TITLES if name in baselines}


def corpus_baselines(
    cache: Path, fingerprint: str, texts: Sequence[str], splits: Mapping[str, SplitCandidates]
) -> Baselines:
    """chance, and tfidf and bm25 where no split has more than MOST_PAIRS, of the corpus with this fingerprint.

    Worked out once and kept in the cache directory; runs beside each other wait for the first. Raises OSError.
    """

    def work_out() -> Baselines:
        from biencoder_ablate.evaluation.protocols import lexical_figures

        measured = {name: splits[name] for name in MEASURED}
        found: Baselines = {"chance": {name: chance_figures(split) for name, split in measured.items()}}
        if all(len(split.split) * len(split.candidates) <= MOST_PAIRS for split in measured.values()):
            lexical = lexical_figures(texts, measured)
            found |= {"tfidf": lexical["tfidf_cosine"], "bm25": lexical["bm25"]}
        return found

    return _once(_corpus_file(cache, fingerprint), work_out)


def pretrained_baseline(
    cache: Path,
    determined_by: Mapping[str, Any],
    hidden: Callable[[], torch.Tensor],
    splits: Mapping[str, SplitCandidates],
) -> Baselines:
    """pretrained: the cosine of the encoder as downloaded, from its pooled outputs h (T, H); kept likewise."""

    def work_out() -> Baselines:
        from biencoder_ablate.evaluation.protocols import encoder_figures

        found = encoder_figures(hidden(), {name: splits[name] for name in MEASURED})
        return {"pretrained": found["pretrained_cosine"]}

    return _once(_encoder_file(cache, determined_by), work_out)


def baselines_of_run(
    result: Mapping[str, Any], determined_by: Mapping[str, Any], cache: Path, read_corpus: Callable[[], Corpus]
) -> Baselines:
    """The baselines of a finished run: its own, or, of a run older than they are, the corpus's.

    result and determined_by: from its result.json and manifest.json. Loads torch, and calls `read_corpus`, only where
    nothing on disk has them; what then cannot be had (the corpus has gone or is another one now) is left out. Without
    a cached `pretrained` it has the few figures that the run noted before training.
    """
    if result.get("baselines"):
        return dict(result["baselines"])
    known = known_baselines(cache, determined_by) if determined_by else {}
    if "chance" not in known and determined_by:
        try:
            corpus = read_corpus()
            if corpus.fingerprint == determined_by["data"]:
                from biencoder_ablate.data.index import build_index
                from biencoder_ablate.evaluation.candidates import prepare

                index = build_index(corpus)
                splits = {name: prepare(index.splits[name]) for name in MEASURED}
                known |= corpus_baselines(cache, corpus.fingerprint, index.texts, splits)
        except (ValueError, OSError):
            pass
    if "pretrained" not in known:
        noted = {}
        for name in MEASURED:
            prefix = f"pretrained/{name}/"
            noted[name] = {
                key.removeprefix(prefix): value for key, value in result["initial"].items() if key.startswith(prefix)
            }
        if noted["test"]:
            known["pretrained"] = noted
    return in_order(known)


def better(baselines: Baselines, split: str, key: str, value: float | None) -> list[str]:
    """Those of FLOOR whose figure is above a trained model's `value`."""
    figures = {name: baselines.get(name, {}).get(split, {}).get(key) for name in FLOOR}
    return [name for name, figure in figures.items() if figure is not None and value is not None and figure > value]


def chance_figures(prepared: SplitCandidates) -> dict[str, float]:
    """What a random order of a split's candidates finds on average, under official and clean candidates.

    Of c candidates, one of them right: top-1 1/c, the reciprocal rank (1 + 1/2 + … + 1/c)/c, recall@10 10/c, at most 1.
    """
    split, total = prepared.split, len(prepared.candidates)
    official = total - np.bincount(prepared.official[0], minlength=len(split))
    clean = np.where(
        np.isin(np.arange(len(split)), prepared.clean_differs),
        total - np.bincount(prepared.clean[0], minlength=len(split)),
        official,
    )
    harmonic = np.cumsum(1 / np.arange(1, total + 1))

    def figures(counts: np.ndarray, suffix: str) -> dict[str, float]:
        if not len(counts):
            return {f"top1{suffix}": float("nan"), f"mrr{suffix}": float("nan")}
        return {
            f"top1{suffix}": float(np.mean(1 / counts)),
            f"mrr{suffix}": float(np.mean(harmonic[counts - 1] / counts)),
        }

    recall = {"recall@10": float(np.mean(np.minimum(1, 10 / official)))}
    return figures(official, "") | figures(clean[split.clean], "_clean") | recall


def _once(path: Path, work_out: Callable[[], Baselines]) -> Baselines:
    """What the file holds, or else what `work_out` gives, which then is in it."""
    found = read_json(path)
    if found is None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            found = read_json(path)
            if found is None:
                found = finite(work_out())
                write_json(path, found)
    return found


def _corpus_file(cache: Path, fingerprint: str) -> Path:
    return cache / _FOLDER / f"{fingerprint[:32]}.json"


def _encoder_file(cache: Path, determined_by: Mapping[str, Any]) -> Path:
    model = {key: value for key, value in determined_by["model"].items() if key not in _NOT_THE_ENCODERS}
    reading = json.dumps([model, determined_by["training"]["precision"]], sort_keys=True)
    digest = hashlib.sha256(reading.encode()).hexdigest()[:16]
    return cache / _FOLDER / f"{determined_by['data'][:32]}_{digest}.json"
